"""Asks a Quote Generation Service, as QEMU does for a TD's GetQuote."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import SystemFault, WireError
from tdxstack.wire import qgs
from tdxstack.wire.qgs_collateral import documents_of


@dataclass(frozen=True, slots=True)
class Vsock:
    """A vsock address; the host is CID 2 to its guests, and 1 to itself."""

    cid: int
    port: int

    def __str__(self) -> str:
        return f"vsock:{self.cid}:{self.port}"


#: A unix socket, host and port of TCP, or a vsock.
Address = Path | tuple[str, int] | Vsock

#: Sizes in a quote: header, body of version 4, where version 5 has its body's size, what is read first.
_QUOTE_HEADER, _V4_BODY, _V5_SIZE, _QUOTE_START = 48, 584, 50, 54
_LARGEST_BODY = 4096

COLLATERAL = "the request for collateral"

#: The kernel waits 30 s for a quote.
TIMEOUT_SECONDS = 25.0


class QgsRefused(SystemFault):
    """A QGS that answered with an error; ``error_code`` is the protocol's."""

    def __init__(self, address: Address, what: str, error_code: int) -> None:
        hint = "the QGS's own log says why; a report is only quoted on the platform that made it"
        if what == COLLATERAL:
            hint = (
                "the QGS asks the PCCS that /etc/sgx_default_qcnl.conf names: tdxctl pccs status; journalctl -u qgsd"
            )
        super().__init__(f"the QGS at {spoken(address)} refused {what}: error 0x{error_code:x}", hint=hint)
        self.error_code = error_code


async def exchange(address: Address, message: bytes, *, seconds: float = TIMEOUT_SECONDS) -> bytes:
    """Send one message to a QGS; return its answer (both without stream length).

    Raises:
        SystemFault: nobody listens, or the answer does not come.
        WireError: the answer is not a framed message.
    """
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await _connect(address)
            try:
                writer.write(qgs.frame(message))
                await writer.drain()
                length = qgs.frame_length(await reader.readexactly(qgs.FRAME_SIZE))
                return await reader.readexactly(length)
            finally:
                writer.close()
    except TimeoutError:
        raise SystemFault(f"the QGS at {spoken(address)} did not answer within {seconds:g} s") from None
    except asyncio.IncompleteReadError:
        raise SystemFault(f"the QGS at {spoken(address)} ended the connection without an answer") from None
    except OSError as error:
        raise _nobody(address, error) from error


def _nobody(address: Address, error: OSError) -> SystemFault:
    reason = f"no QGS at {spoken(address)}: {error.strerror or error}"
    return SystemFault(reason, hint="systemctl status qgsd, or tdxctl qgs serve")


async def get_quote(address: Address, report: bytes) -> bytes:
    """A quote of a TDREPORT.

    Raises:
        QgsRefused: the QGS says no.
        SystemFault: nobody listens.
        WireError: the answer is not one.
    """
    answer = qgs.parse(await exchange(address, qgs.GetQuoteRequest(report).to_bytes()))
    if not isinstance(answer, qgs.GetQuoteResponse):
        raise WireError("qgs_msg_header_t", "type", 4, f"{answer.TYPE} answers a quote request")
    _check(answer.error_code, address, "the report")
    return answer.quote


async def get_raw_quote(address: Address, report: bytes) -> bytes:
    """A quote of a TDREPORT in raw mode, where the end of the connection is the only way to say no.

    Raises:
        SystemFault: nobody listens, or no quote comes.
    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await _connect(address)
            try:
                writer.write(report)
                await writer.drain()
                return await _raw_quote(reader, address)
            finally:
                writer.close()
    except TimeoutError:
        raise SystemFault(f"the QGS at {spoken(address)} did not answer within {TIMEOUT_SECONDS:g} s") from None
    except OSError as error:
        raise _nobody(address, error) from error


async def _raw_quote(reader: asyncio.StreamReader, address: Address) -> bytes:
    """The quote's own lengths say where it ends: header and body of version 4 or 5, then the signature's length."""
    try:
        start = await reader.readexactly(_QUOTE_START)
        version = int.from_bytes(start[:2], "little")
        body = int.from_bytes(start[_V5_SIZE : _V5_SIZE + 4], "little") + 6 if version >= 5 else _V4_BODY
        if body > _LARGEST_BODY:
            raise WireError("Quote", "body_size", _V5_SIZE, f"{body} bytes")
        head = start + await reader.readexactly(_QUOTE_HEADER + body + 4 - len(start))
        length = int.from_bytes(head[-4:], "little")
        if length > qgs.MAX_MESSAGE:
            raise WireError("Quote", "auth_data_size", len(head) - 4, f"{length} bytes")
        return head + await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        raise SystemFault(
            f"the QGS at {spoken(address)} ended the connection without a quote",
            hint="a report is only quoted on the platform that made it; without --raw it says more",
        ) from None


async def platform_info(address: Address) -> qgs.GetPlatformInfoResponse:
    """SVNs and ids of a QGS's platform.

    Raises:
        QgsRefused: the QGS says no.
        SystemFault: nobody listens.
        WireError: the answer is not one.
    """
    answer = qgs.parse(await exchange(address, qgs.GetPlatformInfoRequest().to_bytes(), seconds=5.0))
    if not isinstance(answer, qgs.GetPlatformInfoResponse):
        raise WireError("qgs_msg_header_t", "type", 4, f"{answer.TYPE} answers a platform request")
    _check(answer.error_code, address, "the question")
    return answer


async def get_collateral(address: Address, fmspc: bytes, pck_ca: str) -> dict[str, str]:
    """Collateral for one FMSPC (6 bytes) under one PCK CA, as :meth:`tdxstack.dcap.Collateral.from_json` reads it.

    A QGS has it from its PCCS.

    Raises:
        QgsRefused: the QGS says no.
        SystemFault: nobody listens.
        WireError: the answer is not one.
    """
    answer = qgs.parse(await exchange(address, qgs.GetCollateralRequest(fmspc, pck_ca).to_bytes()))
    if not isinstance(answer, qgs.GetCollateralResponse):
        raise WireError("qgs_msg_header_t", "type", 4, f"{answer.TYPE} answers a request for collateral")
    _check(answer.error_code, address, COLLATERAL)
    return documents_of(answer)


def _check(error_code: int, address: Address, what: str) -> None:
    if error_code:
        raise QgsRefused(address, what, error_code)


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(address)
    if isinstance(address, Vsock):
        stream = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        stream.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(stream, (address.cid, address.port))
        except BaseException:
            stream.close()
            raise
        return await asyncio.open_connection(sock=stream)
    return await asyncio.open_connection(*address)


def spoken(address: Address) -> str:
    """The address in words."""
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
