"""The TCG crypto-agile event log, read and written: TPM logs and the confidential-computing (CC) log of a TD.

Source: TCG PC Client Platform Firmware Profile 1.06, section 10 (``TCG_PCClientPCREvent``, ``TCG_EfiSpecIDEvent``,
``TCG_PCR_EVENT2``); UEFI 2.10, section 38 (the CC log has the same records, with a CC measurement register index in
place of the PCR index). The log starts with one SHA-1 style record whose data, ``Spec ID Event03``, lists the digest
algorithms and their sizes; every later record is a TCG_PCR_EVENT2::

    u32 index | u32 type | u32 count | {u16 algorithm, digest} x count | u32 size | size bytes of data

The log ends where its bytes end, at a record of 0xFF (what firmware fills a CCEL area with) or at a record of
zeros (td-shim). What follows is kept as it is, so that ``to_bytes`` gives back what ``from_bytes`` read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple

from tdxstack.errors import WireError

SPEC_ID_SIGNATURE = b"Spec ID Event03\0"
#: Limits. The field's largest CC log area is 1 MiB; a TPM log may be larger.
MAX_ALGORITHMS = 8
MAX_LOG = 64 << 20

_EVENT = struct.Struct("<II20sI")
_EVENT2 = struct.Struct("<III")
_SPEC_ID = struct.Struct("<16sIBBBBI")
_ALGORITHM = struct.Struct("<HH")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_ALL_ONES = 0xFFFFFFFF
_END_FF = b"\xff" * 12
_END_ZERO = b"\0" * 12


class Algorithm(IntEnum):
    """Digest algorithms of the TCG registry (``TPM_ALG_ID``). The log's header says their sizes."""

    SHA1 = 0x0004
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    SM3_256 = 0x0012
    SHA3_256 = 0x0027
    SHA3_384 = 0x0028
    SHA3_512 = 0x0029


DIGEST_SIZES: dict[int, int] = {
    Algorithm.SHA1: 20,
    Algorithm.SHA256: 32,
    Algorithm.SHA384: 48,
    Algorithm.SHA512: 64,
    Algorithm.SM3_256: 32,
    Algorithm.SHA3_256: 32,
    Algorithm.SHA3_384: 48,
    Algorithm.SHA3_512: 64,
}


class EventType(IntEnum):
    """Event types of the TCG PC Client Platform Firmware Profile, section 10.4.1."""

    EV_PREBOOT_CERT = 0x00000000
    EV_POST_CODE = 0x00000001
    EV_UNUSED = 0x00000002
    EV_NO_ACTION = 0x00000003
    EV_SEPARATOR = 0x00000004
    EV_ACTION = 0x00000005
    EV_EVENT_TAG = 0x00000006
    EV_S_CRTM_CONTENTS = 0x00000007
    EV_S_CRTM_VERSION = 0x00000008
    EV_CPU_MICROCODE = 0x00000009
    EV_PLATFORM_CONFIG_FLAGS = 0x0000000A
    EV_TABLE_OF_DEVICES = 0x0000000B
    EV_COMPACT_HASH = 0x0000000C
    EV_IPL = 0x0000000D
    EV_IPL_PARTITION_DATA = 0x0000000E
    EV_NONHOST_CODE = 0x0000000F
    EV_NONHOST_CONFIG = 0x00000010
    EV_NONHOST_INFO = 0x00000011
    EV_OMIT_BOOT_DEVICE_EVENTS = 0x00000012
    EV_POST_CODE2 = 0x00000013
    EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
    EV_EFI_VARIABLE_BOOT = 0x80000002
    EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003
    EV_EFI_BOOT_SERVICES_DRIVER = 0x80000004
    EV_EFI_RUNTIME_SERVICES_DRIVER = 0x80000005
    EV_EFI_GPT_EVENT = 0x80000006
    EV_EFI_ACTION = 0x80000007
    EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
    EV_EFI_HANDOFF_TABLES = 0x80000009
    EV_EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
    EV_EFI_HANDOFF_TABLES2 = 0x8000000B
    EV_EFI_VARIABLE_BOOT2 = 0x8000000C
    EV_EFI_GPT_EVENT2 = 0x8000000D
    EV_EFI_HCRTM_EVENT = 0x80000010
    EV_EFI_VARIABLE_AUTHORITY = 0x800000E0
    EV_EFI_SPDM_FIRMWARE_BLOB = 0x800000E1
    EV_EFI_SPDM_FIRMWARE_CONFIG = 0x800000E2


