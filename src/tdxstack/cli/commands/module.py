"""``tdxctl module``: the TDX module that runs, others that could, and putting one in its place."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output
from tdxstack.errors import EvidenceRejected, ExitCode, PlatformMissing, StateError, UsageError

if TYPE_CHECKING:
    from tdxstack.platform.module_files import ModuleFile
    from tdxstack.platform.module_rules import Present, Version


def add_parser(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text, add in (
        ("show", "version and features of the running module", _add_show),
        ("check", "verify modules and tell which may take the running one's place", _add_check),
        ("stage", "put a module on the EFI system partition, for the next boot", _add_stage),
        ("update", "replace the running module while TDs run", _add_update),
        ("rollback", "bring back the files that stage or update replaced", _add_rollback),
    ):
        add(verbs.add_parser(name, help=text, description=text))


def _common(parser: argparse.ArgumentParser, *, changes: bool) -> None:
    parser.add_argument("--root", type=Path, default=None, metavar="DIR", help="a tree instead of this machine")
    if changes:
        parser.add_argument("--dry-run", action="store_true", help="show files and commands, change nothing")
        parser.add_argument("--yes", action="store_true", help="do not ask")


def _add_show(parser: argparse.ArgumentParser) -> None:
    _common(parser, changes=False)
    parser.add_argument("--platform", metavar="NAME", help="a software platform instead of this machine")
    output.add_json(parser)
    parser.set_defaults(run=show)


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "exit status: 0 a module that verifies, and may be loaded now if TDX runs; 3 it may not"
    _common(parser, changes=False)
    parser.add_argument("source", type=Path, help="blob, module with its .sigstruct, or directory of releases")
    parser.add_argument("--release", metavar="X.Y.Z", help="what it is, where its name does not tell")
    output.add_json(parser)
    parser.set_defaults(run=check)


def _add_stage(parser: argparse.ArgumentParser) -> None:
    _common(parser, changes=True)
    parser.add_argument("source", type=Path, help="blob, or module with its .sigstruct beside it")
    parser.add_argument("--seamldr", type=Path, metavar="FILE", help="also this TDX loader")
    parser.add_argument("--esp", type=Path, metavar="DIR", help="where the EFI system partition is mounted")
    parser.add_argument(
        "--dangerous-debug", action="store_true", help="allow a debug module: its TDs are not protected"
    )
    parser.set_defaults(run=stage)


def _add_update(parser: argparse.ArgumentParser) -> None:
    _common(parser, changes=True)
    parser.add_argument(
        "source", type=Path, nargs="?", help="blob, or directory of releases: then the newest that fits"
    )
    parser.add_argument(
        "--release", metavar="X.Y.Z", help="which release; for a software platform, the version to show"
    )
    parser.add_argument("--svn", type=int, metavar="N", help="software platform: the new module's SVN")
    parser.add_argument("--platform", metavar="NAME", help="a software platform instead of this machine")
    parser.set_defaults(run=update)


def _add_rollback(parser: argparse.ArgumentParser) -> None:
    _common(parser, changes=True)
    parser.add_argument("--esp", type=Path, metavar="DIR", help="where the EFI system partition is mounted")
    parser.set_defaults(run=rollback)


def _root(args: argparse.Namespace) -> Path:
    return args.root if args.root is not None else Path("/")


def _present(args: argparse.Namespace) -> Present | None:
    from tdxstack.platform.linux_open_host import open_host
    from tdxstack.preflight import running_module
    from tdxstack.preflight.host import Host

    return running_module.present(Host(open_host(args.root)))


def show(args: argparse.Namespace) -> ExitCode:
    """Tell the running module's version, loader and features."""
    from tdxstack.preflight import running_module

    if args.platform:
        facts = _software(args.platform).describe()
        body: dict[str, Any] = {"platform": "software", "module": facts.get("tdx_module"), "facts": facts}
    else:
        from tdxstack.platform.linux_open_host import open_host
        from tdxstack.preflight.host import Host

        body = running_module.describe(Host(open_host(args.root)))
        if body["module"] is None:
            raise PlatformMissing("no TDX module runs here", hint="tdxctl host check")
    output.emit(args, output.document("module", body), lambda: running_module.text(body))
    return ExitCode.DONE


