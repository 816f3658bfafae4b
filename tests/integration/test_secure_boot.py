"""Secure boot by a real firmware: what is signed starts, the rest is refused, and registers are as predicted."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import efi_disk
import firmware_run
from integration.conftest import BUILD_SECONDS, Tdxctl, image_with
from tdxstack.image import disk_files
from tdxstack.measure.firmware import inspect
from tdxstack.measure.rtmr import fold
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.wire.ima import read_list
from tdxstack.wire.pe import authenticode
from tdxstack.wire.tcg import EventLog, EventType

pytestmark = [pytest.mark.integration, pytest.mark.network]
BOOT_SECONDS = 400.0
GRUB_CONFIG = b"""
if linux /unsigned; then echo accepted-unsigned; else echo refused-unsigned; fi
if linux /foreign; then echo accepted-foreign; else echo refused-foreign; fi
if linux /signed; then echo accepted-signed; else echo refused-signed; fi
halt
"""


def kernel(mark: int = 0) -> bytes:
    """The marker kernel with something in it that makes its digest another."""
    return marker_kernel()[:-1] + bytes([mark])


def unsigned(image: bytes) -> bytes:
    """An image without its certificate table."""
    optional = int.from_bytes(image[0x3C:0x40], "little") + 24
    entry = optional + 112 + 8 * 4
    at, _ = struct.unpack_from("<II", image, entry)
    return image[:entry] + bytes(8) + image[entry + 8 : at or len(image)]


class Workshop:
    """Keys of ours and of a stranger, and the firmware that knows ours."""

    def __init__(self, tdxctl: Tdxctl, folder: Path) -> None:
        self.tdxctl, self.folder = tdxctl, folder
        self.ours, self.theirs, self.firmware = folder / "ours", folder / "theirs", folder / "sb.fd"
        for keys in (self.ours, self.theirs):
            tdxctl.ok("firmware", "keys", "new", str(keys))
        forbidden = folder / "forbidden.efi"
        forbidden.write_bytes(kernel(13))
        self.enrolled = self.enroll(self.firmware, "--dbx", str(forbidden))

    def enroll(self, target: Path, *more: str) -> Any:
        words = ("secure-boot", "-o", str(target), "--keys", str(self.ours), *more)
        return self.tdxctl.json("firmware", "enroll", *words, timeout=300)

    def sign(self, image: bytes, keys: Path) -> bytes:
        source, target = self.folder / "to-sign", self.folder / "signed"
        source.write_bytes(image)
        self.tdxctl.ok("image", "sign", str(source), "--keys", str(keys), "-o", str(target), "--yes")
        return target.read_bytes()

    def disk(self, name: str, start: bytes) -> Path:
        return efi_disk.make(self.folder / f"{name}.raw", {"EFI/BOOT/BOOTX64.EFI": start})

    def programs(self, boot: str) -> dict[str, bytes]:
        """The EFI images of our own image with that boot layout, by kind."""
        disk = image_with(self.tdxctl, boot)["disk"]["path"]
        return {file.kind: file.data for file in disk_files.find(Path(disk))}


@pytest.fixture(scope="module")
def workshop(tdxctl: Tdxctl, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tdxctl, tmp_path_factory.mktemp("secure-boot"))


def test_grub_and_ukis_from_disks(workshop: Workshop) -> None:
    """One run of the firmware: it refuses one disk after the other, until one holds what it may start."""
    grub, uki = workshop.programs("grub")["GRUB"], workshop.programs("uki")["UKI"]
    starts = {
        "grub-unsigned": unsigned(grub),
        "grub-of-a-stranger": grub,
        "uki-unsigned": uki,
        "uki-of-a-stranger": workshop.sign(uki, workshop.theirs),
        "kernel-signed-but-forbidden": workshop.sign(kernel(13), workshop.ours),
        "signed": workshop.sign(kernel(), workshop.ours),
    }
    done = firmware_run.run(workshop.firmware, disks=[workshop.disk(name, start) for name, start in starts.items()])
    assert done.off, done.text
    assert done.refused == len(starts) - 1, done.text


@pytest.mark.parametrize("keys", [None, "theirs"])
def test_kernels_handed_over_by_qemu(workshop: Workshop, keys: str | None) -> None:
    source = workshop.folder / f"kernel-{keys}"
    source.write_bytes(kernel() if keys is None else workshop.sign(kernel(), getattr(workshop, keys)))
    refused = "Secure boot image verification failed"
    done = firmware_run.run(workshop.firmware, kernel=source, until=refused)
    assert refused in done.text
    assert not done.off


def test_shim_and_grub_take_what_db_vouches_for(workshop: Workshop) -> None:
    programs = workshop.programs("grub")
    files = {
        "EFI/BOOT/BOOTX64.EFI": workshop.sign(programs["shim"], workshop.ours),
        "EFI/BOOT/grubx64.efi": workshop.sign(unsigned(programs["GRUB"]), workshop.ours),
        "EFI/debian/grub.cfg": GRUB_CONFIG,
        "unsigned": kernel(),
        "foreign": workshop.sign(kernel(), workshop.theirs),
        "signed": workshop.sign(kernel(), workshop.ours),
    }
    disk = efi_disk.make(workshop.folder / "chain.raw", files)
    done = firmware_run.run(workshop.firmware, disks=[disk])
    assert done.off
    assert [word for word in done.text.split() if word.startswith(("accepted-", "refused-"))] == [
        "refused-unsigned",
        "refused-foreign",
        "accepted-signed",
    ]


def test_what_enrolment_says(workshop: Workshop, tmp_path: Path) -> None:
    """The digest of the forbidden image is in dbx, MRTD stays, and the same inputs give the same bytes."""
    assert workshop.enrolled["mrtd_unchanged"] is True
    changed = {one["event"] for one in workshop.enrolled["rtmr0_events"]}
    assert {"configuration volume", "variable SecureBoot", "variable PK", "variable db", "variable dbx"} <= changed
    shown = workshop.tdxctl.json("firmware", "show", str(workshop.firmware))
    assert (shown["secure_boot"], shown["needs_smm"], shown["tdvf"]) == (True, True, True)
    (dbx,) = [one for one in shown["variables"] if one["name"] == "dbx"]
    assert dbx["signatures"] == [authenticode(kernel(13), "sha256")[0].hex()]
    workshop.enroll(tmp_path / "again.fd", "--dbx", str(workshop.folder / "forbidden.efi"))
    assert (tmp_path / "again.fd").read_bytes() == workshop.firmware.read_bytes()


class Booted:
    """A TD that one command prepared (``firmware secure-boot``), booted for real.

    Args:
        uki_by_qemu: QEMU hands over the unified kernel image that lies beside the disk.
    """

    def __init__(self, tdxctl: Tdxctl, folder: Path, image: str, *settings: str, uki_by_qemu: bool = False) -> None:
        self.tdxctl, self.folder, self.name = tdxctl, folder, f"sb-{folder.name[-8:]}"
        words = (image, "secure-boot", "--keys", str(folder / "keys"), "--output-dir", str(folder))
        self.prepared = tdxctl.json("firmware", "secure-boot", *words, timeout=BUILD_SECONDS)
        more = ["--firmware", self.prepared["firmware"], "--image", self.prepared["image"], "--memory", "1G"]
        if uki_by_qemu:
            (signed,) = [
                one for one in tdxctl.json("image", "list")["images"] if one["name"] == self.prepared["image"]
            ]
            more += ["--boot", "uki", "--kernel", str(Path(signed["path"]) / "uki.efi")]
        tdxctl.ok("td", "create", self.name, *more, *settings)
        self.predicted = tdxctl.json("measure", "predict", "--td", self.name, timeout=300)
        tdxctl.ok("td", "start", self.name, "--wait", timeout=BOOT_SECONDS)

    def read(self, *command: str) -> str:
        return self.tdxctl.ok("td", "exec", self.name, *command)

    def replayed(self, *more: str) -> Any:
        return self.tdxctl.json("eventlog", "replay", "--td", self.name, *more)

    def end(self) -> None:
        self.tdxctl.ok("td", "delete", self.name, "--yes")
        self.tdxctl.ok("image", "delete", self.prepared["image"], "--yes")


@pytest.fixture(scope="module")
def direct(tdxctl: Tdxctl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A direct boot of the default image with secure boot, whose kernel measures by IMA too."""
    image = image_with(tdxctl, "direct")["name"]
    booted = Booted(tdxctl, tmp_path_factory.mktemp("direct"), image, "--ima", "critical_data")
    yield booted
    booted.end()


