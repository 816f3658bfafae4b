from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.errors import ProcessFailed, SystemFault, UsageError
from tdxstack.vm import copying
from tdxstack.vm.copying import Copy, in_kernel
from tdxstack.vm.record import Run, TdRecord
from tdxstack.vm.spec import TdSpec
from tdxstack.vm.state import State

RECORD = TdRecord(TdSpec(name="demo", kernel=Path("/k")), State.RUNNING, run=Run(ssh_port=10022))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/proc/cpuinfo", True),
        ("/sys/kernel/security/tpm0/binary_bios_measurements", True),
        ("//sys//class/../kernel/x", True),
        ("../proc/version", True),
        ("/sys", True),
        ("/system/file", False),
        ("/root/proc/x", False),
        ("proc/x", False),
        ("", False),
    ],
)
def test_files_that_the_kernel_makes(path: str, expected: bool) -> None:
    assert in_kernel(path) is expected


@pytest.mark.processes
def test_the_command_line() -> None:
    into = Copy(RECORD, "a:b", ":/root/").argv()
    assert (into[0], into[-3:]) == ("scp", ["--", "./a:b", "root@127.0.0.1:/root/"])
    out = Copy(RECORD, ":/sys/a b", "there")
    assert out.reads_kernel
    assert out.argv()[-3:] == ["cat", "--", "'/sys/a b'"]
    assert not Copy(RECORD, "there", ":/sys/power/state").reads_kernel


@pytest.mark.parametrize("places", [("a", "b"), (":a", ":b")])
def test_one_end_is_in_the_td(places: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="exactly one"):
        Copy(RECORD, *places)


@pytest.mark.processes
def test_what_is_read_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(*argv: str, target: Path) -> None:
        monkeypatch.setattr(copying, "ssh_argv", lambda _record, _command: list(argv))
        Copy(RECORD, ":/proc/some/file", str(target)).run()

    copy("echo", "content", target=tmp_path / "there")
    assert (tmp_path / "there").read_text() == "content\n"
    copy("echo", "again", target=tmp_path)
    assert (tmp_path / "file").read_text() == "again\n"
    with pytest.raises(ProcessFailed, match="gone"):
        copy("sh", "-c", "echo half; echo gone >&2; exit 1", target=tmp_path / "there")
    assert (tmp_path / "there").read_text() == "content\n"
    with pytest.raises(SystemFault, match="cannot write"):
        copy("echo", "content", target=tmp_path / "no" / "folder")
    assert {path.name for path in tmp_path.iterdir()} >= {"there", "file"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
