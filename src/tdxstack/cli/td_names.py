"""Completion of TDs' names: what each shell runs where an argument is one (`tdxctl td list --names`)."""

from __future__ import annotations

import argparse

_COMMAND = "tdxctl td list --names"
_FUNCTION = "_tdxctl_td_names"
#: By shell: what stands at an argument, and what the script begins with.
COMPLETE = {"bash": _FUNCTION, "zsh": _FUNCTION, "fish": f"({_COMMAND})", "tcsh": f"`{_COMMAND}`"}
PREAMBLE = {
    "bash": f'{_FUNCTION}() {{ compgen -W "$({_COMMAND} 2>/dev/null)" -- "$1"; }}',
    "zsh": f'{_FUNCTION}() {{ local -a names; names=(${{(f)"$({_COMMAND} 2>/dev/null)"}}); _describe TD names }}',
}


def completed(argument: argparse.Action) -> None:
    """Have shells complete an argument with the names of TDs."""
    argument.complete = COMPLETE  # type: ignore[attr-defined]
