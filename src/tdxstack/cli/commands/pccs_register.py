"""Verbs of ``tdxctl pccs`` on registering platforms: register, registration."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output
from tdxstack.errors import ExitCode, PlatformMissing, UsageError

if TYPE_CHECKING:
    from tdxstack.pcs.registration import PlatformId
    from tdxstack.wire.sgx_registration import ServerRequest

EFIVARS = "/sys/firmware/efi/efivars"
LOCAL = "https://127.0.0.1:8081"


def add_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verbs below ``tdxctl pccs``."""
    register = verbs.add_parser(
        "register", help="register platforms with a PCCS (indirectly), or this one with Intel (directly)"
    )
    what = register.add_mutually_exclusive_group(required=True)
    what.add_argument("--csv", metavar="FILE", type=Path, help="what PCKIDRetrievalTool has written")
    what.add_argument(
        "--manifest", metavar="QE_ID", help="this platform by the manifest its BIOS left; QE_ID is the platform's id"
    )
    what.add_argument("--direct", action="store_true", help="send what this platform's BIOS left to Intel")
    register.add_argument("--pccs", metavar="URL", help=f"the PCCS ({LOCAL})", default=LOCAL)
    register.add_argument("--token-file", metavar="FILE", type=Path, help="file with the PCCS's user token")
    register.add_argument("--tls-ca", metavar="FILE", type=Path, help="CA that signed the server's TLS certificate")
    register.add_argument("--api-key-file", metavar="FILE", type=Path, help="subscription key, to add a package")
    register.add_argument("--service", metavar="URL", help="registration service instead of Intel's, with --direct")
    register.add_argument("--set", dest="evaluation", default="standard", help="standard, early or all (standard)")
    _add_efivars(register)
    register.add_argument("--dry-run", action="store_true", help="show what would be sent")
    register.set_defaults(run=run_register)
    state = verbs.add_parser("registration", help="whether this platform is registered, by its UEFI variables")
    _add_efivars(state)
    output.add_json(state)
    state.set_defaults(run=run_registration)


def _add_efivars(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", metavar="DIR", type=Path, help="a captured tree of files instead of this machine's")


def run_register(args: argparse.Namespace) -> ExitCode:
    """``pccs register``."""
    if args.direct:
        return _direct(args)
    from tdxstack.pcs.client import Dialect, PcsClient
    from tdxstack.pcs.transport import TransportOptions

    platforms = _platforms(args)
    if args.dry_run:
        for one in platforms:
            output.say(f"POST {args.pccs}/sgx/certification/v4/platforms {one.to_body()}")
        return ExitCode.DONE
    if args.token_file is None:
        raise UsageError("a PCCS takes registrations with its user token", hint="--token-file FILE")
    client = PcsClient(
        args.pccs,
        dialect=Dialect.PCCS,
        user_token=_read(args.token_file).decode("utf-8-sig", "replace").strip(),
        options=TransportOptions(ca_file=args.tls_ca),
    )
    try:
        for one in platforms:
            client.register(one.to_body(), evaluation=args.evaluation)
            output.say(f"registered {one.qe_id} with {client.name}")
    finally:
        client.close()
    return ExitCode.DONE


def _platforms(args: argparse.Namespace) -> list[PlatformId]:
    from tdxstack.pcs.registration import PlatformId, read_csv
    from tdxstack.wire.sgx_registration import RequestType

    if args.csv is not None:
        return read_csv(_read(args.csv).decode("utf-8-sig", "replace"))
    request = _request(args.root)
    if request.type is not RequestType.PLATFORM:
        raise UsageError("the BIOS asks for a package to be added, which only Intel can do", hint="--direct")
    qe_id = args.manifest.upper()
    if len(qe_id) != 32 or any(digit not in "0123456789ABCDEF" for digit in qe_id):
        raise UsageError(f"{args.manifest!r} is not 32 hexadecimal digits", hint="PCKIDRetrievalTool tells the QE_ID")
    return [PlatformId("", "0000", "", "", qe_id, request.data.hex().upper())]


def _direct(args: argparse.Namespace) -> ExitCode:
    from tdxstack.pcs.client import INTEL_PCS
    from tdxstack.pcs.registration import RegistrationService
    from tdxstack.pcs.transport import TransportOptions

    request = _request(args.root)
    key = _read(args.api_key_file).decode("utf-8-sig", "replace").strip() if args.api_key_file else None
    service = args.service or INTEL_PCS
    if args.dry_run:
        output.say(f"{request.type.name}: {len(request.data)} bytes to {service}")
        return ExitCode.DONE
    client = RegistrationService(service, api_key=key, options=TransportOptions(ca_file=args.tls_ca))
    try:
        answer = client.send(request)
    finally:
        client.close()
    text = (
        answer.decode("ascii", "replace") if len(answer) == 32 else f"{len(answer)} bytes of membership certificates"
    )
    output.say(f"registered: {text}")
    output.say("  next: reboot, so that the BIOS takes notice (SgxRegistrationStatus)")
    return ExitCode.DONE


def run_registration(args: argparse.Namespace) -> ExitCode:
    """``pccs registration``: exit status 4 where there are no such variables, 1 if the platform is not registered."""
    from tdxstack.wire.sgx_registration import STATUS, RegistrationStatus

    status = RegistrationStatus.from_bytes(_variable(args.root, STATUS))
    try:
        pending = _request(args.root)
    except PlatformMissing:
        pending = None
    facts: dict[str, Any] = {
        "registered": status.complete,
        "status": int(status.flags),
        "error_code": status.error_code,
        "pending": pending.type.name.lower() if pending else None,
    }
    missing = f"not registered (status {int(status.flags):#x}, error {status.error_code:#x})"
    words = "registered" if status.complete else missing
    waiting = f"; the BIOS asks for: {facts['pending'].replace('_', ' ')}" if pending else ""
    output.emit(args, output.document("pccs-registration", facts), lambda: words + waiting)
    return ExitCode.DONE if status.complete else ExitCode.FAILED


def _request(root: Path | None) -> ServerRequest:
    from tdxstack.wire.sgx_registration import SERVER_REQUEST, ServerRequest

    return ServerRequest.from_bytes(_variable(root, SERVER_REQUEST))


def _variable(root: Path | None, name: str) -> bytes:
    from tdxstack.platform.linux_host_files import HostFiles, HostReadError

    try:
        return HostFiles(root or Path("/")).read(f"{EFIVARS}/{name}")
    except HostReadError as error:
        raise PlatformMissing(
            f"no UEFI variable {name.split('-', maxsplit=1)[0]}: {error}",
            hint="enable 'SGX auto MP registration' in the BIOS of a multi-package platform, and be root",
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