def event_type_name(event_type: int) -> str:
    """The specification's name of an event type, or its number in hex."""
    try:
        return EventType(event_type).name
    except ValueError:
        return f"0x{event_type:08x}"


class Digest(NamedTuple):
    """One digest of an event: TPM_ALG_ID and value."""

    algorithm: int
    value: bytes


@dataclass(frozen=True, slots=True)
class SpecIdEvent:
    """``TCG_EfiSpecIDEvent``: which digests each event carries, and how long they are.

    ``index`` is that of the record around it: 0 in a TPM log and with td-shim, 1 in OVMF's CC log.
    """

    algorithms: tuple[tuple[int, int], ...] = ((Algorithm.SHA384, 48),)
    platform_class: int = 0
    version_minor: int = 0
    version_major: int = 2
    errata: int = 0
    uintn_size: int = 2
    vendor_info: bytes = b""
    index: int = 1
    digest: bytes = bytes(20)

    def to_bytes(self) -> bytes:
        """The whole first record (TCG_PCClientPCREvent)."""
        data = _SPEC_ID.pack(
            SPEC_ID_SIGNATURE,
            self.platform_class,
            self.version_minor,
            self.version_major,
            self.errata,
            self.uintn_size,
            len(self.algorithms),
        )
        data += b"".join(_ALGORITHM.pack(*pair) for pair in self.algorithms)
        data += bytes([len(self.vendor_info)]) + self.vendor_info
        return _EVENT.pack(self.index, EventType.EV_NO_ACTION, self.digest, len(data)) + data


@dataclass(frozen=True, slots=True)
class Event:
    """``TCG_PCR_EVENT2``. ``mr_index`` is a PCR in a TPM log; in a CC log 0 is MRTD and 1..4 are RTMR0..3.

    ``offset`` is where the record was in the bytes it was read from; it takes no part in comparisons.
    """

    mr_index: int
    event_type: int
    digests: tuple[Digest, ...]
    data: bytes
    offset: int = field(default=-1, compare=False)

    def digest(self, algorithm: int = Algorithm.SHA384) -> bytes | None:
        """The digest of one algorithm, or None if the event has none."""
        for entry in self.digests:
            if entry[0] == algorithm:
                return entry[1]
        return None

    def to_bytes(self) -> bytes:
        digests = b"".join(_U16.pack(algorithm) + value for algorithm, value in self.digests)
        head = _EVENT2.pack(self.mr_index, self.event_type, len(self.digests))
        return head + digests + _U32.pack(len(self.data)) + self.data


@dataclass(frozen=True, slots=True)
class EventLog:
    """A whole log: header, events, and whatever stood behind the last event (padding, normally)."""

    header: SpecIdEvent
    events: tuple[Event, ...]
    trailing: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> EventLog:
        """Read a log.

        Raises:
            WireError: not a crypto-agile log, or one that is cut short; ``offset`` says where.
        """
        log, fault = cls.read(data)
        if fault is not None:
            raise fault
        return log

    @classmethod
    def read(cls, data: bytes) -> tuple[EventLog, WireError | None]:
        """Read as far as the bytes make sense: the events before the fault, and the fault or None.

        ``trailing`` then starts with the record at fault.

        Raises:
            WireError: the header itself is unreadable.
        """
        if len(data) > MAX_LOG:
            raise WireError("TCG event log", "log", 0, f"{len(data)} bytes, more than {MAX_LOG}")
        header, position = _read_header(data)
        events, position, fault = read_events(data, header.algorithms, position)
        return cls(header, events, data[position:]), fault

    def to_bytes(self) -> bytes:
        return self.header.to_bytes() + b"".join(event.to_bytes() for event in self.events) + self.trailing

    def padded(self, size: int, fill: int = 0xFF) -> EventLog:
        """The same log in an area of ``size`` bytes.

        Raises:
            WireError: the log is longer than the area.
        """
        bare = replace(self, trailing=b"")
        used = len(bare.to_bytes())
        if used > size:
            raise WireError("TCG event log", "log", size, f"{used} bytes do not fit an area of {size}")
        return replace(bare, trailing=bytes([fill]) * (size - used))

    @property
    def trailing_is_padding(self) -> bool:
        """Whether nothing but 0xFF and 0x00 follows the last event: what firmware and the page behind it hold."""
        return not self.trailing.translate(None, b"\0\xff")


