"""The TDX module's host-side functions (TDH.*): the life of a TD from creation to teardown.

Source: Intel TDX Module v1.5 Base Architecture specification, chapters on the TD life cycle, TD measurement and
service TDs; the function names and their checks are the ABI specification's.
"""

from __future__ import annotations

from collections.abc import Callable

from tdxstack.platform.base import TdParameters
from tdxstack.platform.software.status import ModuleError, Operand, Status
from tdxstack.platform.software.tcb import PlatformTcb
from tdxstack.platform.software.td import Lifecycle, OpState, ServiceTd, TrustDomain
from tdxstack.wire.tdreport import TD_ATTRIBUTES_DEFINED

PAGE_SIZE = 4096
CHUNK_SIZE = 256
#: XFAM bits that must be 1 (x87, SSE) and those that may be.
XFAM_FIXED1 = 0x3
XFAM_FIXED0 = 0x6DBE7
#: Service TDs that one TD may be bound to, and the only type that there is (a migration TD).
MAX_SERVICE_TDS = 1
SERVTD_TYPE_MIGTD = 0
_GPA_LIMIT = 1 << 51


class TdxModule:
    """One module, serving the TDs of one machine. All state is in the TDs and in the set of keys in use.

    Args:
        report_key: the platform's key for MACs of TDREPORTs.
        current_tcb: the SVNs of the platform, asked anew at each use.
    """

    def __init__(self, report_key: bytes, current_tcb: Callable[[], PlatformTcb]) -> None:
        self._report_key = report_key
        self._current_tcb = current_tcb
        self._hkids: set[int] = set()

    def mng_create(self, hkid: int) -> TrustDomain:
        """TDH.MNG.CREATE: a TD with a private key id.

        Raises:
            ModuleError: HKID_NOT_FREE.
        """
        if hkid in self._hkids:
            raise ModuleError("TDH.MNG.CREATE", Status.HKID_NOT_FREE, Operand.RDX, f"HKID {hkid}")
        self._hkids.add(hkid)
        return TrustDomain(self._report_key, self._current_tcb, hkid)

    def mng_key_config(self, td: TrustDomain) -> None:
        """TDH.MNG.KEY.CONFIG: give the TD its memory encryption key."""
        td.require("TDH.MNG.KEY.CONFIG", Lifecycle.HKID_ASSIGNED)
        td.lifecycle = Lifecycle.KEYS_CONFIGURED

    def mng_init(self, td: TrustDomain, parameters: TdParameters) -> None:
        """TDH.MNG.INIT: fix TD_PARAMS, start the measurement.

        Raises:
            ModuleError: wrong state, or ATTRIBUTES or XFAM that the platform does not support.
        """
        function = "TDH.MNG.INIT"
        td.require(function, Lifecycle.KEYS_CONFIGURED, OpState.UNINITIALIZED)
        check_parameters(function, parameters)
        td.parameters = parameters
        td.launch_tcb = self._current_tcb()
        td.op_state = OpState.INITIALIZED

    def mem_page_add(self, td: TrustDomain, gpa: int, content: bytes) -> None:
        """TDH.MEM.PAGE.ADD: a private page of 4096 bytes; its address is measured into MRTD, its content is not.

        Raises:
            ModuleError: wrong state, address or size; or the page is there already.
        """
        function = "TDH.MEM.PAGE.ADD"
        td.require(function, Lifecycle.KEYS_CONFIGURED, OpState.INITIALIZED)
        if gpa % PAGE_SIZE or not 0 <= gpa < _GPA_LIMIT:
            raise ModuleError(function, Status.OPERAND_INVALID, Operand.RCX, f"GPA 0x{gpa:x}")
        if len(content) != PAGE_SIZE:
            raise ModuleError(function, Status.OPERAND_INVALID, Operand.R8, f"{len(content)} bytes")
        if gpa in td.pages:
            raise ModuleError(function, Status.EPT_ENTRY_NOT_FREE, Operand.RCX, f"GPA 0x{gpa:x}")
        td.pages[gpa] = content
        td.measurement.update(_measured(b"MEM.PAGE.ADD", gpa))

    def mr_extend(self, td: TrustDomain, gpa: int) -> None:
        """TDH.MR.EXTEND: measure 256 bytes of an added page into MRTD.

        Raises:
            ModuleError: wrong state or address, or no page there.
        """
        function = "TDH.MR.EXTEND"
        td.require(function, Lifecycle.KEYS_CONFIGURED, OpState.INITIALIZED)
        if gpa % CHUNK_SIZE:
            raise ModuleError(function, Status.OPERAND_INVALID, Operand.RCX, f"GPA 0x{gpa:x}")
        page = td.pages.get(gpa - gpa % PAGE_SIZE)
        if page is None:
            raise ModuleError(function, Status.EPT_ENTRY_NOT_PRESENT, Operand.RCX, f"GPA 0x{gpa:x}")
        start = gpa % PAGE_SIZE
        td.measurement.update(_measured(b"MR.EXTEND", gpa))
        td.measurement.update(page[start : start + CHUNK_SIZE])

    def mr_finalize(self, td: TrustDomain) -> None:
        """TDH.MR.FINALIZE: MRTD is final, the TD may run. The model lets go of the pages' contents."""
        td.require("TDH.MR.FINALIZE", Lifecycle.KEYS_CONFIGURED, OpState.INITIALIZED)
        td.mrtd = td.measurement.digest()
        td.pages.clear()
        td.op_state = OpState.RUNNABLE

    def servtd_prebind(self, td: TrustDomain, slot: int, info_hash: bytes, kind: int, attributes: int) -> None:
        """TDH.SERVTD.PREBIND: name a service TD by its SERVTD_INFO_HASH before it exists.

        Raises:
            ModuleError: the TD runs already, or the slot, type or hash is wrong.
        """
        function = "TDH.SERVTD.PREBIND"
        td.require(function, Lifecycle.KEYS_CONFIGURED, OpState.INITIALIZED)
        _check_binding(function, slot, kind)
        if len(info_hash) != 48:
            raise ModuleError(function, Status.OPERAND_INVALID, Operand.R8, f"{len(info_hash)} bytes")
        bound = td.service_tds.get(slot)
        if bound is not None and bound.uuid is not None:
            raise ModuleError(function, Status.SERVTD_ALREADY_BOUND_FOR_TYPE, Operand.RDX)
        td.service_tds[slot] = ServiceTd(kind, attributes, info_hash)

    def servtd_bind(self, td: TrustDomain, service: TrustDomain, slot: int, kind: int, attributes: int) -> bytes:
        """TDH.SERVTD.BIND: bind to a running service TD; return the TD's UUID, by which the service TD asks for it.

        The first binding, without a pre-binding, must come before the TD runs (or, at a migration's destination,
        before it is imported). A later one must be the same service TD by type, attributes and SERVTD_INFO_HASH.

        Raises:
            ModuleError: wrong state, or SERVTD_TYPE_MISMATCH, SERVTD_ATTR_MISMATCH, SERVTD_INFO_HASH_MISMATCH.
        """
        function = "TDH.SERVTD.BIND"
        early = (OpState.UNINITIALIZED, OpState.INITIALIZED)
        td.require(function, Lifecycle.KEYS_CONFIGURED, *early, OpState.RUNNABLE)
        service.require(function, Lifecycle.KEYS_CONFIGURED, OpState.RUNNABLE)
        _check_binding(function, slot, kind)
        info_hash = service.servtd_info_hash()
        bound = td.service_tds.get(slot)
        if bound is None:
            td.require(function, Lifecycle.KEYS_CONFIGURED, *early)
        else:
            _check_same(function, bound, kind, attributes, info_hash)
        td.service_tds[slot] = ServiceTd(kind, attributes, info_hash, service.uuid)
        return td.uuid

    def mng_vpflushdone(self, td: TrustDomain) -> None:
        """TDH.MNG.VPFLUSHDONE: no vCPU runs any more; the TD is blocked for good."""
        if td.lifecycle not in (Lifecycle.HKID_ASSIGNED, Lifecycle.KEYS_CONFIGURED):
            raise ModuleError("TDH.MNG.VPFLUSHDONE", Status.LIFECYCLE_STATE_INCORRECT, Operand.RCX)
        td.lifecycle = Lifecycle.BLOCKED

    def mng_key_freeid(self, td: TrustDomain) -> None:
        """TDH.MNG.KEY.FREEID: the key id is free again; the TD's memory can be reclaimed."""
        td.require("TDH.MNG.KEY.FREEID", Lifecycle.BLOCKED)
        self._hkids.discard(td.hkid)
        td.lifecycle = Lifecycle.TEARDOWN
        td.pages.clear()


