"""The ways to a quote, each against a stand-in of what it talks to."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import PlatformMissing, SystemFault, UsageError
from tdxstack.platform import linux_guest_quote
from tdxstack.platform.linux_guest import GuestPaths
from tdxstack.platform.linux_guest_hops import Hop, QuoteFault, qgs_fault
from tdxstack.platform.linux_guest_quote import Via, attest_port, quote
from tdxstack.wire import qgs

from .guest_tree import guest_tree, write

DATA = bytes(range(64))
QUOTE = b"\x04\0\x02\0\x81\0\0\0" + b"q" * 1000


@pytest.fixture
def paths(tmp_path: Path) -> GuestPaths:
    return guest_tree(tmp_path)


class Entries:
    """Makes plain directories behave like configfs-tsm: hooks into ``_step``, through which all access goes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.generation = 0
        self.provider = "tdx_guest"
        self.others = 0
        self.errors: dict[str, list[int]] = {}
        self.seen: list[Path] = []
        real = linux_guest_quote._step

        def step(path: Path, action: Any) -> Any:
            return real(path, lambda where: self._access(where, action))

        monkeypatch.setattr(linux_guest_quote, "_step", step)
        monkeypatch.setattr(linux_guest_quote, "_PAUSE_SECONDS", 0)
        real_rmdir = Path.rmdir

        def rmdir(path: Path) -> None:
            for child in path.iterdir():
                child.unlink()
            real_rmdir(path)

        monkeypatch.setattr(Path, "rmdir", rmdir)

    def _access(self, path: Path, action: Any) -> Any:
        self.seen.append(path.parent)
        if self.errors.get(path.name):
            number = self.errors[path.name].pop(0)
            raise OSError(number, os.strerror(number))
        content = {
            "generation": str(self.generation).encode() + b"\n",
            "provider": self.provider.encode() + b"\n",
            "outblob": QUOTE,
        }
        if path.name in content:
            path.write_bytes(content[path.name])
            return action(path)
        action(path)
        assert path.read_bytes() == DATA
        self.generation += 1 + self.others
        return None


@pytest.fixture
def entries(paths: GuestPaths, monkeypatch: pytest.MonkeyPatch) -> Entries:
    paths.reports.mkdir(parents=True)
    return Entries(monkeypatch)


def test_configfs(paths: GuestPaths, entries: Entries) -> None:
    made = quote(DATA, paths=paths)
    assert (made.quote, made.via) == (QUOTE, Via.CONFIGFS)
    assert list(paths.reports.iterdir()) == []
    quote(DATA, Via.CONFIGFS, paths)
    assert len(set(entries.seen)) == 2


def test_configfs_is_tried_again_when_others_write(paths: GuestPaths, entries: Entries) -> None:
    entries.others = 1
    with pytest.raises(SystemFault, match="others keep writing"):
        quote(DATA, paths=paths)
    assert entries.generation == 10
    assert list(paths.reports.iterdir()) == []


def test_configfs_ebusy_passes(paths: GuestPaths, entries: Entries) -> None:
    entries.errors = {"outblob": [errno.EBUSY, errno.EINTR], "inblob": [errno.EBUSY]}
    assert quote(DATA, paths=paths).quote == QUOTE
    entries.errors = {"outblob": [errno.EBUSY] * 5}
    with pytest.raises(SystemFault, match="outblob: Device or resource busy"):
        quote(DATA, paths=paths)


def test_configfs_failure_names_the_hop(paths: GuestPaths, entries: Entries) -> None:
    entries.errors = {"outblob": [errno.EIO]}
    with pytest.raises(SystemFault, match="configfs-tsm: outblob: Input/output error") as caught:
        quote(DATA, paths=paths)
    assert "qgsd" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("attribute", "number", "hop"),
    [
        ("outblob", errno.EIO, Hop.VMM_OR_QGS),
        ("outblob", errno.ETIMEDOUT, Hop.VMM_OR_QGS),
        ("outblob", errno.EINVAL, Hop.GUEST),
        ("inblob", errno.EIO, Hop.GUEST),
        ("provider", errno.EACCES, Hop.GUEST),
    ],
)
def test_each_error_of_configfs_has_its_hop(
    paths: GuestPaths, entries: Entries, attribute: str, number: int, hop: Hop
) -> None:
    entries.errors = {attribute: [number]}
    with pytest.raises(QuoteFault, match=f"no quote, failed at {hop}: configfs-tsm: {attribute}") as caught:
        quote(DATA, paths=paths)
    assert (caught.value.hop, bool(caught.value.hint)) == (hop, True)


@pytest.mark.parametrize(
    ("code", "hop"),
    [
        (0x12001, Hop.QGS_OR_PCCS),
        (0x12003, Hop.QGS),
        (0x12006, Hop.QGS),
        (0xE011, Hop.QGS_OR_PCCS),
    ],
)
def test_each_code_of_a_qgs_has_its_hop(code: int, hop: Hop) -> None:
    fault = qgs_fault("QGS", code)
    assert (fault.hop, f"0x{code:x}" in fault.message, bool(fault.hint)) == (hop, True, True)


def test_via_has_the_names_of_the_ways() -> None:
    assert Via.of("tdvmcall") is Via.of("ioctl") is Via.IOCTL
    with pytest.raises(ValueError):
        Via.of("pigeon")


def test_configfs_of_another_technology(paths: GuestPaths, entries: Entries) -> None:
    entries.provider = "sev_guest"
    with pytest.raises(PlatformMissing, match="provider is sev_guest"):
        quote(DATA, Via.CONFIGFS, paths)


