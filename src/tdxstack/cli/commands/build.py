"""``tdxctl build``: packages of the stack, and their repositories for hosts and guests."""

from __future__ import annotations

import argparse
from pathlib import Path

from tdxstack.cli import output
from tdxstack.cli.commands import build_package
from tdxstack.errors import ExitCode


def add_parser(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    text = "build packages from their sources: kernels, QEMU, libvirt, TDVF, service TDs, boot loaders, DCAP"
    build_package.add_package(output.add_verb(verbs, "package", text))
    build_package.add_list(output.add_verb(verbs, "list", "list what can be built, and for which distributions"))
    text = "make a directory of .deb or .rpm packages a repository that apt or dnf can read"
    repository = verbs.add_parser("repository", help=text, description=text)
    repository.add_argument(
        "directory", type=Path, metavar="DIR", help="directory with the packages (host_repo, guest_repo)"
    )
    repository.add_argument("--sign", default="", metavar="KEY", help="OpenPGP key that signs it")
    repository.add_argument("--gnupg", type=Path, metavar="DIR", help="GnuPG's home instead of the user's own")
    repository.add_argument("--dry-run", action="store_true", help="show what would be written")
    output.add_json(repository)
    repository.set_defaults(run=repository_command)


def repository_command(args: argparse.Namespace) -> ExitCode:
    """Index the packages, and sign the index."""
    from tdxstack.deploy import repository

    if args.dry_run:
        for name in repository.names(args.directory, sign=args.sign):
            output.say(f"would write {args.directory / name}")
        return ExitCode.DONE
    written = repository.make(args.directory, sign=args.sign, gnupg=args.gnupg)
    document = output.document("repository", {"directory": str(args.directory), "written": written})
    output.emit(args, document, lambda: "\n".join(str(args.directory / name) for name in written))
    if not args.sign:
        output.say("not signed: apt takes it only as trusted; sign it with --sign KEY")
    output.say(f"  next: tdxctl host install --repository {args.directory.absolute()}")
    return ExitCode.DONE
