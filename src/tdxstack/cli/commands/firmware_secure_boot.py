"""``tdxctl firmware secure-boot``: keys, enrolment and signing in one go (white paper, section 3.4.2.3)."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

from tdxstack.cli import output, signing
from tdxstack.errors import ExitCode, PlatformMissing

TEXT = "secure boot for an image and a firmware: make keys, enrol them, sign what the image starts"


def add_secure_boot(verbs: Any, *, firmware_help: str, dbx_help: str) -> None:
    """Declare the verb."""
    verb = output.add_verb(verbs, "secure-boot", TEXT)
    verb.add_argument("image", metavar="IMAGE", help="raw or qcow2 disk, EFI program, or an image's name")
    verb.add_argument("firmware", metavar="FIRMWARE", help=firmware_help)
    verb.add_argument(
        "--keys", metavar="DIR", type=Path, default=Path("secure-boot-keys"), help="made if absent (%(default)s)"
    )
    verb.add_argument("--dbx", metavar="WHAT", action="append", default=[], help=dbx_help)
    verb.add_argument("--owner", metavar="GUID", type=UUID, help="owner of the entries (default: tdxstack's own)")
    verb.add_argument(
        "--output-dir", metavar="DIR", type=Path, default=Path(), help="where to write NAME.sb.fd and NAME.sb.EXT"
    )
    verb.add_argument("--dry-run", action="store_true", help="say what would change and write nothing")
    verb.add_argument("--yes", action="store_true", help="overwrite without asking")
    output.add_json(verb)
    verb.set_defaults(run=run_secure_boot, pk=None, kek=[], db=[])


def run_secure_boot(args: argparse.Namespace) -> ExitCode:
    """Do all of it."""
    from tdxstack.cli.enrolment import keys_from
    from tdxstack.cli.firmware_names import firmware_path
    from tdxstack.firmware.effect import effect
    from tdxstack.firmware.enroll import enroll
    from tdxstack.image.signer import Signer
    from tdxstack.system.files import write_atomic

    subject = signing.subject_of(args.image)
    source = firmware_path(args.firmware)
    before = _read_capable(source)
    firmware = signing.default_target(source, args.output_dir)
    target = signing.default_target(subject.path, args.output_dir) if subject.path else None
    for path in (firmware, target):
        if path is not None:
            signing.may_write(args, path)
    with ExitStack() as stack:
        made = _have_keys(args, stack)
        signer = Signer(args.keys / "db.key", args.keys / "db.pem").check()
        after = enroll(before, keys_from(args))
        image, files = signing.sign(subject, signer, target, dry_run=args.dry_run)
        if not args.dry_run:
            write_atomic(firmware, after)
    result = effect(before, after)
    known = not (made and args.dry_run)
    body = output.document(
        "secure-boot",
        {
            "keys": {"directory": str(args.keys) if known else None, "made": made and not args.dry_run},
            "firmware": None if args.dry_run else str(firmware),
            "image": image,
            "mrtd_unchanged": result.mrtd_before == result.mrtd_after,
            "mrtd": result.mrtd_after.hex() if result.mrtd_after else None,
            "rtmr0_events": [
                {"event": name, "before": old.hex() if old else None, "after": new.hex() if new and known else None}
                for name, old, new in result.changed
            ],
            "files": [signing.file_members(file, after if known else None) for file in files],
        },
    )
    output.emit(args, body, lambda: _text(args, body, result.lines if known else ()))
    return ExitCode.DONE


def _read_capable(source: Path) -> bytes:
    """A firmware file that can enforce secure boot, or a split VARS file, whose firmware is not known.

    Raises:
        PlatformMissing: secure boot is not built in.
    """
    from tdxstack.cli.evidence import read_bytes
    from tdxstack.measure.firmware import inspect

    firmware = read_bytes(str(source), "firmware", limit=256 << 20)
    facts = inspect(firmware)
    if facts.loaded_volumes and not facts.secure_boot:
        raise PlatformMissing(
            f"{source}: secure boot is not built into this firmware: it would enforce nothing",
            hint="take `secure-boot` (software platform) or `inteltdx` (hardware) as FIRMWARE",
        )
    return firmware


def _have_keys(args: argparse.Namespace, stack: ExitStack) -> bool:
    """Make keys if there are none, for a dry run in a place that goes away; whether they were made."""
    import datetime

    from tdxstack.firmware.keys import new_keys

    if (args.keys / "PK.pem").exists():
        return False
    if args.dry_run:
        output.say(f"keys would be made in {args.keys}")
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tdxstack-keys-"))
        args.keys = Path(folder) / "keys"
    else:
        output.step(f"making PK, KEK and db in {args.keys}")
    new_keys(args.keys, "tdxstack", now=datetime.datetime.now(datetime.UTC))
    return True


def _text(args: argparse.Namespace, body: dict[str, Any], effect_lines: tuple[str, ...]) -> str:
    lines = [*effect_lines, *(line for one in body["files"] for line in signing.file_lines(one))]
    if args.dry_run:
        return "\n".join([*lines, "nothing was written"])
    lines += [f"firmware: {body['firmware']}", f"image:    {body['image']}", ""]
    option = "--kernel" if body["files"][0]["place"] == "file" else "--image"
    lines.append(f"next: tdxctl td create NAME --firmware {body['firmware']} {option} {body['image']}")
    return "\n".join(lines)
