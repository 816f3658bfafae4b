"""What KVM and QEMU do to start a TD: load the TDVF file page by page, finalise; and what TDVF then measures first.

Source: Intel TDX Virtual Firmware Design Guide, section 4; QEMU ``target/i386/kvm/tdx.c``.
"""

from __future__ import annotations

from collections.abc import Sequence

from tdxstack.measure.launch import launch_events
from tdxstack.measure.mrtd import MrtdOrder
from tdxstack.measure.rtmr import rtmr_of_index
from tdxstack.platform.base import TdParameters
from tdxstack.platform.software.module import CHUNK_SIZE, PAGE_SIZE, TdxModule
from tdxstack.platform.software.td import TrustDomain
from tdxstack.wire.tcg import Algorithm, Event
from tdxstack.wire.tdvf import Section, TdvfMetadata

#: Key id of the TD of a session: each session has a module of its own.
HKID = 1
_ZERO_PAGE = bytes(PAGE_SIZE)


def launch(
    module: TdxModule,
    parameters: TdParameters,
    firmware: bytes,
    order: MrtdOrder = MrtdOrder.SINGLE_PASS,
    hkid: int = HKID,
) -> TrustDomain:
    """A TD that runs ``firmware``: created, loaded, measured, finalised, TD HOB and configuration volume in RTMR0.

    Args:
        firmware: a whole TDVF file.
        order: of page additions and extensions; a property of the host's stack.

    Raises:
        WireError: not a TDVF file.
        ModuleError: parameters that the module refuses.
    """
    metadata = TdvfMetadata.from_bytes(firmware)
    events = launch_events(firmware, parameters.memory_bytes)
    td = module.mng_create(hkid)
    module.mng_key_config(td)
    module.mng_init(td, parameters)
    for section in metadata.sections:
        _load(module, td, section, section.content(firmware), order)
    module.mr_finalize(td)
    extend_events(td, events)
    return td


def retire(module: TdxModule, td: TrustDomain) -> None:
    """End a TD: block it, free its key."""
    module.mng_vpflushdone(td)
    module.mng_key_freeid(td)


def extend_events(td: TrustDomain, events: Sequence[Event]) -> None:
    """Extend the RTMRs by events of a CC log, as TDVF does when it logs them."""
    for event in events:
        rtmr, digest = rtmr_of_index(event.mr_index), event.digest(Algorithm.SHA384)
        if rtmr is not None and digest is not None:
            td.mr_rtmr_extend(rtmr, digest)


def _load(module: TdxModule, td: TrustDomain, section: Section, content: bytes, order: MrtdOrder) -> None:
    pages = range(0, section.memory_size, PAGE_SIZE)
    for offset in pages:
        page = content[offset : offset + PAGE_SIZE]
        module.mem_page_add(td, section.gpa + offset, page.ljust(PAGE_SIZE, b"\0") if page else _ZERO_PAGE)
        if section.measured and order is MrtdOrder.SINGLE_PASS:
            _extend_page(module, td, section.gpa + offset)
    if section.measured and order is MrtdOrder.TWO_PASS:
        for offset in pages:
            _extend_page(module, td, section.gpa + offset)


def _extend_page(module: TdxModule, td: TrustDomain, gpa: int) -> None:
    for chunk in range(gpa, gpa + PAGE_SIZE, CHUNK_SIZE):
        module.mr_extend(td, chunk)
