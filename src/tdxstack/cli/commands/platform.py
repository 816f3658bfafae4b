"""``tdxctl platform``: the software TDX platforms of this machine, and its TDX hardware."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output
from tdxstack.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tdxstack.platform.software.platform import SoftwarePlatform
    from tdxstack.platform.software.tcb import PlatformTcb

DEFAULT_NAME = "software"


def add_parser(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_create(verbs.add_parser("create", help="make a software platform"))
    listing = verbs.add_parser("list", help="list the platforms of this machine")
    output.add_json(listing)
    listing.set_defaults(run=list_command)
    show = verbs.add_parser("show", help="tell what a platform is")
    _add_name(show)
    output.add_json(show)
    show.set_defaults(run=show_command)
    refresh = verbs.add_parser("refresh", help="make the platform's collateral anew")
    _add_name(refresh)
    refresh.add_argument("--dry-run", action="store_true", help="say what would be done")
    output.add_json(refresh)
    refresh.set_defaults(run=refresh_command)
    _add_update(verbs.add_parser("update", help="give a platform other SVNs, also while TDs run"))
    _add_export(verbs.add_parser("export", help="write what a verifier needs: collateral and root"))
    _add_delete(verbs.add_parser("delete", help="remove a software platform with its keys"))


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default=DEFAULT_NAME, metavar="NAME", help=f"default: {DEFAULT_NAME}")


def _add_svns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--module-version", metavar="X.Y.ZZ", help="version of the TDX module, e.g. 1.5.16")
    parser.add_argument("--module-svn", type=int, metavar="N", help="its security version, TEE_TCB_SVN[0]")
    parser.add_argument("--microcode-svn", type=int, metavar="N", help="TEE_TCB_SVN[2]")
    parser.add_argument("--pce-svn", type=int, metavar="N", help="PCESVN")
    parser.add_argument("--qe-svn", type=int, metavar="N", help="ISVSVN of the TD quoting enclave")
    parser.add_argument("--components", metavar="HEX", help="the 16 SGX TCB component SVNs, 32 hex digits")
    parser.add_argument("--quote-version", type=int, choices=(4, 5), help="what the platform's QGS makes (4)")


def _add_create(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.description = "Make a software platform; SVNs below the defaults make one that is OutOfDate."
    _add_svns(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be made")
    output.add_json(parser)
    parser.set_defaults(run=create_command)


def _add_update(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.description = "Running TDs keep TEE_TCB_SVN and show the module that runs now in TEE_TCB_SVN2."
    _add_svns(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would change")
    output.add_json(parser)
    parser.set_defaults(run=update_command)


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.add_argument("directory", type=Path, metavar="DIR", help="where collateral.json, root.pem, root.der go")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written")
    output.add_json(parser)
    parser.set_defaults(run=export_command)


def _add_delete(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the platform to remove")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed")
    parser.set_defaults(run=delete_command)


def create_command(args: argparse.Namespace) -> ExitCode:
    """Make a software platform."""
    from tdxstack.platform.base import check_name
    from tdxstack.platform.software.platform import SoftwarePlatform
    from tdxstack.platform.software.tcb import PlatformTcb

    tcb = _changed(args, PlatformTcb())
    check_name(args.name)
    if args.dry_run:
        output.say(f"would make the software platform {args.name}: TDX module {tcb.module}")
        return ExitCode.DONE
    platform = SoftwarePlatform.create(args.name, tcb)
    if args.quote_version:
        platform.set_quote_version(args.quote_version)
    return _shown(args, platform.describe())


def list_command(args: argparse.Namespace) -> ExitCode:
    """List the platforms, one line each."""
    from tdxstack.platform.registry import list_platforms

    found = [platform.describe() for platform in list_platforms()]
    document = output.document("platforms", {"platforms": found})
    output.emit(args, document, lambda: _table(found) if found else "no platforms; make one: tdxctl platform create")
    return ExitCode.DONE


def show_command(args: argparse.Namespace) -> ExitCode:
    """Tell one platform."""
    from tdxstack.platform.base import HARDWARE
    from tdxstack.platform.registry import open_platform
    from tdxstack.platform.software.platform import SoftwarePlatform

    platform = open_platform(HARDWARE) if args.name == HARDWARE else SoftwarePlatform.open(args.name)
    return _shown(args, platform.describe())


def refresh_command(args: argparse.Namespace) -> ExitCode:
    """Make the collateral anew."""
    platform = _open(args.name)
    if args.dry_run:
        end = platform.describe()["collateral_next_update"]
        output.say(f"would make new collateral for {args.name}; the present one holds until {end}")
        return ExitCode.DONE
    platform.refresh()
    return _shown(args, platform.describe())


def update_command(args: argparse.Namespace) -> ExitCode:
    """Give a platform other SVNs."""
    platform = _open(args.name)
    before = platform.tcb()
    after = _changed(args, before)
    if after == before and not args.quote_version:
        raise UsageError("nothing to change", hint="tdxctl platform update --help")
    if args.dry_run:
        output.say(f"would change {args.name} from {before.to_json()} to {after.to_json()}")
        return ExitCode.DONE
    platform.check_module(after.module)
    platform.update_tcb(after)
    if args.quote_version:
        platform.set_quote_version(args.quote_version)
    return _shown(args, platform.describe())


def export_command(args: argparse.Namespace) -> ExitCode:
    """Write collateral and root."""
    import json
    import ssl

    from tdxstack.system.files import write_atomic

    platform = _open(args.name)
    root = platform.trust_root()
    contents: dict[str, bytes | str] = {
        "collateral.json": json.dumps(dict(platform.collateral()), indent=1) + "\n",
        "root.pem": ssl.DER_cert_to_PEM_cert(root),
        "root.der": root,
    }
    written = {name.replace(".", "_"): str(args.directory / name) for name in contents}
    if args.dry_run:
        output.say("would write " + ", ".join(written.values()))
        return ExitCode.DONE
    args.directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomic(args.directory / name, content)
    document = output.document("platform-export", {"platform": args.name, "kind": "software", **written})
    output.emit(args, document, lambda: "\n".join(written.values()))
    return ExitCode.DONE


def delete_command(args: argparse.Namespace) -> ExitCode:
    """Remove a platform."""
    platform = _open(args.name)
    if args.dry_run:
        output.say(f"would remove {platform.directory} with its keys")
        return ExitCode.DONE
    if not output.confirmed(args, f"Remove the software platform {args.name} with its keys?"):
        output.say("nothing removed")
        return ExitCode.FAILED
    platform.delete()
    output.say(f"removed the software platform {args.name}")
    return ExitCode.DONE


def _open(name: str) -> SoftwarePlatform:
    from tdxstack.platform.base import HARDWARE
    from tdxstack.platform.software.platform import SoftwarePlatform

    if name == HARDWARE:
        raise UsageError("that is this machine's hardware; the command is for software platforms")
    return SoftwarePlatform.open(name)


def _changed(args: argparse.Namespace, tcb: PlatformTcb) -> PlatformTcb:
    """The SVNs with what the options change."""
    import dataclasses

    from tdxstack.platform.software.tcb import PlatformTcb

    module = tcb.module
    if args.module_version is not None:
        parts = args.module_version.split(".")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise UsageError(f"{args.module_version!r} is not a module version", hint="for example 1.5.16")
        major, minor, update = map(int, parts)
        module = dataclasses.replace(module, major=major, minor=minor, update=update)
    if args.module_svn is not None:
        module = dataclasses.replace(module, svn=args.module_svn)
    changes: dict[str, Any] = {"module": dataclasses.asdict(module)}
    for option, name in (("microcode_svn", "microcode_svn"), ("pce_svn", "pcesvn"), ("qe_svn", "qe_svn")):
        if getattr(args, option) is not None:
            changes[name] = getattr(args, option)
    if args.components is not None:
        try:
            changes["components"] = list(bytes.fromhex(args.components))
        except ValueError:
            raise UsageError(f"--components {args.components!r} is not hex") from None
    return PlatformTcb.from_json(tcb.to_json() | changes)


def _shown(args: argparse.Namespace, facts: dict[str, Any]) -> ExitCode:
    width = max(map(len, facts))
    output.emit(args, output.document("platform", facts), lambda: "\n".join(_lines(facts, width)))
    return ExitCode.DONE


def _lines(facts: dict[str, Any], width: int) -> list[str]:
    lines = []
    for name, value in facts.items():
        text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
        lines.append(f"{name.replace('_', ' '):<{width}}  {text}")
    return lines


def _table(found: list[dict[str, Any]]) -> str:
    rows = [("NAME", "KIND", "TDX MODULE", "COLLATERAL UNTIL", "TDS")]
    for facts in found:
        module, until = facts.get("tdx_module", "-"), facts.get("collateral_next_update", "-")
        rows.append((facts["name"], facts["kind"], module, until, str(len(facts.get("tds", [])))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
