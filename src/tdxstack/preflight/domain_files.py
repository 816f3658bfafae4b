"""Domains that libvirt keeps under /etc/libvirt/qemu: which are TDs, and what becomes of them on a reboot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.platform.linux_host_files import HostFiles

DIRECTORY = "/etc/libvirt/qemu"
MAX_FILES = 1000
_TDX = re.compile(r"<launchSecurity\s[^>]*type=['\"]tdx['\"]")
_REBOOT = re.compile(r"<on_reboot>\s*([a-z-]{1,20})\s*</on_reboot>")


@dataclass(frozen=True, slots=True)
class TdDomain:
    """A TD that is defined. ``on_reboot`` is libvirt's default, restart, where the file does not say."""

    name: str
    on_reboot: str

    def xml(self) -> str:
        """What of the domain a capture keeps."""
        security = "<launchSecurity type='tdx'/>"
        return f"<domain>\n  <on_reboot>{self.on_reboot}</on_reboot>\n  {security}\n</domain>\n"


def td_domains(files: HostFiles) -> Iterator[TdDomain]:
    """The TDs among the domains that are defined; a file that cannot be read is passed over."""
    names = [name for name in files.names(DIRECTORY) if name.endswith(".xml")]
    for name in names[:MAX_FILES]:
        text = files.text_or_none(f"{DIRECTORY}/{name}") or ""
        if _TDX.search(text):
            found = _REBOOT.search(text)
            yield TdDomain(name.removesuffix(".xml"), found[1] if found else "restart")
