"""Enclave identity: what the quoting enclave's report has to say.

Intel SGX/TDX PCS API v4, "Get Quoting Enclave Identity", EnclaveIdentity version 2. The order of checks and the
kind of each fault are those of QVL 1.27.
"""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.dcap.signed_json import (
    FormatFault,
    InvalidFault,
    VersionFault,
    date,
    load_signed,
    objects,
    octets,
    text_of,
    unsigned,
)
from tdxstack.dcap.tcb_info import IDENTITY_STATUSES, IsvLevel, isv_colons, isv_level
from tdxstack.wire.sgx_report import SgxReportBody

QE_ID, QVE_ID, TD_QE_ID = "QE", "QVE", "TD_QE"


@dataclass(frozen=True, slots=True)
class EnclaveIdentity:
    """An enclave identity document; levels are sorted, best first. Dates are in Unix seconds."""

    id: str
    issue_date: int
    next_update: int
    evaluation_number: int
    misc_select: int
    misc_select_mask: int
    attributes: int
    attributes_mask: int
    mr_signer: bytes
    isv_prod_id: int
    levels: tuple[IsvLevel, ...]

    @classmethod
    def from_json(cls, text: str) -> EnclaveIdentity:
        """Read the body (the value of ``enclaveIdentity``). Raises FormatFault, InvalidFault or VersionFault."""
        body = load_signed(text, "qe_identity", lambda body: len(body) + 4 + isv_colons(body["tcbLevels"]))
        try:
            kind = text_of(body, "id")
            if kind not in (QE_ID, QVE_ID, TD_QE_ID):
                raise InvalidFault(f"id: {kind!r:.40} is not QE, QVE or TD_QE")
            if (version := unsigned(body, "version")) != 2:
                raise VersionFault(f"version: {version} is not 2")
            identity = (
                kind,
                date(body, "issueDate"),
                date(body, "nextUpdate"),
                unsigned(body, "tcbEvaluationDataNumber"),
                int.from_bytes(octets(body, "miscselect", 4), "big"),
                int.from_bytes(octets(body, "miscselectMask", 4), "big"),
                int.from_bytes(octets(body, "attributes", 16), "big"),
                int.from_bytes(octets(body, "attributesMask", 16), "big"),
                octets(body, "mrsigner", 32),
                unsigned(body, "isvprodid"),
            )
        except FormatFault as fault:  # QVL: an absent member of this document is an invalid one
            raise InvalidFault(str(fault)) from None
        levels = [isv_level(level, IDENTITY_STATUSES, strict=True) for level in objects(body, "tcbLevels")]
        if len({(level.isv_svn, level.tcb_date) for level in levels}) != len(levels):
            raise InvalidFault("tcbLevels: two levels are the same")
        ordered = tuple(sorted(levels, key=lambda level: (level.isv_svn, level.tcb_date), reverse=True))
        return cls(*identity, ordered)

    def mismatch(self, report: SgxReportBody) -> str | None:
        """What of the QE's report is not this identity's, or None. (QVL 4.1.2.9.5 to 4.1.2.9.8)"""
        # The JSON gives MISCSELECT in the order of its bytes in the report.
        misc_select = int.from_bytes(report.misc_select.to_bytes(4, "little"), "big")
        if misc_select & self.misc_select_mask != self.misc_select:
            return f"MISCSELECT {misc_select:08x}, masked {self.misc_select_mask:08x}, is not {self.misc_select:08x}"
        attributes = int.from_bytes(report.attributes, "big")
        if attributes & self.attributes_mask != self.attributes:
            return f"ATTRIBUTES {attributes:032x}, masked {self.attributes_mask:032x}, are not {self.attributes:032x}"
        if report.mr_signer != self.mr_signer:
            return f"MRSIGNER {report.mr_signer.hex()} is not {self.mr_signer.hex()}"
        if report.isv_prod_id != self.isv_prod_id:
            return f"ISVPRODID {report.isv_prod_id} is not {self.isv_prod_id}"
        return None
