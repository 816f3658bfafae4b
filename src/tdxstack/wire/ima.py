"""Lists of Linux's Integrity Measurement Architecture (IMA), as ASCII and as binary, with the templates' own bytes.

Source: Linux ``Documentation/security/IMA-templates.rst``, ``security/integrity/ima/ima_fs.c`` and
``ima_template_lib.c``. An entry's template digest is the digest of its template data: each field as u32 length and
bytes. It is computed here from the fields, so that a list that shows other fields than were extended is found.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass

from tdxstack.errors import WireError

#: Limits. A long-running machine may have some hundred thousand entries.
MAX_ENTRIES = 1 << 20
MAX_FIELD = 1 << 20
DIGEST_SIZES = (20, 32, 48, 64)
_HEX_SIZES = tuple(2 * size for size in DIGEST_SIZES)
_HASHES = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
_LEGACY_NAME_SIZE = 256
_U32 = struct.Struct("<I")
_TEMPLATES = {
    "ima-ng": ("d-ng", "n-ng"),
    "ima-sig": ("d-ng", "n-ng", "sig"),
    "ima-buf": ("d-ng", "n-ng", "buf"),
    "ima-modsig": ("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
    "ima-ngv2": ("d-ngv2", "n-ng"),
    "ima-sigv2": ("d-ngv2", "n-ng", "sig"),
    "evm-sig": ("d-ng", "n-ng", "evmsig", "xattrnames", "xattrlengths", "xattrvalues", "iuid", "igid", "imode"),
}
#: The kernel's longest name is 69 characters: a template without a name has its fields' names, joined by bars.
MAX_TEMPLATE_NAME = 128
_NUMBERS = {"iuid": 4, "igid": 4, "imode": 2}
_BYTES = ("sig", "buf", "modsig", "evmsig", "xattrlengths", "xattrvalues")
_FIELDS = frozenset(("d-modsig", "xattrnames", *_NUMBERS, *_BYTES))
_LINE = re.compile(rb"(\d{1,3}) ([0-9a-fA-F]{40,128}) ([\w|-]{1,128})(?: (.*))?")


@dataclass(frozen=True, slots=True)
class ImaEntry:
    """One entry. ``template_digest`` is what the list says; ``template_data`` what it must be the digest of."""

    index: int
    template_digest: bytes
    template: str
    template_data: bytes
    file_digest: str
    name: str

    @property
    def violation(self) -> bool:
        """A violation (open for writing while measured): the list has zeros, the register was extended by ones."""
        return not any(self.template_digest)

    @property
    def digest_holds(self) -> bool:
        """Whether the list's template digest follows from the entry's fields."""
        return self.violation or _digest(self.template_data, len(self.template_digest)) == self.template_digest

    def extended(self, size: int = 48) -> bytes:
        """What a register of ``size`` bytes was extended by: the digest of the template data by that algorithm."""
        return b"\xff" * size if self.violation else _digest(self.template_data, size)


def _digest(data: bytes, size: int) -> bytes:
    return hashlib.new(_HASHES[size], data).digest()


def read_list(data: bytes) -> tuple[ImaEntry, ...]:
    """Read a measurement list, ASCII or binary (told by its first bytes).

    Raises:
        WireError: not a list, or one with an entry that cannot be read.
    """
    if _LINE.match(data[:300]):
        return read_ascii(data)
    return read_binary(data)


def read_ascii(data: bytes) -> tuple[ImaEntry, ...]:
    """Read ``ascii_runtime_measurements``."""
    entries: list[ImaEntry] = []
    offset = 0
    for line in data.split(b"\n"):
        if line.strip():
            if len(entries) >= MAX_ENTRIES:
                raise WireError("IMA list", "entries", offset, f"more than {MAX_ENTRIES}")
            entries.append(_ascii_entry(line.rstrip(b"\r"), offset))
        offset += len(line) + 1
    return tuple(entries)


def _ascii_entry(line: bytes, offset: int) -> ImaEntry:
    match = _LINE.fullmatch(line)
    if match is None or len(match[2]) not in _HEX_SIZES:
        raise WireError("IMA list", "entry", offset, f"not an entry: {line[:60]!r}")
    template = match[3].decode("ascii")
    rest = match[4] or b""
    digest, _, after = rest.partition(b" ")
    if template == "ima":
        data = _hex(digest, offset).ljust(20, b"\0") + after.ljust(_LEGACY_NAME_SIZE, b"\0")
        return _entry(match, template, data, digest, after)
    fields = _fields(template, offset)
    values = [b""] * (len(fields) - 2)
    for number in reversed(range(len(values))):
        after, _, values[number] = after.rpartition(b" ")
    name = after
    algorithm, _, hexadecimal = digest.rpartition(b":")
    raw = [algorithm + b":\0" + _hex(hexadecimal, offset), name + b"\0"]
    raw += [_value(field, value, offset) for field, value in zip(fields[2:], values, strict=True)]
    return _entry(match, template, b"".join(_U32.pack(len(one)) + one for one in raw), digest, name)


def _entry(match: re.Match[bytes], template: str, data: bytes, digest: bytes, name: bytes) -> ImaEntry:
    listed = bytes.fromhex(match[2].decode("ascii"))
    return ImaEntry(
        int(match[1]), listed, template, data, digest.decode("ascii", "replace"), name.decode(errors="replace")
    )


def _fields(template: str, offset: int) -> tuple[str, ...]:
    """The fields of a template, by its name or by theirs (``ima_template_fmt=d-ng|n-ng|sig``)."""
    fields = _TEMPLATES.get(template) or tuple(template.split("|"))
    if fields[0] not in ("d-ng", "d-ngv2") or fields[1:2] != ("n-ng",) or not set(fields[2:]) <= _FIELDS:
        raise WireError("IMA list", "template", offset, f"{template} is not known")
    return fields


def _value(field: str, value: bytes, offset: int) -> bytes:
    """A field's bytes, from how ASCII lists show it."""
    if size := _NUMBERS.get(field):
        if not re.fullmatch(rb"[0-9]{1,10}", value) or int(value) >> 8 * size:
            raise WireError("IMA list", field, offset, f"{value[:20]!r} is no number of {size} bytes")
        return int(value).to_bytes(size, "little")
    if field == "xattrnames":
        return value + b"\0"
    if field == "d-modsig" and value:
        algorithm, _, hexadecimal = value.rpartition(b":")
        return algorithm + b":\0" + _hex(hexadecimal, offset)
    return _hex(value, offset)


