"""What to try next where an input is not what it was read as, by the structure that it is not."""

from __future__ import annotations

_FIRMWARE = "take a whole, single-file TDVF (no split OVMF_CODE or OVMF_VARS): tdxctl firmware fetch inteltdx"
_LOG = "fetch the log again, in the TD: tdxctl guest eventlog --out FILE (/sys/firmware/acpi/tables/data/CCEL)"
_IMA = "fetch the list again, in the TD: tdxctl guest ima --out FILE"
_QUOTE = "get a quote anew, in the TD: tdxctl guest quote"
_REPORT = "get a report anew, in the TD: tdxctl guest report"
_KERNEL = "give a kernel as it is installed (vmlinuz, a bzImage) or a unified kernel image"
_DISK = "give a whole disk, raw or qcow2; qemu-img check tells whether it is sound"
_VARIABLES = "give a single-file OVMF or a split OVMF_VARS file: tdxctl firmware show FILE"
_MODULE = "take the files of one release of Intel's TDX module, as they were published"
_BLOBS = "copy the files again from the guest's /sys/firmware/qemu_fw_cfg/by_name, or leave --blobs out"
_NEXT = {
    **dict.fromkeys(("TDVF", "TDVF_DESCRIPTOR", "TDVF_SECTION", "OVMF table", "firmware volume"), _FIRMWARE),
    **dict.fromkeys(("TCG_PCR_EVENT2", "TCG_PCClientPCREvent", "TCG_EfiSpecIDEvent", "TCG event log"), _LOG),
    **dict.fromkeys(("JSON event log", "event log", "CCEL"), _LOG),
    "IMA list": _IMA,
    **dict.fromkeys(("QUOTE", "Quote", "sgx_quote4_t", "QUOTE_HEADER", "QUOTE_SIGNATURE"), _QUOTE),
    **dict.fromkeys(("QE_CERTIFICATION", "CERTIFICATION_DATA"), _QUOTE),
    "TDREPORT_STRUCT": _REPORT,
    **dict.fromkeys(("Linux setup header", "kernel", "kernel payload", "UKI"), _KERNEL),
    "PE": "give an EFI program (PE/COFF): a boot loader, a kernel with an EFI stub, or a unified kernel image",
    **dict.fromkeys(("GPT", "FAT", "qcow2"), _DISK),
    **dict.fromkeys(("VARIABLE_STORE_HEADER", "AUTHENTICATED_VARIABLE_HEADER"), _VARIABLES),
    **dict.fromkeys(("TDX-BLOB", "mapping_file.json", "TDX module version"), _MODULE),
    **dict.fromkeys(("etc/table-loader", "SMBIOS"), _BLOBS),
}


def next_step(structure: str) -> str | None:
    """What to do about bytes that are no such structure; None where nothing general can be said."""
    return _NEXT.get(structure)
