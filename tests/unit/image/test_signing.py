"""Signing inside disks: sbsign, mtools, debugfs and qemu-img on small disks; what is not signed stays as it was."""

from __future__ import annotations

import datetime
import filecmp
import hashlib
import subprocess
import time
from pathlib import Path

import pytest

import efi_disk
from tdxstack.errors import PlatformMissing, SystemFault, UsageError
from tdxstack.firmware.keys import new_keys
from tdxstack.image import disk_files, ext_files, signing, signing_time
from tdxstack.image.efi_programs import program_kind
from tdxstack.image.signer import Signer
from tdxstack.vm.marker_kernel import marker_kernel
from tdxstack.wire.pe import authenticode

pytestmark = pytest.mark.processes
PROGRAM = marker_kernel()
OTHER = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    folder = tmp_path_factory.mktemp("keys") / "k"
    new_keys(folder, "Test", now=datetime.datetime.now(datetime.UTC))
    return Signer(folder / "db.key", folder / "db.pem").check()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    esp = {"EFI/BOOT/BOOTX64.EFI": PROGRAM, "EFI/debian/grubx64.efi": PROGRAM, "EFI/debian/grub.cfg": b"set x=1\n"}
    root = {"boot/vmlinuz-6.1": PROGRAM, "boot/initrd.img": OTHER, "etc/hostname": b"guest\n"}
    return efi_disk.make(tmp_path / "disk.raw", esp, root)


def quiet(_: str) -> None:
    return


def outside(disk: Path) -> bytes:
    """All bytes of a disk that belong to none of its partitions."""
    data = disk.read_bytes()
    return data[: efi_disk.ESP_START] + data[efi_disk.ROOT_START + efi_disk.ROOT_SIZE :]


def esp_files(disk: Path, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    argv = ["mcopy", "-s", "-n", "-i", f"{disk}@@{efi_disk.ESP_START}", "::", str(folder)]
    subprocess.run(argv, check=True, timeout=60)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_of_a_disk_is_signed_and_nothing_else_touched(disk: Path, signer: Signer, tmp_path: Path) -> None:
    original = disk.read_bytes()
    target = tmp_path / "signed.raw"
    files = signing.sign_disk(disk, target, signer, quiet)
    assert {(one.place, one.path) for one in files} == {
        ("partition 1", "/EFI/BOOT/BOOTX64.EFI"),
        ("partition 1", "/EFI/debian/grubx64.efi"),
        ("partition 2", "/boot/vmlinuz-6.1"),
    }
    assert disk.read_bytes() == original
    assert outside(target) == outside(disk)
    for file in disk_files.find(target):
        assert signer.has_signed(file.data), file.path
        assert authenticode(file.data, "sha384") == authenticode(PROGRAM, "sha384")
    before, after = esp_files(disk, tmp_path / "before"), esp_files(target, tmp_path / "after")
    assert [name for name in before if before[name] != after[name]] == [
        name for name in before if name.casefold().endswith(".efi")
    ]
    assert before.keys() == after.keys()
    for path, content in (("/boot/initrd.img", OTHER), ("/etc/hostname", b"guest\n")):
        assert ext_files.read(target, efi_disk.ROOT_START, path) == content
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_second_time_there_is_nothing_to_do(disk: Path, signer: Signer) -> None:
    signing.sign_disk(disk, disk, signer, quiet)
    first = hashlib.sha256(disk.read_bytes()).digest()
    files = signing.sign_disk(disk, disk, signer, quiet)
    assert all(one.already for one in files)
    assert hashlib.sha256(disk.read_bytes()).digest() == first


def test_a_signature_of_somebody_elses_does_not_count(signer: Signer, tmp_path: Path) -> None:
    new_keys(tmp_path / "other", "Other", now=datetime.datetime.now(datetime.UTC))
    other = Signer(tmp_path / "other" / "db.key", tmp_path / "other" / "db.pem")
    twice = other.sign(Signer(tmp_path / "other" / "KEK.key", tmp_path / "other" / "KEK.pem").sign(PROGRAM))
    assert other.has_signed(twice)
    assert not signer.has_signed(twice)
    assert signer.has_signed(signer.sign(twice))


def test_the_same_image_and_key_give_the_same_bytes(disk: Path, signer: Signer, tmp_path: Path) -> None:
    """Whenever it is done: GRUB measures a kernel with its signature. The checksum is as sbsign would write it."""
    first, second = signer.sign(PROGRAM), tmp_path / "second.raw"
    signing.sign_disk(disk, tmp_path / "first.raw", signer, quiet)
    argv = ["--key", str(signer.key), "--cert", str(signer.certificate), "--output", str(tmp_path / "plain")]
    (tmp_path / "program").write_bytes(PROGRAM)
    time.sleep(1.1)
    subprocess.run(["sbsign", *argv, str(tmp_path / "program")], check=True, timeout=60, capture_output=True)
    plain = (tmp_path / "plain").read_bytes()
    assert plain != first
    assert signing_time._with_checksum(bytearray(plain)) == plain
    assert signer.sign(PROGRAM) == first
    signing.sign_disk(disk, second, signer, quiet)
    assert filecmp.cmp(second, tmp_path / "first.raw", shallow=False)


def test_what_is_not_signed_so_stays_as_it_is(signer: Signer, tmp_path: Path) -> None:
    new_keys(tmp_path / "k", "Other", now=datetime.datetime.now(datetime.UTC))
    other = (tmp_path / "k/db.key").read_bytes(), (tmp_path / "k/db.pem").read_bytes()
    signed = signer.sign(PROGRAM)
    for image in (PROGRAM, signed, signed[:-600], b"MZ" + bytes(600)):
        assert signing_time.with_certificates_time(image, *other) == image


def test_qcow2_stays_qcow2(disk: Path, signer: Signer, tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, image], check=True, timeout=60)
    assert not any(one.already for one in signing.sign_disk(image, None, signer, quiet))
    assert len(signing.sign_disk(image, image, signer, quiet)) == 3
    assert image.read_bytes()[:4] == b"QFI\xfb"
    assert all(one.already for one in signing.sign_disk(image, None, signer, quiet))


