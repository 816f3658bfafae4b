"""``tdxctl deploy``: the stack on many hosts and guests, by Ansible."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output
from tdxstack.errors import ExitCode, StateError, SystemFault, UsageError

if TYPE_CHECKING:
    from tdxstack.deploy.fleet import NodeResult, Options
    from tdxstack.deploy.inventory import Node


def add_parser(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    init = verbs.add_parser("init", help="write an inventory to fill in")
    _inventory(init)
    init.add_argument("--dry-run", action="store_true", help="show what would be written")
    init.set_defaults(run=init_command)
    check = verbs.add_parser("check", help="reach every node: password-less ssh, Python, sudo")
    _inventory(check)
    output.add_json(check)
    check.set_defaults(run=check_command)
    _add_apply(verbs.add_parser("apply", help="install the stack on every node, a batch at a time"))
    status = verbs.add_parser("status", help="ask every node how it is")
    _inventory(status)
    output.add_json(status)
    status.set_defaults(run=status_command)


def _inventory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i", "--inventory", type=Path, default=Path("hosts"), metavar="FILE", help="nodes (default: hosts)"
    )
    parser.add_argument("--ssh-config", type=Path, metavar="FILE", help="ssh configuration instead of the user's own")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="NODE", help="only this node (may be repeated)"
    )


def _add_apply(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "exit status: 0 every node is done, 1 a node failed; the others are done all the same"
    _inventory(parser)
    parser.add_argument(
        "--serial", type=int, default=0, metavar="N", help="nodes in one batch (default: all at once)"
    )
    parser.add_argument(
        "--stack", choices=("upstream", "1.5"), default="upstream", help="which stack (default: upstream)"
    )
    parser.add_argument(
        "--repository", type=Path, metavar="DIR", help="host_repo here: copied to /srv/tdx-host on each node"
    )
    parser.add_argument("--guest-repository", type=Path, metavar="DIR", help="guest_repo here, for the group guests")
    parser.add_argument("--kernel", default="", metavar="VERSION", help="make this kernel the default")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="as of host install")
    parser.add_argument("--reboot", action="store_true", help="reboot nodes that changed, and wait for them")
    parser.add_argument("--verify", action="store_true", help="end with host check: a node that fails it has failed")
    parser.add_argument("--dry-run", action="store_true", help="show each node's plan, change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    output.add_json(parser)
    parser.set_defaults(run=apply_command)


def _nodes(args: argparse.Namespace) -> list[Node]:
    from tdxstack.deploy.inventory import parse

    try:
        nodes = parse(args.inventory.read_text())
    except OSError as error:
        raise SystemFault(f"{args.inventory}: {error.strerror}", hint="tdxctl deploy init") from error
    unknown = set(args.limit) - {node.name for node in nodes}
    if unknown:
        raise UsageError(f"not in the inventory: {', '.join(sorted(unknown))}")
    return [node for node in nodes if not args.limit or node.name in args.limit]


def _options(args: argparse.Namespace, **variables: Any) -> Options:
    from tdxstack.deploy.fleet import Options

    config = args.ssh_config.absolute() if args.ssh_config else None
    return Options(getattr(args, "serial", 0), config, variables)


def init_command(args: argparse.Namespace) -> ExitCode:
    """Write a starter inventory."""
    from tdxstack.deploy.inventory import STARTER
    from tdxstack.system.files import write_atomic

    if args.inventory.exists():
        raise StateError(
            str(args.inventory), "write an inventory", "it exists", "a new file", hint="name one with -i FILE"
        )
    if args.dry_run:
        output.say(f"would write {args.inventory}:\n{STARTER}")
        return ExitCode.DONE
    write_atomic(args.inventory, STARTER)
    output.say(
        f"wrote {args.inventory}; fill it in, ssh-copy-id each node, then: tdxctl deploy check -i {args.inventory}"
    )
    return ExitCode.DONE


def _summary(args: argparse.Namespace, kind: str, results: Sequence[NodeResult], **more: Any) -> ExitCode:
    well = all(one.well for one in results)
    body = {"ok": well, "nodes": [one.body() for one in results], **more}
    width = max(len(one.name) for one in results)
    lines = [f"{one.name:<{width}}  {one.outcome.value:<11}  {one.reason}".rstrip() for one in results]
    output.emit(args, output.document(kind, body), lambda: "\n".join(lines))
    return ExitCode.DONE if well else ExitCode.FAILED


def check_command(args: argparse.Namespace) -> ExitCode:
    """Reach every node."""
    from tdxstack.deploy import fleet

    return _summary(args, "deploy-check", fleet.reach(_nodes(args), _options(args)))


def apply_command(args: argparse.Namespace) -> ExitCode:
    """Install on every node that can be reached."""
    from tdxstack.deploy import fleet
    from tdxstack.deploy.inventory import GUESTS, HOSTS

    nodes = _nodes(args)
    if not (args.yes or args.dry_run):
        raise UsageError(f"this changes {len(nodes)} machines", hint="look at --dry-run, then give --yes")
    output.step("reaching the nodes")
    reached = {one.name: one for one in fleet.reach(nodes, _options(args))}
    results = {name: one for name, one in reached.items() if not one.well}
    if args.dry_run:
        return _plans(args, [node for node in nodes if reached[node.name].well], list(results.values()))
    for group, playbook in ((HOSTS, "host"), (GUESTS, "guest")):
        chosen = [node for node in nodes if node.group == group and reached[node.name].well]
        if chosen:
            output.step(f"{playbook}: {len(chosen)} nodes, {args.serial or len(chosen)} at a time")
            options = _options(args, **_variables(args, group))
            results |= {one.name: one for one in fleet.play(playbook, chosen, options, output.say)}
    return _summary(args, "deploy-apply", [results[node.name] for node in nodes])


def _variables(args: argparse.Namespace, group: str) -> dict[str, Any]:
    from tdxstack.deploy.inventory import HOSTS

    repository = args.repository if group == HOSTS else args.guest_repository
    argv = ["--stack", args.stack]
    argv += ["--kernel", args.kernel] if args.kernel else []
    argv += [word for part in args.only for word in ("--only", part)]
    argv += ["--repository", "/srv/tdx-host"] if repository and group == HOSTS else []
    return {
        "tdx_install_argv": argv,
        "tdx_repository": str(repository.absolute()) if repository else "",
        "tdx_reboot": args.reboot,
        "tdx_verify": args.verify,
    }


def _plans(args: argparse.Namespace, nodes: Sequence[Node], lost: list[NodeResult]) -> ExitCode:
    from tdxstack.deploy import fleet
    from tdxstack.deploy.inventory import HOSTS

    hosts = [node for node in nodes if node.group == HOSTS]
    argv = ["host", "install", "--root", "{{ tdx_root | default('/') }}", "--json"]
    options = _options(args, tdx_check_argv=[*argv, *_variables(args, HOSTS)["tdx_install_argv"]])
    results = fleet.play("status", hosts, options, output.say) if hosts else []
    for one in results:
        steps = (one.data or {}).get("steps", [])
        output.say(f"{one.name}: {len(steps)} steps")
        for step in steps:
            output.say("  " + step["text"].replace("\n", "\n  "))
        one.outcome = fleet.Outcome.UNCHANGED if one.well else one.outcome
    output.say("dry run: nothing was installed")
    return _summary(args, "deploy-plan", [*results, *lost], plans={one.name: one.data for one in results})


def status_command(args: argparse.Namespace) -> ExitCode:
    """Run ``host check`` on every node and sum it up."""
    from tdxstack.deploy import fleet

    options = _options(args, tdx_check_argv=["host", "check", "--json"])
    results = fleet.play("status", _nodes(args), options, lambda text: None)
    for one in results:
        if one.well:
            one.outcome = fleet.Outcome.UNCHANGED
            ready = bool((one.data or {}).get("ok"))
            one.reason = "ready for TDs" if ready else f"not ready: {_first_failure(one.data)}"
    checks = {one.name: one.data for one in results}
    code = _summary(args, "deploy-status", results, checks=checks)
    ready_all = all((one.data or {}).get("ok") for one in results)
    return code if code is not ExitCode.DONE or ready_all else ExitCode.FAILED


def _first_failure(document: Any) -> str:
    todo = list((document or {}).get("checks", []))
    while todo:
        check = todo.pop(0)
        if check["outcome"] == "fail":
            return f"{check['id']}: {check['evidence']}"
        todo = [*check["children"], *todo]
    return "no answer"
