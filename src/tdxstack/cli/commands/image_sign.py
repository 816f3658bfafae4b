"""``tdxctl image sign``: sign what an image starts, for secure boot."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output, signing
from tdxstack.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tdxstack.image.signer import Signer

TEXT = "sign shim, MokManager, fallback, GRUB, kernels and UKIs: in a disk image, an image of the list, or one file"


def add_sign(verbs: Any) -> None:
    """Declare the verb."""
    sign = output.add_verb(verbs, "sign", TEXT)
    sign.add_argument("image", metavar="IMAGE", help="raw or qcow2 disk, EFI program, or an image's name")
    sign.add_argument("--keys", metavar="DIR", type=Path, help="db.key and db.pem (tdxctl firmware keys new)")
    sign.add_argument("--key", metavar="FILE", type=Path, help="private key, PEM, in place of --keys")
    sign.add_argument("--cert", metavar="FILE", type=Path, help="its certificate, PEM")
    target = sign.add_mutually_exclusive_group()
    target.add_argument("-o", "--output", metavar="FILE", type=Path, help="file to write (default: NAME.sb.EXT here)")
    target.add_argument("--in-place", action="store_true", help="replace the file, once the new one is whole")
    sign.add_argument("--dry-run", action="store_true", help="say what would be signed and write nothing")
    sign.add_argument("--yes", action="store_true", help="overwrite without asking")
    output.add_json(sign)
    sign.set_defaults(run=run_sign)


def run_sign(args: argparse.Namespace) -> ExitCode:
    """Sign an image."""
    signer = _signer(args)
    subject = signing.subject_of(args.image)
    target = _target(args, subject)
    written, files = signing.sign(subject, signer, target, dry_run=args.dry_run)
    members = [signing.file_members(file) for file in files]
    body = output.document("image-signed", {"image": written, "mrtd_unchanged": True, "files": members})
    output.emit(args, body, lambda: _text(body))
    return ExitCode.DONE


def _signer(args: argparse.Namespace) -> Signer:
    from tdxstack.image.signer import Signer

    key = args.key or (args.keys / "db.key" if args.keys else None)
    certificate = args.cert or (args.keys / "db.pem" if args.keys else None)
    if key is None or certificate is None:
        raise UsageError("no key to sign with", hint="give --keys DIR, or --key and --cert")
    return Signer(key, certificate).check()


def _target(args: argparse.Namespace, subject: signing.Subject) -> Path | None:
    if subject.path is None:
        if args.output or args.in_place:
            what = f"{args.image} is an image of the list: its signed copy becomes another one"
            raise UsageError(what, hint=f"tdxctl image sign {args.image}, without --output")
        return None
    target: Path = subject.path if args.in_place else args.output
    target = target or signing.default_target(subject.path, Path())
    signing.may_write(args, target)
    return target


def _text(body: dict[str, Any]) -> str:
    lines = [line for one in body["files"] for line in signing.file_lines(one)]
    lines.append("MRTD unchanged: it covers the firmware's code alone")
    lines.append("RTMR0 gains the db entry that vouches for each image, where secure boot is on")
    lines.append(f"signed image: {body['image']}" if body["image"] else "nothing was written")
    return "\n".join(lines)
