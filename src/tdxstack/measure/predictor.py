"""Prediction of MRTD and RTMR0..3 of a boot, event by event.

One function per group of events, in the order in which the firmware and the kernel measure. On the software platform
the firmware measures into a TPM, whose PCRs the platform maps onto the RTMRs (PCR 1, 7: RTMR0; 2..6: RTMR1; 8..15:
RTMR2); the platform puts the two events in front that TDVF measures only in a TD.

Source: TCG PC Client Platform Firmware Profile 1.06; edk2 ``OvmfPkg``, ``MdeModulePkg``, ``SecurityPkg``; Linux EFI
stub (``drivers/firmware/efi/libstub``) and IMA (``security/integrity/ima``).
"""

from __future__ import annotations

from tdxstack.errors import WireError
from tdxstack.measure.blobs import LOADER, MEASURED_ITEMS, SMBIOS_TABLES
from tdxstack.measure.disk_boot import disk_boot
from tdxstack.measure.firmware import (
    BOOT_MENU_APP_GUID,
    DXE_VOLUME_GUID,
    UI_APP_GUID,
    FirmwareFacts,
    FirmwareProfile,
    inspect,
    is_td_shim,
    named_profile,
)
from tdxstack.measure.kernel_start import efi_stub, exit_boot_services, systemd_stub
from tdxstack.measure.launch import cfv_event, td_hob
from tdxstack.measure.linux import load_options, patched_by_qemu
from tdxstack.measure.mrtd import mrtd
from tdxstack.measure.prediction import Prediction, PredictionInputs, registers
from tdxstack.measure.secure_boot import SecureBootTrust, secure_boot_variables
from tdxstack.measure.smbios import measured_smbios
from tdxstack.measure.trace import Trace, image_digest
from tdxstack.measure.uki import Uki
from tdxstack.wire.efi.variable import firmware_file_path, load_option, load_option_description
from tdxstack.wire.tcg import EventType
from tdxstack.wire.tdvf import TdvfMetadata

_SEPARATOR = bytes(4)
CALLING_EFI_APPLICATION = b"Calling EFI Application from Boot Option"


def predict(inputs: PredictionInputs) -> Prediction:
    """Predict a boot.

    Raises:
        WireError: the firmware has no valid TDVF metadata, the kernel is no bzImage, or a blob is damaged.
        UsageError: an unknown profile.
    """
    metadata = TdvfMetadata.from_bytes(inputs.firmware)
    facts = inputs.facts or inspect(inputs.firmware)
    profile = inputs.profile if isinstance(inputs.profile, FirmwareProfile) else named_profile(inputs.profile, facts)
    trace = Trace()
    if is_td_shim(metadata):
        return _of_td_shim(trace, inputs, metadata, profile)
    _launch(trace, inputs, metadata)
    if facts.measures_tpm if profile.tpm else facts.measures_td:
        _boot(trace, inputs, facts, profile)
    else:
        trace.events.clear()  # a firmware that measures nothing leaves all registers zero
    return _folded(trace, inputs, metadata, profile)


def _folded(trace: Trace, inputs: PredictionInputs, metadata: TdvfMetadata, profile: FirmwareProfile) -> Prediction:
    rtmr, reasons = registers(trace.events)
    return Prediction(
        profile.name, mrtd(inputs.firmware, inputs.mrtd_order, metadata), rtmr, tuple(trace.events), reasons
    )


def _of_td_shim(
    trace: Trace, inputs: PredictionInputs, metadata: TdvfMetadata, profile: FirmwareProfile
) -> Prediction:
    """MRTD alone: td-shim measures in an order of its own, and its payload after it."""
    why = "unknown because what td-shim and its payload measure is not predicted"
    for pcr, kind, name in (
        (1, EventType.EV_EFI_HANDOFF_TABLES2, "td-shim"),
        (2, EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2, "td-shim's payload"),
        (8, EventType.EV_IPL, "what the payload measures"),
    ):
        trace.add(pcr, kind, None, name, why)
    return _folded(trace, inputs, metadata, profile)


