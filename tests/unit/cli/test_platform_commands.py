"""``tdxctl platform`` and ``tdxctl qgs`` through the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tdxstack.cli.main import main
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.platform.software.qgs_server import QgsServer, QgsService
from unit.platform.software.conftest import run_td


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def document(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    code, out, _ = run(capsys, *argv, "--json")
    assert code == 0
    value: dict[str, Any] = json.loads(out)
    return value


def test_life_of_a_platform(capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, "platform", "list") == {"schema": "tdxstack/platforms/v1", "platforms": []}
    made = document(capsys, "platform", "create", "lab", "--quote-version", "5")
    assert made["schema"] == "tdxstack/platform/v1"
    assert (made["name"], made["kind"], made["quote_version"]) == ("lab", "software", 5)
    assert document(capsys, "platform", "show", "lab") == made
    assert [item["name"] for item in document(capsys, "platform", "list")["platforms"]] == ["lab"]
    assert "lab   software  1.5.16" in run(capsys, "platform", "list")[1]
    assert run(capsys, "platform", "delete", "lab", "--dry-run")[0] == 0
    assert SoftwarePlatform.names() == ["lab"]
    assert run(capsys, "platform", "delete", "lab", "--yes")[0] == 0
    assert SoftwarePlatform.names() == []


def test_delete_asks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    SoftwarePlatform.create("lab")
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: PTH123, SIM115
    code, _, err = run(capsys, "platform", "delete", "lab")
    assert code == 2
    assert "--yes" in err
    assert SoftwarePlatform.names() == ["lab"]


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["platform", "show", "none"], 4, "tdxctl platform create none"),
        (["platform", "create", "tdx"], 2, "hardware"),
        (["platform", "create", "A/B"], 2, "not a name"),
        (["platform", "create", "x", "--module-version", "1.5"], 2, "1.5.16"),
        (["platform", "create", "x", "--components", "0102"], 2, "16"),
        (["platform", "create", "x", "--components", "zz"], 2, "hex"),
        (["platform", "create", "x", "--pce-svn", "70000"], 2, "65535"),
        (["platform", "update", "lab"], 2, "nothing to change"),
        (["platform", "update", "lab", "--module-svn", "1"], 1, "1.5.16"),
        (["platform", "refresh", "tdx"], 2, "hardware"),
        (["platform", "show", "tdx"], 4, "host check"),
        (["qgs", "status", "--tcp", "4050"], 2, "HOST:PORT"),
        (["qgs", "status", "--tcp", "10.0.0.1:4050"], 2, "loopback"),
        (["qgs", "status", "--td", "none"], 1, "no QGS"),
        (["qgs", "serve", "--platform", "none"], 4, "platform create"),
        (["qgs", "serve", "--platform", "none"], 4, "Intel's quoting enclaves"),
        (["qgs", "status", "--vsock", "2:x"], 2, "[CID:]PORT"),
        (["qgs", "status", "--socket", "/nowhere"], 1, "no QGS"),
        (["qgs", "quote", "/nowhere"], 2, "No such file"),
        (["qgs", "quote", "/etc/hostname"], 2, "no TDREPORT"),
        (["qgs", "collateral", "--fmspc", "12"], 2, "FMSPC"),
    ],
)
def test_errors_say_what_to_do(capsys: pytest.CaptureFixture[str], argv: list[str], code: int, text: str) -> None:
    SoftwarePlatform.create("lab")
    result, out, err = run(capsys, *argv)
    assert (result, out) == (code, "")
    assert text in err


def test_update(capsys: pytest.CaptureFixture[str]) -> None:
    SoftwarePlatform.create("lab")
    argv = ("platform", "update", "lab", "--module-version", "1.5.24", "--module-svn", "6")
    assert run(capsys, *argv, "--dry-run")[0] == 0
    assert document(capsys, "platform", "show", "lab")["tdx_module"] == "1.5.16"
    updated = document(capsys, *argv)
    assert updated["tdx_module"] == "1.5.24"
    assert updated["tee_tcb_svn"].startswith("0601")
    assert updated["behind_its_collateral"] is True


def test_refresh(capsys: pytest.CaptureFixture[str]) -> None:
    before = SoftwarePlatform.create("lab").collateral()
    assert run(capsys, "platform", "refresh", "lab", "--dry-run")[0] == 0
    assert SoftwarePlatform.open("lab").collateral() == before
    assert run(capsys, "platform", "refresh", "lab")[0] == 0
    assert SoftwarePlatform.open("lab").collateral() != before


def test_export(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    platform = SoftwarePlatform.create("lab")
    target = tmp_path / "out"
    assert run(capsys, "platform", "export", "lab", str(target), "--dry-run")[0] == 0
    assert not target.exists()
    written = document(capsys, "platform", "export", "lab", str(target))
    assert Path(written["root_der"]).read_bytes() == platform.trust_root()
    assert json.loads(Path(written["collateral_json"]).read_text()) == platform.collateral()
    assert Path(written["root_pem"]).read_text() == (platform.directory / "root.crt").read_text()


def test_qgs_status(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    platform = SoftwarePlatform.create("lab")

    async def asked(*argv: str, server: QgsServer) -> int:
        try:
            return await asyncio.to_thread(main, argv)
        finally:
            await server.close()

    async def over_unix() -> int:
        server = QgsServer(QgsService(platform))
        await server.listen_unix(tmp_path / "q")
        return await asked("qgs", "status", "--socket", str(tmp_path / "q"), "--json", server=server)

    async def over_tcp() -> int:
        server = QgsServer(QgsService(platform))
        port = await server.listen_tcp("127.0.0.1", 0)
        return await asked("qgs", "status", "--tcp", f"127.0.0.1:{port}", "--json", server=server)

    for served in (over_unix, over_tcp):
        assert asyncio.run(served()) == 0
        status = json.loads(capsys.readouterr().out)
        assert (status["platform"], status["tdqe_isvsvn"], status["pce_isvsvn"]) == ("software", 4, 13)


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_qgs_serve_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    SoftwarePlatform.create("lab")
    socket = tmp_path / "q"
    argv = [sys.executable, "-m", "tdxstack.cli", "qgs", "serve", "--platform", "lab", "--socket", str(socket)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        assert str(socket) in server.stderr.readline()
        assert main(["qgs", "status", "--socket", str(socket)]) == 0
        _use(socket, tmp_path)
        server.send_signal(number)
        assert server.wait(60) == 0
    assert not socket.exists()


def _use(socket: Path, folder: Path) -> None:
    """A quote and the collateral for it, out of a QGS; together they verify."""
    platform = SoftwarePlatform.open("lab")
    (folder / "report").write_bytes(run_td(platform.module()).mr_report(bytes(64)).to_bytes())
    (folder / "root.der").write_bytes(platform.trust_root())
    where = ["--socket", str(socket)]
    for raw in ([], ["--raw"]):
        assert main(["qgs", "quote", str(folder / "report"), *where, *raw, "-o", str(folder / "quote")]) == 0
    fmspc = platform.describe()["fmspc"]
    assert main(["qgs", "collateral", "--fmspc", fmspc, *where, "-o", str(folder / "collateral")]) == 0
    words = ["quote", "verify", str(folder / "quote"), "--collateral", str(folder / "collateral")]
    assert main([*words, "--trust-root", str(folder / "root.der")]) in (0, 3)
    assert main([*words]) == 3, "the root is not Intel's"
