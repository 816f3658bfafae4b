"""``tdxctl completion``: shell completion, from the same declarations as the help."""

from __future__ import annotations

import argparse

from tdxstack.cli import output
from tdxstack.errors import ExitCode

SHELLS = ("bash", "zsh", "fish", "tcsh")


def add_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        'bash: source <(tdxctl completion bash)    zsh: tdxctl completion zsh > "${fpath[1]}/_tdxctl"    '
        "fish: tdxctl completion fish > ~/.config/fish/completions/tdxctl.fish"
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell to print a completion script for")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    import shtab

    from tdxstack.cli import fish, td_names
    from tdxstack.cli.main import build_parser

    parser = build_parser()
    text = (
        fish.script(parser)
        if args.shell == "fish"
        else shtab.complete(parser, shell=args.shell, preamble=td_names.PREAMBLE.get(args.shell, ""))
    )
    output.raw(text.encode() + b"\n")
    return ExitCode.DONE