def _software(name: str) -> Any:
    from tdxstack.platform.software.platform import SoftwarePlatform

    return SoftwarePlatform.open(name)


def _judge(found: ModuleFile, present: Present | None) -> tuple[list[str], list[str]]:
    """(faults of the module itself, reasons against loading it now)."""
    from tdxstack.measure.seam import check_module
    from tdxstack.platform.module_rules import reasons_against

    checks = check_module(found.blob.sigstruct, found.blob.module)
    faults = [f"{one.name}: {one.text}" for one in checks if not one.good]
    if present is None:
        return faults, []
    if found.release is None:
        return faults, ["the mapping file does not name it: no rule tells whether TDs survive"]
    return faults, reasons_against(present, found.release, found.blob.sigstruct.cpus)


def check(args: argparse.Namespace) -> ExitCode:
    """Verify one module or all of a directory."""
    from tdxstack.platform.module_files import find_modules, open_module
    from tdxstack.platform.module_rules import parse_version

    release = parse_version(args.release) if args.release else None
    found = find_modules(args.source) if args.source.is_dir() else [open_module(args.source, release)]
    present = _present(args)
    entries = [_entry(one, *_judge(one, present)) for one in found]
    running = _version_text(present.version) if present else None
    document = output.document("module-check", {"running": running, "modules": entries})
    output.emit(args, document, lambda: _check_text(running, entries))
    usable = [one for one in entries if not one["faults"] and (present is None or not one["reasons"])]
    return ExitCode.DONE if usable else ExitCode.REJECTED


def _version_text(version: Version) -> str:
    from tdxstack.platform.module_rules import version_text

    return version_text(version)


def _entry(found: ModuleFile, faults: list[str], reasons: list[str]) -> dict[str, Any]:
    sigstruct = found.blob.sigstruct
    return {
        "file": str(found.path),
        "version": _version_text(found.version) if found.version else None,
        "date": sigstruct.date_text,
        "svn": sigstruct.seam_svn & 0xFF,
        "mr_seam": sigstruct.seam_hash.hex(),
        "cpus": [f"{cpu:#x}" for cpu in sigstruct.cpus],
        "debug": sigstruct.debug,
        "faults": faults,
        "reasons": reasons,
    }


def _check_text(running: str | None, entries: list[dict[str, Any]]) -> str:
    lines = [f"running: {running or 'no TDX module'}"]
    for one in entries:
        verdict = "refused" if one["faults"] else "not now" if one["reasons"] else "good"
        head = (
            f"{verdict:<8} {one['version'] or '?':<8} {one['date']}  SVN {one['svn']}  MRSEAM {one['mr_seam'][:16]}.."
        )
        lines.append(f"{head}  {one['file']}")
        lines.extend(f"         {reason}" for reason in [*one["faults"], *one["reasons"]])
    return "\n".join(lines)


def _require_sound(found: ModuleFile, *, debug_allowed: bool = False) -> None:
    faults = [fault for fault in _judge(found, None)[0] if not (debug_allowed and fault.startswith("production"))]
    if faults:
        raise EvidenceRejected("module", f"{found.path}: {'; '.join(faults)}", hint="fetch the vendor's release anew")


def stage(args: argparse.Namespace) -> ExitCode:
    """Put a module on the ESP; previous files are kept."""
    from tdxstack.platform import linux_module
    from tdxstack.platform.module_files import open_module

    found = open_module(args.source)
    _require_sound(found, debug_allowed=args.dangerous_debug)
    directory = linux_module.find_esp(_root(args), args.esp) / linux_module.ESP_DIRECTORY
    files = {linux_module.MODULE: found.blob.module, linux_module.SIGSTRUCT: found.blob.sigstruct.raw}
    if args.seamldr:
        files[linux_module.LOADER] = args.seamldr.read_bytes()
    changes = linux_module.plan(directory, files)
    if not _agreed(args, [change.text() for change in changes]):
        return ExitCode.DONE
    linux_module.apply(directory, changes)
    output.say("staged; the BIOS loads it at the next boot if it searches the ESP")
    output.say("  next: reboot, then tdxctl module show; to go back: tdxctl module rollback")
    return ExitCode.DONE