def _boot(trace: Trace, inputs: PredictionInputs, facts: FirmwareFacts, profile: FirmwareProfile) -> None:
    """The firmware's start, then what it starts: a kernel handed over by QEMU, or what is on the disk."""
    _firmware_start(trace, inputs, facts, profile)
    if profile.acpi:
        _acpi(trace, inputs)

    def end() -> None:
        # Before a direct boot, firmware without a flash device looks for its variables on disks.
        connected = inputs.kernel is None or not facts.needs_smm
        exit_boot_services(trace, inputs, disk_connected=connected, tpm=profile.tpm)

    trust = SecureBootTrust.of(inputs.firmware, inputs.variables, capable=facts.secure_boot)
    if inputs.kernel is None:
        _ready_to_boot(trace, inputs, facts, profile)
        disk_boot(trace, inputs, trust, end)
        return
    _kernel(trace, inputs, profile, trust)
    _ready_to_boot(trace, inputs, facts, profile)
    uki = Uki.from_bytes(inputs.kernel)
    if uki is None:
        options = load_options(inputs.cmdline, initrd=inputs.initrd is not None, initrd_first=profile.initrd_first)
        efi_stub(trace, options and options + "\0", inputs.initrd)
    else:
        own = inputs.cmdline or inputs.initrd is not None
        why = "unknown because the image is started with a command line or an initrd of its own"
        systemd_stub(trace, uki, why if own else None, secure=trust is not None)
    end()


def _launch(trace: Trace, inputs: PredictionInputs, metadata: TdvfMetadata) -> None:
    """TD HOB and configuration volume: before the firmware's first instruction in DXE, never in a TPM."""
    hob = td_hob(metadata, inputs.memory_bytes)
    memory = f"{inputs.memory_bytes >> 20} MiB of memory"
    kind = EventType.EV_EFI_HANDOFF_TABLES2
    trace.add(1, kind, hob.measured(), "TD HOB", f"memory map: the firmware's sections and {memory}", in_bank=False)
    cfv = cfv_event(inputs.firmware, metadata)
    if cfv is not None:
        why = "configuration volume of the firmware file (UEFI variables at rest)"
        kind = EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2
        trace.add_digest(1, kind, cfv.digest(), "configuration volume", why, in_bank=False)


def _firmware_start(trace: Trace, inputs: PredictionInputs, facts: FirmwareFacts, profile: FirmwareProfile) -> None:
    if profile.tpm:
        version = None if facts.version is None else (facts.version + "\0").encode("utf-16-le")
        trace.add(0, EventType.EV_S_CRTM_VERSION, version, "firmware version", "version string in the firmware")
        # Drivers of the PEI volume, the first, run in place: what they keep is in it when it is measured.
        written = not profile.volumes_as_in_file or facts.needs_smm
        for number, volume in enumerate(facts.loaded_volumes):
            known = None if written and number == 0 else volume
            why = (
                "decompressed volume of the firmware file"
                if known
                else "unknown because drivers that run in place write into the PEI volume before it is measured"
            )
            trace.add_digest(0, EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB, known, "firmware volume", why)
    if profile.fw_cfg:
        _fw_cfg(trace, inputs)
    for variable, why in secure_boot_variables(inputs.firmware, inputs.variables, capable=facts.secure_boot):
        kind = EventType.EV_EFI_VARIABLE_DRIVER_CONFIG
        trace.add(7, kind, variable.to_bytes(), f"variable {variable.name}", why)
    why = "end of the secure boot variables"
    trace.add(7, EventType.EV_SEPARATOR, _SEPARATOR, "separator", why)


