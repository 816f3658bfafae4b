"""Model-specific registers of a captured tree, in the forms in which people keep them.

Tried in this order, the first that is there counts:

1. JSON: ``/.tdxstack/msr.json``, ``/msr.json``, ``/msrs.json``: register -> CPU -> value, register -> value,
   CPU -> register -> value, or a list of ``{"msr", "cpu", "value"}``; also below a key msr, msrs or registers;
2. text: ``/.tdxstack/msr.txt``, ``/msr.txt``, ``/msrs.txt``, ``/rdmsr.txt``, ``/msr``: ``0x982: 0x3`` a line, with
   ``=`` or blanks as well, a CPU before it (``cpu0 0x982 0x3``) or not;
3. a file a register: ``/msr/0x982``, ``/msr/0/0x982``, ``/dev/cpu/0/msr/0x982``: hexadecimal text or 8 bytes;
4. ``/dev/cpu/N/msr`` as an image, 8 bytes at each register's number, or at 8 times the number.

A register may be cut to bits, ``0x981[50:36]``. Text without ``0x`` is hexadecimal, as ``rdmsr`` prints it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from tdxstack.platform.linux_host_files import HostFiles, HostReadError

JSON_FILES = ("/.tdxstack/msr.json", "/msr.json", "/msrs.json")
TEXT_FILES = ("/.tdxstack/msr.txt", "/msr.txt", "/msrs.txt", "/rdmsr.txt", "/msr")
DIRECTORIES = ("/.tdxstack/msr", "/msr", "/msrs")
DEVICES = "/dev/cpu"
WRAPPERS = ("msr", "msrs", "registers")
#: An image longer than this has 8 bytes a register: registers of TDX end at 0x1401.
PACKED = 0x4000
_KEY = re.compile(r"(?:msr[ _]?)?(?:0x)?([0-9a-f]{1,8})(?:\.(?:txt|hex|bin))?(?:\[(\d{1,2})(?::(\d{1,2}))?\])?", re.I)
_CPU = re.compile(r"(?:cpu)?(\d{1,4})", re.I)
_LINE = re.compile(
    r"\s*(?:cpu[ #]?(\d{1,4})\s*[:,=]?\s*)?((?:msr[ _]?)?(?:0x)?[0-9a-f]{1,8}(?:\[[0-9:]{1,5}\])?)"
    r"\s*[:=,\s]\s*(\S+)\s*",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Registers:
    """Register -> CPU -> what stands there; CPU None holds for all. A value that is none is kept as text."""

    where: str
    values: dict[int, dict[int | None, int | str]] = field(default_factory=dict)
    images: dict[int, bytes] = field(default_factory=dict)

    @property
    def cpus(self) -> list[int]:
        """The CPUs that are named."""
        named = {cpu for values in self.values.values() for cpu in values if cpu is not None}
        return sorted(named | set(self.images))

    def value(self, cpu: int, index: int) -> int:
        """A register.

        Raises:
            HostReadError: it is not there, or is no number of 64 bits.
        """
        values = self.values.get(index, {})
        found = values.get(cpu, values.get(None, self._in_image(cpu, index)))
        if found is None:
            raise HostReadError(self.where, f"MSR {index:#x} of CPU {cpu} was not readable", missing=True)
        if isinstance(found, str):
            raise HostReadError(self.where, f"MSR {index:#x} of CPU {cpu} is {found[:40]!r}")
        if not 0 <= found < 1 << 64:
            raise HostReadError(self.where, f"MSR {index:#x} of CPU {cpu} does not fit 64 bits")
        return found

    def _in_image(self, cpu: int, index: int) -> int | None:
        image = self.images.get(cpu, b"")
        at = index * 8 if len(image) > PACKED else index
        raw = image[at : at + 8]
        return int.from_bytes(raw, "little") if len(raw) == 8 else None

    def put(self, key: str, cpu: int | None, value: object, *, base: int = 16) -> None:
        """Keep a value under a register's name; names that are none are passed over."""
        match = _KEY.fullmatch(key.strip())
        if match is None:
            return
        number = _number(value, base)
        low = int(match[3] or match[2] or 0)
        values = self.values.setdefault(int(match[1], 16), {})
        before = values.get(cpu)
        if isinstance(number, int) and match[2] and low < 64:
            number = (number << low) | (before if isinstance(before, int) else 0)
        values[cpu] = number


