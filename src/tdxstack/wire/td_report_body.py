"""TD report body of a quote: 584 (TDX 1.0), 648 (TDX 1.5) or 885 bytes (TDX 1.5 extended).

Intel TDX DCAP Quoting Library API, appendix A.3 (version 4 and 5 quotes, body types 2, 3 and 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from tdxstack.errors import WireError
from tdxstack.wire.layout import Layout
from tdxstack.wire.sgx_report import SGX_REPORT_BODY_SIZE
from tdxstack.wire.tdreport import TdReport


class BodyType(IntEnum):
    """Body descriptor type of a version 5 quote; older quotes say it by their TEE type."""

    SGX = 1
    TDX_1_0 = 2
    TDX_1_5 = 3
    TDX_1_5_EX = 4


_TD_1_0 = Layout(
    "TD_REPORT_BODY",
    tee_tcb_svn="16s",
    mr_seam="48s",
    mr_signer_seam="48s",
    seam_attributes="Q",
    td_attributes="Q",
    xfam="Q",
    mr_td="48s",
    mr_config_id="48s",
    mr_owner="48s",
    mr_owner_config="48s",
    rtmr0="48s",
    rtmr1="48s",
    rtmr2="48s",
    rtmr3="48s",
    report_data="64s",
)
_TD_1_5 = Layout("TD_REPORT_BODY_1_5", tee_tcb_svn2="16s", mr_service_td="48s")
_TD_1_5_EX = Layout(
    "TD_REPORT_BODY_1_5_EX",
    vm_id="B",
    td_id="32s",
    device_info="48s",
    init_servtd_hash="48s",
    init_servtd_attributes="8s",
    init_cpu_svn="16s",
    init_tee_tcb_svn="16s",
    init_fmspc="12s",
    current_servtd_hash="48s",
    current_servtd_attributes="8s",
)

#: Bytes of each body type.
BODY_SIZES = {
    BodyType.SGX: SGX_REPORT_BODY_SIZE,
    BodyType.TDX_1_0: _TD_1_0.size,
    BodyType.TDX_1_5: _TD_1_0.size + _TD_1_5.size,
    BodyType.TDX_1_5_EX: _TD_1_0.size + _TD_1_5.size + _TD_1_5_EX.size,
}


@dataclass(frozen=True, slots=True)
class TdExtension:
    """What body type 4 adds: identity of the TD and where it came from, for migrated and device-bound TDs."""

    vm_id: int = 0
    td_id: bytes = bytes(32)
    device_info: bytes = bytes(48)
    init_servtd_hash: bytes = bytes(48)
    init_servtd_attributes: bytes = bytes(8)
    init_cpu_svn: bytes = bytes(16)
    init_tee_tcb_svn: bytes = bytes(16)
    init_fmspc: bytes = bytes(12)
    current_servtd_hash: bytes = bytes(48)
    current_servtd_attributes: bytes = bytes(8)


@dataclass(frozen=True, slots=True)
class TdReportBody:
    """The TD as the quote states it.

    ``tee_tcb_svn2`` (the module running now) and ``mr_service_td`` are None in a TDX 1.0 body, ``extension`` is None
    in a TDX 1.0 and 1.5 body; which of them are there makes the body's type.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: int
    td_attributes: int
    xfam: int
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mr_service_td: bytes | None = None
    extension: TdExtension | None = None

    @property
    def body_type(self) -> BodyType:
        """Which body this is, told by the fields it has."""
        if self.tee_tcb_svn2 is None:
            return BodyType.TDX_1_0
        return BodyType.TDX_1_5 if self.extension is None else BodyType.TDX_1_5_EX

    @classmethod
    def from_bytes(cls, data: bytes) -> TdReportBody:
        """Read 584, 648 or 885 bytes. Raises WireError for any other length."""
        for kind in (BodyType.TDX_1_0, BodyType.TDX_1_5, BodyType.TDX_1_5_EX):
            if len(data) == BODY_SIZES[kind]:
                return cls.unpack_from(data, 0, kind)
        raise WireError(_TD_1_0.structure, "size", 0, f"{len(data)} bytes where 584, 648 or 885 belong")

    @classmethod
    def unpack_from(cls, data: bytes, offset: int, kind: BodyType) -> TdReportBody:
        """Read a body of ``kind`` at ``offset``. Raises WireError if ``data`` ends before it does."""
        svn, seam, signer, seam_attr, td_attr, xfam, td, config, owner, owner_config, r0, r1, r2, r3, report_data = (
            _TD_1_0.unpack(data, offset)
        )
        svn2 = service_td = extension = None
        if kind >= BodyType.TDX_1_5:
            svn2, service_td = _TD_1_5.unpack(data, offset + _TD_1_0.size)
        if kind >= BodyType.TDX_1_5_EX:
            extension = TdExtension(*_TD_1_5_EX.unpack(data, offset + _TD_1_0.size + _TD_1_5.size))
        rtmrs = (r0, r1, r2, r3)
        return cls(
            svn, seam, signer, seam_attr, td_attr, xfam, td, config, owner, owner_config, rtmrs, report_data,
            svn2, service_td, extension,
        )  # fmt: skip

    @classmethod
    def from_tdreport(cls, report: TdReport, kind: BodyType) -> TdReportBody:
        """The body that a quoting enclave makes of a TDREPORT; type 4 takes TD_ID and VM_ID from it too."""
        module, td = report.tee_tcb_info, report.td_info
        newer = kind >= BodyType.TDX_1_5
        return cls(
            tee_tcb_svn=module.tee_tcb_svn,
            mr_seam=module.mr_seam,
            mr_signer_seam=module.mr_signer_seam,
            seam_attributes=module.attributes,
            td_attributes=td.attributes,
            xfam=td.xfam,
            mr_td=td.mr_td,
            mr_config_id=td.mr_config_id,
            mr_owner=td.mr_owner,
            mr_owner_config=td.mr_owner_config,
            rtmrs=td.rtmrs,
            report_data=report.report_data,
            tee_tcb_svn2=module.tee_tcb_svn2 if newer else None,
            mr_service_td=td.servtd_hash if newer else None,
            extension=TdExtension(td.vm_id & 0xFF, td.td_id) if kind >= BodyType.TDX_1_5_EX else None,
        )

    def to_bytes(self) -> bytes:
        """The bytes of the body. Raises WireError if a field has the wrong length or is missing."""
        data = _TD_1_0.pack(
            self.tee_tcb_svn,
            self.mr_seam,
            self.mr_signer_seam,
            self.seam_attributes,
            self.td_attributes,
            self.xfam,
            self.mr_td,
            self.mr_config_id,
            self.mr_owner,
            self.mr_owner_config,
            *self.rtmrs,
            self.report_data,
        )
        if self.tee_tcb_svn2 is None:
            return data
        data += _TD_1_5.pack(self.tee_tcb_svn2, self.mr_service_td or bytes(48))
        if self.extension is None:
            return data
        return data + _TD_1_5_EX.pack(*(getattr(self.extension, name) for name in _TD_1_5_EX.names))
