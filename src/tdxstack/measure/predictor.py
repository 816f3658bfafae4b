"""Prediction of MRTD and RTMR0..3 of a direct boot, event by event.

One function per group of events, in the order in which the firmware and the kernel measure. On the software platform
the firmware measures into a TPM, whose PCRs the platform maps onto the RTMRs (PCR 1, 7: RTMR0; 2..6: RTMR1; 8..15:
RTMR2); the platform puts the two events in front that TDVF measures only in a TD.

Source: TCG PC Client Platform Firmware Profile 1.06; edk2 ``OvmfPkg``, ``MdeModulePkg``, ``SecurityPkg``; Linux EFI
stub (``drivers/firmware/efi/libstub``) and IMA (``security/integrity/ima``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from tdxstack.errors import WireError
from tdxstack.measure.blobs import LOADER, MEASURED_ITEMS, SMBIOS_TABLES
from tdxstack.measure.firmware import (
    BOOT_MENU_APP_GUID,
    DXE_VOLUME_GUID,
    UI_APP_GUID,
    FirmwareFacts,
    FirmwareProfile,
    inspect,
    named_profile,
)
from tdxstack.measure.launch import cfv_event, td_hob
from tdxstack.measure.linux import load_options, patched_by_qemu
from tdxstack.measure.mrtd import mrtd
from tdxstack.measure.pcr import PcrBank, boot_aggregate_template
from tdxstack.measure.prediction import PredictedEvent, Prediction, PredictionInputs
from tdxstack.measure.rtmr import COUNT, fold
from tdxstack.measure.secure_boot import authority_of, is_on, secure_boot_variables
from tdxstack.measure.smbios import measured_smbios
from tdxstack.measure.uki import Uki
from tdxstack.wire.efi.variable import firmware_file_path, load_option
from tdxstack.wire.pe import authenticode
from tdxstack.wire.tcg import EventType, mr_index_of_pcr
from tdxstack.wire.tdvf import TdvfMetadata

_SEPARATOR = bytes(4)
CALLING_EFI_APPLICATION = b"Calling EFI Application from Boot Option"
EXIT_BOOT_SERVICES = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")


@dataclass(slots=True)
class _Trace:
    """Events as they come, and the SHA-256 PCRs beside them, which IMA's first entry is made of."""

    events: list[PredictedEvent] = field(default_factory=list)
    bank: PcrBank | None = None

    def add(
        self,
        pcr: int,
        kind: EventType,
        measured: bytes | None,
        name: str,
        why: str,
        *,
        in_bank: bool = True,
        logged: bool = True,
    ) -> None:
        """Extend by the digest of ``measured`` (None: unknown)."""
        both = (None, None) if measured is None else self.digests(measured)
        self.add_digests(pcr, kind, both, name, why, in_bank=in_bank, logged=logged)

    def digests(self, data: bytes) -> tuple[bytes, bytes | None]:
        """SHA-384, and SHA-256 where there is a bank that needs it."""
        return hashlib.sha384(data).digest(), hashlib.sha256(data).digest() if self.bank is not None else None

    def add_digests(
        self,
        pcr: int,
        kind: EventType,
        both: tuple[bytes | None, bytes | None],
        name: str,
        why: str,
        *,
        in_bank: bool = True,
        logged: bool = True,
        alternatives: tuple[tuple[str, bytes], ...] = (),
    ) -> None:
        """Extend by a SHA-384 and a SHA-256 digest; PCR 0 has no RTMR."""
        if in_bank and self.bank is not None:
            self.bank.extend(pcr, both[1])
        if mr_index := mr_index_of_pcr(pcr):
            self.events.append(PredictedEvent(mr_index - 1, kind, both[0], name, why, logged, alternatives))