def _number(value: object, base: int) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value).strip()
    try:
        return int(text, 16 if text[:2] in ("0x", "0X") else base)
    except ValueError:
        pass
    return int(text, 16) if base == 10 and re.fullmatch(r"[0-9a-fA-F]{1,16}", text) else text


def read_registers(files: HostFiles) -> Registers | None:
    """The registers of a tree, or None where it keeps none.

    Raises:
        HostReadError: what is there cannot be read.
    """
    for path in JSON_FILES:
        if files.exists(path):
            return _json(files, path)
    for path in TEXT_FILES:
        if files.exists(path) and files.is_file(path):
            return _text(files, path)
    for path in DIRECTORIES:
        if files.names(path):
            found = Registers(path)
            _directory(files, path, None, found)
            return found
    return _devices(files)


def _json(files: HostFiles, path: str) -> Registers:
    try:
        value = json.loads(files.text(path))
    except (ValueError, RecursionError) as error:
        raise HostReadError(path, f"not JSON: {error}") from error
    if isinstance(value, dict):
        value = next((value[key] for key in WRAPPERS if isinstance(value.get(key), dict | list)), value)
    found = Registers(path)
    if isinstance(value, list):
        for entry in value:
            _entry(found, entry)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _member(found, key, inner)
    else:
        raise HostReadError(path, "not a JSON object")
    return found


def _entry(found: Registers, entry: Any) -> None:
    if isinstance(entry, dict):
        name = entry.get("msr", entry.get("register", entry.get("address", "")))
        cpu = entry.get("cpu")
        named = hex(name) if isinstance(name, int) else str(name)
        found.put(named, cpu if isinstance(cpu, int) else None, entry.get("value"), base=10)


def _member(found: Registers, key: str, inner: Any) -> None:
    if not isinstance(inner, dict):
        found.put(key, None, inner, base=10)
        return
    by_cpu = _CPU.fullmatch(key) is not None and any(name.lower().startswith("0x") for name in inner)
    for name, value in inner.items():
        register, cpu = (name, key) if by_cpu else (key, name)
        match = _CPU.fullmatch(cpu)
        if match or cpu in ("all", "*", "value"):
            found.put(register, int(match[1]) if match else None, value, base=10)


def _text(files: HostFiles, path: str) -> Registers:
    found = Registers(path)
    for line in files.text(path).splitlines():
        match = _LINE.match(line[:200])
        if match:
            found.put(match[2], int(match[1]) if match[1] else None, match[3])
    return found


def _directory(files: HostFiles, path: str, cpu: int | None, found: Registers) -> None:
    for name in files.names(path):
        inner = f"{path}/{name}"
        match = _CPU.fullmatch(name)
        if files.is_file(inner):
            found.put(name, cpu, _content(files.read(inner, limit=4096)))
        elif match and cpu is None:
            _directory(files, inner, int(match[1]), found)


def _content(data: bytes) -> object:
    """A register's file: hexadecimal text, or its 8 bytes."""
    text = data.decode("latin-1").strip()
    if re.fullmatch(r"(?:0x)?[0-9a-fA-F]{1,16}", text):
        return text
    return int.from_bytes(data, "little") if len(data) == 8 else text


def _devices(files: HostFiles) -> Registers | None:
    found = Registers(f"{DEVICES}/N/msr")
    any_there = False
    for cpu in sorted(int(name) for name in files.names(DEVICES) if re.fullmatch(r"[0-9]{1,4}", name)):
        path = f"{DEVICES}/{cpu}/msr"
        if files.is_file(path):
            found.images[cpu] = files.read(path)
        elif files.exists(path):
            _directory(files, path, cpu, found)
        any_there |= files.exists(path)
    return found if any_there else None
