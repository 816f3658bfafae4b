"""Three ways from a TD's guest to a quote, and the choice among them.

Intel's libtdx_attest tries vsock if ``/etc/tdx-attest.conf`` names a port, then configfs, then the ioctl; what is not
there is passed over, what is there and fails is an error. The same order holds here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tdxstack.errors import PlatformMissing, UsageError, WireError
from tdxstack.platform.linux_guest import REAL, REPORT_DATA_SIZE, GuestPaths, ioctl, open_device, report
from tdxstack.platform.linux_guest_hops import Hop, QuoteFault, buffer_fault, configfs_fault, qgs_fault

#: vsock address of the host (VMADDR_CID_HOST).
HOST_CID = 2
PROVIDER = "tdx_guest"
_QUOTE_SECONDS = 60.0
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.2
_MAX_QUOTE = 1 << 20

#: GetQuote ioctls of Intel's own kernels (1.5 stacks): _IOWR('T', 4), _IOR('T', 4), _IOR('T', 2), each of 16 bytes.
_GET_QUOTE_IOCTLS = (0xC0105404, 0x80105404, 0x80105402)
_QUOTE_BUFFER_SIZE = 16 * 1024
_QUOTE_HEADER = struct.Struct("<QQII")
_IN_FLIGHT = 0xFFFFFFFFFFFFFFFF
_UNAVAILABLE = 0x8000000000000001


class Via(StrEnum):
    """How a quote is obtained: the kernel's configfs-tsm, a TDREPORT by ioctl and the host's QGS over vsock, or the
    GetQuote ioctl of Intel's 1.5 kernels, which is TDG.VP.VMCALL<GetQuote>."""

    AUTO = "auto"
    CONFIGFS = "configfs"
    VSOCK = "vsock"
    IOCTL = "ioctl"

    @classmethod
    def of(cls, name: str) -> Via:
        """By its name; ``tdvmcall`` is the ioctl's other name. Raises ValueError."""
        return cls.IOCTL if name == "tdvmcall" else cls(name)


@dataclass(frozen=True, slots=True)
class GuestQuote:
    """A quote and the way it came."""

    quote: bytes
    via: Via


def quote(report_data: bytes, via: Via = Via.AUTO, paths: GuestPaths = REAL) -> GuestQuote:
    """A quote over 64 bytes of REPORTDATA.

    Raises:
        PlatformMissing: none of the ways (or not the one asked for) is there.
        QuoteFault: a hop of the way failed; it says which.
    """
    if len(report_data) != REPORT_DATA_SIZE:
        raise UsageError(f"REPORTDATA has {len(report_data)} bytes, not {REPORT_DATA_SIZE}")
    if via is not Via.AUTO:
        return GuestQuote(_WAYS[via](report_data, paths), via)
    missing: list[str] = []
    for way in _order(paths):
        try:
            return GuestQuote(_WAYS[way](report_data, paths), way)
        except PlatformMissing as error:
            missing.append(f"{way}: {error.message}")
    raise PlatformMissing("no way to a quote: " + "; ".join(missing), hint="tdxctl guest check")


def _order(paths: GuestPaths) -> Iterator[Via]:
    if attest_port(paths) is not None:
        yield Via.VSOCK
    yield from (Via.CONFIGFS, Via.IOCTL)


def attest_port(paths: GuestPaths = REAL) -> int | None:
    """The vsock port of the QGS that ``/etc/tdx-attest.conf`` names (``port=4050``), or None."""
    try:
        lines = paths.attest_conf.read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition("#")[0].partition("=")
        if name.strip() == "port" and value.strip().isdecimal() and 0 < int(value) < 1 << 32:
            return int(value)
    return None


def _by_configfs(report_data: bytes, paths: GuestPaths) -> bytes:
    if not paths.reports.is_dir():
        raise PlatformMissing(
            f"configfs-tsm: {paths.reports} is not there",
            hint="Linux 6.7 or later: modprobe tsm; mount -t configfs configfs /sys/kernel/config",
        )
    entry = paths.reports / f"tdxctl-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        entry.mkdir()
    except OSError as error:
        message = f"configfs-tsm: cannot make {entry}: {error.strerror}"
        if error.errno == errno.ENXIO:
            raise PlatformMissing(message, hint="no provider of reports: modprobe tdx_guest") from error
        hint = "run it as root" if error.errno == errno.EACCES else None
        raise QuoteFault(Hop.GUEST, message, hint=hint) from error
    try:
        return _from_entry(entry, report_data)
    finally:
        with contextlib.suppress(OSError):
            entry.rmdir()


def _from_entry(entry: Path, report_data: bytes) -> bytes:
    """Write, read, and make sure by the generation that nobody wrote in between."""
    provider = _step(entry / "provider", lambda path: path.read_text()).strip()
    if provider != PROVIDER:
        raise PlatformMissing(
            f"configfs-tsm: the provider is {provider}, not {PROVIDER}", hint="this is no TDX guest"
        )
    for _ in range(_ATTEMPTS):
        before = int(_step(entry / "generation", lambda path: path.read_text()))
        _step(entry / "inblob", lambda path: path.write_bytes(report_data))
        blob = _step(entry / "outblob", lambda path: path.read_bytes())
        after = int(_step(entry / "generation", lambda path: path.read_text()))
        if after == before + 1:
            return _checked(Hop.VMM_OR_QGS, "configfs-tsm", blob)
    raise QuoteFault(Hop.GUEST, f"configfs-tsm: others keep writing to {entry}", hint="try again")


