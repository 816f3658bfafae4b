"""An inventory: which nodes, how to reach them, and what each is.

The form of Intel's white paper "Linux Stacks for Intel TDX 1.5", section 3.3.2, a node a line, with groups and
variables besides, under our names or Ansible's, for a node or for a group::

    tdx@10.0.0.[2:4]
    [guests]
    tdx@10.0.0.7 port=2222 root=/srv/tree
    [guests:vars]
    ansible_python_interpreter=/usr/bin/python3.11
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
#: Ansible's names for what has one of ours, and for the parts of a node's address.
ALIASES = {name: key for key, name in VARIABLES.items() if name.startswith("ansible_")} | {
    "ansible_become": "become",
    "ansible_user": "user",
    "ansible_host": "host",
}
KNOWN = (*VARIABLES, "user", "host")
#: A range of nodes, ``[01:12]`` or ``[a:f]``; an IPv6 address in brackets has more colons.
_RANGE = re.compile(r"\[([0-9]{1,9}|[a-z]):([0-9]{1,9}|[a-z])\]")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
#: ``[guests]``, ``[all:vars]``; a line with an IPv6 address alone has more colons.
_HEADER = re.compile(r"\[([^\[\]:]*(?::[^\[\]:]*)?)\]")
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

    @property
    def destination(self) -> str:
        """Where ssh goes: ``[user@]address``, the port apart."""
        address = self.address.strip("[]")
        return f"{self.user}@{address}" if self.user else address

    @property
    def copy_id(self) -> str:
        """The command that lets us in without a password."""
        port = f"-p {self.port} " if self.port != 22 else ""
        return f"ssh-copy-id {port}{self.destination}"

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
    lines, shared = _sections(text)
    nodes: dict[str, Node] = {}
    for line in lines:
        variables = {**shared.get("all", {}), **shared.get(line.group, {}), **line.variables}
        for name in _expanded(line):
            if name in nodes:
                raise UsageError(f"line {line.number}: {name} is named twice")
            nodes[name] = _node(name, variables, line)
    if not 0 < len(nodes) <= MAX_NODES:
        raise UsageError(f"{len(nodes)} nodes in the inventory", hint="one a line: tdx@10.0.0.2")
    return list(nodes.values())


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that names nodes."""

    number: int
    group: str
    name: str
    variables: Mapping[str, str]


def _sections(text: str) -> tuple[list[_Line], dict[str, dict[str, str]]]:
    """The lines that name nodes, and the variables of each group and of ``all``."""
    lines: list[_Line] = []
    shared: dict[str, dict[str, str]] = {}
    group, of_group = HOSTS, False
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        if header := _HEADER.fullmatch(line):
            group, of_group = _group(header[1].strip(), number)
            continue
        if of_group:
            name, equals, value = line.partition("=")  # blanks may stand around the sign
            setting = f"{name.strip()}{equals}{' '.join(_words(value, number)) if value.strip() else ''}"
            shared.setdefault(group, {}).update(_variables([setting], number))
        else:
            words = _words(line, number)
            lines.append(_Line(number, group, words[0], _variables(words[1:], number)))
    return lines, shared


def _group(header: str, number: int) -> tuple[str, bool]:
    """The group of a header, and whether its variables follow."""
    name, colon, kind = header.partition(":")
    of_group = kind == "vars"
    if name not in (*GROUPS, *(("all",) if of_group else ())) or bool(colon) != of_group:
        known = ", ".join((*GROUPS, *(f"{one}:vars" for one in (*GROUPS, "all"))))
        raise UsageError(f"line {number}: group {header!r} is not known", hint=f"groups: {known}")
    return name, of_group


def _words(line: str, number: int) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"line {number}: {error}") from None
    if not words:
        raise UsageError(f"line {number}: {line!r} is no [user@]address[:port]")
    return words


def _variables(words: Sequence[str], number: int) -> dict[str, str]:
    """Variables by our names.

    Raises:
        UsageError: a word that is none, a variable that is not known, a password.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if "pass" in name:
            raise UsageError(f"line {number}: {name}: no password belongs here", hint="ssh-copy-id USER@ADDRESS")
        key = ALIASES.get(name, name)
        if not equals or key not in KNOWN:
            raise UsageError(f"line {number}: {word!r} is not known", hint=f"variables: {', '.join(KNOWN)}")
        found[key] = value
    return found


def _expanded(line: _Line) -> Iterator[str]:
    """The names of a line, its ranges counted out.

    Raises:
        UsageError: a range that ends before it begins, or too many nodes.
    """
    found = _RANGE.search(line.name)
    if found is None:
        yield line.name
        return
    first, last = found[1], found[2]
    letters = not first.isdigit()
    start, end = (ord(first[0]), ord(last[0])) if letters else (int(first), int(last) if last.isdigit() else -1)
    if letters == last.isdigit() or not 0 <= end - start < MAX_NODES:
        raise UsageError(f"line {line.number}: {found[0]} is no range of at most {MAX_NODES} nodes")
    for value in range(start, end + 1):
        text = chr(value) if letters else str(value).zfill(len(first))
        yield from _expanded(replace(line, name=line.name[: found.start()] + text + line.name[found.end() :]))


def _node(name: str, variables: Mapping[str, str], line: _Line) -> Node:
    found = _ADDRESS.fullmatch(name)
    named = _ADDRESS.fullmatch(variables.get("host", "host"))
    user = variables.get("user") or (found[1] if found else "") or ""
    if found is None or named is None or named[1] or named[3] or (user and not _USER.fullmatch(user)):
        hint = "a node a line: tdx@10.0.0.2, or a range: tdx@10.0.0.[2:9]"
        raise UsageError(f"line {line.number}: {name!r} is no [user@]address[:port]", hint=hint)
    port = variables.get("port") or found[3] or "22"
    if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise UsageError(f"line {line.number}: port {port!r}")
    own = {key: value for key, value in variables.items() if key in VARIABLES}
    return Node(name, user, variables.get("host") or found[2], int(port), line.group, own)


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
