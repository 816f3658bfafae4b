"""``tdxctl firmware``: known firmware; what a file holds; secure boot keys and variables in it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tdxstack.cli import output
from tdxstack.cli.commands.firmware_secure_boot import add_secure_boot
from tdxstack.errors import ExitCode, UsageError, WireError

if TYPE_CHECKING:
    from tdxstack.wire.efi.varstore import Variable

MAX_FIRMWARE = 256 << 20
SHOWN_SIGNATURES = 8
FILE_HELP = "single-file OVMF, split VARS, or a known firmware's name"
DBX_HELP = "forbidden: a certificate, an image, an image's SHA-256, or a dbx update file (repeatable)"
FETCH_HELP = "generic (default), secure-boot (software platform) or inteltdx (hardware, Microsoft's keys)"


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    fetch = _verb(verbs, "fetch", run_fetch, "have a known firmware here: downloaded once, checked by its SHA-256")
    fetch.add_argument("name", nargs="?", default="generic", metavar="NAME", help=FETCH_HELP)
    output.add_json(fetch)
    show = _verb(verbs, "show", run_show, "what a firmware file holds: version, sections, variables, keys")
    show.add_argument("firmware", metavar="FILE", help=FILE_HELP)
    output.add_json(show)
    keys = _verb(verbs, "keys", None, "secure boot keys")
    key_verbs = keys.add_subparsers(dest="key_verb", metavar="VERB", required=True)
    new = _verb(
        key_verbs, "new", run_keys_new, "make PK, KEK and db: self-signed certificates and private keys (0600)"
    )
    new.add_argument("folder", metavar="DIR", type=Path, help="directory to make them in")
    new.add_argument("--owner", default="tdxstack", metavar="NAME", help="name in the certificates' subjects")
    new.add_argument("--dry-run", action="store_true", help="say what would be made and make nothing")
    output.add_json(new)
    _add_enroll(verbs)
    _add_set_var(verbs)
    add_secure_boot(verbs, firmware_help=FILE_HELP, dbx_help=DBX_HELP)


def _verb(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text, formatter_class=output.help_formatter()
    )
    if run is not None:
        parser.set_defaults(run=run)
    return parser


def _add_enroll(verbs: Any) -> None:
    enroll = _verb(
        verbs, "enroll", run_enroll, "write secure boot keys into a firmware file; same inputs, same bytes"
    )
    enroll.add_argument("firmware", metavar="FILE", help=FILE_HELP)
    enroll.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="file to write")
    enroll.add_argument(
        "--keys", metavar="DIR", type=Path, help="PK.pem, KEK.pem and db.pem (tdxctl firmware keys new)"
    )
    enroll.add_argument("--pk", metavar="CERT", type=Path, help="platform key, PEM or DER")
    for option, text in (("--kek", "key exchange key"), ("--db", "certificate that may sign images")):
        enroll.add_argument(
            option, metavar="CERT", type=Path, action="append", default=[], help=f"{text}, PEM or DER"
        )
    enroll.add_argument("--dbx", metavar="WHAT", action="append", default=[], help=DBX_HELP)
    enroll.add_argument("--owner", metavar="GUID", type=UUID, help="owner of the entries (default: tdxstack's own)")
    _add_writing(enroll)


def _attributes(text: str) -> int:
    """A UINT32 of EFI_VARIABLE_* bits. For argparse."""
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text} is no number of 32 bits")
    return value


def _variable_name(text: str) -> str:
    """A name of characters that UCS-2 has. For argparse."""
    if not text or any(ord(character) > 0xFFFF or 0xD800 <= ord(character) < 0xE000 for character in text):
        raise argparse.ArgumentTypeError("a variable has a name, of characters up to U+FFFF")
    return text


def _add_set_var(verbs: Any) -> None:
    variable = _verb(verbs, "set-var", run_set_var, "set or delete a UEFI variable in a firmware file")
    variable.add_argument("firmware", metavar="FILE", help=FILE_HELP)
    variable.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="file to write")
    variable.add_argument("--name", required=True, type=_variable_name, metavar="NAME", help="the variable's name")
    variable.add_argument("--guid", required=True, metavar="GUID", type=UUID, help="the variable's vendor GUID")
    value = variable.add_mutually_exclusive_group(required=True)
    value.add_argument("--data", metavar="FILE", type=Path, help="file with the value")
    value.add_argument("--text", metavar="TEXT", help="the value as text (UTF-8, no NUL)")
    value.add_argument("--hex", metavar="HEX", help="the value in hexadecimal")
    value.add_argument("--delete", action="store_true", help="delete the variable")
    variable.add_argument(
        "--attributes", metavar="N", type=_attributes, default=7, help="EFI_VARIABLE_* (default: 7)"
    )
    _add_writing(variable)


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would change and write nothing")
    output.add_json(parser)


def _read(path: str) -> bytes:
    from tdxstack.cli.evidence import read_bytes
    from tdxstack.cli.firmware_names import firmware_path

    return read_bytes(str(firmware_path(path)), "firmware", limit=MAX_FIRMWARE)


def run_fetch(args: argparse.Namespace) -> ExitCode:
    """``firmware fetch``."""
    from tdxstack.image.firmware import SOURCES, named_firmware

    if args.name not in SOURCES:
        raise UsageError(f"no firmware {args.name!r}", hint=f"one of: {', '.join(SOURCES)}")
    file = named_firmware(args.name, output.step)
    body = output.document(
        "firmware-file",
        {
            "name": args.name,
            "path": str(file.path),
            "sha256": file.sha256,
            "package": file.package,
            "version": file.version,
            "tested": file.tested,
        },
    )
    output.emit(args, body, lambda: str(file.path))
    return ExitCode.DONE


def run_show(args: argparse.Namespace) -> ExitCode:
    """``firmware show``."""
    import hashlib

    from tdxstack.measure.firmware import inspect
    from tdxstack.measure.secure_boot import is_on

    firmware = _read(args.firmware)
    facts = inspect(firmware)
    variables, sections = _variables_of(firmware), _sections_of(firmware)
    body = output.document(
        "firmware",
        {
            "sha256": hashlib.sha256(firmware).hexdigest(),
            "vendor": facts.vendor,
            "version": facts.version,
            "release_date": facts.release_date,
            "acts_like": facts.release,
            "tdvf": bool(sections),
            "sections": sections,
            "measures_boot": facts.measures_td,
            "measures_into_tpm": facts.measures_tpm,
            "secure_boot_capable": facts.secure_boot,
            "secure_boot": is_on(firmware, variables, capable=facts.secure_boot),
            "needs_smm": facts.needs_smm,
            "variables": [_variable(one) for one in variables],
        },
    )
    output.emit(args, body, lambda: _shown(body))
    return ExitCode.DONE


def _variables_of(firmware: bytes) -> tuple[Variable, ...]:
    """The variables of a firmware file; none where it has no store.

    Raises:
        WireError: it has no volumes either.
    """
    from tdxstack.wire.efi.varstore import VariableStore
    from tdxstack.wire.efi.volume import volumes

    try:
        return VariableStore.from_bytes(firmware).variables
    except WireError as error:
        if not volumes(firmware):
            raise WireError("firmware volume", "header", 0, "neither volumes nor variables: no firmware") from error
        return ()


def _sections_of(firmware: bytes) -> list[str]:
    from tdxstack.wire.tdvf import TdvfMetadata

    try:
        return [section.name for section in TdvfMetadata.from_bytes(firmware).sections]
    except WireError:
        return []


def _variable(one: Variable) -> dict[str, Any]:
    members: dict[str, Any] = {
        "name": one.name,
        "guid": str(one.guid),
        "attributes": one.attributes,
        "size": len(one.value),
    }
    if one.name in ("PK", "KEK", "db", "dbx"):
        members["signatures"] = _signatures(one.value)
    return members


def _signatures(value: bytes) -> list[str]:
    from tdxstack.firmware.keys import subject
    from tdxstack.wire.efi.signatures import CERT_X509, read_lists

    try:
        lists = read_lists(value)
    except WireError as error:
        return [f"damaged: {error.reason}"]
    return [
        subject(one.data) if group.type == CERT_X509 else one.data.hex()
        for group in lists
        for one in group.signatures
    ]


def _shown(body: dict[str, Any]) -> str:
    yes = {True: "yes", False: "no"}
    lines = [
        f"sha256        {body['sha256']}",
        f"version       {body['version'] or '?'} of {body['release_date'] or '?'}, {body['vendor'] or '?'}",
        f"TDVF          {yes[body['tdvf']]} ({', '.join(body['sections']) or 'no TDX metadata'})",
        f"measures      into RTMRs: {yes[body['measures_boot']]}; into a TPM: {yes[body['measures_into_tpm']]}",
        f"secure boot   {_secure_boot_text(body)}",
    ]
    for variable in body["variables"]:
        lines.append(f"variable      {variable['name']} ({variable['guid']}), {variable['size']} bytes")
        signatures = variable.get("signatures", [])
        lines += [f"                {text}" for text in signatures[:SHOWN_SIGNATURES]]
        if len(signatures) > SHOWN_SIGNATURES:
            lines.append(f"                and {len(signatures) - SHOWN_SIGNATURES} more (--json has all)")
    return "\n".join(lines)


def _secure_boot_text(body: dict[str, Any]) -> str:
    if not body["secure_boot_capable"]:
        return "not built in"
    state = "on" if body["secure_boot"] else "built in, off (no keys enrolled)"
    return f"{state}; starts only with SMM and flash: not in a TD on hardware" if body["needs_smm"] else state


def run_keys_new(args: argparse.Namespace) -> ExitCode:
    """``firmware keys new``."""
    import datetime

    from tdxstack.firmware.keys import key_files, new_keys

    if args.dry_run:
        made = key_files(args.folder)
    else:
        made = new_keys(args.folder, args.owner, now=datetime.datetime.now(datetime.UTC))
    body = output.document(
        "firmware-keys",
        {"keys": [{"role": one.role, "certificate": str(one.certificate), "key": str(one.key)} for one in made]},
    )
    output.emit(args, body, lambda: "\n".join(f"{one.role:4} {one.certificate}  {one.key}" for one in made))
    return ExitCode.DONE


def run_enroll(args: argparse.Namespace) -> ExitCode:
    """``firmware enroll``."""
    from tdxstack.cli.enrolment import keys_from
    from tdxstack.firmware.enroll import enroll

    keys = keys_from(args)
    firmware = _read(args.firmware)
    return _write(args, firmware, enroll(firmware, keys))


def run_set_var(args: argparse.Namespace) -> ExitCode:
    """``firmware set-var``."""
    from tdxstack.firmware.enroll import with_variables, without_variable
    from tdxstack.wire.efi.varstore import Variable

    firmware = _read(args.firmware)
    if args.delete:
        return _write(args, firmware, without_variable(firmware, args.name, args.guid))
    value = _value(args)
    if not value:
        raise UsageError("a variable without a value is none", hint="to delete it: --delete")
    changed = with_variables(firmware, [Variable(args.name, args.guid, value, args.attributes)])
    return _write(args, firmware, changed)


def _value(args: argparse.Namespace) -> bytes:
    if args.text is not None:
        return str(args.text).encode()
    if args.hex is not None:
        try:
            return bytes.fromhex(args.hex)
        except ValueError:
            raise UsageError(f"--hex {args.hex}: not hexadecimal") from None
    try:
        return bytes(args.data.read_bytes())
    except OSError as error:
        raise UsageError(f"{args.data}: {error.strerror}") from None


def _write(args: argparse.Namespace, before: bytes, after: bytes) -> ExitCode:
    import hashlib

    from tdxstack.firmware.effect import effect
    from tdxstack.measure.firmware import inspect
    from tdxstack.system.files import write_atomic

    result = effect(before, after)
    if not args.dry_run:
        write_atomic(args.output, after)
    warnings = []
    if not inspect(after).secure_boot and args.verb == "enroll":
        warnings.append("secure boot is not built into this file: if it is no split VARS file, nothing is enforced")
    body = output.document(
        "firmware-change",
        {
            "file": None if args.dry_run else str(args.output),
            "sha256": hashlib.sha256(after).hexdigest(),
            "mrtd_unchanged": result.mrtd_before == result.mrtd_after,
            "rtmr0_events": [
                {"event": name, "before": old.hex() if old else None, "after": new.hex() if new else None}
                for name, old, new in result.changed
            ],
            "warnings": warnings,
        },
    )
    output.emit(args, body, lambda: "\n".join([*result.lines, *(f"warning: {text}" for text in warnings)]))
    return ExitCode.DONE