def _fw_cfg(trace: Trace, inputs: PredictionInputs) -> None:
    if inputs.blobs is None:
        why = "unknown because QEMU's fw_cfg items are not known; give QEMU or the blobs"
        trace.add(1, EventType.EV_PLATFORM_CONFIG_FLAGS, None, "fw_cfg items", why)
        return
    for name, size in MEASURED_ITEMS:
        content = inputs.blobs.get(name)
        if content is not None and (size is None or len(content) == size):
            why = f"fw_cfg item {name}, from {inputs.blobs.source}"
            trace.add(1, EventType.EV_PLATFORM_CONFIG_FLAGS, content, f"fw_cfg {name}", why)


def _acpi(trace: Trace, inputs: PredictionInputs) -> None:
    kind = EventType.EV_PLATFORM_CONFIG_FLAGS
    if inputs.blobs is None or inputs.blobs.get(LOADER) is None:
        why = "unknown because the ACPI tables are not known; give QEMU or the blobs"
        trace.add(1, kind, None, "ACPI tables", why)
        return
    for name, content in inputs.blobs.acpi():
        trace.add(1, kind, content, f"ACPI {name}", f"fw_cfg file {name}, from {inputs.blobs.source}")


def _kernel(trace: Trace, inputs: PredictionInputs, profile: FirmwareProfile, trust: SecureBootTrust | None) -> None:
    kernel = inputs.kernel or b""
    raw = image_digest(kernel)
    offered = inputs.blobs is None or inputs.blobs.get("etc/boot/kernel") is not None
    alternatives: tuple[tuple[str, bytes], ...] = ()
    try:
        size = len(inputs.initrd or b"")
        patched = patched_by_qemu(kernel, initrd_size=size, cmdline=inputs.cmdline, memory_bytes=inputs.memory_bytes)
    except WireError:
        patched = kernel
    if profile.named_kernel and offered:
        digest = raw
        why = "Authenticode digest of the kernel as given (QEMU offers etc/boot/kernel, the firmware reads it)"
        alternatives = (("the kernel as QEMU before 10.0 patches it", image_digest(patched)),)
    else:
        digest = image_digest(patched)
        why = "Authenticode digest of the kernel with the setup header that QEMU writes"
        alternatives = (("the kernel as given, unpatched: QEMU 10.0 or newer", raw),)
    if trust is not None:
        image = kernel if digest == raw else patched
        broken = "unknown because QEMU patches the kernel, whose signature then does not hold"
        trust.firmware_verifies(trace, image, broken if image != kernel else None)
    kind = EventType.EV_EFI_BOOT_SERVICES_APPLICATION
    trace.add_digest(4, kind, digest, "kernel", why, alternatives=alternatives)


def _ready_to_boot(trace: Trace, inputs: PredictionInputs, facts: FirmwareFacts, profile: FirmwareProfile) -> None:
    if profile.smbios and not facts.needs_smm:
        _smbios(trace, inputs, facts)
    _boot_variables(trace, inputs, profile)
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


def _smbios(trace: Trace, inputs: PredictionInputs, facts: FirmwareFacts) -> None:
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


def _boot_variables(trace: Trace, inputs: PredictionInputs, profile: FirmwareProfile) -> None:
    """BootOrder, then the options it lists: as the firmware's run left them, else those of a direct boot."""
    kind = EventType.EV_EFI_VARIABLE_BOOT
    seen = () if inputs.blobs is None else inputs.blobs.boot_options
    for name, value in seen:
        what = "order" if name == "BootOrder" else load_option_description(value)
        trace.add(1, kind, value, f"variable {name}", f"boot option, from {inputs.blobs_source}: {what}")
    if seen:
        return
    if inputs.kernel is None:
        why = "unknown because the boot options that the firmware makes for its devices are not known; give QEMU"
        trace.add(1, kind, None, "variable BootOrder", why)
        return
    for name, value, what in _own_boot_options(profile):
        trace.add(1, kind, value, f"variable {name}", f"boot option of the firmware itself: {what}")


def _own_boot_options(profile: FirmwareProfile) -> list[tuple[str, bytes, str]]:
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
