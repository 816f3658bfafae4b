"""Accelerators are told by running a VM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import PlatformMissing, ProcessTimeout, ProgramMissing
from tdxstack.platform import accelerator
from tdxstack.platform.accelerator import Accelerator, probe
from tdxstack.system import paths, process
from tdxstack.system.process import Completed


class FakeQemu:
    """Answers by accelerator; counts its runs."""

    def __init__(self, **answers: Completed | Exception) -> None:
        self.answers = answers
        self.runs: list[str] = []

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        name = argv[argv.index("-accel") + 1]
        self.runs.append(name)
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer


RAN = Completed((), 0x63, b"", b"")
REFUSED = Completed((), 1, b"", b"x: y\nqemu: Could not access KVM kernel module: No such device\n")


@pytest.fixture
def device(tmp_path: Path) -> Path:
    (tmp_path / "kvm").touch()
    return tmp_path / "kvm"


def use(monkeypatch: pytest.MonkeyPatch, fake: FakeQemu) -> None:
    monkeypatch.setattr(process, "run", fake.run)
    monkeypatch.setattr(process, "find", lambda _: "/bin/sh")


def test_kvm(monkeypatch: pytest.MonkeyPatch, device: Path) -> None:
    fake = FakeQemu(kvm=RAN)
    use(monkeypatch, fake)
    assert probe("qemu", device=device).accelerator is Accelerator.KVM
    assert probe("qemu", device=device).accelerator is Accelerator.KVM
    assert fake.runs == ["kvm"]
    probe("qemu", device=device, use_cache=False)
    assert fake.runs == ["kvm", "kvm"]


@pytest.mark.parametrize("fault", [REFUSED, ProcessTimeout(["qemu"], 20), Completed((), 0, b"", b"")])
def test_device_that_does_not_work(
    monkeypatch: pytest.MonkeyPatch, device: Path, fault: Completed | Exception
) -> None:
    fake = FakeQemu(kvm=fault, tcg=RAN)
    use(monkeypatch, fake)
    found = probe("qemu", device=device)
    assert found.accelerator is Accelerator.TCG
    assert str(device) in found.reason
    assert fault is not REFUSED or "Could not access KVM" in found.reason


def test_no_device_and_then_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeQemu(kvm=RAN, tcg=RAN)
    use(monkeypatch, fake)
    assert probe("qemu", device=tmp_path / "kvm").accelerator is Accelerator.TCG
    (tmp_path / "kvm").touch()
    assert probe("qemu", device=tmp_path / "kvm").accelerator is Accelerator.KVM


def test_nothing_runs(monkeypatch: pytest.MonkeyPatch, device: Path) -> None:
    use(monkeypatch, FakeQemu(kvm=REFUSED, tcg=REFUSED))
    with pytest.raises(PlatformMissing):
        probe("qemu", device=device)


def test_damaged_cache(monkeypatch: pytest.MonkeyPatch, device: Path) -> None:
    use(monkeypatch, FakeQemu(kvm=RAN))
    probe("qemu", device=device)
    (paths.cache() / "accelerator.json").write_text("[")
    assert probe("qemu", device=device).accelerator is Accelerator.KVM


@pytest.mark.processes
def test_real_qemu_runs_the_code() -> None:
    try:
        process.find("qemu-system-x86_64")
    except ProgramMissing:
        pytest.skip("no QEMU")
    assert accelerator._fault("qemu-system-x86_64", Accelerator.TCG) is None
