"""What no file, disk or signal may make of the command: always an error in words, never a trace."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tdxstack.cli import evidence
from tdxstack.cli.main import main
from tdxstack.errors import UsageError
from tdxstack.wire.tcg import Algorithm, Digest, Event, EventLog, EventType, SpecIdEvent

NOUNS = ("quote", "report", "eventlog")


def files(folder: Path) -> dict[str, str]:
    """Names of files that are no evidence, by what they are."""
    (folder / "empty").write_bytes(b"")
    (folder / "noise").write_bytes(bytes(range(256)) * 8)
    (folder / "text").write_text("deadbeef " * 100)
    (folder / "nested.json").write_text("[" * 200_000)
    (folder / "loop").symlink_to("loop")
    made = {path.name: str(path) for path in folder.iterdir()}
    return {**made, "folder": str(folder), "absent": str(folder / "absent"), "no name": "", "NUL": "a\0b"}


@pytest.mark.parametrize("noun", NOUNS)
def test_a_file_that_is_no_evidence(noun: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for what, name in files(tmp_path).items():
        status = main([noun, "show", name, "--json"])
        said = capsys.readouterr()
        assert status in (1, 2), what
        assert said.err.startswith("tdxctl: "), what
        assert '"schema": "tdxstack/error/v1"' in said.out, what


@pytest.mark.parametrize("option", ["--collateral", "--trust-root", "--policy"])
def test_a_file_that_goes_with_a_quote(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quote = tmp_path / "quote"
    quote.write_bytes(b"\4\0" + bytes(1000))
    (folder := tmp_path / "files").mkdir()
    for what, name in files(folder).items():
        status = main(["quote", "verify", str(quote), option, name, "--json"])
        said = capsys.readouterr()
        assert status in (1, 2, 3, 5), what
        assert "Traceback" not in said.err, what


class Endless(io.RawIOBase):
    """A stream like /dev/zero, which counts what was taken of it."""

    taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        self.taken += len(buffer)
        return len(buffer)


def test_an_endless_file_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="longer than 1000 bytes"):
        evidence.read_bytes("/dev/zero", "quote", limit=1000)
    endless = Endless()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(endless)))  # type: ignore[type-var]
    with pytest.raises(UsageError, match="longer than 1000 bytes"):
        evidence.read_bytes("-", "quote", limit=1000)
    assert endless.taken < 1 << 20
    for noun in NOUNS:
        assert main([noun, "show", "/dev/zero"]) == (1 if noun == "quote" else 2), "no quote is as long"


@pytest.mark.parametrize("home", ["/dev/null/home", "/proc/home"])
def test_a_home_that_cannot_be(
    home: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TDXSTACK_HOME", home)
    assert main(["td", "list"]) == 1
    said = capsys.readouterr().err
    assert f"cannot make {home}" in said
    assert "next: " in said


def test_a_fault_of_the_system_that_nobody_expected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr("tdxstack.cli.commands.completion.run", full)
    assert main(["completion", "bash"]) == 1
    said = capsys.readouterr().err
    assert "No space left on device: '/somewhere'" in said
    assert "next: free space" in said


@pytest.mark.processes
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """An unpaired surrogate as a variable's name, in a locale that has nothing but ASCII."""
    name = bytes.fromhex("00dc4100")
    data = bytes(16) + (2).to_bytes(8, "little") + bytes(8) + name
    event = Event(1, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, (Digest(Algorithm.SHA384, bytes(48)),), data)
    log = tmp_path / "log"
    log.write_bytes(EventLog(SpecIdEvent(((Algorithm.SHA384, 48),), index=1), (event,)).to_bytes())
    for words in ((), ("--json",)):
        argv = [sys.executable, "-m", "tdxstack.cli", "eventlog", "show", str(log), *words]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(argv, capture_output=True, check=False, timeout=60, env=environment)
        assert done.returncode == 0, done.stderr
        assert b"variable" in done.stdout
    done = subprocess.run(
        [sys.executable.encode(), b"-m", b"tdxstack.cli", b"quote", b"show", b"\xff\xfe", b"--json"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert b'"message": "quote \\udcff\\udcfe: No such file' in done.stdout


@pytest.mark.processes
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written() -> None:
    with Path("/dev/full").open("w") as full:
        done = _tdxctl("man", stdout=full)
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.processes
def test_output_that_nobody_reads() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = _tdxctl("man", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def _tdxctl(*words: str, stdout: object) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "tdxstack.cli", *words]
    return subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=60)  # type: ignore[call-overload,no-any-return]
