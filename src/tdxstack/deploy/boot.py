"""Boot loader configuration as text: kernel parameters and the default entry, for GRUB and BLS."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tdxstack.errors import WireError

GRUBENV_SIZE = 1024
GRUBENV_HEADER = "# GRUB Environment Block\n"


def missing(line: str, parameters: Sequence[str]) -> list[str]:
    """The parameters that a command line does not carry yet (a key with another value counts as missing)."""
    present = line.split()
    return [one for one in parameters if one not in present]


def with_parameters(line: str, parameters: Sequence[str]) -> str:
    """A command line with the parameters; an older value of the same key goes."""
    keys = {one.partition("=")[0] for one in parameters if "=" in one}
    kept = [one for one in line.split() if one.partition("=")[0] not in keys or one in parameters]
    return " ".join([*kept, *missing(" ".join(kept), parameters)])


_NAME = r"^[ \t]*(?:export[ \t]+)?GRUB_CMDLINE_LINUX="
_MENTION = re.compile(_NAME, re.MULTILINE)
#: A setting that can be edited: one word of shell, quoted as a whole or not at all, and a comment behind it.
_SETTING = re.compile(
    rf"(?P<name>{_NAME})(?:"
    r"""(?P<double>"(?:[^"\\]|\\[^\n])*")|(?P<single>'[^']*')|(?P<bare>[^\s#"'\\$`;&|<>()]*))"""
    r"(?P<rest>[ \t]*(?:(?<=[ \t])#[^\n]*)?)$",
    re.MULTILINE,
)


def grub_parameters(text: str) -> str | None:
    """The value of the last ``GRUB_CMDLINE_LINUX`` in ``/etc/default/grub``; None where it cannot be told."""
    found, mentions = list(_SETTING.finditer(text)), list(_MENTION.finditer(text))
    if not found or found[-1].start() != mentions[-1].start():
        return None
    return _value(found[-1])


def _value(found: re.Match[str]) -> str:
    quoted = found["double"] or found["single"]
    return quoted[1:-1] if quoted else str(found["bare"])


def edit_grub(text: str, parameters: Sequence[str]) -> str:
    """``/etc/default/grub``, a piece of shell, with the parameters in ``GRUB_CMDLINE_LINUX``."""
    if grub_parameters(text) is None:
        before = ["$GRUB_CMDLINE_LINUX"] if _MENTION.search(text) else []
        return f'{text.rstrip()}\nGRUB_CMDLINE_LINUX="{" ".join([*before, *parameters])}"\n'.lstrip("\n")

    def edit(found: re.Match[str]) -> str:
        quote = "'" if found["single"] and re.search(r'[$`"\\]', found["single"]) else '"'
        return f"{found['name']}{quote}{with_parameters(_value(found), parameters)}{quote}{found['rest']}"

    return _SETTING.sub(edit, text)


def edit_bls(text: str, parameters: Sequence[str]) -> str:
    """A Boot Loader Specification entry with the parameters in its ``options``."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"options\s", line):
            lines[number] = f"options {with_parameters(line.split(None, 1)[1] if ' ' in line else '', parameters)}"
            break
    else:
        lines.append(f"options {' '.join(parameters)}")
    return "\n".join(lines) + "\n"


def grub_entry(config: str, kernel: str) -> str | None:
    """What ``GRUB_DEFAULT`` must be to boot ``kernel``: ``SUBMENU>ENTRY`` by their ids in ``grub.cfg``.

    Recovery entries are passed over. None where no entry boots that kernel.
    """
    submenu = ""
    for line in config.splitlines():
        identity = re.search(r"\$menuentry_id_option '([^']+)'", line)
        if identity is None:
            continue
        if line.lstrip().startswith("submenu "):
            submenu = identity[1]
        elif re.search(rf"-{re.escape(kernel)}-advanced-", identity[1]):
            return f"{submenu}>{identity[1]}" if submenu and line[:1].isspace() else identity[1]
    return None


def edit_grubenv(text: str, key: str, value: str) -> str:
    """A GRUB environment block with a variable set; its size stays 1024 bytes.

    Raises:
        WireError: not such a block, or no room.
    """
    if not text.startswith(GRUBENV_HEADER):
        raise WireError("grubenv", "header", 0, "not a GRUB environment block")
    lines = [line for line in text[len(GRUBENV_HEADER) :].rstrip("#").splitlines() if not line.startswith(f"{key}=")]
    body = GRUBENV_HEADER + "".join(f"{line}\n" for line in [*lines, f"{key}={value}"] if line)
    if len(body) > GRUBENV_SIZE:
        raise WireError("grubenv", "size", len(body), "no room left")
    return body.ljust(GRUBENV_SIZE, "#")
