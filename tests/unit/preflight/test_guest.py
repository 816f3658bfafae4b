from __future__ import annotations

from pathlib import Path

import pytest

from host_trees import cpuinfo
from tdxstack.cli.main import main
from tdxstack.platform.linux_open_host import open_host
from tdxstack.preflight import report, tree
from tdxstack.preflight.host import Host

GOOD = {
    "proc/cpuinfo": cpuinfo(flags="fpu hypervisor tdx_guest"),
    "proc/sys/kernel/osrelease": b"6.12.48\n",
    "dev/tdx_guest": b"",
    "sys/kernel/config/tsm/report/.keep": b"",
    "sys/firmware/acpi/tables/CCEL": b"CCEL" + bytes(32) + b"\x02" + bytes(19),
    "sys/firmware/acpi/tables/data/CCEL": bytes(65536),
    ".tdxstack/dmesg": b"[    0.000000] tdx: Guest detected\n",
}


def _outcomes(root: Path, files: dict[str, bytes]) -> dict[str, str]:
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    results = tree.check_guest(Host(open_host(root)))
    code = report.exit_code(results, tree.GUEST_ROOTS)
    return {one.check.id: one.outcome.value for one in report.everything(results)} | {"exit": str(int(code))}


def test_a_good_td(tmp_path: Path) -> None:
    found = _outcomes(tmp_path, GOOD)
    assert found.pop("guest.measurements") == "warn"
    assert found.pop("exit") == "0"
    assert set(found.values()) == {"pass"}


def test_a_td_of_the_software_platform(tmp_path: Path) -> None:
    files = GOOD | {
        "proc/cpuinfo": cpuinfo(flags="fpu hypervisor"),
        "dev/virtio-ports/org.tdxstack.tdx.0": b"",
        ".tdxstack/dmesg": b"",
    }
    assert _outcomes(tmp_path, files)["exit"] == "0"


def test_no_td(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _outcomes(tmp_path, {"proc/cpuinfo": cpuinfo()})["exit"] == "4"
    assert main(["host", "check", "--guest", "--root", str(tmp_path)]) == 4
    assert "not a TD:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "content", "check"),
    [
        ("dev/tdx_guest", None, "guest.device"),
        ("sys/firmware/acpi/tables/CCEL", b"FACP", "guest.ccel"),
        ("sys/firmware/acpi/tables/data/CCEL", b"", "guest.ccel"),
        (".tdxstack/dmesg", b"nothing\n", "guest.log"),
    ],
)
def test_what_is_missing_fails(tmp_path: Path, path: str, content: bytes | None, check: str) -> None:
    files = dict(GOOD)
    if content is None:
        del files[path]
    else:
        files[path] = content
    assert _outcomes(tmp_path, files)[check] == "fail"
