"""Signs what an image starts, inside the image: a copy is changed and takes the target's name as the last step."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxstack.errors import SystemFault, UsageError
from tdxstack.image import disk_files
from tdxstack.image.efi_programs import program_kind
from tdxstack.image.sandbox import Progress
from tdxstack.image.signer import Signer
from tdxstack.image.store import MANIFEST, Image, find_by_key, list_images, read_image
from tdxstack.system import paths
from tdxstack.system.files import locked, sha256_file, sync_directory, write_atomic
from tdxstack.system.process import run
from tdxstack.vm.disk import image_format
from tdxstack.wire.pe import authenticode

CONVERT_SECONDS = 3600.0
SIGNED_SUFFIX = "-sb"


@dataclass(frozen=True, slots=True)
class SignedFile:
    """One EFI image before and after. ``place`` is ``partition N`` or the name of a file beside the disk.

    ``already`` says that it carried our signature before, and was left as it was.
    """

    place: str
    path: str
    kind: str
    before: bytes
    after: bytes
    already: bool

    @property
    def measured(self) -> tuple[bytes, bytes]:
        """What firmware extends into RTMR1 when it starts the image (Authenticode, SHA-384), before and after."""
        return authenticode(self.before, "sha384")[0], authenticode(self.after, "sha384")[0]

    @property
    def content(self) -> tuple[bytes, bytes]:
        """SHA-384 of the whole file, which GRUB extends into RTMR2 when it reads it, before and after."""
        return hashlib.sha384(self.before).digest(), hashlib.sha384(self.after).digest()


def sign_program(source: Path, signer: Signer) -> SignedFile:
    """Sign one EFI image in a file; nothing is written.

    Raises:
        UsageError: it is no EFI image, or sbsign refuses it.
    """
    data = source.read_bytes()
    kind = program_kind(source.name, data)
    if kind is None:
        raise UsageError(f"{source}: no EFI image", hint="sign a shim, GRUB, kernel with EFI stub, or UKI")
    return _signed("file", str(source), kind, data, signer)


def _signed(place: str, path: str, kind: str, data: bytes, signer: Signer) -> SignedFile:
    already = signer.has_signed(data)
    return SignedFile(place, path, kind, data, data if already else signer.sign(data), already)


def sign_disk(source: Path, target: Path | None, signer: Signer, progress: Progress) -> tuple[SignedFile, ...]:
    """Sign every EFI image in a disk and write the disk to ``target``, which may be ``source``; None writes nothing.

    ``target`` is qcow2 if its name ends so, or if it is ``source`` and that is; otherwise raw. Until the new disk
    is whole and on the medium, ``target`` is what it was.

    Raises:
        UsageError: no partition table.
        PlatformMissing: nothing in it to sign.
        SystemFault: no space, or a file system that cannot be changed.
    """
    form = image_format(source)
    with _work_directory(target or source) as folder:
        work = source
        if form == "qcow2" or target is not None:
            progress(f"copying {source.name}")
            work = folder / "disk.raw"
            run(["qemu-img", "convert", "-f", form, "-O", "raw", str(source), str(work)], timeout=CONVERT_SECONDS)
        found = disk_files.find(work)
        disk_files.require_known(source, found)
        signed: list[SignedFile] = []
        for file in found:
            one = _signed(f"partition {file.partition}", file.path, file.kind, file.data, signer)
            progress(f"{'signed already' if one.already else 'signing'}: {file.kind} {file.path}")
            if target is not None and not one.already:
                disk_files.replace(work, file, one.after)
            signed.append(one)
        if target is not None:
            _deliver(work, target, qcow2=target.suffix == ".qcow2" or (target == source and form == "qcow2"))
    return tuple(signed)


@contextmanager
def _work_directory(near: Path) -> Iterator[Path]:
    """A scratch directory on the target's file system; what a killed run has left is removed."""
    prefix = f".{near.name}.signing-"
    for stale in near.parent.glob(f"{prefix}*"):
        if not _alive(stale.name.removeprefix(prefix).partition("-")[0]):
            shutil.rmtree(stale, ignore_errors=True)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=near.parent))
    except OSError as error:
        hint = f"check the directory {near.parent}"
        raise SystemFault(f"cannot write beside {near}: {error.strerror}", hint=hint) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        return True
    return True


