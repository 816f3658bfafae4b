"""Registering platforms: what PCKIDRetrievalTool writes, what a PCCS takes, and Intel's registration service.

Indirect registration goes through a PCCS, with the encrypted PPID or the platform manifest; direct registration sends
the manifest to Intel. Intel "SGX DCAP Multi-Package Software"; "SGX Registration Service" API v1.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

from tdxstack.errors import UsageError
from tdxstack.pcs.client import INTEL_PCS
from tdxstack.pcs.transport import Request, Transport, TransportOptions
from tdxstack.wire.sgx_registration import RequestType, ServerRequest

MAX_CSV = 1 << 20
MAX_ROWS = 10_000
#: Columns, hexadecimal digits wanted in each; the last, the manifest, has any number.
_COLUMNS = (("enc_ppid", 768), ("pce_id", 4), ("cpu_svn", 32), ("pce_svn", 4), ("qe_id", 32))
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})*")


@dataclass(frozen=True, slots=True)
class PlatformId:
    """One platform, all in hexadecimal: ``pce_id`` and ``pce_svn`` little-endian.

    Where the tool ran without an enclave, ``qe_id`` is the platform's id and PPID, CPUSVN and PCE SVN are empty: such
    a platform can be registered by its manifest alone.
    """

    enc_ppid: str
    pce_id: str
    cpu_svn: str
    pce_svn: str
    qe_id: str
    platform_manifest: str = ""

    def to_body(self) -> dict[str, str]:
        """The body of a PCCS's ``POST /platforms``."""
        body = {"qe_id": self.qe_id, "pce_id": self.pce_id}
        if self.platform_manifest:
            return body | {"platform_manifest": self.platform_manifest}
        return body | {"cpu_svn": self.cpu_svn, "pce_svn": self.pce_svn, "enc_ppid": self.enc_ppid}


def read_csv(text: str) -> list[PlatformId]:
    """Read PCKIDRetrievalTool's file: ``EncryptedPPID,PCE_ID,CPUSVN,PCE ISVSVN,QE_ID[,PLATFORM_MANIFEST]``.

    Raises:
        UsageError: a line is not of that form; it says which.
    """
    if len(text) > MAX_CSV:
        raise UsageError(f"{len(text)} characters are more than PCKIDRetrievalTool writes")
    lines = text.replace("\0", "?").replace("\r\n", "\n").replace("\r", "\n")
    try:
        rows = list(csv.reader(io.StringIO(lines)))
    except csv.Error as error:
        raise UsageError(f"not what PCKIDRetrievalTool writes: {error}") from None
    found = []
    for number, row in enumerate(rows, 1):
        if not any(cell.strip() for cell in row):
            continue
        if number > MAX_ROWS:
            raise UsageError(f"more than {MAX_ROWS} lines")
        found.append(_row([cell.strip() for cell in row], number))
    if not found:
        raise UsageError("no platform in it", hint="run PCKIDRetrievalTool on the platform")
    return found


def _row(cells: list[str], number: int) -> PlatformId:
    if not len(_COLUMNS) <= len(cells) <= len(_COLUMNS) + 1:
        raise UsageError(f"line {number}: {len(cells)} columns where 5 or 6 belong")
    manifest = cells[5] if len(cells) > len(_COLUMNS) else ""
    required = {"pce_id", "qe_id"} if manifest or not cells[0] else {name for name, _ in _COLUMNS}
    for (name, digits), cell in zip(_COLUMNS, cells, strict=False):
        if (cell or name in required) and (len(cell) != digits or not _HEX.fullmatch(cell)):
            raise UsageError(f"line {number}: {name} is not {digits} hexadecimal digits")
    if not _HEX.fullmatch(manifest):
        raise UsageError(f"line {number}: platform_manifest is not hexadecimal")
    enc_ppid, pce_id, cpu_svn, pce_svn, qe_id = (cell.upper() for cell in cells[: len(_COLUMNS)])
    return PlatformId(enc_ppid, pce_id, cpu_svn, pce_svn, qe_id, manifest.upper())


def write_csv(platforms: list[PlatformId]) -> str:
    """The file that PCKIDRetrievalTool would write."""
    lines = []
    for one in platforms:
        cells = [one.enc_ppid, one.pce_id, one.cpu_svn, one.pce_svn, one.qe_id]
        lines.append(
            ",".join(cell.lower() for cell in [*cells, *([one.platform_manifest] if one.platform_manifest else [])])
        )
    return "\n".join(lines) + "\n"


class RegistrationService:
    """Intel's registration service, or what speaks its API v1.

    Args:
        url: its root.
        api_key: subscription key, which adding packages needs.
    """

    def __init__(
        self,
        url: str = INTEL_PCS,
        *,
        api_key: str | None = None,
        options: TransportOptions | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._transport = transport or Transport(options)

    def close(self) -> None:
        self._transport.close()

    def send(self, request: ServerRequest) -> bytes:
        """Send a request of the BIOS's; the answer: the PPID (text), or platform membership certificates.

        Raises:
            CollateralAbsent: the service refuses it.
            CollateralUnreachable: it cannot be reached.
        """
        headers = {"content-type": "application/octet-stream"}
        path = "platform"
        if request.type is RequestType.ADD_PACKAGE:
            path = "package"
            if not self._api_key:
                raise UsageError("adding a package needs the subscription key", hint="--api-key-file FILE")
            headers["ocp-apim-subscription-key"] = self._api_key
        url = f"{self._url}/sgx/registration/v1/{path}"
        return self._transport.send(Request("POST", url, "registration", {}, headers, request.data)).body
