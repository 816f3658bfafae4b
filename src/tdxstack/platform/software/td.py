"""A TD as the TDX module knows it: its states, its registers, and the functions that it calls itself (TDG.*).

Source: Intel TDX Module v1.5 Base Architecture specification (TD life cycle, measurement) and ABI specification.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from tdxstack.platform.base import TdParameters
from tdxstack.platform.software.status import ModuleError, Operand, Status
from tdxstack.platform.software.tcb import PlatformTcb
from tdxstack.wire.tdreport import TdInfo, TdReport, TeeTcbInfo

RTMR_COUNT = 4
MR_SIZE = 48
REPORT_DATA_SIZE = 64
_MAC_STRUCT_SIZE = 256


class Lifecycle(Enum):
    """Life-cycle state of a TD (TDR.LIFECYCLE_STATE)."""

    HKID_ASSIGNED = "TD_HKID_ASSIGNED"
    KEYS_CONFIGURED = "TD_KEYS_CONFIGURED"
    BLOCKED = "TD_BLOCKED"
    TEARDOWN = "TD_TEARDOWN"


class OpState(Enum):
    """Operation state of a TD (TDCS.OP_STATE)."""

    UNINITIALIZED = "UNINITIALIZED"
    INITIALIZED = "INITIALIZED"
    RUNNABLE = "RUNNABLE"
    LIVE_EXPORT = "LIVE_EXPORT"
    PAUSED_EXPORT = "PAUSED_EXPORT"
    POST_EXPORT = "POST_EXPORT"
    MEMORY_IMPORT = "MEMORY_IMPORT"
    STATE_IMPORT = "STATE_IMPORT"
    POST_IMPORT = "POST_IMPORT"
    LIVE_IMPORT = "LIVE_IMPORT"
    FAILED_IMPORT = "FAILED_IMPORT"


#: Operation states in which a TD's vCPUs run.
RUNNING = (OpState.RUNNABLE, OpState.LIVE_EXPORT, OpState.LIVE_IMPORT)


@dataclass(frozen=True, slots=True)
class ServiceTd:
    """A binding to a service TD. ``info_hash`` is its SERVTD_INFO_HASH, ``uuid`` None while it is only pre-bound."""

    type: int
    attributes: int
    info_hash: bytes
    uuid: bytes | None = None


@dataclass(slots=True)
class Migration:
    """Keys and counters of a TD's migration session.

    ``encryption_key`` is the module's own (MIG_ENC_KEY, 32 bytes); ``decryption_words`` the peer's, by word;
    ``counter`` numbers what goes out, ``expected`` what comes in.
    """

    encryption_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    decryption_words: list[int | None] = field(default_factory=lambda: [None] * 4, repr=False)
    version: int = 0
    counter: int = 0
    expected: int = 0
    iv: int = 0

    @property
    def decryption_key(self) -> bytes | None:
        """MIG_DEC_KEY, once all four words are there."""
        if any(word is None for word in self.decryption_words):
            return None
        return b"".join((word or 0).to_bytes(8, "little") for word in self.decryption_words)

    def next_iv(self) -> int:
        """A number that was never used under this TD's key."""
        self.iv += 1
        return self.iv