def test_nothing_there(paths: GuestPaths) -> None:
    with pytest.raises(PlatformMissing, match=r"no way to a quote: configfs.*ioctl"):
        quote(DATA, paths=paths)
    with pytest.raises(PlatformMissing, match=r"vsock.*names no port"):
        quote(DATA, Via.VSOCK, paths)
    with pytest.raises(UsageError):
        quote(DATA[:-1], paths=paths)


@pytest.mark.parametrize(
    ("text", "port"),
    [("port=4050", 4050), ("# port=1\n port = 77 # mine\n", 77), ("port=x", None), ("", None), ("port=0", None)],
)
def test_attest_conf(paths: GuestPaths, text: str, port: int | None) -> None:
    write(paths.attest_conf, text.encode())
    assert attest_port(paths) == port


class Qgs:
    """A QGS behind a socket pair, in place of vsock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
        ours, self._theirs = socket.socketpair()
        self.request: Any = None
        self.address: Any = None
        self._answer = answer
        outer = self

        class Vsock:
            def __init__(self, family: int, kind: int) -> None:
                assert family == socket.AF_VSOCK

            def __enter__(self) -> Vsock:
                return self

            def __exit__(self, *_: object) -> None:
                ours.close()

            def connect(self, address: Any) -> None:
                outer.address = address

            def __getattr__(self, name: str) -> Any:
                return getattr(ours, name)

        monkeypatch.setattr(socket, "socket", Vsock)
        monkeypatch.setattr(linux_guest_quote, "report", lambda data, paths: b"\x81" + data + bytes(959))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        length = qgs.frame_length(self._theirs.recv(4))
        data = b""
        while len(data) < length:
            data += self._theirs.recv(length)
        self.request = qgs.parse(data)
        self._theirs.sendall(self._answer)
        self._theirs.close()


def test_vsock(paths: GuestPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    write(paths.attest_conf, b"port=4050\n")
    server = Qgs(monkeypatch, qgs.frame(qgs.GetQuoteResponse(QUOTE).to_bytes()))
    made = quote(DATA, paths=paths)
    assert (made.quote, made.via) == (QUOTE, Via.VSOCK)
    assert server.address == (2, 4050)
    assert server.request.report[1:65] == DATA


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (qgs.frame(qgs.GetQuoteResponse(error_code=0x12001).to_bytes()), "error 0x12001"),
        (qgs.frame(qgs.GetQuoteResponse(QUOTE).to_bytes())[:-5], "closed after"),
        (b"\0\0\0\x20" + b"\xff" * 32, "cannot be read"),
        (qgs.frame(qgs.GetPlatformInfoRequest().to_bytes()), "answered with a GetPlatformInfoRequest"),
        (qgs.frame(qgs.GetQuoteResponse(b"short").to_bytes()), "5 bytes are no quote"),
    ],
)
def test_vsock_failures_name_the_hop(
    paths: GuestPaths, monkeypatch: pytest.MonkeyPatch, answer: bytes, message: str
) -> None:
    write(paths.attest_conf, b"port=4050\n")
    Qgs(monkeypatch, answer)
    with pytest.raises(SystemFault, match=f"QGS at vsock:2:4050.*{message}"):
        quote(DATA, Via.VSOCK, paths)


def test_no_vsock_falls_through(paths: GuestPaths, entries: Entries, monkeypatch: pytest.MonkeyPatch) -> None:
    write(paths.attest_conf, b"port=4050\n")
    monkeypatch.setattr(linux_guest_quote, "report", lambda data, paths: bytes(1024))

    def refuse(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", refuse)
    assert quote(DATA, paths=paths).via is Via.CONFIGFS


def test_ioctl(paths: GuestPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    write(paths.device, b"")
    tried: list[int] = []
    monkeypatch.setattr(linux_guest_quote, "report", lambda data, paths: b"\x81" + data + bytes(959))

    def ioctl(descriptor: int, command: int, data: bytes) -> bytes:
        tried.append(command)
        if command != 0x80105404:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        address, size = struct.unpack("<QQ", data)
        version, status, length, _ = struct.unpack("<QQII", ctypes.string_at(address, 24))
        request = qgs.parse(qgs.unframe(ctypes.string_at(address + 24, length)))
        assert (version, status, size) == (1, 0, 16384)
        assert isinstance(request, qgs.GetQuoteRequest)
        assert request.report[1:65] == DATA
        answer = qgs.frame(qgs.GetQuoteResponse(QUOTE).to_bytes())
        ctypes.memmove(address, struct.pack("<QQII", 1, 0, length, len(answer)) + answer, 24 + len(answer))
        return data

    monkeypatch.setattr(linux_guest_quote, "ioctl", ioctl)
    made = quote(DATA, Via.IOCTL, paths)
    assert (made.quote, made.via) == (QUOTE, Via.IOCTL)
    assert tried == [0xC0105404, 0x80105404]


@pytest.mark.parametrize(("status", "message"), [(1 << 63, "status 0x8"), ((1 << 63) + 1, "unavailable")])
def test_ioctl_without_a_quote(paths: GuestPaths, monkeypatch: pytest.MonkeyPatch, status: int, message: str) -> None:
    write(paths.device, b"")
    monkeypatch.setattr(linux_guest_quote, "report", lambda data, paths: bytes(1024))

    def ioctl(descriptor: int, command: int, data: bytes) -> bytes:
        ctypes.memmove(struct.unpack("<QQ", data)[0], struct.pack("<QQ", 1, status), 16)
        return data

    monkeypatch.setattr(linux_guest_quote, "ioctl", ioctl)
    with pytest.raises(SystemFault, match=f"GetQuote ioctl: .*{message}"):
        quote(DATA, Via.IOCTL, paths)
