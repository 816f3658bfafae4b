"""Domain XML: read, changed, written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.cloud.virtxml import VirtXml
from tdxstack.errors import UsageError

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "domain"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.xml")), ids=lambda path: path.stem)
def test_what_is_not_changed_stays(path: Path) -> None:
    document = VirtXml.load(path)
    assert VirtXml(document.tostring()).tostring() == document.tostring()
    assert document.name
    assert document.memory > 0


def test_changes(tmp_path: Path) -> None:
    document = VirtXml.load(GOLDEN / "upstream.xml")
    other = document.clone("other")
    other.memory, other.vcpu = 4 << 20, 4
    other.kernel, other.cmdline = "/boot/vmlinuz", "rw console=hvc0"
    other.set_hugepages(2048)
    other.set_vsock(7)
    other.bind_cpuids(range(8, 16))
    other.set_mem_numa([1])
    other.save(tmp_path / "other.xml")
    again = VirtXml.load(tmp_path / "other.xml")
    assert (again.name, again.memory, again.vcpu) == ("other", 4 << 20, 4)
    assert (again.kernel, again.cmdline) == ("/boot/vmlinuz", "rw console=hvc0")
    text = again.tostring()
    for part in (
        '<vcpupin vcpu="3" cpuset="11"',
        'address="7"',
        'size="2048"',
        'nodeset="1"',
        '<launchSecurity type="tdx"',
    ):
        assert part in text
    assert document.name != "other"
    assert again.uuid
    assert again.uuid != document.uuid
    again.kernel = None
    assert again.kernel is None


def test_what_makes_no_sense() -> None:
    with pytest.raises(UsageError, match="not XML"):
        VirtXml("<domain>")
    with pytest.raises(UsageError, match="no domain"):
        VirtXml("<network/>")
    with pytest.raises(UsageError, match="plain domain"):
        VirtXml('<!DOCTYPE d [<!ENTITY a "b">]><domain>&a;</domain>')
    document = VirtXml("<domain><name>bare</name><vcpu>4</vcpu></domain>")
    with pytest.raises(UsageError, match="2 CPUs for 4"):
        document.bind_cpuids([0, 1])
    with pytest.raises(UsageError, match="no disk"):
        document.set_disk("/disk.qcow2")