def predict(inputs: PredictionInputs) -> Prediction:
    """Predict a boot.

    Raises:
        WireError: the firmware has no valid TDVF metadata, the kernel is no bzImage, or a blob is damaged.
        UsageError: an unknown profile.
    """
    metadata = TdvfMetadata.from_bytes(inputs.firmware)
    facts = inputs.facts or inspect(inputs.firmware)
    profile = inputs.profile if isinstance(inputs.profile, FirmwareProfile) else named_profile(inputs.profile, facts)
    trace = _Trace(bank=PcrBank() if profile.tpm and inputs.ima is not None else None)
    _launch(trace, inputs, metadata)
    if (facts.measures_tpm if profile.tpm else facts.measures_td) and inputs.kernel is not None:
        _firmware_start(trace, inputs, facts, profile)
        if profile.acpi:
            _acpi(trace, inputs)
        _kernel(trace, inputs, facts, profile)
        _ready_to_boot(trace, inputs, facts, profile)
        uki = Uki.from_bytes(inputs.kernel)
        if uki is None:
            _efi_stub(trace, inputs, profile)
        else:
            _systemd_stub(trace, inputs, uki)
        _exit_boot_services(trace, inputs)
    elif inputs.kernel is not None:
        trace.events.clear()  # a firmware that measures nothing leaves all registers zero
    else:
        _unknown_boot(trace)
    rtmr, reasons = _registers(trace.events)
    return Prediction(
        profile.name, mrtd(inputs.firmware, inputs.mrtd_order, metadata), rtmr, tuple(trace.events), reasons
    )


def _registers(
    events: list[PredictedEvent],
) -> tuple[
    tuple[bytes | None, bytes | None, bytes | None, bytes | None],
    tuple[str | None, str | None, str | None, str | None],
]:
    values: list[bytes | None] = []
    reasons: list[str | None] = []
    for rtmr in range(COUNT):
        mine = [event for event in events if event.rtmr == rtmr]
        unknown = [f"{event.name}: {event.why}" for event in mine if event.digest is None]
        values.append(None if unknown else fold(event.digest for event in mine if event.digest is not None))
        reasons.append(unknown[0] if unknown else None)
    return (values[0], values[1], values[2], values[3]), (reasons[0], reasons[1], reasons[2], reasons[3])


def _launch(trace: _Trace, inputs: PredictionInputs, metadata: TdvfMetadata) -> None:
    """TD HOB and configuration volume: before the firmware's first instruction in DXE, never in a TPM."""
    hob = td_hob(metadata, inputs.memory_bytes)
    memory = f"{inputs.memory_bytes >> 20} MiB of memory"
    kind = EventType.EV_EFI_HANDOFF_TABLES2
    trace.add(1, kind, hob.measured(), "TD HOB", f"memory map: the firmware's sections and {memory}", in_bank=False)
    cfv = cfv_event(inputs.firmware, metadata)
    if cfv is not None:
        why = "configuration volume of the firmware file (UEFI variables at rest)"
        kind = EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2
        trace.add_digests(1, kind, (cfv.digest(), None), "configuration volume", why, in_bank=False)


def _firmware_start(trace: _Trace, inputs: PredictionInputs, facts: FirmwareFacts, profile: FirmwareProfile) -> None:
    if profile.tpm:
        version = None if facts.version is None else (facts.version + "\0").encode("utf-16-le")
        trace.add(0, EventType.EV_S_CRTM_VERSION, version, "firmware version", "version string in the firmware")
        for volume in facts.loaded_volumes:
            name, why = "firmware volume", "decompressed volume of the firmware file"
            known = volume if profile.volumes_as_in_file else (None, None)
            trace.add_digests(0, EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB, known, name, why)
    if profile.fw_cfg:
        _fw_cfg(trace, inputs)
    for variable, why in secure_boot_variables(inputs.firmware, inputs.variables, capable=facts.secure_boot):
        kind = EventType.EV_EFI_VARIABLE_DRIVER_CONFIG
        trace.add(7, kind, variable.to_bytes(), f"variable {variable.name}", why)
    why = "end of the secure boot variables"
    trace.add(7, EventType.EV_SEPARATOR, _SEPARATOR, "separator", why)


def _fw_cfg(trace: _Trace, inputs: PredictionInputs) -> None:
    if inputs.blobs is None:
        why = "unknown because QEMU's fw_cfg items are not known; give QEMU or the blobs"
        trace.add(1, EventType.EV_PLATFORM_CONFIG_FLAGS, None, "fw_cfg items", why)
        return
    for name, size in MEASURED_ITEMS:
        content = inputs.blobs.get(name)
        if content is not None and (size is None or len(content) == size):
            why = f"fw_cfg item {name}, from {inputs.blobs.source}"
            trace.add(1, EventType.EV_PLATFORM_CONFIG_FLAGS, content, f"fw_cfg {name}", why)


