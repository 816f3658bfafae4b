"""``tdxctl build package`` and ``build list``: the stack's packages from their sources."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output
from tdxstack.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tdxstack.deploy.packaging.batch import Outcome
    from tdxstack.deploy.packaging.build import Settings
    from tdxstack.deploy.packaging.job import Job

#: What the paper's stack is called on the command line.
WORLDS = {"tdx15": "tdx15", "1.5": "tdx15", "upstream": "upstream"}
STAGES = ("sources", "root", "unpack", "configure", "build", "package")


def add_package(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "exit status: 0 built or there already, 1 a build failed, 3 a source is not what is pinned, 5 network"
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="components (tdxctl build list), or all")
    parser.add_argument("--world", choices=WORLDS, default="upstream", help="which stack (default: upstream)")
    parser.add_argument(
        "--format", action="append", choices=("deb", "rpm"), default=[], help="form of the package (repeatable)"
    )
    parser.add_argument("--target", metavar="NAME", help="distribution to build for (tdxctl build list)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="gets host_repo, guest_repo, logs (default: TDXSTACK_HOME/packages)",
    )
    parser.add_argument(
        "--engine", choices=("chroot", "docker", "podman"), default="chroot", help="what makes the clean root"
    )
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="compilers at a time (default: processors)")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="last stage to do (default: package)")
    parser.add_argument(
        "--pin", action="append", default=[], metavar="SOURCE=SHA256", help="digest of a source (repeatable)"
    )
    parser.add_argument(
        "--sign", metavar="KEY", help="OpenPGP key for the repositories (default: this machine's own)"
    )
    parser.add_argument("--gnupg", type=Path, metavar="DIR", help="GnuPG's home with that key")
    parser.add_argument("--unsigned", action="store_true", help="do not sign the repositories")
    parser.add_argument("--force", action="store_true", help="build even what is there")
    parser.add_argument("--keep", action="store_true", help="leave the build's directory, for a look")
    parser.add_argument("--dry-run", action="store_true", help="check the recipes and show what would be done")
    output.add_json(parser)
    parser.set_defaults(run=package)


def add_list(parser: argparse.ArgumentParser) -> None:
    output.add_json(parser)
    parser.set_defaults(run=listing)


def _jobs(args: argparse.Namespace) -> list[Job]:
    from tdxstack.deploy.packaging import batch
    from tdxstack.deploy.packaging.recipe import Format, World
    from tdxstack.deploy.packaging.sources import pinned

    pins = {}
    for word in args.pin:
        name, separator, digest = word.partition("=")
        if not separator:
            raise UsageError(f"--pin {word}: SOURCE=SHA256 is wanted")
        pins[name] = pinned(digest)
    formats = [Format(name) for name in args.format]
    return batch.jobs(args.names, World(WORLDS[args.world]), args.target, formats, pins)


def _settings(args: argparse.Namespace) -> Settings:
    from tdxstack.deploy.packaging.build import Settings
    from tdxstack.system import paths

    if args.jobs < 0:
        raise UsageError("--jobs must not be negative")
    default = WORLDS[args.world] if args.target is None else f"{WORLDS[args.world]}-{args.target}"
    place = args.output or paths.home() / "packages" / default
    jobs = args.jobs or os.cpu_count() or 1
    return Settings(place.absolute(), args.engine, jobs, args.until, force=args.force, keep=args.keep)


def package(args: argparse.Namespace) -> ExitCode:
    """Build packages, and index their repositories."""
    from tdxstack.deploy.packaging import batch

    jobs, settings = _jobs(args), _settings(args)
    if args.unsigned and (args.sign or args.gnupg):
        raise UsageError("--unsigned and --sign exclude each other")
    if args.dry_run:
        return _plan(args, jobs, settings)
    sign = "" if args.unsigned else args.sign
    outcome = batch.carry_out(jobs, settings, sign, args.gnupg, lambda line: output.say(f"==> {line}"))
    if len(jobs) == 1 and outcome.failed:
        raise outcome.failed[0][1]
    body = {
        "output": str(settings.output),
        "packages": outcome.built,
        "failed": [{"name": name, "reason": fault.message, "hint": fault.hint} for name, fault in outcome.failed],
        "indexes": outcome.indexes,
    }
    output.emit(args, output.document("package-builds", body), lambda: _summary(settings.output, outcome))
    if outcome.built and not outcome.failed and outcome.indexes:
        output.say(f"  next: tdxctl host install --repository {settings.output / 'host_repo'}")
    return outcome.code


def _summary(place: Path, outcome: Outcome) -> str:
    lines = [str(place / file["path"]) for built in outcome.built for file in built["files"]]
    for name, fault in outcome.failed:
        lines.append(f"FAILED {name}: {fault.message}" + (f"\n  next: {fault.hint}" if fault.hint else ""))
    return "\n".join(lines)


def _plan(args: argparse.Namespace, jobs: Sequence[Job], settings: Settings) -> ExitCode:
    """Show what would be done. Recipes that are not well-formed have been refused by now."""
    from tdxstack.deploy.packaging.build import manifest_path, present
    from tdxstack.deploy.packaging.job import described
    from tdxstack.deploy.packaging.roots import open_root

    plans: list[dict[str, Any]] = []
    for job in jobs:
        root = open_root(job, settings.output / "work", settings.engine)
        commands = [*root.making(), *job.package_commands()]
        done = present(job, settings) is not None and not settings.force
        manifest = str(manifest_path(job, settings))
        plans.append({**described(job), "commands": commands, "manifest": manifest, "done": done})
    output.emit(
        args,
        output.document("package-plan", {"output": str(settings.output), "packages": plans}),
        lambda: _text(plans),
    )
    return ExitCode.DONE


def _text(plans: Sequence[dict[str, Any]]) -> str:
    lines: list[str] = []
    for plan in plans:
        state = ", there already" if plan["done"] else ""
        lines.append(f"{plan['component']} ({plan['world']}): {plan['package']} {plan['version']}{state}")
        lines.append(f"  for {plan['target']} as {', '.join(plan['formats'])}, into {plan['repository']}")
        for source in plan["sources"]:
            lines.append(f"  source   {source.get('git') or source['urls'][0]}\n           {_pin(source)}")
        lines += [f"  patches  {one['series'] or one['glob']} of {one['source']}" for one in plan["patches"]]
        lines += [f"  config   {name}" for name in plan["config"]]
        lines += [f"  run      {' '.join(command)}" for command in plan["commands"]]
        lines += [f"  script   {name}" for name in plan["scripts"]]
        lines.append(f"  write    {plan['manifest']}")
    return "\n".join(lines)


def _pin(source: dict[str, Any]) -> str:
    pin: str = source.get("commit") or source["sha256"]
    return pin or f"NOT PINNED: --pin {source['name']}=SHA256, from {source['sums']}"


def listing(args: argparse.Namespace) -> ExitCode:
    """List components and targets."""
    from tdxstack.deploy.packaging.job import targets
    from tdxstack.deploy.packaging.recipe import components, load, worlds

    recipes = [load(name, world) for name in components() for world in worlds(name)]
    body = {
        "packages": [
            {
                "component": one.component,
                "world": one.world,
                "package": one.package,
                "version": f"{one.version}-{one.release}",
                "side": one.side,
                "formats": list(one.formats),
                "portable": one.portable,
            }
            for one in recipes
        ],
        "targets": [
            {"name": one.name, "format": one.format, "distribution": one.distribution, "release": one.release}
            for one in targets().values()
        ],
    }
    output.emit(args, output.document("package-recipes", body), lambda: _listing_text(body))
    return ExitCode.DONE


def _listing_text(body: dict[str, Any]) -> str:
    lines = [
        f"{one['component']:<13} {one['world']:<9} {one['package']:<26} {one['version']:<20} {one['side']}_repo"
        for one in body["packages"]
    ]
    return "\n".join([*lines, "", "targets: " + ", ".join(one["name"] for one in body["targets"])])
