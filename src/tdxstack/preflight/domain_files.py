"""Domains that libvirt keeps under /etc/libvirt/qemu: which are TDs, their firmware, reboots, whose words."""

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
_LOADER = re.compile(r"<loader(\s[^>]{0,300})?>\s*([^<\s][^<\n]{0,300}?)\s*</loader>")
_LOADER_TYPE = re.compile(r"\stype=['\"]([a-z]{1,20})['\"]")
_ALLOW_REBOOT = re.compile(r"<(allowReboot)[\s/>]")


@dataclass(frozen=True, slots=True)
class TdDomain:
    """A TD that is defined.

    ``on_reboot`` is libvirt's default, restart, where the file does not say; ``elements`` are those that only some
    libvirt knows, ``quote_path`` the socket that quotes are asked of, ``loader`` the firmware file and
    ``loader_type`` how it is mapped, each where it is named.
    """

    name: str
    on_reboot: str
    elements: tuple[str, ...] = ()
    quote_path: str | None = None
    loader: str | None = None
    loader_type: str | None = None

    def xml(self) -> str:
        """What of the domain a capture keeps."""
        path = f" path='{self.quote_path}'" if self.quote_path else ""
        kept = [f"<{name}{path if name in OF_UPSTREAM else ''}/>" for name in self.elements]
        security = f"<launchSecurity type='tdx'>{''.join(kept)}</launchSecurity>"
        mapped = f" type='{self.loader_type}'" if self.loader_type else ""
        start = f"  <os><loader{mapped}>{self.loader}</loader></os>\n" if self.loader else ""
        return f"<domain>\n{start}  <on_reboot>{self.on_reboot}</on_reboot>\n  {security}\n</domain>\n"


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
            loader = _LOADER.search(text)
            mapped = _LOADER_TYPE.search(loader[1] or "") if loader else None
            yield TdDomain(
                name.removesuffix(".xml"),
                reboot[1] if reboot else "restart",
                tuple(dict.fromkeys(found)),
                path[1] if path else None,
                loader[2] if loader else None,
                mapped[1] if mapped else None,
            )
