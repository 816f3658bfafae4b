"""Images for a person who is not root: root builds them, by sudo, and they are the person's afterwards."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tdxstack.errors import ExitCode, NetworkFault, ProgramMissing, SystemFault
from tdxstack.image.sandbox import Progress, proxies
from tdxstack.system import paths
from tdxstack.system.files import private_directory
from tdxstack.system.process import find, spawn


def needed() -> bool:
    """Whether this process may not build images itself."""
    return os.geteuid() != 0


def build(recipe: str, progress: Progress) -> None:
    """Have ``tdxctl image build RECIPE`` run as root, in our directories. sudo may ask for a password.

    Raises:
        SystemFault: there is no sudo, or it did not end well; what was wrong has been said on stderr.
        NetworkFault: the mirror cannot be reached.
    """
    # Made by us, so that they are ours.
    places = {"TDXSTACK_HOME": paths.home(), "TDXSTACK_CACHE": paths.cache()}
    paths.images()
    private_directory(paths.cache() / "logs")
    settings = [f"{name}={value}" for name, value in {**places, **proxies()}.items()]
    command = [sys.executable, "-m", "tdxstack.cli", "image", "build", recipe]
    try:
        find("sudo")
    except ProgramMissing:
        hint = f"as root: env {' '.join([*settings, *command])}"
        raise SystemFault("building a guest image needs root, and there is no sudo", hint=hint) from None
    progress("building the guest image needs root: sudo may ask for your password")
    # Its own pdeathsig would be lost at sudo's change of user; sudo hands signals on to what it runs.
    child = spawn(["sudo", "env", *settings, *command], stderr=sys.stderr.fileno(), die_with_parent=False)
    try:
        status = child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    if status == ExitCode.COLLATERAL:
        raise NetworkFault(
            "the guest image could not be built: see above", hint="check the network, then run it again"
        )
    if status != 0:
        hint = "see above; then run it again"
        raise SystemFault(f"the guest image could not be built: sudo ended with status {status}", hint=hint)


def hand_over(directory: Path, pattern: Path) -> None:
    """Give a new directory and its files to whoever owns ``pattern``, if root made it for a person."""
    owner = pattern.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for path in (directory, *directory.iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid)
