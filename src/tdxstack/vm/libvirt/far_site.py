"""Another host as the site of a TD: its files by ssh, its abilities from its libvirtd."""

from __future__ import annotations

import hashlib
import shlex
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from tdxstack.errors import PlatformMissing, UsageError, WireError
from tdxstack.vm import dialects
from tdxstack.vm.choose import FIRMWARE_PLACES, HARDWARE
from tdxstack.vm.dialects import Dialect
from tdxstack.vm.disk import QCOW2_MAGIC, QEMU_IMG_TIMEOUT
from tdxstack.vm.libvirt import binding
from tdxstack.vm.libvirt.connection import call, open_connection
from tdxstack.vm.libvirt.domains import is_bound, uuid_of
from tdxstack.vm.libvirt.far_end import FarEnd
from tdxstack.vm.site import PortIsFree
from tdxstack.vm.spec import Accelerator, TdSpec, VmType

MAX_FIRMWARE = 64 << 20
COPY_TIMEOUT = 3600.0
FILES = ("firmware", "image", "kernel", "initrd")
#: Prints user, group, and where this project keeps things there: one a line.
FACTS = """id -u; id -g
if [ -n "$TDXSTACK_HOME" ]; then echo "$TDXSTACK_HOME"
elif [ "$(id -u)" = 0 ]; then echo /var/lib/tdxstack
else echo "$HOME/.local/share/tdxstack"; fi"""
UNREADABLE = 'for path; do [ -r "$path" ] && [ -f "$path" ] || echo "$path"; done'
FIRST = 'for path; do if [ -r "$path" ]; then echo "$path"; break; fi; done'
PREPARE = """umask 077 && mkdir -p "$1" && cd "$1" || exit
rm -rf ./*.sock .saved.new snapshots/.*.new
[ "$2" = goes-on ] || rm -f console.log
exec cat >authorized_keys"""
OVERLAY = """format=raw
[ "$(head -c 4 "$1" | od -An -tx1 | tr -d ' ')" = @MAGIC@ ] && format=qcow2
qemu-img create -q -f qcow2 -b "$(readlink -f "$1")" -F "$format" "$2.new" && mv "$2.new" "$2" && exit
rm -f "$2.new"; exit 1"""
COPY = 'cp --reflink=auto --sparse=always -- "$1" "$2"'
MOVE = 'if [ -d "$1" ]; then rm -rf -- "$2"; fi; mv -f -- "$1" "$2"'


