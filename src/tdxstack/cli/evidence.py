"""What the commands on evidence share: reading quotes, collateral, roots and policies, and telling the time."""

from __future__ import annotations

import argparse
import base64
import binascii
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tdxstack.errors import CollateralAbsent, CollateralError, UsageError, WireError
from tdxstack.wire.quote import Quote, TdReportBody

if TYPE_CHECKING:
    from tdxstack.dcap import Collateral
    from tdxstack.dcap.policy import Policy
    from tdxstack.measure.boot import BootRecord

_ENCODED = re.compile(rb"[0-9A-Za-z+/_-]+={0,2}")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")
_REPORT_DATA_SIZE = 64
#: Within so many characters a bundle says that it is one.
_SCHEMA_WITHIN = 256
#: No file of evidence is longer.
MAX_FILE_SIZE = 16 << 20


def read_bytes(path: str, what: str, *, limit: int = MAX_FILE_SIZE, cut: bool = False) -> bytes:
    """The file's bytes; ``-`` is stdin. Raises UsageError if it cannot be read, or is longer than ``limit``.

    With ``cut`` only the first ``limit`` bytes of a longer one are taken.
    """
    try:
        if path == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(path).open("rb") as stream:
                data = stream.read(limit + 1)
    except OSError as error:
        raise UsageError(f"{what} {path}: {error.strerror}", hint=f"name a file with the {what}, or -") from None
    except ValueError as error:
        raise UsageError(f"{what} {path!r}: {error}") from None
    if len(data) > limit and not cut:
        raise UsageError(f"{path}: longer than {limit} bytes, no {what}")
    return data[:limit]


def read_text(path: str, what: str) -> str:
    """The file's text. Raises UsageError."""
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{what} {path}: not a text") from None


def read_quote(path: str) -> bytes:
    """A quote from a file: binary, hexadecimal or base64, or JSON with one of these as ``quote``.

    Of a file that is too long as much is returned as is too long for a quote.

    Raises:
        UsageError: the file cannot be read.
    """
    data = _member(read_bytes(path, "quote", cut=True))
    text = b"".join(data.split()).removeprefix(b"0x")
    if _ENCODED.fullmatch(text):
        for decode in (binascii.unhexlify, _base64):
            try:
                decoded = decode(text)
            except ValueError:
                continue
            if decoded[:1] in (b"\3", b"\4", b"\5") and decoded[1:2] == b"\0":
                return decoded
    return data


def _member(data: bytes) -> bytes:
    """The text of ``quote`` where data is such a JSON document, else data."""
    import json

    if data[:16].lstrip()[:1] != b"{":
        return data
    try:
        quote = json.loads(data).get("quote")
    except (ValueError, RecursionError, AttributeError):
        return data
    return quote.encode("ascii", "replace") if isinstance(quote, str) else data


def _base64(text: bytes) -> bytes:
    """Either alphabet, padded or not, as tokens and JSON carry it."""
    text = text.translate(_URL_SAFE).rstrip(b"=")
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


def read_collateral(path: str) -> tuple[Collateral, CollateralError | None]:
    """Collateral from a file, with what is wrong with it: then the items that are wrong are empty."""
    text, fault = _collateral_text(path)
    return _collateral(text) if fault is None else (_nothing(), fault)


def collateral_for(path: str, quote: bytes, at: int) -> tuple[Collateral, CollateralError | None]:
    """The same; of a bundle the set for the quote's platform that held at ``at`` (Unix seconds)."""
    from tdxstack.pcs.bundle import SCHEMA, held_for, read_bundle

    text, fault = _collateral_text(path)
    if fault is not None:
        return _nothing(), fault
    if SCHEMA not in text[:_SCHEMA_WITHIN]:
        return _collateral(text)
    try:
        return held_for(read_bundle(text), quote, at), None
    except WireError as error:
        fault = CollateralError("bundle", f"which set of the bundle, the quote does not tell: {error.message}")
    except CollateralError as error:
        item = "bundle" if isinstance(error, CollateralAbsent) else "collateral"
        fault = CollateralError(item, error.message, hint=error.hint)
    return _nothing(), fault


def _collateral_text(path: str) -> tuple[str, CollateralError | None]:
    try:
        return read_bytes(path, "collateral", cut=True).decode("utf-8-sig", "replace"), None
    except UsageError as error:
        return "", CollateralError("file", error.message, hint="tdxctl collateral --help")