def _deliver(work: Path, target: Path, *, qcow2: bool) -> None:
    ready = work
    if qcow2:
        ready = work.with_name("disk.qcow2")
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(work), str(ready)], timeout=CONVERT_SECONDS)
    with ready.open("rb") as stream:
        os.fsync(stream.fileno())
    if target.exists():
        shutil.copymode(target, ready)
    ready.replace(target)
    sync_directory(target.parent)


def sign_image(image: Image, signer: Signer, progress: Progress) -> tuple[Image, tuple[SignedFile, ...]]:
    """A new image in the store, whose kernel, and boot loader if its disk has one, are signed; the old one stays.

    Signing the same image with the same certificate again returns the one that is there.

    Raises:
        SystemFault: no space, or a file system that cannot be changed.
    """
    certificate = hashlib.sha256(signer.certificate.read_bytes()).hexdigest()
    key = hashlib.sha256(f"{image.key} signed by {certificate}".encode()).hexdigest()
    with locked(paths.images() / ".lock"):
        if found := find_by_key(key):
            return found, review(found, signer)
        work = paths.images() / f".build-{image.name}-{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        try:
            signed = _fill(image, work, signer, progress)
            manifest = _manifest(image, work, key, certificate)
            write_atomic(work / MANIFEST, json.dumps(manifest, indent=2) + "\n")
            target = paths.images() / f"{manifest['recipe']}-{key[:12]}"
            work.rename(target)
            sync_directory(target.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return read_image(target), signed


def signed_by_others(image: Image, signed: Image) -> list[str]:
    """Names of further images of the store that were made by signing ``image``, with other keys than ``signed``."""
    return [
        one.name
        for one in list_images()
        if one.key != signed.key and (one.manifest.get("signed") or {}).get("image") == image.name
    ]


def review(image: Image, signer: Signer) -> tuple[SignedFile, ...]:
    """What signing the image would do; nothing is written."""
    found = [_signed("beside the disk", path.name, kind, data, signer) for path, kind, data in _beside(image)]
    if image.boot != "direct":
        found += sign_disk(image.disk, None, signer, lambda _: None)
    return tuple(found)


def _beside(image: Image) -> Iterator[tuple[Path, str, bytes]]:
    for path in (image.kernel, image.path / "uki.efi"):
        if path.is_file() and (kind := program_kind(path.name, data := path.read_bytes())):
            yield path, kind, data


def _fill(image: Image, work: Path, signer: Signer, progress: Progress) -> tuple[SignedFile, ...]:
    signed = []
    for path, kind, data in _beside(image):
        progress(f"signing: {kind} {path.name}")
        one = _signed("beside the disk", path.name, kind, data, signer)
        write_atomic(work / path.name, one.after)
        signed.append(one)
    if image.boot == "direct":
        run(["cp", "--reflink=auto", "--sparse=auto", str(image.disk), str(work)], timeout=CONVERT_SECONDS)
    else:
        signed += sign_disk(image.disk, work / image.disk.name, signer, progress)
    for name in ("initrd.img",):
        run(["cp", "--reflink=auto", str(image.path / name), str(work)], timeout=CONVERT_SECONDS)
    return tuple(signed)


def _manifest(image: Image, work: Path, key: str, certificate: str) -> dict[str, Any]:
    files = {role: dict(members) for role, members in image.manifest["files"].items()}
    for members in files.values():
        if "sha256" in members:
            members["sha256"] = sha256_file(work / members["name"])
    return {
        **image.manifest,
        "recipe": image.recipe.removesuffix(SIGNED_SUFFIX) + SIGNED_SUFFIX,
        "key": key,
        "files": files,
        "signed": {"image": image.name, "certificate_pem_sha256": certificate},
    }