def _acpi(trace: _Trace, inputs: PredictionInputs) -> None:
    kind = EventType.EV_PLATFORM_CONFIG_FLAGS
    if inputs.blobs is None or inputs.blobs.get(LOADER) is None:
        why = "unknown because the ACPI tables are not known; give QEMU or the blobs"
        trace.add(1, kind, None, "ACPI tables", why)
        return
    for name, content in inputs.blobs.acpi():
        trace.add(1, kind, content, f"ACPI {name}", f"fw_cfg file {name}, from {inputs.blobs.source}")


def _kernel(trace: _Trace, inputs: PredictionInputs, facts: FirmwareFacts, profile: FirmwareProfile) -> None:
    kernel = inputs.kernel or b""
    raw = _both(trace, kernel)
    offered = inputs.blobs is None or inputs.blobs.get("etc/boot/kernel") is not None
    alternatives: tuple[tuple[str, bytes], ...] = ()
    try:
        size = len(inputs.initrd or b"")
        patched = patched_by_qemu(kernel, initrd_size=size, cmdline=inputs.cmdline, memory_bytes=inputs.memory_bytes)
    except WireError:
        patched = kernel
    if profile.named_kernel and offered:
        both, why = (
            raw,
            "Authenticode digest of the kernel as given (QEMU offers etc/boot/kernel, the firmware reads it)",
        )
        alternatives = (("the kernel as QEMU before 10.0 patches it", _both(trace, patched)[0]),)
    else:
        both, why = _both(trace, patched), "Authenticode digest of the kernel with the setup header that QEMU writes"
        alternatives = (("the kernel as given, unpatched: QEMU 10.0 or newer", raw[0]),)
    if is_on(inputs.firmware, inputs.variables, capable=facts.secure_boot):
        _authority(trace, inputs, kernel if both == raw else patched)
    kind = EventType.EV_EFI_BOOT_SERVICES_APPLICATION
    trace.add_digests(4, kind, both, "kernel", why, alternatives=alternatives)


def _authority(trace: _Trace, inputs: PredictionInputs, image: bytes) -> None:
    authority = authority_of(image, inputs.firmware, inputs.variables)
    why = "the db entry that vouches for the kernel's signature"
    if image != inputs.kernel:
        authority, why = None, "unknown because QEMU patches the kernel, whose signature then does not hold"
    elif authority is None:
        why = "unknown because no certificate in db is the kernel's signer: the firmware refuses it"
    measured = None if authority is None else authority.to_bytes()
    trace.add(7, EventType.EV_EFI_VARIABLE_AUTHORITY, measured, "authority", why)


def _both(trace: _Trace, image: bytes) -> tuple[bytes, bytes | None]:
    names = ("sha384",) if trace.bank is None else ("sha384", "sha256")
    found = authenticode(image, *names)
    return found[0], found[1] if len(found) > 1 else None


def _ready_to_boot(trace: _Trace, inputs: PredictionInputs, facts: FirmwareFacts, profile: FirmwareProfile) -> None:
    if profile.smbios and not facts.needs_smm:
        _smbios(trace, inputs, facts)
    kind = EventType.EV_EFI_VARIABLE_BOOT
    for name, value, description in _boot_variables(profile):
        trace.add(1, kind, value, f"variable {name}", f"boot option of the firmware itself: {description}")
    name = "boot attempt"
    trace.add(4, EventType.EV_EFI_ACTION, CALLING_EFI_APPLICATION, name, CALLING_EFI_APPLICATION.decode())
    if profile.tpm:
        for pcr in range(7):
            why = f"end of the firmware's part in PCR {pcr}"
            trace.add(pcr, EventType.EV_SEPARATOR, _SEPARATOR, "separator", why)
    else:
        why = "end of the firmware's part"
        trace.add(2 if profile.separator_in_rtmr1 else 1, EventType.EV_SEPARATOR, _SEPARATOR, "separator", why)
    if profile.smbios and facts.needs_smm:
        # Its drivers are told of ReadyToBoot in another order.
        _smbios(trace, inputs, facts)


