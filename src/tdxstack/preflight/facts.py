"""Small parsers of what Linux prints: cpuinfo, the kernel command line, versions, the kernel log, package lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tdxstack.errors import TdxStackError
from tdxstack.preflight.seamcall import leaf_of


class FactMalformed(TdxStackError):
    """Something that the host says cannot be read as what it should be."""


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """The first processor of /proc/cpuinfo, and counts over all of them."""

    vendor: str
    family: int
    model: int
    stepping: int
    name: str
    microcode: str
    flags: frozenset[str]
    logical: int
    sockets: int

    @classmethod
    def parse(cls, text: str) -> CpuInfo:
        """Raises FactMalformed: no processor, or numbers that are none."""
        blocks = [_fields(block) for block in re.split(r"\n\s*\n", text) if "processor" in block]
        if not blocks:
            raise FactMalformed("/proc/cpuinfo names no processor")
        first = blocks[0]
        return cls(
            vendor=first.get("vendor_id", ""),
            family=_number(first, "cpu family"),
            model=_number(first, "model"),
            stepping=_number(first, "stepping"),
            name=first.get("model name", ""),
            microcode=first.get("microcode", ""),
            flags=frozenset(first.get("flags", "").split()),
            logical=len(blocks),
            sockets=len({block.get("physical id", "0") for block in blocks}),
        )


def _fields(block: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _number(fields: dict[str, str], key: str) -> int:
    value = fields.get(key, "")
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise FactMalformed(f"/proc/cpuinfo: {key} is {value[:40]!r}")
    return int(value)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The kernel command line as parameters, in order (Linux ``lib/cmdline.c``: next_arg)."""

    parameters: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> CommandLine:
        """Split as the kernel does: spaces separate, double quotes hold together, ``--`` ends the kernel's part."""
        found: list[tuple[str, str | None]] = []
        for word in _tokens(text):
            if word == "--":
                break
            key, equals, value = word.partition("=")
            found.append((key.strip('"'), value.strip('"') if equals else None))
        return cls(tuple(found))

    def has(self, key: str) -> bool:
        return any(_same(name, key) for name, _ in self.parameters)

    def value(self, key: str) -> str | None:
        """The value of the last such parameter: that is the one in force. None where absent or without a value."""
        values = [value for name, value in self.parameters if _same(name, key)]
        return values[-1] if values else None


def _tokens(text: str) -> Iterator[str]:
    token, quoted = "", False
    for character in text:
        if character == '"':
            quoted = not quoted
        if character.isspace() and not quoted:
            if token:
                yield token
            token = ""
        else:
            token += character
    if token:
        yield token


def _same(left: str, right: str) -> bool:
    return left.replace("-", "_") == right.replace("-", "_")


Version = tuple[int, ...]


def version(text: str) -> Version:
    """The leading numbers of a version: ``6.17.0-5-generic`` is (6, 17, 0), ``1.5.06`` is (1, 5, 6).

    Raises:
        FactMalformed: it does not begin with a number.
    """
    found = re.match(r"\d{1,9}(?:\.\d{1,9})*", text.strip(), re.ASCII)
    if found is None:
        raise FactMalformed(f"no version: {text[:60]!r}")
    return tuple(int(part) for part in found[0].split("."))


def dotted(value: Version) -> str:
    return ".".join(str(part) for part in value)


@dataclass(frozen=True, slots=True)
class ModuleLine:
    """The TDX module's line of the kernel log, in the old form or the new."""

    major: int
    minor: int
    update: int | None = None
    build_number: int | None = None
    build_date: str = ""
    attributes: int = 0


@dataclass(slots=True)
class TdxLog:
    """What the kernel log says of TDX. ``lines`` are the TDX lines in order, cut to a sane number."""

    lines: list[str] = field(default_factory=list)
    key_ids: tuple[int, int] | None = None
    module: ModuleLine | None = None
    initialized: bool = False
    enabled_by_bios: bool | None = None
    failures: list[str] = field(default_factory=list)
    seamcalls: list[tuple[int | None, int]] = field(default_factory=list)
    convertible_ranges: int = 0
    upstream: bool = False
    stack_1_5: bool = False
    kernel: str | None = None


MAX_LINES = 2000
_TDX_LINE = re.compile(r"(?:^|[\s\];>])(virt/tdx|x86/tdx|tdx|kvm_intel|seamldr): ?(.*)$")
#: A SEAMCALL that failed counts under any prefix.
_ANY_LINE = re.compile(r"(?:^|[\s\];>])()((?i:seamcall)\b.*)$")
_KERNEL = re.compile(r"Linux version (\S{1,120})")
_KEY_IDS = re.compile(r"BIOS enabled: private KeyID range \[(\d{1,6}), ?(\d{1,6})\)")
_MODULE_OLD = re.compile(
    r"TDX module: attributes (0x[0-9a-f]{1,16}), vendor_id \w+, major_version (\d{1,5}), minor_version (\d{1,5}), "
    r"build_date (\w+), build_num (\d{1,9})"
)
_MODULE_NEW = re.compile(r"TDX module (\d{1,5})\.(\d{1,5})\.(\d{1,5})\S*, build number (\d{1,9}), build date (\w+)")
_SEAMCALL = re.compile(r"seamcall.*?(?:fail|error|return).*\b(0x[1-9a-f][0-9a-f]{8,15})\b", re.IGNORECASE)
_FAILURES = (
    "initialization failed",
    "module not loaded",
    "not enabled by BIOS",
    "too few private KeyIDs",
    "is required for TDX",
    "requires kvm.enable_virt_at_load",
    "no TDX private KeyIDs",
    "Disable TDX:",
    "RBP) clobber",
    "TDX requires all packages",
)


def read_log(text: str) -> TdxLog:
    """Pick what concerns TDX out of a kernel log (Linux ``arch/x86/virt/vmx/tdx``, ``arch/x86/kvm/vmx/tdx.c``)."""
    log = TdxLog()
    for line in text.splitlines():
        if log.kernel is None and (release := _KERNEL.search(line[:1000])):
            log.kernel = release[1]
        found = _TDX_LINE.search(line[:1000]) or _ANY_LINE.search(line[:1000])
        if found is None or len(log.lines) >= MAX_LINES:
            continue
        _read_line(log, found[1], found[2])
    return log


def _read_line(log: TdxLog, prefix: str, text: str) -> None:
    if prefix == "kvm_intel" and "TDX" not in text and "tdx" not in text:
        return
    log.lines.append(f"{prefix}: {text}" if prefix else text)
    log.upstream |= prefix == "virt/tdx"
    log.stack_1_5 |= prefix == "tdx"
    if keys := _KEY_IDS.search(text):
        log.key_ids = int(keys[1]), int(keys[2])
        log.enabled_by_bios = True
    elif "not enabled by BIOS" in text:
        log.enabled_by_bios = False
    if old := _MODULE_OLD.search(text):
        log.module = ModuleLine(int(old[2]), int(old[3]), None, int(old[5]), old[4], int(old[1], 16))
    elif new := _MODULE_NEW.search(text):
        log.module = ModuleLine(int(new[1]), int(new[2]), int(new[3]), int(new[4]), new[5])
    if re.search(r"module (?:is )?initialized\.?\s*$", text, re.IGNORECASE):
        log.initialized = True
    if call := _SEAMCALL.search(text):
        log.seamcalls.append((leaf_of(text), int(call[1], 16)))
    if "CMR: [" in text:
        log.convertible_ranges += 1
    if any(sign in text for sign in _FAILURES):
        log.failures.append(text)
