"""An inventory: which nodes, how to reach them, and what each is.

The form of Intel's white paper "Linux Stacks for Intel TDX 1.5", section 3.3.2, a node a line, with groups and
variables besides::

    tdx@10.0.0.2
    [guests]
    tdx@10.0.0.7 port=2222 root=/srv/tree
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tdxstack.errors import UsageError

HOSTS, GUESTS = "hosts", "guests"
GROUPS = (HOSTS, GUESTS)
MAX_NODES = 10_000
#: Variables of a node's line, and what each is for Ansible.
VARIABLES = {
    "port": "ansible_port",
    "key": "ansible_ssh_private_key_file",
    "python": "ansible_python_interpreter",
    "root": "tdx_root",
    "become": "tdx_become",
    "program": "tdx_program",
    "command": "tdx_guest_command",
}
_ADDRESS = re.compile(
    r"(?:([A-Za-z_][A-Za-z0-9_.-]*)@)?([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:.]+\])(?::([0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class Node:
    """One machine. ``name`` is its line's first word."""

    name: str
    user: str
    address: str
    port: int
    group: str
    variables: Mapping[str, str] = field(default_factory=dict)

    def ansible(self) -> dict[str, Any]:
        """Its variables for Ansible."""
        found: dict[str, Any] = {VARIABLES[key]: value for key, value in self.variables.items()}
        found["ansible_host"] = self.address.strip("[]")
        found["ansible_port"] = self.port
        if self.user:
            found["ansible_user"] = self.user
        if "tdx_become" in found:
            found["tdx_become"] = found["tdx_become"] == "true"
        return found


def parse(text: str) -> list[Node]:
    """Read an inventory.

    Raises:
        UsageError: a line that is none, a group or variable that is not known, a node named twice, no node at all.
    """
    nodes: dict[str, Node] = {}
    group = HOSTS
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
            if group not in GROUPS:
                raise UsageError(f"line {number}: group {group!r} is not known", hint=f"groups: {', '.join(GROUPS)}")
            continue
        node = _node(line, number, group)
        if node.name in nodes:
            raise UsageError(f"line {number}: {node.name} is named twice")
        nodes[node.name] = node
    if not 0 < len(nodes) <= MAX_NODES:
        raise UsageError(f"{len(nodes)} nodes in the inventory", hint="one a line: tdx@10.0.0.2")
    return list(nodes.values())


def _node(line: str, number: int, group: str) -> Node:
    try:
        name, *words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"line {number}: {error}") from None
    found = _ADDRESS.fullmatch(name)
    if found is None:
        raise UsageError(f"line {number}: {name!r} is no [user@]address[:port]")
    variables: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in VARIABLES:
            raise UsageError(f"line {number}: {word!r} is not known", hint=f"variables: {', '.join(VARIABLES)}")
        variables[key] = value
    port = variables.get("port") or found[3] or "22"
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"line {number}: port {port!r}")
    return Node(name, found[1] or "", found[2], int(port), group, variables)


def for_ansible(nodes: Sequence[Node], variables: Mapping[str, Any]) -> dict[str, Any]:
    """The inventory as Ansible's YAML plugin takes it (JSON is YAML); a node's own variables win."""
    children: dict[str, Any] = {group: {"hosts": {}} for group in GROUPS}
    for node in nodes:
        children[node.group]["hosts"][node.name] = node.ansible()
    return {"all": {"vars": dict(variables), "children": children}}


STARTER = """# Nodes, one a line: user@address[:port] [variable=value ...]
# Variables: key= (private key), python= (interpreter), become=false (log in as root), root= (a tree, to try things).
[hosts]
# tdx@10.0.0.2
# tdx@10.0.0.3

[guests]
# tdx@10.0.0.7
"""
