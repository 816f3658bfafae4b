"""Asks a Quote Generation Service, as QEMU does for a TD's GetQuote."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tdxstack.errors import SystemFault, WireError
from tdxstack.wire import qgs

#: The kernel waits 30 s for a quote.
TIMEOUT_SECONDS = 25.0


async def exchange(path: Path, message: bytes, *, seconds: float = TIMEOUT_SECONDS) -> bytes:
    """Send one message to the QGS on a unix socket; return its answer (both without stream length).

    Raises:
        SystemFault: nobody listens, or the answer does not come.
        WireError: the answer is not a framed message.
    """
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(qgs.frame(message))
                await writer.drain()
                length = qgs.frame_length(await reader.readexactly(qgs.FRAME_SIZE))
                return await reader.readexactly(length)
            finally:
                writer.close()
    except TimeoutError:
        raise SystemFault(f"the QGS on {path} did not answer within {seconds:g} s") from None
    except (OSError, asyncio.IncompleteReadError) as error:
        raise SystemFault(f"no quote from the QGS on {path}: {error}", hint="tdxctl qgs status") from error


async def get_quote(path: Path, report: bytes) -> bytes:
    """A quote of a TDREPORT.

    Raises:
        SystemFault: nobody listens, or the QGS says no.
        WireError: the answer is not one.
    """
    answer = qgs.parse(await exchange(path, qgs.GetQuoteRequest(report).to_bytes()))
    if not isinstance(answer, qgs.GetQuoteResponse):
        raise WireError("qgs_msg_header_t", "type", 4, f"{answer.TYPE} answers a quote request")
    if answer.error_code:
        raise SystemFault(f"the QGS on {path} refused the report: error 0x{answer.error_code:x}")
    return answer.quote