@dataclass(slots=True)
class TrustDomain:
    """One TD. Only the module's functions change it; they check both states first.

    Args:
        key: the platform's report key, by which TDREPORTs are MACed.
        current_tcb: asked at each report: a module update changes TEE_TCB_SVN2 of a running TD.
    """

    key: bytes = field(repr=False)
    current_tcb: Callable[[], PlatformTcb]
    hkid: int
    uuid: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    lifecycle: Lifecycle = Lifecycle.HKID_ASSIGNED
    op_state: OpState = OpState.UNINITIALIZED
    parameters: TdParameters | None = None
    launch_tcb: PlatformTcb | None = None
    mrtd: bytes = bytes(MR_SIZE)
    rtmrs: list[bytes] = field(default_factory=lambda: [bytes(MR_SIZE)] * RTMR_COUNT)
    service_tds: dict[int, ServiceTd] = field(default_factory=dict)
    pages: dict[int, bytes] = field(default_factory=dict, repr=False)
    measurement: hashlib._Hash = field(default_factory=hashlib.sha384, repr=False)
    migration: Migration = field(default_factory=Migration)

    def require(self, function: str, lifecycle: Lifecycle, *op_states: OpState) -> None:
        """Check the states that a function needs; life cycle first, as the module does.

        Raises:
            ModuleError: LIFECYCLE_STATE_INCORRECT or OP_STATE_INCORRECT.
        """
        if self.lifecycle is not lifecycle:
            raise ModuleError(
                function, Status.LIFECYCLE_STATE_INCORRECT, Operand.RCX, f"TD is {self.lifecycle.value}"
            )
        if op_states and self.op_state not in op_states:
            raise ModuleError(function, Status.OP_STATE_INCORRECT, Operand.RCX, f"TD is {self.op_state.value}")

    def mr_report(self, report_data: bytes) -> TdReport:
        """TDG.MR.REPORT: the TD's report over 64 bytes of REPORTDATA.

        Raises:
            ModuleError: wrong size of REPORTDATA, or the TD does not run.
        """
        function = "TDG.MR.REPORT"
        self._require_running(function)
        if len(report_data) != REPORT_DATA_SIZE:
            raise ModuleError(function, Status.OPERAND_INVALID, Operand.RDX, f"{len(report_data)} bytes")
        now = self.current_tcb()
        launch = self._launch_tcb(function)
        report = TdReport(
            report_data=report_data,
            tee_tcb_info=TeeTcbInfo(
                tee_tcb_svn=launch.tee_tcb_svn, mr_seam=now.module.mr_seam, tee_tcb_svn2=now.tee_tcb_svn
            ),
            td_info=self.td_info(),
            cpu_svn=now.cpusvn,
        ).with_hashes()
        return seal(report, self.key)

    def mr_verifyreport(self, mac_struct: bytes) -> None:
        """TDG.MR.VERIFYREPORT: was this REPORTMACSTRUCT (256 bytes) made on this platform?

        Raises:
            ModuleError: INVALID_REPORTMACSTRUCT if not.
        """
        function = "TDG.MR.VERIFYREPORT"
        self._require_running(function)
        if len(mac_struct) != _MAC_STRUCT_SIZE or not mac_is_valid(mac_struct, self.key):
            raise ModuleError(function, Status.INVALID_REPORTMACSTRUCT)

    def mr_rtmr_extend(self, index: int, digest: bytes) -> None:
        """TDG.MR.RTMR.EXTEND: RTMR[index] = SHA-384(RTMR[index] || digest).

        Raises:
            ModuleError: no such register, or not 48 bytes.
        """
        function = "TDG.MR.RTMR.EXTEND"
        self._require_running(function)
        if not 0 <= index < RTMR_COUNT:
            raise ModuleError(function, Status.OPERAND_INVALID, Operand.RDX, f"there is no RTMR{index}")
        if len(digest) != MR_SIZE:
            raise ModuleError(function, Status.OPERAND_INVALID, Operand.RCX, f"{len(digest)} bytes")
        self.rtmrs[index] = hashlib.sha384(self.rtmrs[index] + digest).digest()

    def td_info(self) -> TdInfo:
        """TDINFO_STRUCT of the present moment.

        Raises:
            ModuleError: the TD was not initialised.
        """
        parameters = self.parameters
        if parameters is None:
            raise ModuleError("TDINFO", Status.OP_STATE_INCORRECT, Operand.RCX, "TD is UNINITIALIZED")
        first, second, third, fourth = self.rtmrs
        return TdInfo(
            attributes=int(parameters.attributes),
            xfam=parameters.xfam,
            mr_td=self.mrtd,
            mr_config_id=parameters.mrconfigid,
            mr_owner=parameters.mrowner,
            mr_owner_config=parameters.mrownerconfig,
            rtmrs=(first, second, third, fourth),
            servtd_hash=servtd_hash(self.service_tds),
        )

    def servtd_info_hash(self) -> bytes:
        """SERVTD_INFO_HASH of this TD as a service TD: SHA-384 of its TDINFO_STRUCT, no field ignored."""
        return hashlib.sha384(self.td_info().to_bytes()).digest()

    def registers(self) -> dict[str, str]:
        """MRTD and RTMRs in hex."""
        return {"mrtd": self.mrtd.hex(), **{f"rtmr{index}": value.hex() for index, value in enumerate(self.rtmrs)}}

    def _require_running(self, function: str) -> None:
        self.require(function, Lifecycle.KEYS_CONFIGURED, *RUNNING)

    def _launch_tcb(self, function: str) -> PlatformTcb:
        if self.launch_tcb is None:
            raise ModuleError(function, Status.OP_STATE_INCORRECT, Operand.RCX, "TD is UNINITIALIZED")
        return self.launch_tcb


def servtd_hash(bindings: dict[int, ServiceTd]) -> bytes:
    """SERVTD_HASH of TDINFO_STRUCT: SHA-384 over info hash, type and attributes of each binding; zero without any."""
    if not bindings:
        return bytes(MR_SIZE)
    parts = (
        item.info_hash + item.type.to_bytes(2, "little") + item.attributes.to_bytes(8, "little")
        for _, item in sorted(bindings.items())
    )
    return hashlib.sha384(b"".join(parts)).digest()


def seal(report: TdReport, key: bytes) -> TdReport:
    """The report with its MAC. The CPU's algorithm is its own; the model takes HMAC-SHA-256."""
    return dataclasses.replace(report, mac=hmac.digest(key, report.mac_struct(), "sha256"))


def mac_is_valid(mac_struct: bytes, key: bytes) -> bool:
    """Whether the MAC that ends a REPORTMACSTRUCT (256 bytes) is the platform's."""
    return hmac.compare_digest(hmac.digest(key, mac_struct[:224], "sha256"), mac_struct[224:256])
