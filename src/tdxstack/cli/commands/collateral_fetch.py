"""Verbs of ``tdxctl collateral`` that fetch and keep it: fetch, cache, archive, bundle."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import evidence, output
from tdxstack.cli.collateral_places import archive, cache
from tdxstack.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tdxstack.dcap import Collateral
    from tdxstack.pcs.collateral import Wanted
    from tdxstack.pcs.source import Source


def add_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verbs below ``tdxctl collateral``."""
    fetch = verbs.add_parser("fetch", help="fetch the collateral of a platform or quote from a PCS or PCCS")
    _add_wanted(fetch)
    _add_source(fetch)
    fetch.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to put it (default: stdout)")
    fetch.add_argument("--offline", action="store_true", help="take it from the cache, never from the network")
    fetch.add_argument("--no-cache", action="store_true", help="neither read nor write the cache and the archive")
    fetch.set_defaults(run=run_fetch)
    cache = verbs.add_parser("cache", help="what is in the cache, and until when it is valid")
    cache.add_argument("--clear", choices=("expired", "all"), help="remove what has expired, or everything")
    output.add_json(cache)
    cache.set_defaults(run=run_cache)
    _add_archive(verbs.add_parser("archive", help="collateral by issue date: list, add, find"))
    bundle = verbs.add_parser("bundle", help="put collateral for several platforms into one file, for offline use")
    bundle.add_argument("file", metavar="FILE", nargs="*", type=Path, help="collateral or bundles to take in")
    bundle.add_argument(
        "--fmspc", metavar="FMSPC", action="append", default=[], help="fetch for this one; repeatable"
    )
    bundle.add_argument("--set", dest="evaluation", action="append", default=[], help="evaluation set; repeatable")
    bundle.add_argument("--tee", choices=("tdx", "sgx"), default="tdx", help="what the quotes are of (tdx)")
    bundle.add_argument("--ca", choices=("platform", "processor"), default="platform", help="issuer of the PCK")
    bundle.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to put it (default: stdout)")
    _add_source(bundle)
    bundle.set_defaults(run=run_bundle)


