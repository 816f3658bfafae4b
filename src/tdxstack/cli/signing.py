"""Signing an image, as ``image sign`` and ``firmware secure-boot`` do it: which image is meant, and what to say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output
from tdxstack.errors import SystemFault, UsageError

if TYPE_CHECKING:
    from tdxstack.image.signer import Signer
    from tdxstack.image.signing import SignedFile
    from tdxstack.image.store import Image

MAX_PROGRAM = 1 << 30


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be signed: an image of the store, a disk image's file, or one EFI program's file."""

    image: Image | None = None
    disk: Path | None = None
    program: Path | None = None

    @property
    def path(self) -> Path | None:
        return self.disk or self.program


def subject_of(word: str) -> Subject:
    """What ``word`` means: a file (an EFI program by its first bytes, else a disk), or an image's name.

    Raises:
        UsageError: neither.
    """
    path = Path(word)
    if path.is_file():
        try:
            with path.open("rb") as stream:
                start = stream.read(2)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        return Subject(program=path) if start == b"MZ" else Subject(disk=path)
    if "/" in word or path.suffix in (".qcow2", ".raw", ".img", ".efi"):
        raise UsageError(f"{word}: no such file", hint="give a disk image, an EFI program or an image's name")
    from tdxstack.image.store import find_image

    return Subject(image=find_image(word))


def default_target(path: Path, folder: Path) -> Path:
    """``NAME.sb.EXT`` in ``folder``, for a file that is not to be overwritten."""
    return folder / f"{path.stem}.sb{path.suffix}"


def may_write(args: Any, target: Path) -> None:
    """Refuse to overwrite without ``--yes``.

    Raises:
        UsageError: the file is there, and nobody says yes.
    """
    if not target.parent.is_dir():
        raise UsageError(f"no directory {target.parent}", hint=f"mkdir -p {target.parent}")
    if target.exists() and not args.dry_run and not output.confirmed(args, f"Overwrite {target}?"):
        raise UsageError(f"{target} is there already", hint="give another --output, or --yes")


def sign(
    subject: Subject, signer: Signer, target: Path | None, *, dry_run: bool
) -> tuple[str | None, tuple[SignedFile, ...]]:
    """Sign; the new image's name or file (None if nothing was written), and what was signed in it.

    Raises:
        UsageError, SystemFault, PlatformMissing: see :mod:`tdxstack.image.signing`.
    """
    from tdxstack.image import signing

    if subject.image is not None:
        if dry_run:
            return None, signing.review(subject.image, signer)
        image, files = signing.sign_image(subject.image, signer, output.step)
        for other in signing.signed_by_others(subject.image, image):
            output.say(f"{other}, signed by another key, is kept; if nothing needs it: tdxctl image delete {other}")
        return image.name, files
    if subject.program is not None:
        return _sign_program(subject.program, signer, None if dry_run else target)
    assert subject.disk is not None  # noqa: S101 - a subject is one of three
    files = signing.sign_disk(subject.disk, None if dry_run else target, signer, output.step)
    return None if dry_run else str(target), files


def _sign_program(program: Path, signer: Signer, target: Path | None) -> tuple[str | None, tuple[SignedFile, ...]]:
    from tdxstack.image import signing
    from tdxstack.system.files import write_atomic

    if program.stat().st_size > MAX_PROGRAM:
        raise SystemFault(f"{program}: larger than {MAX_PROGRAM} bytes, no EFI program")
    file = signing.sign_program(program, signer)
    if target is None:
        return None, (file,)
    write_atomic(target, file.after, mode=program.stat().st_mode & 0o777)
    return str(target), (file,)


def file_members(file: SignedFile, firmware: bytes | None = None) -> dict[str, Any]:
    """One signed file as plain values; ``authority`` is what ``firmware`` measures of its db when it starts it."""
    measured, content = file.measured, file.content
    members: dict[str, Any] = {
        "place": file.place,
        "path": file.path,
        "kind": file.kind,
        "already_signed": file.already,
        "rtmr1": {"before": measured[0].hex(), "after": measured[1].hex()},
        "file_sha384": {"before": content[0].hex(), "after": content[1].hex()},
    }
    if firmware is not None:
        members["authority"] = _authority(file.after, firmware)
    return members


def _authority(image: bytes, firmware: bytes) -> str | None:
    import hashlib

    from tdxstack.measure.secure_boot import authority_of

    found = authority_of(image, firmware)
    return None if found is None else hashlib.sha384(found.to_bytes()).hexdigest()


def file_lines(members: dict[str, Any]) -> list[str]:
    """One signed file in words: which registers change and to what."""
    state = "signed already" if members["already_signed"] else "signed"
    lines = [f"{members['kind']:<9} {members['path']} ({members['place']}): {state}"]
    rtmr1 = members["rtmr1"]
    change = "unchanged: a signature is not part of the digest" if rtmr1["before"] == rtmr1["after"] else "changes"
    lines.append(f"          RTMR1 {change}: {rtmr1['after']}")
    if members.get("authority"):
        lines.append(f"          RTMR0 gains the db entry that vouches: {members['authority']}")
    whole = members["file_sha384"]
    if members["kind"] == "kernel" and whole["before"] != whole["after"] and members["place"].startswith("partition"):
        lines.append(f"          RTMR2 changes if GRUB reads it (whole file): {whole['after']}")
    return lines
