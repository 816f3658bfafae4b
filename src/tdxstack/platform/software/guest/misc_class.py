"""``tdx_guest`` among the misc devices of sysfs, where no file system but sysfs can make directories.

A tmpfs is laid over ``/sys/devices/virtual/misc`` in which each device's own directory is bind-mounted, and one over
``/sys/class/misc`` with the same links; both also hold ``tdx_guest``. Existing devices thus keep their real sysfs
directories (systemd and udev look at the file system's type). Devices that come and go later are followed by the
kernel's uevents.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from tdxstack.errors import SystemFault
from tdxstack.platform.software.guest import mounts

NAME = "tdx_guest"
DEVICES = Path("/sys/devices/virtual/misc")
CLASS = Path("/sys/class/misc")
_LINK = f"../../devices/virtual/misc/{NAME}"
_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1


class MiscClass:
    """The two covered directories. ``measurements`` is where the registers' file system is to be mounted."""

    def __init__(self, devices: Path = DEVICES, links: Path = CLASS) -> None:
        self._devices = devices
        self._links = links
        self.measurements = devices / NAME / "measurements"
        self._below_devices = self._below_links = -1

    def install(self) -> None:
        """Cover both directories and fill them.

        Raises:
            SystemFault: a kernel driver is there already, or the kernel refused.
        """
        if (self._links / NAME).is_symlink():
            raise SystemFault(f"{self._links / NAME} exists: this kernel has a TDX guest driver of its own")
        self._below_devices = mounts.cover(self._devices)
        self._below_links = mounts.cover(self._links)
        self.refresh()
        self.measurements.mkdir(parents=True)
        (self._links / NAME).symlink_to(_LINK)

    def refresh(self) -> None:
        """Make both directories show what sysfs has now."""
        below = Path(f"/proc/self/fd/{self._below_devices}")
        wanted, shown = set(os.listdir(below)), set(os.listdir(self._devices)) - {NAME}
        for name in shown - wanted:
            mounts.detach(self._devices / name)
            (self._devices / name).rmdir()
        for name in sorted(wanted - shown):
            (self._devices / name).mkdir()
            mounts.mount(str(below / name), self._devices / name, None, mounts.MS_BIND)
        below = Path(f"/proc/self/fd/{self._below_links}")
        wanted, shown = set(os.listdir(below)), set(os.listdir(self._links)) - {NAME}
        for name in shown - wanted:
            (self._links / name).unlink()
        for name in wanted - shown:
            (self._links / name).symlink_to((below / name).readlink())

    def follow(self, uevents: socket.socket) -> None:
        """Refresh at each event of the misc subsystem; returns when the socket is closed."""
        while True:
            try:
                event = uevents.recv(16 * 1024)
            except OSError:
                return
            if not event:
                return
            if b"\0SUBSYSTEM=misc\0" in event:
                with contextlib.suppress(OSError, SystemFault):
                    self.refresh()


def uevent_socket() -> socket.socket:
    """A socket that receives the kernel's uevents.

    Raises:
        SystemFault: the kernel refused.
    """
    try:
        uevents = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_KOBJECT_UEVENT)
        uevents.bind((0, _KERNEL_GROUP))
    except OSError as error:
        raise SystemFault(f"no uevents: {error.strerror}") from error
    return uevents


def remove(devices: Path = DEVICES, links: Path = CLASS) -> None:
    """Uncover both directories, also after a process that was killed."""
    mounts.detach_own(devices)
    mounts.detach_own(links)
