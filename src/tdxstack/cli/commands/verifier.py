"""``tdxctl verifier``: a service that judges quotes and signs what it found (EAR tokens)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tdxstack.cli import output
from tdxstack.errors import ExitCode, ProgramMissing, UsageError

if TYPE_CHECKING:
    from tdxstack.services.verifier.settings import Settings

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_init(verbs.add_parser("init", help="make a directory with settings and a key for tokens"))
    serve = verbs.add_parser("serve", help="serve until SIGTERM")
    serve.add_argument("-c", "--config", metavar="FILE", type=Path, help="settings (default: where init puts them)")
    serve.add_argument("--port", type=int, help="TCP port instead of the settings'; 0: any that is free")
    serve.set_defaults(run=run_serve)


def _add_init(init: argparse.ArgumentParser) -> None:
    init.add_argument(
        "directory", metavar="DIRECTORY", nargs="?", type=Path, help="default: verifier in tdxctl's home"
    )
    init.add_argument(
        "--pccs",
        metavar="URL",
        help="PCS or PCCS that collateral comes from (Intel's PCS), or platform:NAME for a software platform",
    )
    init.add_argument("--pccs-ca", metavar="FILE", type=Path, help="CA that signed its TLS certificate")
    init.add_argument(
        "--policy",
        metavar="[NAME=]FILE",
        action="append",
        default=[],
        help="appraisal policy (default: the strict one); with a name, one that requests may ask for; repeatable",
    )
    init.add_argument(
        "--trust-root",
        metavar="FILE|intel|platform:NAME",
        action="append",
        default=[],
        help="trusted root (intel); repeatable",
    )
    init.add_argument(
        "--database", metavar="URL", default="sqlite:///verifier.db", help="where used challenges are kept"
    )
    init.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1); another one wants TLS")
    init.add_argument("--port", type=int, default=8082, help="TCP port to listen on (8082)")
    init.add_argument("--tls", action="store_true", help="make a TLS certificate (always so beyond this machine)")
    init.add_argument(
        "--name", metavar="HOST", action="append", default=[], help="another name that it is for; repeatable"
    )
    init.add_argument("--dry-run", action="store_true", help="say what would be made")
    output.add_json(init)
    init.set_defaults(run=run_init)


def _directory() -> Path:
    from tdxstack.system import paths

    return paths.home() / "verifier"


def _needs_extra(missing: ImportError) -> ProgramMissing:
    return ProgramMissing(f"the Python package {missing.name}", package="tdxstack[services] with pip")


def run_init(args: argparse.Namespace) -> ExitCode:
    """``verifier init``."""
    try:
        from tdxstack.services.verifier.settings import Settings, initialise, planned_files
    except ImportError as missing:
        raise _needs_extra(missing) from None
    directory, settings = args.directory or _directory(), _planned(args, Settings)
    made = planned_files(directory, settings)
    if not args.dry_run:
        initialise(directory, settings, tuple(args.name))
    body = output.document("verifier-init", {key: str(path) for key, path in made.items()})
    output.emit(args, body, lambda: "\n".join(f"{key:<16} {path}" for key, path in made.items()))
    if not args.dry_run:
        output.say(f"next: tdxctl verifier serve -c {made['settings']}")
    return ExitCode.DONE


def _planned(args: argparse.Namespace, kind: type[Settings]) -> Settings:
    from tdxstack.pcs.client import INTEL_PCS

    named = [word.partition("=") for word in args.policy]
    unnamed = [name for name, equals, _ in named if not equals]
    if len(unnamed) > 1:
        raise UsageError("two policies without a name", hint="--policy NAME=FILE for those that requests ask for")
    tls = args.tls or bool(args.name) or args.host not in LOOPBACK
    return kind(
        pccs=args.pccs or INTEL_PCS,
        pccs_ca_file=str(args.pccs_ca.absolute()) if args.pccs_ca else "",
        policy=str(Path(unnamed[0]).absolute()) if unnamed else "",
        policies=[f"{name}={Path(file).absolute()}" for name, equals, file in named if equals],
        trust_roots=[_root(root) for root in args.trust_root] or ["intel"],
        database=args.database,
        host=args.host,
        port=args.port,
        tls_certificate="tls.crt" if tls else "",
        tls_key="tls.key" if tls else "",
    )


def _root(root: str) -> str:
    return root if root == "intel" or root.startswith("platform:") else str(Path(root).absolute())


def run_serve(args: argparse.Namespace) -> ExitCode:
    """``verifier serve``."""
    import dataclasses
    import logging

    try:
        from tdxstack.services.listen import listen
        from tdxstack.services.verifier.settings import SETTINGS_FILE, Settings, open_service
    except ImportError as missing:
        raise _needs_extra(missing) from None
    from tdxstack.pcs.cache import Cache
    from tdxstack.system import paths

    settings = Settings.load(args.config or _directory() / SETTINGS_FILE)
    if args.port is not None:
        settings = dataclasses.replace(settings, port=args.port)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    service = open_service(settings, Cache(paths.cache() / "collateral"))
    try:
        listen(service.app, settings.address, lambda url: output.say(f"verifier listening on {url}"))
    except KeyboardInterrupt:
        output.say("verifier has ended")
    finally:
        service.close()
    return ExitCode.DONE
