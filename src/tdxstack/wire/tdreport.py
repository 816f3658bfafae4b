"""TDREPORT_STRUCT (1024 bytes): what TDG.MR.REPORT gives to a TD.

Intel TDX module ABI specification, TDREPORT_STRUCT, REPORTMACSTRUCT, TEE_TCB_INFO_STRUCT, TDINFO_STRUCT.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import IntEnum, IntFlag

from tdxstack.errors import WireError
from tdxstack.wire.layout import Layout

TDREPORT_SIZE = 1024
TEE_TCB_INFO_SIZE = 239
TDINFO_SIZE = 512
REPORT_DATA_SIZE = 64

#: Byte 0 of REPORTTYPE for a TD.
TEE_TYPE_TDX = 0x81
#: TEE_TCB_INFO.VALID of a TDX 1.0 module, and of one that fills TEE_TCB_SVN2.
VALID_TDX_1_0 = 0x1FF
VALID_TDX_1_5 = 0x301FF

_TEE_TCB_INFO_AT = 256
_TDINFO_AT = 512


class TdAttributes(IntFlag):
    """ATTRIBUTES of a TD: bit 0..7 make it untrusted (TUD), 8..31 bear on security, 32..63 are others."""

    DEBUG = 1 << 0
    SEPT_VE_DISABLE = 1 << 28
    MIGRATABLE = 1 << 29
    PKS = 1 << 30
    KL = 1 << 31
    PERFMON = 1 << 63


#: All ATTRIBUTES bits that have a meaning.
TD_ATTRIBUTES_DEFINED = 0x8000_0000_F000_0001


class ReportVersion(IntEnum):
    """REPORTTYPE.VERSION: what the TDX module that wrote the report fills in."""

    TDX_1_0 = 0
    TDX_1_5 = 1
    TDX_1_5_EX = 3


@dataclass(frozen=True, slots=True)
class ReportType:
    """REPORTTYPE: four bytes, TEE type, subtype, version, reserved."""

    tee_type: int = TEE_TYPE_TDX
    subtype: int = 0
    version: int = ReportVersion.TDX_1_5
    reserved: int = 0


_TEE_TCB_INFO = Layout(
    "TEE_TCB_INFO_STRUCT",
    valid="Q",
    tee_tcb_svn="16s",
    mr_seam="48s",
    mr_signer_seam="48s",
    attributes="Q",
    tee_tcb_svn2="16s",
    reserved="95s",
)


@dataclass(frozen=True, slots=True)
class TeeTcbInfo:
    """TEE_TCB_INFO_STRUCT (239 bytes): the TDX module that the TD was built under.

    ``tee_tcb_svn2`` is the module that runs now (TDX 1.5; zero before).
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes = bytes(48)
    attributes: int = 0
    tee_tcb_svn2: bytes = bytes(16)
    valid: int = VALID_TDX_1_5
    reserved: bytes = bytes(95)

    @classmethod
    def from_bytes(cls, data: bytes) -> TeeTcbInfo:
        """Read 239 bytes. Raises WireError for any other length."""
        _exact(_TEE_TCB_INFO, data)
        valid, svn, seam, signer, attributes, svn2, reserved = _TEE_TCB_INFO.unpack(data)
        return cls(svn, seam, signer, attributes, svn2, valid, reserved)

    def to_bytes(self) -> bytes:
        """The 239 bytes. Raises WireError if a field has the wrong length."""
        return _TEE_TCB_INFO.pack(*(getattr(self, name) for name in _TEE_TCB_INFO.names))


_TDINFO = Layout(
    "TDINFO_STRUCT",
    attributes="Q",
    xfam="Q",
    mr_td="48s",
    mr_config_id="48s",
    mr_owner="48s",
    mr_owner_config="48s",
    rtmr0="48s",
    rtmr1="48s",
    rtmr2="48s",
    rtmr3="48s",
    servtd_hash="48s",
    td_id="32s",
    reserved="24s",
    vm_id="I",
    valid="I",
)


@dataclass(frozen=True, slots=True)
class TdInfo:
    """TDINFO_STRUCT (512 bytes): the TD itself. The last four fields are zero before TDX 1.5 extended reports."""

    attributes: int
    xfam: int
    mr_td: bytes
    mr_config_id: bytes = bytes(48)
    mr_owner: bytes = bytes(48)
    mr_owner_config: bytes = bytes(48)
    rtmrs: tuple[bytes, bytes, bytes, bytes] = (bytes(48), bytes(48), bytes(48), bytes(48))
    servtd_hash: bytes = bytes(48)
    td_id: bytes = bytes(32)
    vm_id: int = 0
    valid: int = 0
    reserved: bytes = bytes(24)

    @classmethod
    def from_bytes(cls, data: bytes) -> TdInfo:
        """Read 512 bytes. Raises WireError for any other length."""
        _exact(_TDINFO, data)
        (
            attributes,
            xfam,
            mr_td,
            config_id,
            owner,
            owner_config,
            r0,
            r1,
            r2,
            r3,
            servtd,
            td_id,
            reserved,
            vm_id,
            valid,
        ) = _TDINFO.unpack(data)
        rtmrs = (r0, r1, r2, r3)
        return cls(
            attributes, xfam, mr_td, config_id, owner, owner_config, rtmrs, servtd, td_id, vm_id, valid, reserved
        )

    def to_bytes(self) -> bytes:
        """The 512 bytes. Raises WireError if a field has the wrong length."""
        head = (self.attributes, self.xfam, self.mr_td, self.mr_config_id, self.mr_owner, self.mr_owner_config)
        tail = (self.servtd_hash, self.td_id, self.reserved, self.vm_id, self.valid)
        return _TDINFO.pack(*head, *self.rtmrs, *tail)