def _collateral(text: str) -> tuple[Collateral, CollateralError | None]:
    from tdxstack.dcap import Collateral

    try:
        return Collateral.from_json(text), None
    except CollateralError as fault:
        return Collateral.salvage(text), fault


def _nothing() -> Collateral:
    from tdxstack.dcap import Collateral

    return Collateral.salvage("{}")


def kept_collateral(quote: bytes, at: int) -> tuple[Collateral, CollateralError | None]:
    """The collateral of the user's archive that held at ``at`` for the platform of ``quote``; else empty, and why."""
    from tdxstack.cli.collateral_places import archive
    from tdxstack.pcs.from_quote import wanted_for
    from tdxstack.pcs.source import STANDARD

    try:
        return archive().find(wanted_for(quote, STANDARD), at).collateral, None
    except CollateralError as error:
        fault = CollateralError("archive", error.message, hint="tdxctl collateral fetch --quote QUOTE")
    except WireError as error:
        fault = CollateralError("archive", f"no collateral is named, and the quote does not tell: {error.message}")
    return _nothing(), fault


def read_roots(roots: list[str] | None) -> list[str | bytes]:
    """Roots by file, or the word ``intel``. Raises UsageError."""
    return [root if root == "intel" else read_bytes(root, "trust root") for root in roots or ["intel"]]


def read_policy(path: str | None) -> Policy:
    """The policy of a file, or the strict one. Raises UsageError."""
    from tdxstack.dcap.policy import Policy

    if path is None:
        return Policy()
    try:
        return Policy.from_text(read_bytes(path, "policy").decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UsageError(f"policy {path}: not a text") from None


def read_boot(log: str | None, ima: str | None, quote: Quote | None) -> BootRecord | None:
    """What an event log (and an IMA list) says of the boot; None without a log. Raises UsageError."""
    from tdxstack.measure.boot import read_boot as read

    if log is None:
        if ima is not None:
            raise UsageError("--ima needs --event-log", hint="in the TD: tdxctl guest eventlog, tdxctl guest ima")
        return None
    body = quote.body if quote else None
    rtmr2 = body.rtmrs[2] if isinstance(body, TdReportBody) else None
    return read(read_bytes(log, "event log"), read_bytes(ima, "IMA list") if ima else None, rtmr2)


def point_in_time(text: str) -> int:
    """Unix seconds of a number, or of an ISO 8601 date and time (UTC if it names no zone). For argparse."""
    try:
        if _SECONDS.fullmatch(text):
            return int(datetime.fromtimestamp(int(text.partition(".")[0]), UTC).timestamp())
        moment = datetime.fromisoformat(text.removesuffix(" UTC"))
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(f"{text!r} is neither Unix seconds nor an ISO 8601 date and time") from None


def report_data(text: str) -> bytes:
    """Up to 64 bytes in hexadecimal. For argparse."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not hexadecimal") from None
    if len(data) > _REPORT_DATA_SIZE:
        raise argparse.ArgumentTypeError(f"{len(data)} bytes where up to {_REPORT_DATA_SIZE} belong")
    return data


def now() -> int:
    """Unix seconds by this machine's clock."""
    return int(time.time())


def moment(args: argparse.Namespace) -> int:
    """``--at``, or now."""
    return now() if args.at is None else int(args.at)


def add_time(parser: argparse.ArgumentParser) -> None:
    """Declare ``--at``."""
    text = "judge expiry at this time: Unix seconds or ISO 8601 (default: now)"
    parser.add_argument("--at", metavar="TIME", type=point_in_time, help=text)


def add_roots(parser: argparse.ArgumentParser) -> None:
    """Declare ``--trust-root``."""
    text = "trusted root certificate (PEM, DER or hexadecimal), or 'intel' (default); can be given more than once"
    parser.add_argument("--trust-root", metavar="FILE|intel", action="append", help=text)


def add_evidence(parser: argparse.ArgumentParser) -> None:
    """Declare the quote, its collateral, roots and time."""
    parser.add_argument("quote", metavar="QUOTE", help="the quote: a file (binary, hexadecimal or base64), or -")
    text = (
        "collateral as one JSON document, or a bundle "
        "(default: of the archive, what held at the time; see 'collateral fetch')"
    )
    parser.add_argument("--collateral", metavar="FILE", help=text)
    add_roots(parser)
    add_time(parser)