def check_parameters(function: str, parameters: TdParameters) -> None:
    """Whether the platform supports a TD's ATTRIBUTES and XFAM.

    Raises:
        ModuleError: OPERAND_INVALID.
    """
    attributes, xfam = int(parameters.attributes), parameters.xfam
    if attributes & ~TD_ATTRIBUTES_DEFINED:
        raise ModuleError(function, Status.OPERAND_INVALID, Operand.ATTRIBUTES, f"0x{attributes:x}")
    if xfam & XFAM_FIXED1 != XFAM_FIXED1 or xfam & ~XFAM_FIXED0:
        raise ModuleError(function, Status.OPERAND_INVALID, Operand.XFAM, f"0x{xfam:x}")


def _measured(operation: bytes, gpa: int) -> bytes:
    """The 128-byte buffer that a page or chunk adds to the measurement: operation, address, zeros."""
    return operation.ljust(16, b"\0") + gpa.to_bytes(8, "little") + bytes(104)


def _check_binding(function: str, slot: int, kind: int) -> None:
    if not 0 <= slot < MAX_SERVICE_TDS:
        raise ModuleError(function, Status.OPERAND_INVALID, Operand.RDX, f"slot {slot}")
    if kind != SERVTD_TYPE_MIGTD:
        raise ModuleError(function, Status.OPERAND_INVALID, Operand.R9, f"type {kind}")


def _check_same(function: str, bound: ServiceTd, kind: int, attributes: int, info_hash: bytes) -> None:
    if bound.type != kind:
        raise ModuleError(function, Status.SERVTD_TYPE_MISMATCH)
    if bound.attributes != attributes:
        raise ModuleError(function, Status.SERVTD_ATTR_MISMATCH)
    if bound.info_hash != info_hash:
        raise ModuleError(function, Status.SERVTD_INFO_HASH_MISMATCH)
