"""The verbs of ``tdxctl td`` that reach into a TD: console, ssh, logs, exec, copy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from tdxstack.cli import output, td_text
from tdxstack.errors import ExitCode, StateError, UsageError

if TYPE_CHECKING:
    from tdxstack.vm.record import TdRecord

Run = Callable[[argparse.Namespace], int]
AddVerb = Callable[..., argparse.ArgumentParser]
LOGS = ("console", "qemu", "supervisor", "firmware")
#: Written by QEMU, so at the TD's site.
FAR_LOGS = ("console", "firmware")
FOLLOW_INTERVAL = 0.2
AGENT_MARGIN = 10.0
#: What a shell adds to a signal's number to make an exit status of it.
SIGNALLED = 128


def add_verbs(add: AddVerb) -> None:
    """Declare the verbs; ``add`` makes a verb's parser with its NAME."""
    add("console", run_console, "connect this terminal to a TD's console (Ctrl-] leaves)")
    ssh = add("ssh", run_ssh, "log in to a TD as root, or run a command there")
    ssh.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help="command and arguments; none: a shell"
    )
    execute = add("exec", run_exec, "run a command in a TD over ssh or by its agent; its exit status is passed on")
    execute.add_argument("--agent", action="store_true", help="by the guest's agent: needs no network in the guest")
    td_text.add_timeout(execute, 60.0, "seconds, with --agent")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="command and arguments")
    logs = add("logs", run_logs, "print what a TD wrote to its console, or another of its logs")
    logs.add_argument("--log", choices=LOGS, default="console", help="which log (default: console)")
    logs.add_argument("--qemu", action="store_const", const="qemu", dest="log", help="the same as --log qemu")
    logs.add_argument("--follow", "-f", action="store_true", help="go on printing until the TD ends")
    copy = add("copy", run_copy, "copy files into a TD or out of it; a path in the TD starts with ':'")
    copy.add_argument("source", metavar="FROM", help="file or directory, e.g. ./report or :/var/log/syslog")
    copy.add_argument("target", metavar="TO", help="where it goes, e.g. :/root/ or ./")
    td_text.add_changing(copy, "print the command line that copies and copy nothing")


def run_console(args: argparse.Namespace) -> ExitCode:
    from tdxstack.cli.console import relay
    from tdxstack.vm.lifecycle import status
    from tdxstack.vm.state import ACTIVE, require

    record = status(args.name)
    require(args.name, "open its console", record.state, ACTIVE)
    relay(record.place.run_dir / "console.sock")
    return ExitCode.DONE


def run_ssh(args: argparse.Namespace) -> ExitCode:
    from tdxstack.system.process import become
    from tdxstack.vm.keys import ssh_argv

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    become(ssh_argv(_running(args.name, "ssh"), command))


def run_exec(args: argparse.Namespace) -> int:
    import shlex

    from tdxstack.system.process import become
    from tdxstack.vm.keys import ssh_argv

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise UsageError("which command?", hint=f"tdxctl td exec {args.name} -- uname -a")
    if args.agent:
        return _exec_by_agent(args.name, command, args.timeout)
    return become(ssh_argv(_running(args.name, "run a command"), [shlex.join(command)]))


def _exec_by_agent(name: str, command: list[str], timeout: float) -> int:
    from base64 import b64decode

    from tdxstack.vm import lifecycle

    record = _running(name, "run a command")
    params = {"argv": command, "timeout": timeout}
    answer = lifecycle.call_guest(record.name, "exec", params, timeout=timeout + AGENT_MARGIN)
    output.raw(b64decode(answer["stdout"]))
    output.raw_talk(b64decode(answer["stderr"]))
    if answer["truncated"]:
        output.say("the output was cut off; run it over ssh for all of it")
    status = int(answer["status"])
    return status if status >= 0 else SIGNALLED - status


def _running(name: str, operation: str) -> TdRecord:
    from tdxstack.vm.lifecycle import status
    from tdxstack.vm.state import State, require

    record = status(name)
    require(name, operation, record.state, frozenset({State.RUNNING}))
    return record


def run_copy(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm.copying import Copy

    copy = Copy(_running(args.name, "copy"), args.source, args.target)
    if args.dry_run:
        return td_text.command(args, copy.argv())
    copy.run()
    if args.json:
        body = {"td": args.name, "from": args.source, "to": args.target}
        output.emit(args, output.document("td-copied", body), str)
    return ExitCode.DONE


def run_logs(args: argparse.Namespace) -> ExitCode:
    from tdxstack.vm.lifecycle import status
    from tdxstack.vm.site import is_far
    from tdxstack.vm.spec import Console

    record = status(args.name)
    if is_far(record.spec) and args.log in FAR_LOGS:
        from tdxstack.system.process import become
        from tdxstack.vm.libvirt.far_site import FarSite

        site = FarSite.of(record.spec.connect)
        become(site.tail(site.directory(record.name) / f"{args.log}.log", follow=args.follow))
    path = record.place.directory / f"{args.log}.log"
    if not path.exists():
        if args.log == "firmware" and record.spec.console is Console.SERIAL:
            raise UsageError(
                f"TD {args.name}: its firmware writes to the serial console", hint=f"tdxctl td logs {args.name}"
            )
        raise StateError(
            f"TD {args.name}", f"print {path.name}", record.state.value, "a TD that has run",
            hint=f"tdxctl td start {args.name}",
        )  # fmt: skip
    with path.open("rb") as stream:
        while True:
            if data := stream.read(1 << 16):
                output.raw(data)
            elif not args.follow or not _lives(args.name):
                return ExitCode.DONE
            else:
                _pause()


def _lives(name: str) -> bool:
    from tdxstack.vm.lifecycle import status
    from tdxstack.vm.state import ACTIVE

    return status(name).state in ACTIVE


def _pause() -> None:
    import time

    sys.stdout.flush()
    time.sleep(FOLLOW_INTERVAL)
