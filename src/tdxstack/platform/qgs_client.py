"""Asks a Quote Generation Service, as QEMU does for a TD's GetQuote."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tdxstack.errors import SystemFault, WireError
from tdxstack.wire import qgs

#: A unix socket, or host and port.
Address = Path | tuple[str, int]

#: The kernel waits 30 s for a quote.
TIMEOUT_SECONDS = 25.0


class QgsRefused(SystemFault):
    """A QGS that answered with an error; ``error_code`` is the protocol's."""

    def __init__(self, address: Address, what: str, error_code: int) -> None:
        hint = "the QGS's own log says why; a report is only quoted on the platform that made it"
        super().__init__(f"the QGS at {_spoken(address)} refused {what}: error 0x{error_code:x}", hint=hint)
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
        raise SystemFault(f"the QGS at {_spoken(address)} did not answer within {seconds:g} s") from None
    except asyncio.IncompleteReadError:
        raise SystemFault(f"the QGS at {_spoken(address)} ended the connection without an answer") from None
    except OSError as error:
        reason = f"no QGS at {_spoken(address)}: {error.strerror or error}"
        raise SystemFault(reason, hint="systemctl status qgsd, or tdxctl qgs serve") from error


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


def _check(error_code: int, address: Address, what: str) -> None:
    if error_code:
        raise QgsRefused(address, what, error_code)


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection(*address)


def _spoken(address: Address) -> str:
    return str(address) if isinstance(address, Path) else f"{address[0]}:{address[1]}"
