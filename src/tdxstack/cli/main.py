"""``tdxctl``: finds the noun's module, parses, runs, and turns errors into text and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from tdxstack import __version__
from tdxstack.cli import output
from tdxstack.errors import ExitCode, PlatformMissing, TdxStackError

#: noun -> (module under tdxstack.cli.commands, one line of help), in the order of ``tdxctl --help``.
NOUNS: dict[str, tuple[str, str]] = {
    "quickstart": ("quickstart", "from this machine to an attested TD, in one command"),
    "attest": ("attest", "have a running TD prove itself, and judge the proof"),
    "host": ("host", "check, diagnose and install this host"),
    "image": ("image", "build, list and delete guest images"),
    "module": ("module", "the TDX module: show, verify, stage, update, roll back"),
    "td": ("td", "trust domains: define, start, watch, reach, end"),
    "start-qemu": ("start_qemu", "launch one machine with the options of the white paper's script"),
    "platform": ("platform", "software TDX platforms, and this machine's hardware"),
    "qgs": ("qgs", "serve and ask Quote Generation Services"),
    "firmware": ("firmware", "firmware files: inspect, secure boot keys, variables"),
    "measure": ("measure", "MRTD and RTMRs: computed and predicted"),
    "eventlog": ("eventlog", "show, replay, compare and explain event logs"),
    "report": ("report", "show TDREPORTs"),
    "quote": ("quote", "show, verify and explain quotes"),
    "collateral": ("collateral", "fetch, keep, show and compare collateral"),
    "pccs": ("pccs", "serve collateral: Intel's PCCS interface"),
    "verifier": ("verifier", "serve verdicts on quotes, as signed tokens"),
    "policy": ("policy", "check and explain appraisal policies"),
    "guest": ("guest", "evidence from inside a TD: report, quote, event log, registers"),
    "deploy": ("deploy", "the stack on many hosts and guests"),
    "build": ("build", "package repositories for hosts and guests"),
    "completion": ("completion", "print a shell completion script"),
    "man": ("man", "print the manual page"),
}

DESCRIPTION = "From a bare machine to an attested Intel TDX trust domain (TD)."
EPILOG = """exit status: 0 done, 1 failed, 2 usage, 3 evidence rejected, 4 platform missing or unsupported,
5 collateral or network, 130 interrupted. Data goes to stdout, talk to stderr; reading verbs take --json."""


def load_noun(noun: str, parser: argparse.ArgumentParser) -> None:
    """Let the noun's module add its verbs and options to ``parser``."""
    module = importlib.import_module(f"tdxstack.cli.commands.{NOUNS[noun][0]}")
    module.add_parser(parser)


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser, with the verbs of one noun, or of all if ``only`` is None."""
    formatter = output.help_formatter()
    parser = argparse.ArgumentParser(prog="tdxctl", description=DESCRIPTION, epilog=EPILOG, formatter_class=formatter)
    parser.add_argument("--version", action="version", version=f"tdxctl {__version__}")
    nouns = parser.add_subparsers(dest="noun", metavar="NOUN", required=True)
    for noun, (_, text) in NOUNS.items():
        child = nouns.add_parser(noun, help=text, description=text, formatter_class=formatter)
        if only is None or noun == only:
            load_noun(noun, child)
    return parser


def _wanted_noun(argv: Sequence[str]) -> str:
    return next((word for word in argv if not word.startswith("-")), "")


def main(argv: Sequence[str]) -> int:
    """Run one command line and return its exit status; never raises for an error of the user's."""
    try:
        arguments = build_parser(_wanted_noun(argv)).parse_args(list(argv))
    except SystemExit as stop:
        return int(stop.code or 0)
    except ModuleNotFoundError as error:
        return _absent(error, as_json=False)
    try:
        return int(arguments.run(arguments))
    except ModuleNotFoundError as error:
        return _absent(error, as_json=bool(getattr(arguments, "json", False)))
    except TdxStackError as error:
        output.failure(error, as_json=bool(getattr(arguments, "json", False)))
        return int(error.exit_code)
    except KeyboardInterrupt:
        output.say("interrupted")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.FAILED)


def _absent(error: ModuleNotFoundError, *, as_json: bool) -> int:
    """A part of tdxstack, or a package that it needs, is not installed: in a guest there is little of both."""
    failure = PlatformMissing(
        f"the Python module {error.name} is not installed",
        hint="inside a TD run `tdxctl guest` and what shows evidence, all else on the host; there: make venv",
    )
    output.failure(failure, as_json=as_json)
    return int(failure.exit_code)


def _terminate(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def entry() -> NoReturn:
    """Entry point of the ``tdxctl`` script. SIGTERM is handled like Ctrl-C, so that clean-up runs."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main(sys.argv[1:]))
