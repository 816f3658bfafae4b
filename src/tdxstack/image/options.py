"""What the user may choose about an image beside its recipe, checked before anything is built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from tdxstack.errors import UsageError

_HOSTNAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._:@-]{0,127}")
_KEY = re.compile(r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp\d+|sk-\S+@openssh\.com) [A-Za-z0-9+/=]+( [^\n]*)?")
_RESERVED = ("root", "daemon", "bin", "sys", "nobody", "sshd")


class BootLayout(Enum):
    """How the image starts: from files beside the disk, from a unified kernel image, or from GRUB on its ESP."""

    DIRECT = "direct"
    UKI = "uki"
    GRUB = "grub"


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options of one build.

    Args:
        hostname: name of the guest.
        user: account to create, with sudo; None for root alone.
        ssh_key: public keys (one a line) put into the image for ``user``, or root without one. They are only needed
            where the TD's owner cannot hand keys over at its first boot.
        size: bytes of the root file system; None for the recipe's.
        guest_repo: folder of packages, or URL of a repository, preferred over the distribution's.
        packages: more packages to install.
        boot: boot layout.
        extra_cmdline: appended to the recipe's kernel command line.

    Raises:
        UsageError: a value that is not well-formed.
    """

    hostname: str = "tdx-guest"
    user: str | None = None
    ssh_key: str | None = None
    size: int | None = None
    guest_repo: str | None = None
    packages: tuple[str, ...] = ()
    boot: BootLayout = BootLayout.DIRECT
    extra_cmdline: str = ""

    def __post_init__(self) -> None:
        if not _HOSTNAME.fullmatch(self.hostname):
            raise UsageError(
                f"{self.hostname!r} is not a host name", hint="letters, digits and hyphens, e.g. tdx-guest"
            )
        if self.user is not None and (not _USER.fullmatch(self.user) or self.user in _RESERVED):
            raise UsageError(f"{self.user!r} cannot be the user's name", hint="a lower-case name other than root")
        for line in (self.ssh_key or "").splitlines():
            if line.strip() and not _KEY.fullmatch(line.strip()):
                raise UsageError(
                    "the ssh key is not a public key", hint="give the .pub file, e.g. ~/.ssh/id_ed25519.pub"
                )
        for package in self.packages:
            if not _PACKAGE.fullmatch(package):
                raise UsageError(f"{package!r} is not a package name")
        if not self.extra_cmdline.isprintable() or not self.extra_cmdline.isascii():
            raise UsageError("the kernel command line must be printable ASCII on one line")
