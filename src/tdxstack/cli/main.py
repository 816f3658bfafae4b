"""``tdxctl``: finds the noun's module, parses, runs, and turns errors into text and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NoReturn

from tdxstack import __version__
from tdxstack.cli import output
from tdxstack.cli.malformed import next_step
from tdxstack.errors import ExitCode, PlatformMissing, SystemFault, TdxStackError, UsageError, WireError

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
    "build": ("build", "the stack's packages and their repositories"),
    "test": ("test", "the tests of the stack itself, on machines that really run"),
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
    as_json = bool(getattr(arguments, "json", False))
    try:
        with _looking(arguments):
            status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except ModuleNotFoundError as error:
        return _absent(error, as_json=as_json)
    except TdxStackError as error:
        return _failed(error, as_json=as_json)
    except KeyboardInterrupt:
        output.say("interrupted")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        _silence_stdout()
        return int(ExitCode.FAILED)
    except OSError as error:
        return _failed(_fault_of(error), as_json=as_json)
    except RecursionError:
        return _failed(UsageError("the input is nested too deeply"), as_json=as_json)


def _looking(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """A dry run makes no directories either. (What a guest has of us has no ``system``, and no dry runs.)"""
    if not getattr(arguments, "dry_run", False):
        return contextlib.nullcontext()
    from tdxstack.system import paths

    return paths.only_looking()


def _failed(error: TdxStackError, *, as_json: bool) -> int:
    if isinstance(error, WireError) and error.hint is None:
        error.hint = next_step(error.structure)
    try:
        output.failure(error, as_json=as_json)
    except OSError:
        _silence_stdout()
    return int(error.exit_code)


def _fault_of(error: OSError) -> SystemFault:
    """What the operating system refused, where nobody nearer to it had anything better to say."""
    if error.errno == errno.ENOSPC:
        return SystemFault(str(error), hint="free space on that file system (df -h), then run it again")
    return SystemFault(str(error) or type(error).__name__, hint="check that path and its permissions")


def _open_standard_files() -> None:
    """Closed standard files become /dev/null: no file that is opened later may take their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _silence_stdout() -> None:
    """Nobody takes our output any more: what is still buffered goes nowhere, without a fault at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _absent(error: ModuleNotFoundError, *, as_json: bool) -> int:
    """A part of tdxstack, or a package that it needs, is not installed: in a guest there is little of both."""
    failure = PlatformMissing(
        f"the Python module {error.name} is not installed",
        hint="inside a TD run `tdxctl guest` and what shows evidence, all else on the host; there: make venv",
    )
    output.failure(failure, as_json=as_json)
    return int(failure.exit_code)


#: Signals that end a command by way of its clean-up.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: How often an ending command has been told to end.
_told = 0


def _terminate(_signal: int, _frame: object) -> None:
    """The first signal ends the command by its own clean-up, which a second, impatient one must not break off."""
    global _told  # noqa: PLW0603 - a signal handler has no other place for it
    _told += 1
    if _told == 2:
        output.say("cleaning up; once more leaves at once, and perhaps things behind")
        return
    raise KeyboardInterrupt


def entry() -> NoReturn:
    """Entry point of the ``tdxctl`` script. SIGTERM and SIGHUP are handled like Ctrl-C, so that clean-up runs."""
    _open_standard_files()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names out of evidence and file systems may be no text that the terminal's encoding has.
        sys.stdout.reconfigure(errors="backslashreplace")
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as with nohup
            signal.signal(number, _terminate)
    try:
        status = main(sys.argv[1:])
    except KeyboardInterrupt:  # once more, while the end was being told
        status = int(ExitCode.INTERRUPTED)
    for number in ENDING:  # a late signal must not take the place of the exit status while Python winds up
        signal.signal(number, signal.SIG_IGN)
    sys.exit(status)