def _read_header(data: bytes) -> tuple[SpecIdEvent, int]:
    if len(data) < _EVENT.size:
        raise WireError("TCG_PCClientPCREvent", "header", 0, f"log is cut short: {len(data)} of {_EVENT.size} bytes")
    index, event_type, digest, size = _EVENT.unpack_from(data)
    if event_type != EventType.EV_NO_ACTION:
        raise WireError("TCG_PCClientPCREvent", "eventType", 4, f"{event_type_name(event_type)}, not EV_NO_ACTION")
    end = _EVENT.size + size
    if size < _SPEC_ID.size + 1:
        raise WireError("TCG_PCClientPCREvent", "eventDataSize", 28, f"{size}, too small for a Spec ID event")
    if end > len(data):
        raise WireError(
            "TCG_PCClientPCREvent",
            "eventDataSize",
            28,
            f"log is cut short: {size} bytes of data claimed, {len(data) - _EVENT.size} left",
        )
    start = _EVENT.size
    signature, platform_class, minor, major, errata, uintn, count = _SPEC_ID.unpack_from(data, start)
    if signature != SPEC_ID_SIGNATURE:
        raise WireError("TCG_EfiSpecIDEvent", "signature", start, f"{signature!r}; only crypto-agile logs are known")
    if not 1 <= count <= MAX_ALGORITHMS:
        raise WireError("TCG_EfiSpecIDEvent", "numberOfAlgorithms", start + 24, f"{count}, not 1..{MAX_ALGORITHMS}")
    position = start + _SPEC_ID.size
    vendor_at = position + count * _ALGORITHM.size
    if vendor_at >= end or vendor_at + 1 + data[vendor_at] != end:
        raise WireError("TCG_EfiSpecIDEvent", "vendorInfoSize", min(vendor_at, end), "does not end with the record")
    algorithms = tuple(_read_algorithm(data, position + n * _ALGORITHM.size) for n in range(count))
    if len({algorithm for algorithm, _ in algorithms}) != count:
        raise WireError("TCG_EfiSpecIDEvent", "digestSizes", position, "an algorithm is listed twice")
    vendor = data[vendor_at + 1 : end]
    return SpecIdEvent(algorithms, platform_class, minor, major, errata, uintn, vendor, index, digest), end


def _read_algorithm(data: bytes, position: int) -> tuple[int, int]:
    algorithm, size = _ALGORITHM.unpack_from(data, position)
    known = DIGEST_SIZES.get(algorithm)
    if not 1 <= size <= 64 or (known is not None and size != known):
        raise WireError("TCG_EfiSpecIDEvent", "digestSize", position + 2, f"{size} for algorithm 0x{algorithm:04x}")
    return algorithm, size


def read_events(
    data: bytes, algorithms: Iterable[tuple[int, int]], position: int = 0
) -> tuple[tuple[Event, ...], int, WireError | None]:
    """Read TCG_PCR_EVENT2 records from ``position`` up to the padding or the end of ``data``.

    Returns the events, the offset behind the last of them, and the fault that stopped the reading (None if the
    log simply ended).
    """
    sizes = dict(algorithms)
    total = len(data)
    events, start = _read_plain(data, sizes, position)
    add, unpack = events.append, _EVENT2.unpack_from
    try:
        while start + 12 <= total:
            index, event_type, count = unpack(data, start)
            if (index == 0 or index == _ALL_ONES) and data[start : start + 12] in (_END_FF, _END_ZERO):  # noqa: PLR1714
                break
            if count > len(sizes):
                raise WireError(
                    "TCG_PCR_EVENT2", "digests.count", start + 8, f"{count}, the header lists {len(sizes)}"
                )
            digests, position = _read_digests(data, start + 12, count, sizes)
            end = position + 4 + int.from_bytes(data[position : position + 4], "little")
            if end > total or position + 4 > total:
                raise _cut_short(total, position, end)
            add(Event(index, event_type, digests, data[position + 4 : end], start))
            start = end
        rest = data[start : start + 12]
        if len(rest) < 12 and rest.strip(b"\xff") and rest.strip(b"\0"):
            raise WireError("TCG_PCR_EVENT2", "header", start, f"log is cut short: {len(rest)} of 12 bytes")
    except WireError as fault:
        return tuple(events), start, fault
    return tuple(events), start, None