def _agreed(args: argparse.Namespace, lines: list[str]) -> bool:
    """Show what will be done; whether to do it. Without a terminal and without --yes it is not done."""
    import sys

    for line in lines:
        output.say(f"  {line}")
    if args.dry_run:
        output.say("dry run: nothing was changed")
        return False
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("this changes the machine", hint="look at --dry-run, then give --yes")
    output.say("go on? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def update(args: argparse.Namespace) -> ExitCode:
    """Replace the running module, TDs running on."""
    if args.platform:
        return _update_software(args)
    from tdxstack.platform import linux_module

    if args.source is None:
        raise UsageError("which module? name a blob or a directory of releases")
    present = _present(args)
    if present is None:
        raise PlatformMissing("no TDX module runs here", hint="tdxctl host check")
    found = _chosen(args, present)
    _require_sound(found)
    if reasons := _judge(found, present)[1]:
        raise StateError("TDX module", "update", "; ".join(reasons), "a module that preserves TDs")
    way = linux_module.Upload.find(_root(args)) or linux_module.Reload.find(_root(args))
    if way is None:
        raise PlatformMissing("this kernel does not replace the TDX module at run time", hint="tdxctl module stage")
    lines = [f"module {_version_text(present.version)} -> {found.path}", *way.steps()]
    if not _agreed(args, lines):
        return ExitCode.DONE
    way.replace(found.blob)
    after = _present(args)
    output.say(f"the module is now {_version_text(after.version) if after else 'unknown: see dmesg'}")
    output.say("  TDs run on; their TEE_TCB_SVN stays, TEE_TCB_SVN2 shows the new module")
    return ExitCode.DONE


def _chosen(args: argparse.Namespace, present: Present) -> ModuleFile:
    from tdxstack.platform.module_files import find_modules, open_module
    from tdxstack.platform.module_rules import parse_version

    wanted = parse_version(args.release) if args.release else None
    if not args.source.is_dir():
        return open_module(args.source, wanted)
    found = find_modules(args.source)
    if wanted is not None:
        found = [one for one in found if one.version == wanted]
    fitting = [one for one in found if not any(_judge(one, present))]
    if not fitting and len(found) == 1:
        return found[0]
    if not fitting:
        hint = f"tdxctl module check {args.source}"
        raise StateError("TDX module", "update", "no release fits", "a module that preserves TDs", hint=hint)
    return fitting[-1]


def _update_software(args: argparse.Namespace) -> ExitCode:
    import dataclasses

    from tdxstack.platform.module_rules import Present, Release, parse_version, reasons_against

    platform = _software(args.platform)
    module = platform.tcb().module
    running = (module.major, module.minor, module.update)
    version = parse_version(args.release) if args.release else running
    svn = module.svn if args.svn is None else args.svn
    line = (version[0], version[1], 0)
    if reasons := reasons_against(Present(running), Release(version, line, (), 0)):
        raise StateError(f"platform {args.platform}", "update", "; ".join(reasons), "a module that preserves TDs")
    new = dataclasses.replace(module, major=version[0], minor=version[1], update=version[2], svn=svn)
    platform.check_module(new)
    if not _agreed(args, [f"platform {args.platform}: module {module} SVN {module.svn} -> {new} SVN {new.svn}"]):
        return ExitCode.DONE
    platform.update_module(new)
    output.say(f"the software platform's module is now {new}, SVN {new.svn}; TDs run on")
    return ExitCode.DONE


def rollback(args: argparse.Namespace) -> ExitCode:
    """Bring back the files of before."""
    from tdxstack.platform import linux_module

    root = _root(args)
    directory = root / linux_module.FIRMWARE
    if not (directory / linux_module.RECORD).exists():
        directory = linux_module.find_esp(root, args.esp) / linux_module.ESP_DIRECTORY
    changes = linux_module.rollback_plan(directory)
    if not _agreed(args, [change.text() for change in changes]):
        return ExitCode.DONE
    linux_module.roll_back(directory, changes)
    output.say("the files of before are back; the running module changes with the next boot")
    return ExitCode.DONE
