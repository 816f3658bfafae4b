"""Kernel modules that the emulation needs, loaded by modprobe.

The room that starts processes is not part of what runs in a guest, so the one fixed command is started here.
"""

from __future__ import annotations

import os

from tdxstack.errors import SystemFault

_MODPROBE = ("/usr/sbin/modprobe", "/sbin/modprobe")


def load(*names: str) -> None:
    """Load the first of ``names`` that this kernel has: modules get new names now and then.

    Raises:
        SystemFault: none of them can be loaded.
    """
    program = next((path for path in _MODPROBE if os.access(path, os.X_OK)), None)
    if program is None:
        raise SystemFault("modprobe is not installed", hint="apt-get install kmod")
    for name in names:
        argv = [program, "--quiet", "--use-blacklist", name]
        child = os.posix_spawn(program, argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            return
    text = " or ".join(names)
    raise SystemFault(
        f"kernel module {text} cannot be loaded", hint=f"this kernel's package lacks it: modinfo {names[0]}"
    )
