from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tdxstack.cli.main import main
from tdxstack.vm import lifecycle
from tdxstack.vm.spec import TdSpec, VmType

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"kernel")
    return path


def test_create_list_show_delete(kernel: Path, capsys: Capture) -> None:
    assert main(["td", "create", "demo", "--type", "efi", "--kernel", str(kernel), "--memory", "1G"]) == 0
    capsys.readouterr()
    assert main(["td", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["schema"] == "tdxstack/td-list/v1"
    assert [td["state"] for td in listed["tds"]] == ["defined"]
    assert main(["td", "show", "demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["memory"] == "1G"
    assert main(["td", "delete", "demo"]) == 2
    assert main(["td", "delete", "demo", "--yes"]) == 0
    capsys.readouterr()
    assert main(["td", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tds"] == []


def test_options_take_precedence_over_the_file(kernel: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "web.toml").write_text(f'kernel = "{kernel.name}"\nmemory = "1G"\nports = ["8080:80"]\n')
    argv = [
        "td",
        "create",
        "--spec",
        str(tmp_path / "web.toml"),
        "--memory",
        "3G",
        "--no-overlay",
        "--dry-run",
        "--json",
    ]
    assert main(argv) == 0
    spec = json.loads(capsys.readouterr().out)
    assert (spec["name"], spec["memory"], spec["overlay"]) == ("web", "3G", False)
    assert spec["kernel"] == str(kernel)
    assert spec["ports"] == ["tcp:8080:80"]
    assert lifecycle.list_all() == []


def test_dry_run_prints_the_argument_list(kernel: Path, tmp_path: Path, capsys: Capture) -> None:
    firmware = tmp_path / "OVMF.fd"
    firmware.write_bytes(b"firmware")
    assert (
        main(
            [
                "td",
                "create",
                "d",
                "--type=efi",
                "--kernel",
                str(kernel),
                "--firmware",
                str(firmware),
                "--accelerator=tcg",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["td", "start", "d", "--dry-run", "--json"]) == 0
    argv = json.loads(capsys.readouterr().out)["argv"]
    assert argv[argv.index("-bios") + 1] == str(firmware)
    assert lifecycle.status("d").state.value == "defined"


@pytest.mark.processes
def test_what_a_dialect_cannot_do_ends_with_4(kernel: Path, capsys: Capture) -> None:
    assert main(["td", "create", "d", "--kernel", str(kernel), "--debug", "--dialect", "upstream"]) == 0
    assert main(["td", "start", "d", "--dry-run"]) == 4
    assert "refuses TD attribute bit 0" in capsys.readouterr().err


@pytest.mark.processes
@pytest.mark.parametrize("dialect", ["tdx15", "canonical", "upstream"])
def test_a_td_for_hardware_is_shown_on_any_machine(dialect: str, kernel: Path, capsys: Capture) -> None:
    """What would be started can be read where it cannot run."""
    firmware = kernel.with_name("OVMF.fd")
    firmware.write_bytes(bytes(4096))
    words = ["--kernel", str(kernel), "--firmware", str(firmware), "--platform", "tdx", "--dialect", dialect]
    assert main(["td", "create", "d", *words]) == 0
    capsys.readouterr()
    assert main(["td", "start", "d", "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["dialect"], document["accelerator"]) == (dialect, "kvm")
    assert any("tdx-guest" in word for word in document["argv"])
    assert main(["td", "start", "d", "--print-xml"]) == 0
    assert '<launchSecurity type="tdx">' in capsys.readouterr().out


def test_logs_of_a_td_that_never_ran(kernel: Path, capsys: Capture) -> None:
    assert main(["td", "create", "d", "--type=efi", "--kernel", str(kernel)]) == 0
    assert main(["td", "logs", "d"]) == 1
    assert "tdxctl td start d" in capsys.readouterr().err


def test_schema_names_every_setting(capsys: Capture) -> None:
    assert main(["td", "schema"]) == 0
    assert "mrownerconfig" in json.loads(capsys.readouterr().out)["properties"]


def test_two_hundred_definitions_are_listed(kernel: Path, capsys: Capture) -> None:
    for number in range(200):
        lifecycle.create(TdSpec(name=f"td{number}", kernel=kernel, type=VmType.EFI))
    assert main(["td", "list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 201


@pytest.mark.processes
def test_list_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tdxstack.cli.main import main; main(['td', 'list']); "
        "heavy = {'rich', 'cryptography', 'asyncio', 'ssl', 'qemu', 'tomllib'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
