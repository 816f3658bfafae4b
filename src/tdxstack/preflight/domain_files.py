"""Domains that libvirt keeps under /etc/libvirt/qemu: which are TDs, what a reboot does to them, whose words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.platform.linux_host_files import HostFiles

DIRECTORY = "/etc/libvirt/qemu"
MAX_FILES = 1000
#: Elements below <launchSecurity> that only some libvirt knows: of the 1.5 stack, of Canonical's packages, of libvirt
#: 11.6 and later.
OF_1_5 = ("Quote-Generation-Service", "allowReboot", "vtpm")
OF_CANONICAL = ("SocketAddress",)
OF_UPSTREAM = ("quoteGenerationService",)
_TDX = re.compile(r"<launchSecurity\s[^>]*type=['\"]tdx['\"][^>]*(?:/>|>(.*?)</launchSecurity>)", re.DOTALL)
_REBOOT = re.compile(r"<on_reboot>\s*([a-z-]{1,20})\s*</on_reboot>")
_ELEMENT = re.compile(rf"<({'|'.join((*OF_1_5, *OF_CANONICAL, *OF_UPSTREAM))})[\s/>]")
_PATH = re.compile(r"<quoteGenerationService\s[^>]*path=['\"]([^'\"\n]{1,300})['\"]")
_ALLOW_REBOOT = re.compile(r"<(allowReboot)[\s/>]")


@dataclass(frozen=True, slots=True)
class TdDomain:
    """A TD that is defined.

    ``on_reboot`` is libvirt's default, restart, where the file does not say; ``elements`` are those that only some
    libvirt knows, ``quote_path`` the socket that quotes are asked of, where it is named.
    """

    name: str
    on_reboot: str
    elements: tuple[str, ...] = ()
    quote_path: str | None = None

    def xml(self) -> str:
        """What of the domain a capture keeps."""
        path = f" path='{self.quote_path}'" if self.quote_path else ""
        kept = [f"<{name}{path if name in OF_UPSTREAM else ''}/>" for name in self.elements]
        security = f"<launchSecurity type='tdx'>{''.join(kept)}</launchSecurity>"
        return f"<domain>\n  <on_reboot>{self.on_reboot}</on_reboot>\n  {security}\n</domain>\n"


def td_domains(files: HostFiles) -> Iterator[TdDomain]:
    """The TDs among the domains that are defined; a file that cannot be read is passed over."""
    names = [name for name in files.names(DIRECTORY) if name.endswith(".xml")]
    for name in names[:MAX_FILES]:
        text = re.sub(r"<!--.*?-->", "", files.text_or_none(f"{DIRECTORY}/{name}") or "", flags=re.DOTALL)
        security = _TDX.search(text)
        if security:
            reboot = _REBOOT.search(text)
            inner = security[1] or ""
            found = [*_ELEMENT.findall(inner), *_ALLOW_REBOOT.findall(text)]
            path = _PATH.search(inner)
            yield TdDomain(
                name.removesuffix(".xml"),
                reboot[1] if reboot else "restart",
                tuple(dict.fromkeys(found)),
                path[1] if path else None,
            )
