"""GRUB as a measuring boot loader: a GRUB image's own settings, and the events of running its configuration.

GRUB measures each command before it runs it, as its words after expansion, joined by blanks (PCR 8), each file that
it opens (PCR 9), and the kernel's command line (PCR 8). Only scripts whose course is determined by themselves are
followed; where one depends on something else, the run ends with the reason.

Source: GRUB 2.12 ``grub-core/script/execute.c``, ``grub-core/commands/tpm.c``, ``grub-core/lib/cmdline.c`` and
``include/grub/kernel.h`` (embedded modules).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tdxstack.measure.grub_script import ScriptFault, Word, commands, expand
from tdxstack.wire.pe import PeImage

MODULE_MAGIC = b"mimg"
_MODULES = struct.Struct("<4s4xQQ")
_MODULE = struct.Struct("<II")
_CONFIG, _PREFIX = 2, 3
MAX_MODULES = 1024
MAX_EVENTS = 10_000
#: Whoever builds a GRUB names himself in its SBAT; these open the first configuration file twice.
_OPEN_TWICE = ("grub.debian", "grub.ubuntu")
#: Starts kernels by a loader of its own, which does not measure them.
_OWN_LOADER = "grub.peimage"
#: Commands without an effect on what is measured later.
_QUIET = frozenset(("echo", "true", "clear", "sleep", "terminal_output", "terminal_input", "play"))
COMMAND_PCR, FILE_PCR = 8, 9


@dataclass(frozen=True, slots=True)
class GrubImage:
    """A GRUB for UEFI: the directory of its configuration, whether it has one inside, and the names in its SBAT."""

    prefix: str
    embedded_config: bool
    sbat_names: tuple[str, ...]

    @classmethod
    def from_bytes(cls, image: bytes) -> GrubImage | None:
        """The image's settings, or None if it is no GRUB.

        Raises:
            WireError: no PE image.
        """
        headers = PeImage.from_bytes(image)
        modules = headers.section(image, "mods")
        if modules is None or not modules.startswith(MODULE_MAGIC) or len(modules) < _MODULES.size:
            return None
        _, position, size = _MODULES.unpack_from(modules)
        found: dict[int, bytes] = {}
        for _ in range(MAX_MODULES):
            if position + _MODULE.size > min(size, len(modules)):
                break
            kind, length = _MODULE.unpack_from(modules, position)
            if length < _MODULE.size:
                break
            found.setdefault(kind, modules[position + _MODULE.size : position + length])
            position += length
        prefix = found.get(_PREFIX, b"").partition(b"\0")[0].decode("utf-8", "replace")
        lines = (headers.section(image, ".sbat") or b"").partition(b"\0")[0].decode("utf-8", "replace").splitlines()
        return cls(prefix, _CONFIG in found, tuple(line.partition(",")[0] for line in lines))

    @property
    def config_reads(self) -> int | None:
        """How often the first configuration file is opened, and so measured; None where that is not known."""
        return 2 if any(name in self.sbat_names for name in _OPEN_TWICE) else None

    @property
    def own_loader(self) -> bool:
        """Whether kernels are started without the firmware, which then does not measure them."""
        return _OWN_LOADER in self.sbat_names


@dataclass(frozen=True, slots=True)
class GrubEvent:
    """One extend: PCR 8 (commands, command lines) or 9 (files); ``name`` as in the log, ``why`` in words."""

    pcr: int
    measured: bytes
    name: str
    why: str


@dataclass(slots=True)
class GrubRun:
    """The events of a run, and what it ends with: a kernel that is started, or the reason why nothing is known.

    Args:
        device: GRUB's name of the partition that it was started from, e.g. ``hd0,gpt1``.
        prefix: the directory of its configuration on that partition.
        read: gives a file by (device, path), or None.
    """

    device: str
    prefix: str
    read: Callable[[str, str], bytes | None]
    events: list[GrubEvent] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    kernel: bytes | None = None
    cmdline: str = ""
    initrd: bytes | None = None
    started: bool = False
    unknown: str | None = None

    def __post_init__(self) -> None:
        self.variables |= {
            "root": self.device,
            "prefix": f"({self.device}){self.prefix}",
            "grub_platform": "efi",
            "grub_cpu": "x86_64",
        }

    def run(self, reads: int) -> None:
        """Read ``grub.cfg``, which is opened ``reads`` times, and follow it."""
        path = f"({self.device}){self.prefix}/grub.cfg"
        content = self._file(path)
        if content is None:
            self.unknown = f"there is no {path}"
            return
        for _ in range(reads - 1):
            self.events.append(self.events[-1])
        try:
            for words in commands(content.decode("utf-8", "surrogateescape")):
                self._command(words)
                if self.started:
                    return
            self.unknown = "grub.cfg ends without starting a kernel"
        except ScriptFault as fault:
            self.unknown = str(fault)

    def _command(self, words: list[Word]) -> None:
        argv = expand(words, self.variables)
        if not argv:
            return
        if len(self.events) > MAX_EVENTS:
            raise ScriptFault("grub.cfg has too many commands")
        text = " ".join(argv)
        self._say(text, f"grub_cmd: {text}", "a command of grub.cfg")
        name, arguments = argv[0], argv[1:]
        if "=" in name and not arguments:
            self._set([name])
        elif name == "set":
            self._set(arguments)
        elif name == "unset":
            for one in arguments:
                self.variables.pop(one, None)
        elif name in ("linux", "linuxefi"):
            self._linux(arguments)
        elif name in ("initrd", "initrdefi"):
            self._initrd(arguments)
        elif name == "boot":
            self._boot()
        elif name != "export" and name not in _QUIET:
            raise ScriptFault(f"what GRUB's command {name} does is not followed")

    def _say(self, text: str, name: str, why: str) -> None:
        self.events.append(GrubEvent(COMMAND_PCR, text.encode("utf-8", "surrogateescape"), name, why))

    def _set(self, arguments: list[str]) -> None:
        for one in arguments[:1]:
            name, _, value = one.partition("=")
            self.variables[name] = value

    def _file(self, name: str) -> bytes | None:
        device, path = self.variables["root"], name
        if name.startswith("("):
            device, _, path = name[1:].partition(")")
        content = self.read(device, path)
        if content is not None:
            self.events.append(GrubEvent(FILE_PCR, content, name, f"file {path}"))
        return content

    def _needed(self, name: str) -> bytes:
        content = self._file(name)
        if content is None:
            raise ScriptFault(f"the file {name} cannot be read from the disk")
        return content

    def _linux(self, arguments: list[str]) -> None:
        if not arguments:
            raise ScriptFault("linux without a kernel")
        self.kernel = self._needed(arguments[0])
        text = " ".join(_quoted(one) for one in arguments)
        self._say(text, f"kernel_cmdline: {text}", "the kernel's command line, as GRUB makes it")
        self.cmdline, self.initrd = f"BOOT_IMAGE={text}", None

    def _initrd(self, arguments: list[str]) -> None:
        if any(one.startswith("newc:") for one in arguments):
            raise ScriptFault("an initrd with newc: is not followed")
        parts = [self._needed(one) for one in arguments]
        padded = [part + bytes(-len(part) % 4) for part in parts[:-1]]
        self.initrd = b"".join([*padded, *parts[-1:]])

    def _boot(self) -> None:
        if self.kernel is None:
            raise ScriptFault("boot without a kernel")
        self.started = True


def _quoted(word: str) -> str:
    """A word of the kernel's command line: GRUB puts one with a blank in quotes, and a backslash before quotes."""
    escaped = "".join(f"\\{letter}" if letter in "\\'\"" else letter for letter in word)
    return f'"{escaped}"' if " " in word else escaped