def test_a_failure_leaves_the_old_disk(disk: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    original = disk.read_bytes()

    def fail(*_: object) -> None:
        raise SystemFault("no space")

    monkeypatch.setattr(ext_files, "replace", fail)
    with pytest.raises(SystemFault, match="no space"):
        signing.sign_disk(disk, disk, signer, quiet)
    assert disk.read_bytes() == original
    assert [path for path in disk.parent.iterdir() if ".signing-" in path.name] == []


def test_what_a_killed_run_left_is_removed(disk: Path, signer: Signer) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = disk.with_name(f".{disk.name}.signing-{gone.pid}-abc")
    left.mkdir()
    signing.sign_disk(disk, disk, signer, quiet)
    assert not left.exists()


def test_owner_and_mode_stay_on_ext4(disk: Path) -> None:
    script = "set_inode_field /boot/vmlinuz-6.1 mode 0100600\nset_inode_field /boot/vmlinuz-6.1 uid 7\n"
    device = f"{disk}?offset={efi_disk.ROOT_START}"
    subprocess.run(["debugfs", "-w", "-f", "/dev/stdin", device], input=script.encode(), check=True, timeout=60)
    ext_files.replace(disk, efi_disk.ROOT_START, "/boot/vmlinuz-6.1", OTHER * 3)
    entry = ext_files._entries(disk, efi_disk.ROOT_START, "/boot")["vmlinuz-6.1"]
    assert (entry.mode, entry.uid, entry.gid) == (0o100600, 7, 0)
    with pytest.raises(SystemFault, match="Could not allocate block"):
        ext_files.replace(disk, efi_disk.ROOT_START, "/boot/vmlinuz-6.1", bytes(range(256)) * (256 << 10))


def test_a_dirty_file_system_is_refused(disk: Path) -> None:
    with disk.open("r+b") as stream:
        stream.seek(efi_disk.ROOT_START + 1024 + 96)
        flags = int.from_bytes(stream.read(4), "little")
        stream.seek(-4, 1)
        stream.write((flags | 4).to_bytes(4, "little"))
    with pytest.raises(SystemFault, match="not unmounted cleanly"):
        ext_files.replace(disk, efi_disk.ROOT_START, "/boot/vmlinuz-6.1", OTHER)


def test_faults(tmp_path: Path, signer: Signer) -> None:
    plain = tmp_path / "plain.raw"
    plain.write_bytes(bytes(1 << 20))
    with pytest.raises(UsageError, match="partition table"):
        signing.sign_disk(plain, None, signer, quiet)
    empty = efi_disk.make(tmp_path / "empty.raw", {"readme": b"x"})
    with pytest.raises(PlatformMissing, match="no EFI image"):
        signing.sign_disk(empty, None, signer, quiet)
    text = tmp_path / "text"
    text.write_text("no image")
    with pytest.raises(UsageError, match="no EFI image"):
        signing.sign_program(text, signer)
    with pytest.raises(UsageError, match="PEM"):
        Signer(text, text).check()
    with pytest.raises(UsageError, match="No such file"):
        Signer(tmp_path / "none", text).check()
    with pytest.raises(UsageError, match="no key or certificate"):
        Signer(Path("/dev/zero"), text).check()
    with pytest.raises(UsageError, match="sbsign refused"):
        signer.sign(b"MZ" + bytes(4096))


def test_signatures_of_others_stay_and_do_not_count_as_ours(signer: Signer, tmp_path: Path) -> None:
    new_keys(tmp_path / "k", "Other", now=datetime.datetime.now(datetime.UTC))
    other = Signer(tmp_path / "k/db.key", tmp_path / "k/db.pem")
    theirs = other.sign(PROGRAM)
    assert not signer.has_signed(theirs)
    both = signer.sign(theirs)
    assert (signer.has_signed(both), other.has_signed(both)) == (True, True)
    assert authenticode(both, "sha384") == authenticode(PROGRAM, "sha384")


def test_kinds() -> None:
    assert program_kind("x", PROGRAM) == "kernel"
    plain = bytearray(PROGRAM)
    plain[0x202:0x206] = bytes(4)
    for path, kind in (
        ("/EFI/BOOT/mmx64.efi", "MokManager"),
        ("/EFI/BOOT/fbx64.efi", "fallback"),
        ("/EFI/debian/grubx64.efi", "GRUB"),
        ("/EFI/x.efi", "EFI program"),
    ):
        assert program_kind(path, bytes(plain)) == kind
    plain[0x400 + 264 : 0x400 + 270] = b".linux"
    assert program_kind("x", bytes(plain)) == "UKI"
    plain[0x400 + 24 + 68] = 3
    assert program_kind("x", bytes(plain)) is None
    assert program_kind("x", b"MZ") is None
