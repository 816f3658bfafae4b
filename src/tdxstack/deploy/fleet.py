"""Many nodes at once: reach them, install on them, ask how they are. Ansible does the work, batch after batch.

A batch that fails does not stop the next; every node ends with a result of its own.
"""

from __future__ import annotations

import json
import os
import shlex
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from importlib.resources import as_file, files
from pathlib import Path
from shutil import copytree
from typing import Any

from tdxstack.deploy.bundle import bundle
from tdxstack.deploy.inventory import Node, for_ansible
from tdxstack.errors import ProcessTimeout, ProgramMissing
from tdxstack.system import process

PROGRAM = "/usr/local/lib/tdxstack/tdxctl.pyz"
SSH_TIMEOUT = 15
REACH_THREADS = 16
Say = Callable[[str], None]


class Outcome(StrEnum):
    """How a node ended."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    UNREACHABLE = "unreachable"


@dataclass(slots=True)
class NodeResult:
    """One node's result. ``reason`` says what failed; ``data`` is what a status run brought."""

    name: str
    outcome: Outcome
    reason: str = ""
    tasks: int = 0
    data: Any = None

    @property
    def well(self) -> bool:
        return self.outcome in (Outcome.CHANGED, Outcome.UNCHANGED)

    def body(self) -> dict[str, Any]:
        return {"name": self.name, "outcome": self.outcome.value, "reason": self.reason, "tasks": self.tasks}


@dataclass(frozen=True, slots=True)
class Options:
    """How to go about it.

    Args:
        serial: nodes in one batch; 0 means all at once.
        ssh_config: a configuration file for ssh, None for the user's own.
        variables: of the roles, e.g. ``tdx_install_argv``.
    """

    serial: int = 0
    ssh_config: Path | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


def reach(nodes: Sequence[Node], options: Options) -> list[NodeResult]:
    """Whether each node lets us in without a password, and has Python and sudo."""
    with ThreadPoolExecutor(REACH_THREADS) as pool:
        return list(pool.map(lambda node: _reach(node, options), nodes))


def ssh_argv(node: Node, options: Options) -> list[str]:
    """ssh to a node, without asking for anything."""
    argv = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_TIMEOUT}", "-p", str(node.port)]
    if options.ssh_config:
        argv += ["-F", str(options.ssh_config)]
    if "key" in node.variables:
        argv += ["-i", node.variables["key"]]
    return [*argv, "--", node.destination]


def _reach(node: Node, options: Options) -> NodeResult:
    python = node.variables.get("python", "python3")
    become = "true" if node.variables.get("become") == "false" else "test $(id -u) = 0 || sudo -n true"
    asked = shlex.join([python, "-c", "import sys; print(sys.version_info[:2] >= (3, 11))"])
    script = f"{asked} && {{ {become}; }} && echo ready"
    try:
        done = process.run([*ssh_argv(node, options), script], timeout=SSH_TIMEOUT * 2, check=False)
    except (ProcessTimeout, ProgramMissing) as error:
        return NodeResult(node.name, Outcome.UNREACHABLE, error.message)
    answer = done.text.split()
    if done.returncode == 0 and answer[-2:] == ["True", "ready"]:
        return NodeResult(node.name, Outcome.UNCHANGED)
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode == 255:
        reason = said[-1] if said else "no connection"
        return NodeResult(node.name, Outcome.UNREACHABLE, f"{reason} ({node.copy_id})")
    if "False" in answer:
        return NodeResult(node.name, Outcome.FAILED, f"{python} is older than 3.11 (set python= in the inventory)")
    return NodeResult(node.name, Outcome.FAILED, said[-1] if said else "no python3, or sudo asks for a password")