class FarSite:
    """The host of a ``qemu+ssh`` URI. A TD's directory there is named by its domain's UUID."""

    def __init__(self, uri: str, end: FarEnd) -> None:
        self.uri = uri
        self.end = end
        self.key = end.name

    @staticmethod
    @lru_cache
    def of(uri: str) -> FarSite:
        """The site of a URI.

        Raises:
            PlatformMissing: its host is not reached by ssh.
        """
        return FarSite(uri, FarEnd.of(uri))

    @cached_property
    def _facts(self) -> tuple[int, int, Path]:
        lines = self.end.shell(FACTS).text.splitlines()
        return int(lines[0]), int(lines[1]), Path(lines[2]) / "remote"

    def user(self) -> tuple[int, int]:
        return self._facts[:2]

    def directory(self, name: str) -> Path:
        return self._facts[2] / uuid_of(name)

    def run_dir(self, name: str) -> Path:
        return self.directory(name)

    # -- what can run there -------------------------------------------------------------------------------------

    def check(self, spec: TdSpec) -> None:
        if is_bound(spec):
            what = "a TPM" if spec.tpm else f"the software platform {spec.platform!r}"
            raise PlatformMissing(
                f"TD {spec.name}: {what} cannot serve a machine on {self.key}: it hands QEMU open files, "
                "which no connection between hosts carries",
                hint=f"run it from there: ssh {self.end.host} tdxctl td create {spec.name} --via libvirt ...; "
                "types efi and legacy, and TDs on hardware (--platform tdx) go from here",
            )
        named = {str(path): name for name in FILES if (path := getattr(spec, name)) is not None}
        for path in self.end.shell(UNREADABLE, *named).text.splitlines():
            raise UsageError(
                f"TD {spec.name}: {named.get(path, 'file')} {path}: no such file on {self.key}",
                hint=f"paths are those of {self.end.host}; copy it there first: scp {path} {self.end.host}:{path}",
            )

    def dialect(self, spec: TdSpec) -> Dialect:
        if spec.dialect != "auto":
            return dialects.by_name(spec.dialect)
        if spec.type is not VmType.TD or spec.platform != HARDWARE:
            return dialects.SOFTWARE
        features = self._capabilities(spec, "kvm")
        if features is None or features.find("./features/tdx[@supported='yes']") is None:
            raise PlatformMissing(
                f"TD {spec.name}: libvirt on {self.key} offers no TDX",
                hint=f"ssh {self.end.host} tdxctl host check; --dialect tdx15 or canonical for older stacks",
            )
        return dialects.UPSTREAM

    def accelerator(self, spec: TdSpec) -> str:
        if spec.accelerator is not Accelerator.AUTO:
            return str(spec.accelerator.value)
        if spec.type is VmType.TD:
            return "kvm"
        return "tcg" if self._capabilities(spec, "kvm") is None else "kvm"

    def _capabilities(self, spec: TdSpec, kind: str) -> ET.Element | None:
        """What libvirt there says of its QEMU (domcapabilities); None if it has no such machines."""
        libvirt = binding.load()
        emulator = self.program(spec.qemu)

        def ask(connection: Any) -> str | None:
            try:
                return str(connection.getDomainCapabilities(emulator, "x86_64", "q35", kind))
            except libvirt.libvirtError as error:
                if error.get_error_code() in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_CONFIG_UNSUPPORTED):
                    return None
                raise

        connection = open_connection(self.uri)
        try:
            text = call(lambda: ask(connection), self.uri)
        finally:
            connection.close()
        return None if text is None else ET.fromstring(text)  # noqa: S314 - from the libvirtd that we trust our TD to

    def firmware(self, spec: TdSpec) -> Path | None:
        if spec.type is VmType.LEGACY or spec.firmware is not None:
            return spec.firmware if spec.type is not VmType.LEGACY else None
        if not (found := self.end.shell(FIRST, *FIRMWARE_PLACES).text.strip()):
            raise PlatformMissing(
                f"no TDVF or OVMF file on {self.key}",
                hint=f"apt-get install ovmf on {self.end.host}, or give --firmware FILE (a path there)",
            )
        return Path(found)

    def needs_smm(self, firmware: Path | None) -> bool:
        from tdxstack.vm.firmware_facts import facts_of

        try:
            return firmware is not None and facts_of(self._content(firmware)).needs_smm
        except WireError:
            return False

    def digest(self, path: Path) -> str:
        return hashlib.sha256(self._content(path)).hexdigest()

    @lru_cache  # noqa: B019 - one object per URI, which lives as long as the process
    def _content(self, path: Path) -> bytes:
        return self.end.shell('head -c "$1" -- "$2"', str(MAX_FIRMWARE), str(path)).stdout

    def image_format(self, path: Path) -> str:
        magic = self.end.shell('head -c 4 -- "$1"', str(path)).stdout
        return "qcow2" if magic == QCOW2_MAGIC else "raw"

    @lru_cache  # noqa: B019 - as above
    def program(self, name: str) -> str:
        return self.end.program_path(name)

    def free_ports(self) -> PortIsFree:
        """By /proc/net there (proc(5)): the second column is ADDRESS:PORT in hex."""
        text = self.end.shell('cd /proc/net; for f in tcp tcp6 udp udp6; do sed "s/^/$f /" $f; done').text
        taken = set()
        for line in text.splitlines():
            words = line.split()
            if len(words) > 2 and words[1].endswith(":"):
                taken.add((words[0].removesuffix("6"), int(words[2].rpartition(":")[2], 16)))

        def is_free(port: int, protocol: str) -> bool:
            return (protocol, port) not in taken

        return is_free

    # -- its files ----------------------------------------------------------------------------------------------

    def prepare(self, name: str, authorized_keys: str, *, goes_on: bool) -> None:
        how = "goes-on" if goes_on else "afresh"
        self.end.shell(PREPARE, str(self.directory(name)), how, stdin=authorized_keys.encode())

    def exists(self, path: Path) -> bool:
        return self.end.shell('if [ -e "$1" ]; then echo yes; fi', str(path)).text.strip() == "yes"

    def make_overlay(self, image: Path, overlay: Path) -> None:
        script = OVERLAY.replace("@MAGIC@", QCOW2_MAGIC.hex())
        self.end.shell(script, str(image), str(overlay), timeout=QEMU_IMG_TIMEOUT)

    def make_directory(self, path: Path) -> None:
        self.end.shell('umask 077 && mkdir -p -- "$1"', str(path))

    def copy(self, source: Path, target: Path) -> None:
        self.end.shell(COPY, str(source), str(target), timeout=COPY_TIMEOUT)

    def move(self, source: Path, target: Path) -> None:
        self.end.shell(MOVE, str(source), str(target))

    def remove(self, path: Path) -> None:
        self.end.shell('rm -rf -- "$1"', str(path))

    def forget(self, name: str) -> None:
        self.remove(self.directory(name))

    # -- ways into it -------------------------------------------------------------------------------------------

    def proxy_command(self, port: int) -> str:
        """For ssh's ``ProxyCommand``: a connection to a port of 127.0.0.1 there."""
        return shlex.join(self.end.argv("-W", f"127.0.0.1:{port}")).replace("%", "%%")

    def banner(self, port: int, length: int) -> bytes:
        """The first bytes that a port of 127.0.0.1 there says."""
        from tdxstack.system.process import first_bytes

        return first_bytes(self.end.argv("-W", f"127.0.0.1:{port}"), length, timeout=15.0)

    def tail(self, path: Path, *, follow: bool) -> list[str]:
        """The command that prints a file there, and goes on if it is to ``follow``."""
        words = ["tail", "-c", "+1", *(["-f"] if follow else []), "--", str(path)]
        return [*self.end.argv("-T"), shlex.join(words)]