def _smbios(trace: _Trace, inputs: PredictionInputs, facts: FirmwareFacts) -> None:
    raw = None if inputs.blobs is None else inputs.blobs.get(SMBIOS_TABLES)
    kind = EventType.EV_EFI_HANDOFF_TABLES
    if raw is None:
        why = "unknown because QEMU's SMBIOS tables are not known; give QEMU or the blobs"
        trace.add(1, kind, None, "SMBIOS tables", why)
        return
    table = measured_smbios(raw, facts.smbios_strings)
    if table is None:
        why = "unknown because the firmware's own SMBIOS strings were not found in the file"
    else:
        why = "QEMU's SMBIOS tables and the firmware's own entry, without serial numbers and the like"
    trace.add(1, kind, table, "SMBIOS tables", why)


def _boot_variables(profile: FirmwareProfile) -> list[tuple[str, bytes, str]]:
    setup = firmware_file_path(DXE_VOLUME_GUID, UI_APP_GUID)
    if not profile.boot_menu_app:
        return [
            ("BootOrder", bytes(2), "order"),
            ("Boot0000", load_option("UiApp", setup, 0x109), "setup screen"),
        ]
    menu = firmware_file_path(DXE_VOLUME_GUID, BOOT_MENU_APP_GUID)
    return [
        ("BootOrder", bytes.fromhex("00000100"), "order"),
        ("Boot0000", load_option("BootManagerMenuApp", menu, 0x109), "boot menu"),
        ("Boot0001", load_option("EFI Firmware Setup", setup, 0x101), "setup screen"),
    ]


def _efi_stub(trace: _Trace, inputs: PredictionInputs, profile: FirmwareProfile) -> None:
    options = load_options(inputs.cmdline, initrd=inputs.initrd is not None, initrd_first=profile.initrd_first)
    if options:
        text = (options + "\0").encode("utf-16-le")
        why = f"LoadOptions as UTF-16: {options!r}"
        trace.add(9, EventType.EV_EVENT_TAG, text, "command line", why)
    if inputs.initrd is not None:
        trace.add(9, EventType.EV_EVENT_TAG, inputs.initrd, "initrd", "the initrd file")


def _systemd_stub(trace: _Trace, inputs: PredictionInputs, uki: Uki) -> None:
    """Sections into PCR 11, then the inner kernel, which measures its command line and initrd itself."""
    unknown = None
    if inputs.cmdline or inputs.initrd is not None:
        unknown = "unknown because the image is started with a command line or an initrd of its own"
    elif uki.undecided is not None:
        unknown = f"unknown because the stub decides at boot what of {uki.undecided} counts"
    for number, (name, content) in enumerate(uki.measured()):
        what = "name" if number % 2 == 0 else "content"
        trace.add(11, EventType.EV_IPL, content, f"UKI {name}", f"{what} of the image's section {name}")
    kind = EventType.EV_EFI_BOOT_SERVICES_APPLICATION
    trace.add_digests(4, kind, _both(trace, uki.get(".linux") or b""), "inner kernel", "the image's section .linux")
    cmdline = uki.cmdline()
    if cmdline is not None or unknown:
        text = None if unknown else ((cmdline or "") + "\0").encode("utf-16-le")
        why = unknown or f"the image's section .cmdline as UTF-16: {cmdline!r}"
        trace.add(9, EventType.EV_EVENT_TAG, text, "command line", why)
    initrd = uki.initrd()
    if initrd is not None or unknown:
        why = unknown or "the image's section .initrd, and the archives that the stub generates"
        trace.add(9, EventType.EV_EVENT_TAG, None if unknown else initrd, "initrd", why)


def _exit_boot_services(trace: _Trace, inputs: PredictionInputs) -> None:
    for text in EXIT_BOOT_SERVICES:
        trace.add(5, EventType.EV_EFI_ACTION, text, "exit boot services", text.decode())
    if trace.bank is not None and inputs.ima is not None:
        aggregate = trace.bank.boot_aggregate()
        template = None if aggregate is None else boot_aggregate_template(aggregate, inputs.ima)
        why = "IMA's boot_aggregate: the kernel measures the TPM's PCRs 0..9"
        if template is None:
            why = "unknown because a PCR that it is computed from is unknown"
        trace.add(10, EventType.EV_EVENT_TAG, template, "IMA boot_aggregate", why, logged=False)


def _unknown_boot(trace: _Trace) -> None:
    why = "unknown because only a direct boot (with a kernel) is predicted"
    for pcr, name in ((1, "firmware events"), (4, "boot loader"), (8, "operating system")):
        trace.add(pcr, EventType.EV_NO_ACTION, None, name, why)