def test_the_guest_says_secure_boot(direct: Booted) -> None:
    assert "Secure boot enabled" in direct.read("dmesg")


def test_registers_are_as_predicted(direct: Booted) -> None:
    replay = direct.replayed()
    assert replay["problems"] == []
    assert replay["matches"] == [True] * 4
    assert replay["quoted"][:2] == direct.predicted["rtmr"][:2]
    (file,) = direct.prepared["files"]
    digests = [one["digest"] for one in direct.predicted["events"]]
    assert file["authority"] in digests
    assert file["rtmr1"]["after"] in digests
    for event in direct.prepared["rtmr0_events"]:
        assert event["after"] in digests, event


def test_the_td_proves_itself_with_its_ima_list(direct: Booted) -> None:
    attested = direct.tdxctl.json("attest", direct.name)
    assert attested["verdict"] == "accepted", attested["reasons"]
    (step,) = [one for one in attested["checks"] if one["name"] == "IMA list"]
    assert step["outcome"] == "pass"
    assert read_list(Path(attested["files"]["ima"]).read_bytes())


def ima(direct: Booted, *more: str) -> Any:
    return direct.tdxctl.json("guest", "ima", "--td", direct.name, *more)


def test_ima_extends_sha384_into_the_tpm_and_rtmr2(direct: Booted) -> None:
    assert "ima_hash=sha384 ima_policy=critical_data" in direct.read("cat", "/proc/cmdline")
    pcr10 = direct.read("cat", "/sys/class/tpm/tpm0/pcr-sha384/10").strip().lower()
    listed = ima(direct)["ascii"]
    entries = read_list(listed.encode())
    assert {"boot_aggregate", "kernel_version"} <= {entry.name for entry in entries}
    assert all(entry.file_digest.startswith("sha384:") and entry.digest_holds for entry in entries)
    # the kernel's own list of SHA-384 template digests, our computation from the fields, and the TPM agree
    own = direct.read("cat", "/sys/kernel/security/ima/ascii_runtime_measurements_sha384").splitlines()
    computed = [entry.extended().hex() for entry in entries]
    assert [line.split()[1] for line in own[: len(computed)]] == computed
    assert fold(map(bytes.fromhex, computed)).hex() == pcr10
    replay = direct.replayed()
    assert replay["ima"] == {"entries": len(entries), "covered": len(entries)}
    mine = [one for one in direct.predicted["events"] if one["rtmr"] == 2]
    begin = fold(bytes.fromhex(one["digest"]) for one in mine if one["logged"])
    assert replay["quoted"][2] == fold(map(bytes.fromhex, computed), begin).hex()
    # what IMA extends is said to be unknown, not guessed
    assert direct.predicted["rtmr"][2] is None