def _read_plain(data: bytes, sizes: dict[int, int], position: int) -> tuple[list[Event], int]:
    """The records, up to the first other one, that have one digest where the header lists one algorithm: most often
    the whole of a CC log. Returns them and the offset behind the last.
    """
    events: list[Event] = []
    if len(sizes) != 1:
        return events, position
    ((algorithm, length),) = sizes.items()
    record = struct.Struct(f"<IIIH{length}sI")
    fixed, total, unpack, add = record.size, len(data), record.unpack_from, events.append
    while position + fixed <= total:
        index, event_type, count, given, value, size = unpack(data, position)
        start = position + fixed
        end = start + size
        if count != 1 or given != algorithm or end > total:
            break
        add(Event(index, event_type, (Digest(given, value),), data[start:end], position))
        position = end
    return events, position


def _read_digests(data: bytes, position: int, count: int, sizes: dict[int, int]) -> tuple[tuple[Digest, ...], int]:
    digests: tuple[Digest, ...] = ()
    for _ in range(count):
        algorithm = int.from_bytes(data[position : position + 2], "little")
        size = sizes.get(algorithm)
        if position + 2 > len(data):
            raise WireError("TCG_PCR_EVENT2", "digests.hashAlg", position, "log is cut short")
        if size is None:
            reason = f"algorithm 0x{algorithm:04x} is not in the header; the rest cannot be read"
            raise WireError("TCG_PCR_EVENT2", "digests.hashAlg", position, reason)
        if digests and any(algorithm == known for known, _ in digests):
            raise WireError("TCG_PCR_EVENT2", "digests.hashAlg", position, f"0x{algorithm:04x} occurs twice")
        digests += (Digest(algorithm, data[position + 2 : position + 2 + size]),)
        position += 2 + size
    return digests, position


def _cut_short(total: int, position: int, end: int) -> WireError:
    if position + 4 > total:
        return WireError("TCG_PCR_EVENT2", "eventSize", min(position, total), "log is cut short")
    reason = f"log is cut short: {end - position - 4} bytes of data claimed, {total - position - 4} left"
    return WireError("TCG_PCR_EVENT2", "eventSize", position, reason)


#: CC measurement register index of each PCR (Intel TDX Virtual Firmware Design Guide 8.1; UEFI 2.10, 38.4.1).
_MR_OF_PCR = {0: 0, 1: 1, 7: 1} | dict.fromkeys(range(2, 7), 2) | dict.fromkeys(range(8, 16), 3)


def mr_index_of_pcr(pcr: int) -> int | None:
    """CC register index (0 MRTD, 1..4 RTMR0..3) that TDVF uses for a PCR; None for PCR 16 and above."""
    return _MR_OF_PCR.get(pcr)


def cc_log_of_tpm_log(log: EventLog, first: Iterable[Event] = ()) -> EventLog:
    """The CC log a TD would have kept of the boot that a TPM log tells of.

    Only SHA-384 digests are kept; events of PCR 0 (MRTD in a TD, which cannot be extended), of PCRs without a
    register, without a SHA-384 digest and EV_NO_ACTION events are left out, as TDVF does not log them.

    Args:
        log: the TPM's log.
        first: events to put in front (those that TDVF logs only in a TD).
    """
    events = list(first)
    for event in log.events:
        mr_index = mr_index_of_pcr(event.mr_index)
        digest = event.digest(Algorithm.SHA384)
        if not mr_index or digest is None or event.event_type == EventType.EV_NO_ACTION:
            continue
        events.append(Event(mr_index, event.event_type, (Digest(Algorithm.SHA384, digest),), event.data))
    return EventLog(SpecIdEvent(), tuple(events))