class _Watch:
    """Turns Ansible's events into progress and results."""

    def __init__(self, say: Say) -> None:
        self.results: dict[str, NodeResult] = {}
        self._say = say

    def __call__(self, event: Mapping[str, Any]) -> bool:
        data = event.get("event_data") or {}
        name, task = data.get("host"), data.get("task", "")
        kind = event.get("event", "")
        if not name or not kind.startswith("runner_on_") or kind in ("runner_on_start", "runner_on_skipped"):
            return True
        result = self.results.setdefault(name, NodeResult(name, Outcome.UNCHANGED))
        result.tasks += 1
        answer = data.get("res") or {}
        if kind == "runner_on_unreachable":
            result.outcome, result.reason = Outcome.UNREACHABLE, f"{task}: {_message(answer)}"
        elif kind == "runner_on_failed" and not data.get("ignore_errors"):
            result.outcome, result.reason = Outcome.FAILED, f"{task}: {_message(answer)}"
        elif answer.get("changed") and result.well:
            result.outcome = Outcome.CHANGED
        if task == "look at the node" and "stdout" in answer:
            result.data = _document(answer["stdout"])
        word = "changed" if answer.get("changed") else "ok"
        self._say(f"{name}: {task}: {result.reason if not result.well else word}")
        return True


def _message(answer: Mapping[str, Any]) -> str:
    modules = answer.get("failed_modules") or {}
    inner: Mapping[str, Any] = next(iter(modules.values()), {}) if isinstance(modules, dict) else {}
    said = (
        answer.get("stderr"),
        inner.get("module_stdout"),
        inner.get("msg"),
        answer.get("msg"),
        answer.get("stdout"),
    )
    text = str(next((one for one in said if one), "no reason given")).strip()
    return " ".join(text.split())[-300:]


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def play(name: str, nodes: Sequence[Node], options: Options, say: Say) -> list[NodeResult]:
    """Run one of the playbooks (host, guest, status) on nodes, batch after batch.

    Raises:
        ProgramMissing: Ansible is not installed.
    """
    try:
        runner = import_module("ansible_runner")
    except ImportError:
        raise ProgramMissing("ansible-runner", package=None) from None
    size = options.serial or len(nodes)
    results: dict[str, NodeResult] = {}
    with tempfile.TemporaryDirectory(prefix="tdxctl-deploy-") as directory:
        place = Path(directory)
        _prepare(place, nodes, options)
        for start in range(0, len(nodes), size):
            batch = nodes[start : start + size]
            watch = _Watch(say)
            runner.run(
                private_data_dir=str(place),
                playbook=f"{name}.yml",
                limit=",".join(node.name for node in batch),
                envvars=_environment(place, options),
                event_handler=watch,
                quiet=True,
            )
            for node in batch:
                missing = NodeResult(node.name, Outcome.FAILED, "Ansible did not come to it")
                results[node.name] = watch.results.get(node.name, missing)
    return [results[node.name] for node in nodes]


def _prepare(place: Path, nodes: Sequence[Node], options: Options) -> None:
    with as_file(files("tdxstack.deploy") / "ansible") as roles:
        copytree(roles, place / "project")
    (place / "inventory").mkdir()
    variables = {"tdx_bundle": str(place / "tdxctl.pyz"), "tdx_program": PROGRAM, **options.variables}
    (place / "inventory" / "hosts.json").write_text(json.dumps(for_ansible(nodes, variables)))
    (place / "tdxctl.pyz").write_bytes(bundle())


def _environment(place: Path, options: Options) -> dict[str, str]:
    found = {
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "0",
        "ANSIBLE_TIMEOUT": str(SSH_TIMEOUT),
        "ANSIBLE_LOCAL_TEMP": str(place / "tmp"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(place / "cp"),
        "ANSIBLE_PYTHON_INTERPRETER": "auto_silent",
        "ANSIBLE_PIPELINING": "1",
    }
    config = f"-F {options.ssh_config} " if options.ssh_config else ""
    keep = "-C -o ControlMaster=auto -o ControlPersist=15s"
    found["ANSIBLE_SSH_ARGS"] = f"{config}{keep} -o BatchMode=yes -o ServerAliveInterval=5 -o ServerAliveCountMax=6"
    return found
