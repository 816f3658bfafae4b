"""Predictions from the inputs of boots that were recorded elsewhere, held against their TPMs' logs."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from firmware_file import firmware_file, layout_4m
from tdxstack.measure import FirmwareBlobs, PredictionInputs, predict
from tdxstack.measure.firmware import FirmwareFacts
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.wire.tcg import EventLog, cc_log_of_tpm_log

#: Case -> edk2 release, and whether the firmware can enforce secure boot.
RIGS = {
    "out1": ("202211", True),
    "out_ovmf_2025.02": ("202502", False),
    "out10_ovmf-generic_2026.08ds": ("202508", False),
}
#: What the recordings do not hold: kernel, initrd, SMBIOS tables; and what no TPM measures.
NOT_RECORDED = ("kernel", "initrd", "SMBIOS tables", "TD HOB", "configuration volume")


def blobs(folder: Path) -> FirmwareBlobs:
    return FirmwareBlobs(
        (
            ("etc/table-loader", (folder / "fw_etc_table-loader").read_bytes()),
            ("etc/acpi/rsdp", (folder / "fw_etc_acpi_rsdp").read_bytes()),
            ("etc/tpm/log", bytes(65536)),
            ("etc/acpi/tables", gzip.decompress((folder / "fw_etc_acpi_tables.gz").read_bytes())),
        )
    )


@pytest.mark.parametrize("case", RIGS)
def test_every_event_whose_inputs_were_recorded(case: str, vectors: Path) -> None:
    folder = vectors / "measurement" / "swtpm-rig" / case
    release, secure_boot = RIGS[case]
    words = (folder / "cmdline").read_text().split()
    prediction = predict(
        PredictionInputs(
            firmware=firmware_file(layout_4m((0x814000, 0xC000))),
            memory_bytes=2 << 30,
            kernel=marker_kernel(),
            initrd=b"initrd",
            cmdline=" ".join(word for word in words if word != "initrd=initrd"),
            blobs=blobs(folder),
            profile=f"software-{release}",
            facts=FirmwareFacts(True, True, None, None, None, secure_boot, (), release),
        )
    )
    log = cc_log_of_tpm_log(EventLog.from_bytes((folder / "tpmlog").read_bytes()))
    for rtmr in range(3):
        expected = [event for event in prediction.of_register(rtmr) if event.name not in NOT_RECORDED[3:]]
        logged = [event for event in log.events if event.mr_index == rtmr + 1]
        for want, have in zip(expected, logged, strict=True):
            assert want.event_type == have.event_type
            assert want.name in NOT_RECORDED or want.digest == have.digest(), want.name
