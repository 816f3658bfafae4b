"""DIMMs: type, ECC and population (Intel white paper "Linux Stacks for Intel TDX 1.5", section 2.1), from SMBIOS."""

from __future__ import annotations

from collections import Counter, defaultdict

from tdxstack.preflight.host import Host
from tdxstack.preflight.model import Check, Finding, failed, judged, passed, warned
from tdxstack.wire.smbios import MemoryDevice, MemoryTechnology, MemoryType, Slot, slot_of

PLACES = "see the board's manual for the slot order: one DIMM in slot 0 of every channel (8+0), or all slots (16+0)"
#: Channel -> positions filled, of one socket.
Channels = dict[int, dict[int, int]]


def _populated(host: Host) -> list[MemoryDevice]:
    return [device for device in host.smbios.memory_devices if device.populated]


def _found(host: Host) -> Finding:
    devices = host.smbios.memory_devices
    filled = [device for device in devices if device.populated]
    sizes = Counter(device.size_mib for device in filled)
    text = ", ".join(
        f"{count} x {'unknown size' if size is None else f'{size // 1024} GiB'}" for size, count in sizes.items()
    )
    return judged(bool(filled), f"{host.smbios.where}: {len(filled)} of {len(devices)} slots filled ({text})")


def _type(host: Host) -> Finding:
    kinds = Counter((device.type, device.registered) for device in _populated(host))
    named = ", ".join(
        f"{count} x {_type_name(kind)}{' registered' if rdimm else ''}" for (kind, rdimm), count in kinds.items()
    )
    good = all(kind == MemoryType.DDR5 and rdimm for kind, rdimm in kinds)
    return judged(good, f"SMBIOS type 17: {named}")


def _type_name(kind: int) -> str:
    return MemoryType(kind).name if kind in MemoryType.__members__.values() else f"type {kind:#x}"


def _ecc(host: Host) -> Finding:
    widths = Counter((device.total_width, device.data_width, device.ecc_bits) for device in _populated(host))
    text = ", ".join(f"{count} x {total}/{data} bits" for (total, data, _), count in widths.items())
    if any(ecc is None for *_, ecc in widths):
        return warned(f"SMBIOS type 17: {text}: widths are not known")
    if any(ecc == 0 for *_, ecc in widths):
        return failed(f"SMBIOS type 17: {text}: DIMMs without ECC")
    if any(ecc is not None and ecc < 16 for *_, ecc in widths):
        return warned(f"SMBIOS type 17: {text}: 9x4 ECC; memory integrity needs 10x4 DIMMs")
    return passed(f"SMBIOS type 17: {text}")


def _one_level(host: Host) -> Finding:
    persistent = {MemoryTechnology.PERSISTENT, MemoryTechnology.NVDIMM_P}
    found = [device.locator for device in _populated(host) if device.technology in persistent]
    if found:
        return failed(f"SMBIOS type 17: persistent memory modules in {', '.join(found[:8])}")
    return passed("SMBIOS type 17: DRAM modules only, so memory is one-level (1LM)")


def layout(devices: tuple[MemoryDevice, ...]) -> dict[int, Channels] | None:
    """socket -> channel -> position -> size in MiB (0: empty); None where a slot's place is not known."""
    sockets: dict[int, Channels] = defaultdict(lambda: defaultdict(dict))
    for device in devices:
        place = slot_of(device)
        if place is None:
            return None
        sockets[place.socket][place.channel][place.position] = device.size_mib if device.size_mib is not None else -1
    return {socket: dict(channels) for socket, channels in sockets.items()}


def _slot_zero(host: Host) -> Finding:
    sockets = layout(host.smbios.memory_devices)
    if sockets is None:
        return _unknown(host)
    empty = [
        Slot(socket, channel, 0)
        for socket, channels in sorted(sockets.items())
        for channel, slots in sorted(channels.items())
        if not slots.get(min(slots), 0)
    ]
    if empty:
        where = ", ".join(f"socket {slot.socket} channel {chr(ord('A') + slot.channel)}" for slot in empty[:8])
        return failed(f"SMBIOS type 17: slot 0 is empty on {where}")
    return passed(f"SMBIOS type 17: slot 0 of every channel is filled on {len(sockets)} sockets")


def _symmetric(host: Host) -> Finding:
    sockets = layout(host.smbios.memory_devices)
    if sockets is None:
        return _unknown(host)
    shapes = {
        socket: [sorted(size for size in slots.values() if size) for slots in channels.values()]
        for socket, channels in sockets.items()
    }
    counts = {socket: sum(map(len, shape)) for socket, shape in shapes.items()}
    text = ", ".join(f"socket {socket}: {_population(sockets[socket])}" for socket in sorted(sockets))
    uneven = [socket for socket, shape in shapes.items() if any(channel != shape[0] for channel in shape)]
    if uneven or len(set(counts.values())) > 1:
        return failed(f"SMBIOS type 17: {text}: not symmetric")
    return passed(f"SMBIOS type 17: {text}: symmetric")


def _population(channels: Channels) -> str:
    first = sum(1 for slots in channels.values() if slots.get(min(slots), 0))
    total = sum(1 for slots in channels.values() for size in slots.values() if size)
    return f"{total}+0" if total == first or total == 2 * first else f"{first}+{total - first}"


def _unknown(host: Host) -> Finding:
    names = [device.locator for device in host.smbios.memory_devices if slot_of(device) is None]
    return warned(
        f"SMBIOS type 17: locators of an unknown form ({', '.join(names[:4])}): population was not judged", PLACES
    )


POPULATION = (
    Check(
        "memory.slot_zero",
        "DIMM in slot 0 of every channel",
        _slot_zero,
        "at least one DIMM on every channel, in slot 0",
        "TDX is enabled only with all channels of a socket in use",
        PLACES,
    ),
    Check(
        "memory.symmetric",
        "Symmetric DIMM population",
        _symmetric,
        "8+0 or 16+0 DIMMs a socket, the same on every channel and socket",
        "the memory controllers must be populated alike for TDX",
        PLACES,
    ),
    Check(
        "memory.type",
        "DDR5 registered DIMMs",
        _type,
        "DDR5 RDIMMs",
        "TDX's memory integrity is built on DDR5 RDIMMs",
        "use DDR5 RDIMMs of the board's qualified list",
    ),
    Check(
        "memory.ecc",
        "ECC DIMMs (10x4)",
        _ecc,
        "80 bits in all for 64 bits of data (10x4)",
        "logical integrity keeps its bits in the ECC bits",
        "use 10x4 ECC DIMMs of the board's qualified list",
    ),
    Check(
        "memory.one_level",
        "Volatile memory is 1LM",
        _one_level,
        "directly attached DRAM (Volatile Memory = 1LM)",
        "convertible memory must be directly attached DDR5",
        "in the BIOS set Volatile Memory = 1LM and remove persistent memory modules",
        required=False,
    ),
)

MEMORY = Check(
    "memory.dimms",
    "DIMMs are listed by the firmware",
    _found,
    "populated memory devices (SMBIOS type 17)",
    "TDX depends on which DIMMs sit where",
    "run as root; if the table is empty, update the BIOS",
    required=False,
    children=POPULATION,
)