def _hex(text: bytes, offset: int) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except (UnicodeDecodeError, ValueError):
        raise WireError("IMA list", "field", offset, f"{text[:40]!r} is not hexadecimal") from None


def read_binary(data: bytes) -> tuple[ImaEntry, ...]:
    """Read ``binary_runtime_measurements`` (or one of an algorithm, whose digests have its size)."""
    first: WireError | None = None
    for size in DIGEST_SIZES:
        try:
            return _read_binary(data, size)
        except WireError as error:
            first = first or error
    raise first or WireError("IMA list", "entry", 0, "empty")


def _read_binary(data: bytes, digest_size: int) -> tuple[ImaEntry, ...]:
    entries: list[ImaEntry] = []
    position = 0
    while position < len(data):
        if len(entries) >= MAX_ENTRIES:
            raise WireError("IMA list", "entries", position, f"more than {MAX_ENTRIES}")
        start = position
        head = 4 + digest_size
        if position + head + 4 > len(data):
            raise WireError("IMA list", "entry", position, "the list is cut short")
        index = int.from_bytes(data[position : position + 4], "little")
        listed = data[position + 4 : position + head]
        raw_name, position = _field(data, position + head, MAX_TEMPLATE_NAME)
        if not raw_name or not all(33 <= byte < 127 for byte in raw_name):
            raise WireError("IMA list", "template name", start + head, f"{raw_name[:20]!r}")
        template = raw_name.decode("ascii")
        if template == "ima":
            entry, position = _legacy_entry(data, position, index, listed)
        else:
            template_data, position = _field(data, position, MAX_FIELD)
            digest, name = _shown(template_data)
            entry = ImaEntry(index, listed, template, template_data, digest, name)
        entries.append(entry)
    return tuple(entries)


def _legacy_entry(data: bytes, position: int, index: int, listed: bytes) -> tuple[ImaEntry, int]:
    digest = data[position : position + 20]
    if len(digest) < 20:
        raise WireError("IMA list", "digest", position, "the list is cut short")
    name, position = _field(data, position + 20, _LEGACY_NAME_SIZE)
    whole = digest + name.ljust(_LEGACY_NAME_SIZE, b"\0")
    return ImaEntry(index, listed, "ima", whole, digest.hex(), name.decode(errors="replace")), position


def _field(data: bytes, position: int, limit: int) -> tuple[bytes, int]:
    if position + 4 > len(data):
        raise WireError("IMA list", "length", position, "the list is cut short")
    (size,) = _U32.unpack_from(data, position)
    if size > limit or position + 4 + size > len(data):
        raise WireError("IMA list", "length", position, f"{size} bytes claimed, {len(data) - position - 4} left")
    return data[position + 4 : position + 4 + size], position + 4 + size


def _shown(template_data: bytes) -> tuple[str, str]:
    """File digest and name of template data, for people."""
    try:
        digest, position = _field(template_data, 0, MAX_FIELD)
        name, _ = _field(template_data, position, MAX_FIELD)
    except WireError:
        return "", ""
    algorithm, _, value = digest.partition(b":\0")
    return f"{algorithm.decode(errors='replace')}:{value.hex()}", name.rstrip(b"\0").decode(errors="replace")