def _add_wanted(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--fmspc", metavar="FMSPC", help="the platform's FMSPC, 12 hexadecimal digits")
    what.add_argument("--quote", metavar="FILE", help="a quote: FMSPC, TEE and CA are read from it")
    parser.add_argument("--tee", choices=("tdx", "sgx"), default="tdx", help="what the quotes are of (tdx)")
    parser.add_argument("--ca", choices=("platform", "processor"), default="platform", help="issuer of the PCK")
    parser.add_argument(
        "--set", dest="evaluation", default="standard", metavar="SET", help="standard, early, or an evaluation number"
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pccs", metavar="URL", help="PCS or PCCS to ask (default: Intel's PCS)")
    parser.add_argument("--tls-ca", metavar="FILE", type=Path, help="CA that signed the server's TLS certificate")


def _add_archive(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", metavar="DIR", type=Path, help="the archive (default: in tdxctl's home)")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="what there is")
    output.add_json(listing)
    listing.set_defaults(run=run_archive_list)
    add = actions.add_parser("add", help="take in sets or bundles")
    add.add_argument("file", metavar="FILE", nargs="+", type=Path, help="collateral or a bundle")
    add.set_defaults(run=run_archive_add)
    find = actions.add_parser("find", help="print the set that held at a time")
    _add_wanted(find)
    evidence.add_time(find)
    find.set_defaults(run=run_archive_find)


def _wanted(args: argparse.Namespace) -> Wanted:
    from tdxstack.pcs.client import check_fmspc
    from tdxstack.pcs.collateral import Wanted
    from tdxstack.pcs.from_quote import wanted_for
    from tdxstack.pcs.source import Ca, EvaluationSet, Tee

    evaluation = EvaluationSet(args.evaluation)
    if args.quote is not None:
        return wanted_for(evidence.read_quote(args.quote), evaluation)
    return Wanted(check_fmspc(args.fmspc), Tee(args.tee), Ca(args.ca), evaluation)


def _source(args: argparse.Namespace) -> Source:
    from tdxstack.pcs.client import INTEL_PCS, PcsClient
    from tdxstack.pcs.transport import TransportOptions

    url = args.pccs or os.environ.get("TDXSTACK_PCCS") or INTEL_PCS
    return PcsClient(url, options=TransportOptions(ca_file=args.tls_ca))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _put(text: str, path: Path | None) -> None:
    from tdxstack.system import files

    if path is None:
        output.raw(text.encode() + b"\n")
    else:
        files.write_atomic(path, text + "\n")


def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def run_fetch(args: argparse.Namespace) -> ExitCode:
    """``collateral fetch``: prints one document, as ``quote verify --collateral`` takes it."""
    from tdxstack.pcs.collateral import describe, fetch

    wanted, source = _wanted(args), _source(args)
    try:
        if args.no_cache:
            collateral: Collateral = fetch(source, wanted)
        else:
            cached = cache().get(source, wanted, int(time.time()), offline=args.offline)
            collateral = cached.collateral
            if cached.fault:
                output.say(f"from the cache of {_date(cached.fetched)}, since {cached.fault}")
    finally:
        source.close()
    described = describe(collateral)
    output.say(f"{wanted}: evaluation data number {described.number}, valid to {_date(described.span.end)}")
    _put(collateral.to_json(), args.output)
    return ExitCode.DONE


def run_cache(args: argparse.Namespace) -> ExitCode:
    """``collateral cache``."""
    now = int(time.time())
    if args.clear:
        removed = cache().clear(now if args.clear == "expired" else None)
        output.say(f"{removed} removed")
    rows = [
        {
            "source": source,
            "key": key,
            "fetched": kept.fetched,
            "valid_to": kept.span.end,
            "valid": kept.span.holds(now),
        }
        for source, key, kept in cache().entries()
    ]
    output.emit(args, output.document("collateral-cache", {"entries": rows}), lambda: _cache_text(rows))
    return ExitCode.DONE


def _cache_text(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{row['key']:<40} {'valid to' if row['valid'] else 'expired'} {_date(row['valid_to'])}  {row['source']}"
        for row in rows
    ]
    return "\n".join(lines) or "the cache is empty"


def run_archive_list(args: argparse.Namespace) -> ExitCode:
    """``collateral archive list``."""
    rows: list[dict[str, Any]] = [
        {
            "fmspc": kept.described.fmspc,
            "tee": kept.described.tee.value,
            "ca": kept.described.ca.value,
            "evaluation": kept.evaluation,
            "tcb_evaluation_data_number": kept.described.number,
            "valid_from": kept.described.span.start,
            "valid_to": kept.described.span.end,
            "file": str(kept.path),
        }
        for kept in archive(args.directory).entries()
    ]
    text = "\n".join(
        f"{row['tee']} {row['fmspc']} {row['ca']:<9} {row['evaluation']:<8} "
        f"TCB-R {row['tcb_evaluation_data_number']:<3} {_date(row['valid_from'])} .. {_date(row['valid_to'])}"
        for row in rows
    )
    output.emit(
        args, output.document("collateral-archive", {"entries": rows}), lambda: text or "the archive is empty"
    )
    return ExitCode.DONE


def run_archive_add(args: argparse.Namespace) -> ExitCode:
    """``collateral archive add``."""
    from tdxstack.pcs.bundle import read_bundle

    kept = archive(args.directory)
    for path in args.file:
        for entry in read_bundle(_read(path).decode("utf-8-sig", "replace")):
            output.say(str(kept.add(entry.collateral, entry.wanted.evaluation.name)))
    return ExitCode.DONE


def run_archive_find(args: argparse.Namespace) -> ExitCode:
    """``collateral archive find``: exit status 5 if there is none."""
    found = archive(args.directory).find(_wanted(args), evidence.moment(args))
    output.say(str(found.path))
    _put(found.collateral.to_json(), None)
    return ExitCode.DONE


def run_bundle(args: argparse.Namespace) -> ExitCode:
    """``collateral bundle``."""
    from tdxstack.pcs.bundle import Entry, read_bundle, write_bundle
    from tdxstack.pcs.client import check_fmspc
    from tdxstack.pcs.collateral import Wanted, fetch
    from tdxstack.pcs.source import Ca, EvaluationSet, Tee

    entries = [entry for path in args.file for entry in read_bundle(_read(path).decode("utf-8-sig", "replace"))]
    if args.fmspc:
        source = _source(args)
        try:
            for fmspc in args.fmspc:
                for name in args.evaluation or ["standard"]:
                    wanted = Wanted(check_fmspc(fmspc), Tee(args.tee), Ca(args.ca), EvaluationSet(name))
                    output.step(f"fetching {wanted}")
                    entries.append(Entry(wanted, fetch(source, wanted)))
        finally:
            source.close()
    if not entries:
        raise UsageError("nothing to put into the bundle", hint="give files, or --fmspc")
    _put(write_bundle(entries, _date(int(time.time()))), args.output)
    output.say(f"{len(entries)} sets")
    return ExitCode.DONE