def test_of_the_firmware_with_smm_only_the_pei_volume_is_not_as_in_the_file(direct: Booted) -> None:
    """PCR 0: the DXE volume is as in the file; drivers of the PEI volume run in place and write into it."""
    raw = direct.read("base64", "-w0", "/sys/kernel/security/tpm0/binary_bios_measurements")
    events = EventLog.from_bytes(base64.b64decode(raw)).events
    blobs = [one for one in events if one.event_type == EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB]
    pei, dxe = inspect(Path(direct.prepared["firmware"]).read_bytes()).loaded_volumes
    assert [one.mr_index for one in blobs] == [0, 0]
    assert blobs[0].digest() != pei
    assert blobs[1].digest() == dxe


@pytest.mark.parametrize("change", ["name", "digest", "dropped", "swapped"])
def test_an_altered_ima_list_is_found(direct: Booted, change: str, tmp_path: Path) -> None:
    lines = ima(direct)["ascii"].splitlines()
    altered = {
        "name": [lines[0].replace("boot_aggregate", "boot_aggregatf"), *lines[1:]],
        "digest": [lines[0].replace("sha384:", "sha384:ff", 1)[: -len("ff")], *lines[1:]],
        "dropped": lines[1:],
        "swapped": [lines[1], lines[0], *lines[2:]],
    }[change]
    (tmp_path / "list").write_text("\n".join(altered) + "\n")
    words: Sequence[str] = ("eventlog", "replay", "--td", direct.name, "--ima", str(tmp_path / "list"), "--json")
    done = direct.tdxctl(*words)
    assert done.returncode in ((3,) if change != "digest" else (1, 3)), done.stdout
    if done.returncode == 3:
        assert json.loads(done.stdout)["matches"] == [True, True, False, True]


@pytest.mark.parametrize(
    ("boot", "by_qemu"),
    [
        ("uki", False),
        pytest.param("uki", True, marks=pytest.mark.slow),
        pytest.param("grub", False, marks=pytest.mark.slow),
    ],
)
def test_signed_images_boot_as_predicted(
    boot: str, by_qemu: bool, tdxctl: Tdxctl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = image_with(tdxctl, boot)["name"]
    booted = Booted(tdxctl, tmp_path_factory.mktemp(boot), image, uki_by_qemu=by_qemu)
    try:
        assert "Secure boot enabled" in booted.read("dmesg")
        replay = booted.replayed()
        assert replay["problems"] == []
        assert replay["matches"] == [True] * 4
        assert replay["quoted"] == booted.predicted["rtmr"]
    finally:
        booted.end()
