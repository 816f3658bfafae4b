from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.errors import PlatformMissing, ProgramMissing
from tdxstack.vm.dialects import DIALECTS
from tdxstack.vm.qemu.probe import QemuFacts, ask, dialect_of, probe, read

#: What the tdx-guest objects of the three lines of QEMU have, as their sources declare it.
PROPERTIES = {
    "tdx15": "sept-ve-disable debug mrconfigid mrowner mrownerconfig quote-generation-service migtd-pid vsockport",
    "canonical": "sept-ve-disable mrconfigid mrowner mrownerconfig quote-generation-socket",
    "upstream": "attributes sept-ve-disable mrconfigid mrowner mrownerconfig quote-generation-socket",
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_the_properties_tell_the_dialect(name: str) -> None:
    facts = QemuFacts((9, 0, 0), frozenset(PROPERTIES[name].split()))
    assert dialect_of(facts, "qemu") is DIALECTS[name]


def test_a_qemu_without_tdx() -> None:
    with pytest.raises(PlatformMissing, match=r"qemu 10\.0\.2 has no tdx-guest object") as caught:
        dialect_of(QemuFacts((10, 0, 2), None), "qemu")
    assert "software platform" in (caught.value.hint or "")
    with pytest.raises(PlatformMissing, match="no known dialect"):
        dialect_of(QemuFacts((99, 0, 0), frozenset({"type"})), "qemu")


FAKE = """#!/bin/sh
echo '{"QMP": {}}'
read capabilities; echo '{"return": {}}'
echo '{"event": "SHUTDOWN"}'
read version; echo '{"return": {"qemu": {"major": 11, "minor": 1, "micro": 3}}}'
read properties; echo 'ANSWER'
"""


def _fake(path: Path, answer: str) -> str:
    path.write_text(FAKE.replace("ANSWER", answer))
    path.chmod(0o755)
    return str(path)


@pytest.mark.processes
def test_what_qemu_answers(tmp_path: Path) -> None:
    none = _fake(tmp_path / "none", '{"error": {"class": "DeviceNotFound"}}')
    assert read(ask(none)) == QemuFacts((11, 1, 3), None)
    some = _fake(tmp_path / "some", '{"return": [{"name": "attributes", "type": "uint64"}]}')
    assert probe(some) == QemuFacts((11, 1, 3), frozenset({"attributes"}))


@pytest.mark.processes
def test_no_such_qemu() -> None:
    with pytest.raises(ProgramMissing):
        probe("qemu-system-nothing")
