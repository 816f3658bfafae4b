"""``tdxctl pccs``: a caching service for collateral, with the REST interface of Intel's PCCS."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output
from tdxstack.cli.commands import pccs_register
from tdxstack.errors import ExitCode, ProgramMissing, UsageError

if TYPE_CHECKING:
    from tdxstack.services.pccs.settings import Settings

SETTINGS_FILE = "pccs.toml"


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_init(verbs.add_parser("init", help="make a directory with settings, tokens, a TLS key and the database"))
    serve = verbs.add_parser("serve", help="serve until SIGTERM")
    _add_config(serve)
    serve.add_argument(
        "--port", type=int, metavar="PORT", help="TCP port instead of the settings'; 0: any that is free"
    )
    serve.set_defaults(run=run_serve)
    bring = verbs.add_parser("import", help="take collateral into the database, without asking upstream")
    _add_config(bring)
    bring.add_argument(
        "file",
        metavar="FILE",
        nargs="+",
        help="collateral as one JSON document, a bundle, or what Intel's admin tool PUTs",
    )
    bring.add_argument("--dry-run", action="store_true", help="check the files, take nothing in")
    bring.set_defaults(run=run_import)
    status = verbs.add_parser("status", help="what is in the database, and until when it is valid")
    _add_config(status)
    output.add_json(status)
    status.set_defaults(run=run_status)
    pccs_register.add_verbs(verbs)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        help=f"settings (default: {SETTINGS_FILE} in the directory that init makes by default)",
    )


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIRECTORY", nargs="?", type=Path, help="default: pccs in tdxctl's home")
    parser.add_argument("--mode", choices=("LAZY", "REQ", "OFFLINE"), default="LAZY", help="when upstream is asked")
    parser.add_argument(
        "--upstream",
        metavar="URL",
        help="Intel's PCS (the default), a PCCS, or platform:NAME for a software platform of this machine",
    )
    parser.add_argument(
        "--database", metavar="URL", default="sqlite:///pccs.db", help="SQLAlchemy URL (sqlite:///pccs.db)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8081, help="TCP port to listen on (8081)")
    parser.add_argument(
        "--name",
        metavar="HOST",
        action="append",
        default=[],
        help="another name or address that the TLS certificate is for; repeatable",
    )
    parser.add_argument(
        "--trust-root",
        metavar="FILE",
        action="append",
        default=[],
        help="what collateral must be signed under, instead of Intel's root; repeatable",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be made")
    output.add_json(parser)
    parser.set_defaults(run=run_init)


def _default_directory() -> Path:
    from tdxstack.system import paths

    return paths.home() / "pccs"


def _needs_extra(missing: ImportError) -> ProgramMissing:
    return ProgramMissing(f"the Python package {missing.name}", package="tdxstack[services] with pip")


def _settings(args: argparse.Namespace) -> Settings:
    from tdxstack.services.pccs.settings import Settings

    return Settings.load(args.config or _default_directory() / SETTINGS_FILE)


def run_init(args: argparse.Namespace) -> ExitCode:
    """``pccs init``."""
    try:
        from tdxstack.services.pccs.setup import Plan, initialise, planned_files
    except ImportError as missing:
        raise _needs_extra(missing) from None
    directory = args.directory or _default_directory()
    plan = Plan(
        mode=args.mode,
        upstream=args.upstream,
        database=args.database,
        host=args.host,
        port=args.port,
        names=tuple(args.name),
        trust_roots=tuple(args.trust_root),
    )
    made = planned_files(directory) if args.dry_run else initialise(directory, plan)
    body = output.document("pccs-init", {key: str(path) for key, path in made.items()})
    output.emit(args, body, lambda: "\n".join(f"{key:<16} {path}" for key, path in made.items()))
    if not args.dry_run:
        output.say(f"next: tdxctl pccs serve -c {made['settings']}")
    return ExitCode.DONE


def run_serve(args: argparse.Namespace) -> ExitCode:
    """``pccs serve``."""
    import dataclasses
    import logging

    try:
        from tdxstack.services.pccs.server import serve
        from tdxstack.services.pccs.service import open_service
    except ImportError as missing:
        raise _needs_extra(missing) from None
    settings = _settings(args)
    if args.port is not None:
        settings = dataclasses.replace(settings, port=args.port)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    service = open_service(settings)
    upstream = service.source.name if service.source else "nothing"
    try:
        serve(service, lambda url: output.say(f"PCCS ({settings.mode}, upstream: {upstream}) listening on {url}"))
    except KeyboardInterrupt:
        output.say("PCCS has ended")
    finally:
        service.close()
    return ExitCode.DONE


def run_import(args: argparse.Namespace) -> ExitCode:
    """``pccs import``."""
    try:
        from tdxstack.services.pccs.bring import bring
        from tdxstack.services.pccs.service import open_service
    except ImportError as missing:
        raise _needs_extra(missing) from None
    service = open_service(_settings(args))
    try:
        for name in args.file:
            try:
                data = Path(name).read_bytes()
            except OSError as error:
                raise UsageError(f"{name}: {error.strerror}") from None
            documents, platforms = bring(service, data, name, dry_run=args.dry_run)
            output.say(f"{name}: {documents} documents, {platforms} platforms")
    finally:
        service.close()
    return ExitCode.DONE


def run_status(args: argparse.Namespace) -> ExitCode:
    """``pccs status``: exit status 5 if something that is kept has expired."""
    import time

    try:
        from tdxstack.services.pccs.service import database_state
    except ImportError as missing:
        raise _needs_extra(missing) from None
    settings = _settings(args)
    state = database_state(settings)
    now = time.time()
    expired = [one["kind"] for one in state["documents"] if one["earliest_expiry"] < now]
    body = output.document("pccs-status", {"mode": settings.mode, **state, "expired": expired})
    output.emit(args, body, lambda: _status_text(body))
    return ExitCode.COLLATERAL if expired else ExitCode.DONE


def _status_text(body: dict[str, Any]) -> str:
    import time

    lines = [f"mode       {body['mode']}", f"upstream   {body['upstream'] or '-'}"]
    for one in body["documents"]:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one["earliest_expiry"]))
        word = "expired" if one["kind"] in body["expired"] else "valid to"
        lines.append(f"{one['kind']:<18} {one['number']:>5}   {word} {moment}")
    lines += [f"{table:<18} {rows:>5}" for table, rows in body["rows"].items() if table != "documents"]
    return "\n".join(lines)
