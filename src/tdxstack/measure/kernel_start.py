"""What a kernel measures of itself on its way out of the firmware, and what ends the firmware's part.

Source: Linux ``drivers/firmware/efi/libstub`` (LoadOptions and initrd into PCR 9) and ``security/integrity/ima``;
systemd ``src/boot/stub.c`` (sections into PCR 11); edk2 ``Tcg2Dxe`` and ``TdTcg2Dxe`` (exit of boot services).
"""

from __future__ import annotations

from tdxstack.measure.pcr import boot_aggregate_template
from tdxstack.measure.prediction import PredictionInputs
from tdxstack.measure.trace import Trace
from tdxstack.measure.uki import Uki
from tdxstack.wire.tcg import EventType

EXIT_BOOT_SERVICES = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")
IMA_ENTRIES = "IMA entries"
EXIT_FAILED = b"Exit Boot Services Returned with Failure"


def efi_stub(trace: Trace, options: str, initrd: bytes | None) -> None:
    """The EFI stub's two events.

    Args:
        options: the command line as the kernel gets it, with the NUL behind it where there is one; empty for none.
        initrd: the initrd, or None.
    """
    if options:
        why = f"LoadOptions as UTF-16: {options.rstrip(chr(0))!r}"
        plain = options.rstrip("\0")
        trace.add(9, EventType.EV_EVENT_TAG, options.encode("utf-16-le"), "command line", why, text=plain)
    if initrd is not None:
        trace.add(9, EventType.EV_EVENT_TAG, initrd, "initrd", "the initrd file")


def systemd_stub(trace: Trace, uki: Uki, unknown: str | None = None, *, secure: bool = False) -> None:
    """Sections into PCR 11, then the inner kernel, which measures its command line and initrd itself.

    Args:
        unknown: why command line and initrd are not those of the image, if so.
    """
    if unknown is None and uki.undecided is not None:
        unknown = f"unknown because the stub decides at boot what of {uki.undecided} counts"
    for number, (name, content) in enumerate(uki.measured()):
        what = "name" if number % 2 == 0 else "content"
        trace.add(11, EventType.EV_IPL, content, f"UKI {name}", f"{what} of the image's section {name}")
    # With secure boot the stub starts it past the firmware's checks, and so past its measuring.
    if not secure:
        trace.add_image(uki.get(".linux") or b"", "inner kernel", "the image's section .linux")
    cmdline = uki.cmdline()
    if cmdline is not None or unknown:
        text = None if unknown else ((cmdline or "") + "\0").encode("utf-16-le")
        why = unknown or f"the image's section .cmdline as UTF-16: {cmdline!r}"
        trace.add(9, EventType.EV_EVENT_TAG, text, "command line", why, text=None if unknown else cmdline)
    initrd = uki.initrd()
    if initrd is not None or unknown:
        why = unknown or "the image's section .initrd, and the archives that the stub generates"
        trace.add(9, EventType.EV_EVENT_TAG, None if unknown else initrd, "initrd", why)


def exit_boot_services(trace: Trace, inputs: PredictionInputs, *, disk_connected: bool, tpm: bool) -> None:
    """The firmware's last events, and IMA's where its entries are extended too.

    Args:
        disk_connected: the firmware has its drivers on the disk when the kernel leaves.
        tpm: the machine has a TPM.
    """
    name, kind = "exit boot services", EventType.EV_EFI_ACTION
    if disk_connected and inputs.disk is not None and inputs.disk.has_fat:
        # The firmware writes to a FAT file system when the kernel leaves: without a flash device it keeps its
        # variables there (NvVars). That changes the memory map, so that the kernel tries twice.
        why = "the firmware is busy with the disk's FAT partition, and the kernel's first attempt fails"
        trace.add(5, kind, EXIT_BOOT_SERVICES[0], name, why)
        trace.add(5, kind, EXIT_FAILED, name, why)
    for text in EXIT_BOOT_SERVICES:
        trace.add(5, kind, text, name, text.decode())
    if inputs.ima:
        _ima(trace, tpm)


def _ima(trace: Trace, tpm: bool) -> None:
    """IMA's first entry where there is a TPM whose PCRs it is made of, and those of which nothing is known."""
    kind = EventType.EV_EVENT_TAG
    aggregate = trace.bank.boot_aggregate() if tpm else None
    template = None if aggregate is None else boot_aggregate_template(aggregate)
    why = "SHA-384 of the TPM's PCRs 0..9, with which IMA begins"
    if template is None:
        why = "unknown because a PCR that it is computed from is unknown" if tpm else "unknown without a TPM"
    trace.add(10, kind, template, "IMA boot_aggregate", why, logged=False)
    why = (
        "unknown because IMA extends RTMR2 by what the guest runs; its list leads on from here: eventlog replay --ima"
    )
    trace.add(10, kind, None, IMA_ENTRIES, why, logged=False)