def _step(path: Path, action: Callable[[Path], Any]) -> Any:
    """One access to an attribute. EBUSY and EINTR pass: another reader or writer was at work."""
    for attempt in range(_ATTEMPTS):
        try:
            return action(path)
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EINTR, errno.EAGAIN) and attempt + 1 < _ATTEMPTS:
                time.sleep(_PAUSE_SECONDS)
                continue
            raise configfs_fault(path.name, error) from error
    raise AssertionError("unreachable")


def _by_vsock(report_data: bytes, paths: GuestPaths) -> bytes:
    from tdxstack.wire import qgs

    port = attest_port(paths)
    if port is None:
        raise PlatformMissing(f"vsock: {paths.attest_conf} names no port", hint="put port=4050 into it")
    tdreport = report(report_data, paths)
    where = f"QGS at vsock:{HOST_CID}:{port}"
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as stream:
            stream.settimeout(_QUOTE_SECONDS)
            stream.connect((HOST_CID, port))
            stream.sendall(qgs.frame(qgs.GetQuoteRequest(tdreport).to_bytes()))
            return _quote_of(where, _receive_frame(stream))
    except TimeoutError:
        raise QuoteFault(Hop.QGS_OR_PCCS, f"{where}: no answer within {_QUOTE_SECONDS:g} s") from None
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.ENODEV):
            raise PlatformMissing(
                f"{where}: this guest has no vsock", hint="give the VM a vhost-vsock device"
            ) from error
        raise QuoteFault(Hop.QGS, f"{where}: {error.strerror or error}") from error
    except WireError as error:
        raise QuoteFault(Hop.QGS, f"{where}: its answer cannot be read: {error.message}") from error


def _receive_frame(stream: socket.socket) -> bytes:
    from tdxstack.wire import qgs

    length = qgs.frame_length(_receive(stream, qgs.FRAME_SIZE))
    return _receive(stream, length)


def _receive(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, f"closed after {len(data)} of {size} bytes")
        data += part
    return data


def _quote_of(where: str, message: bytes) -> bytes:
    """The quote in a QGS response."""
    from tdxstack.wire import qgs

    try:
        response = qgs.parse(message)
    except WireError as error:
        raise QuoteFault(Hop.QGS, f"{where}: its answer cannot be read: {error.message}") from error
    if not isinstance(response, qgs.GetQuoteResponse):
        raise QuoteFault(Hop.QGS, f"{where}: it answered with a {type(response).__name__}")
    if response.error_code:
        raise qgs_fault(where, response.error_code)
    return _checked(Hop.QGS, where, response.quote)


def _by_ioctl(report_data: bytes, paths: GuestPaths) -> bytes:
    from tdxstack.wire import qgs

    request = qgs.frame(qgs.GetQuoteRequest(report(report_data, paths)).to_bytes())
    buffer = ctypes.create_string_buffer(_QUOTE_BUFFER_SIZE)
    buffer.raw = (_QUOTE_HEADER.pack(1, 0, len(request), 0) + request).ljust(_QUOTE_BUFFER_SIZE, b"\0")
    device = open_device(paths)
    try:
        _get_quote_ioctl(device, ctypes.addressof(buffer))
        return _quote_of("GetQuote ioctl", qgs.unframe(_out_data(buffer)))
    except WireError as error:
        raise QuoteFault(Hop.VMM_OR_QGS, f"GetQuote ioctl: {error.message}") from error
    finally:
        os.close(device)


def _get_quote_ioctl(device: int, address: int) -> None:
    argument = struct.pack("<QQ", address, _QUOTE_BUFFER_SIZE)
    for command in _GET_QUOTE_IOCTLS:
        try:
            ioctl(device, command, argument)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                continue
            hop = Hop.VMM if error.errno == errno.EIO else Hop.GUEST
            raise QuoteFault(hop, f"GetQuote ioctl: {error.strerror}") from error
        return
    raise PlatformMissing("GetQuote ioctl: this kernel's driver has none", hint="upstream kernels use configfs-tsm")


def _out_data(buffer: ctypes.Array[ctypes.c_char]) -> bytes:
    deadline = time.monotonic() + _QUOTE_SECONDS
    while True:
        raw = buffer.raw
        _, status, _, length = _QUOTE_HEADER.unpack_from(raw)
        if status != _IN_FLIGHT:
            break
        if time.monotonic() > deadline:
            raise QuoteFault(Hop.VMM_OR_QGS, f"GetQuote ioctl: still in flight after {_QUOTE_SECONDS:g} s")
        time.sleep(_PAUSE_SECONDS)
    if status:
        raise buffer_fault(status, unavailable=_UNAVAILABLE)
    return raw[_QUOTE_HEADER.size : _QUOTE_HEADER.size + length]


def _checked(hop: Hop, where: str, blob: bytes) -> bytes:
    if not 48 <= len(blob) <= _MAX_QUOTE:
        raise QuoteFault(hop, f"{where}: {len(blob)} bytes are no quote")
    return blob


_WAYS: dict[Via, Callable[[bytes, GuestPaths], bytes]] = {
    Via.CONFIGFS: _by_configfs,
    Via.VSOCK: _by_vsock,
    Via.IOCTL: _by_ioctl,
}
