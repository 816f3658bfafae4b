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


IMA_CHOICES = ("off", "on", "critical_data", "tcb")
#: First words of a rule (Linux Documentation/ABI/testing/ima_policy).
_IMA_ACTIONS = ("measure", "dont_measure", "appraise", "dont_appraise", "audit", "hash", "dont_hash")


def _check_policy(text: str) -> None:
    rules = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not rules:
        raise UsageError("the IMA policy has no rule", hint="e.g. measure func=BPRM_CHECK mask=MAY_EXEC")
    for words in rules:
        if words[0] not in _IMA_ACTIONS:
            raise UsageError(f"the IMA policy has a rule that starts with {words[0]!r}", hint=" ".join(_IMA_ACTIONS))


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
        ima: what IMA measures with SHA-384: ``off``, ``on`` (no built-in policy), ``critical_data`` or ``tcb``.
        ima_policy: rules that systemd loads into IMA at boot, in place of a built-in policy.

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
    ima: str = "off"
    ima_policy: str | None = None

    @property
    def measures_by_ima(self) -> bool:
        """Whether the image's kernel is to measure by IMA with SHA-384."""
        return self.ima != "off" or self.ima_policy is not None

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
        if self.ima not in IMA_CHOICES:
            raise UsageError(f"{self.ima!r} is not an IMA policy", hint=f"one of: {', '.join(IMA_CHOICES)}")
        if self.ima_policy is not None:
            _check_policy(self.ima_policy)
        if not self.extra_cmdline.isprintable() or not self.extra_cmdline.isascii():
            raise UsageError("the kernel command line must be printable ASCII on one line")