_MAC_STRUCT = Layout(
    "REPORTMACSTRUCT",
    tee_type="B",
    subtype="B",
    version="B",
    type_reserved="B",
    reserved1="12s",
    cpu_svn="16s",
    tee_tcb_info_hash="48s",
    tee_info_hash="48s",
    report_data="64s",
    reserved2="32s",
    mac="32s",
)


def tee_tcb_info_hash(info: TeeTcbInfo) -> bytes:
    """TEE_TCB_INFO_HASH: SHA-384 over the 239 bytes of TEE_TCB_INFO."""
    return hashlib.sha384(info.to_bytes()).digest()


def tee_info_hash(info: TdInfo) -> bytes:
    """TEE_INFO_HASH: SHA-384 over the 512 bytes of TDINFO."""
    return hashlib.sha384(info.to_bytes()).digest()


@dataclass(frozen=True, slots=True)
class TdReport:
    """TDREPORT_STRUCT (1024 bytes). Only the CPU that made it can check its MAC; the hashes anybody can."""

    report_data: bytes
    tee_tcb_info: TeeTcbInfo
    td_info: TdInfo
    report_type: ReportType = field(default_factory=ReportType)
    cpu_svn: bytes = bytes(16)
    tee_tcb_info_hash: bytes = bytes(48)
    tee_info_hash: bytes = bytes(48)
    mac: bytes = bytes(32)
    reserved1: bytes = bytes(12)
    reserved2: bytes = bytes(32)
    reserved3: bytes = bytes(17)

    @classmethod
    def from_bytes(cls, data: bytes) -> TdReport:
        """Read 1024 bytes. Raises WireError if it is not a TD's report."""
        if len(data) != TDREPORT_SIZE:
            raise WireError("TDREPORT_STRUCT", "size", 0, f"{len(data)} bytes where {TDREPORT_SIZE} belong")
        tee_type, subtype, version, type_reserved, res1, cpu_svn, tcb_hash, info_hash, report_data, res2, mac = (
            _MAC_STRUCT.unpack(data)
        )
        if tee_type != TEE_TYPE_TDX:
            raise WireError("TDREPORT_STRUCT", "REPORTTYPE.TYPE", 0, f"{tee_type:#04x} where 0x81 (TDX) belongs")
        if version not in ReportVersion._value2member_map_:
            raise WireError("TDREPORT_STRUCT", "REPORTTYPE.VERSION", 2, f"{version} is not 0, 1 or 3")
        tcb_end = _TEE_TCB_INFO_AT + TEE_TCB_INFO_SIZE
        return cls(
            report_data=report_data,
            tee_tcb_info=TeeTcbInfo.from_bytes(data[_TEE_TCB_INFO_AT:tcb_end]),
            td_info=TdInfo.from_bytes(data[_TDINFO_AT:]),
            report_type=ReportType(tee_type, subtype, version, type_reserved),
            cpu_svn=cpu_svn,
            tee_tcb_info_hash=tcb_hash,
            tee_info_hash=info_hash,
            mac=mac,
            reserved1=res1,
            reserved2=res2,
            reserved3=data[tcb_end:_TDINFO_AT],
        )

    def mac_struct(self) -> bytes:
        """The 224 bytes that the MAC covers: REPORTMACSTRUCT without its last field."""
        return self._mac_struct()[: _MAC_STRUCT.offsets["mac"]]

    def to_bytes(self) -> bytes:
        """The 1024 bytes. Raises WireError if a field has the wrong length."""
        if len(self.reserved3) != _TDINFO_AT - _TEE_TCB_INFO_AT - TEE_TCB_INFO_SIZE:
            raise WireError("TDREPORT_STRUCT", "reserved3", 495, f"{len(self.reserved3)} bytes where 17 belong")
        return self._mac_struct() + self.tee_tcb_info.to_bytes() + self.reserved3 + self.td_info.to_bytes()

    def with_hashes(self) -> TdReport:
        """The same report with both SHA-384 fields computed from its parts."""
        return replace(
            self,
            tee_tcb_info_hash=tee_tcb_info_hash(self.tee_tcb_info),
            tee_info_hash=tee_info_hash(self.td_info),
        )

    @property
    def hashes_hold(self) -> bool:
        """Whether TEE_TCB_INFO_HASH and TEE_INFO_HASH are those of the report's own parts."""
        return self.tee_tcb_info_hash == tee_tcb_info_hash(self.tee_tcb_info) and self.tee_info_hash == tee_info_hash(
            self.td_info
        )

    def _mac_struct(self) -> bytes:
        kind = self.report_type
        return _MAC_STRUCT.pack(
            kind.tee_type,
            kind.subtype,
            kind.version,
            kind.reserved,
            self.reserved1,
            self.cpu_svn,
            self.tee_tcb_info_hash,
            self.tee_info_hash,
            self.report_data,
            self.reserved2,
            self.mac,
        )


def _exact(layout: Layout, data: bytes) -> None:
    if len(data) != layout.size:
        raise WireError(layout.structure, "size", 0, f"{len(data)} bytes where {layout.size} belong")
