"""``tdxctl verifier``: a service that judges quotes and signs what it found (EAR tokens)."""

from __future__ import annotations

import argparse
from pathlib import Path

from tdxstack.cli import output
from tdxstack.errors import ExitCode, ProgramMissing


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    init = verbs.add_parser("init", help="make a directory with settings and a key for tokens")
    init.add_argument(
        "directory", metavar="DIRECTORY", nargs="?", type=Path, help="default: verifier in tdxctl's home"
    )
    init.add_argument("--pccs", metavar="URL", help="PCS or PCCS that collateral comes from (default: Intel's PCS)")
    init.add_argument("--pccs-ca", metavar="FILE", type=Path, help="CA that signed its TLS certificate")
    init.add_argument("--policy", metavar="FILE", type=Path, help="appraisal policy (default: the strict one)")
    init.add_argument(
        "--trust-root", metavar="FILE|intel", action="append", default=[], help="trusted root (intel); repeatable"
    )
    init.set_defaults(run=run_init)
    serve = verbs.add_parser("serve", help="serve until SIGTERM")
    serve.add_argument("-c", "--config", metavar="FILE", type=Path, help="settings (default: where init puts them)")
    serve.add_argument("--port", type=int, help="TCP port instead of the settings'; 0: any that is free")
    serve.set_defaults(run=run_serve)


def _directory() -> Path:
    from tdxstack.system import paths

    return paths.home() / "verifier"


def _needs_extra(missing: ImportError) -> ProgramMissing:
    return ProgramMissing(f"the Python package {missing.name}", package="tdxstack[services] with pip")


def run_init(args: argparse.Namespace) -> ExitCode:
    """``verifier init``."""
    try:
        from tdxstack.services.verifier.settings import Settings, initialise
    except ImportError as missing:
        raise _needs_extra(missing) from None
    from tdxstack.pcs.client import INTEL_PCS

    roots = [root if root == "intel" else str(Path(root).absolute()) for root in args.trust_root]
    settings = Settings(
        pccs=args.pccs or INTEL_PCS,
        pccs_ca_file=str(args.pccs_ca.absolute()) if args.pccs_ca else "",
        policy=str(args.policy.absolute()) if args.policy else "",
        trust_roots=roots or ["intel"],
    )
    path = initialise(args.directory or _directory(), settings)
    output.say(f"made {path}")
    output.say(f"  next: tdxctl verifier serve -c {path}")
    return ExitCode.DONE


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
