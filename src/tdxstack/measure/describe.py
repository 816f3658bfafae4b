"""Events in words: what was measured, as far as the event's data says so.

Event data is a description that nobody signs: :mod:`tdxstack.measure.check` tells where the digest proves it.
"""

from __future__ import annotations

import struct

from tdxstack.errors import WireError
from tdxstack.wire.efi.variable import VariableData, load_option_description, load_option_path
from tdxstack.wire.tcg import Event, EventType

REGISTERS = ("MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3")
MAX_TEXT = 160
#: Linux EFI stub's tagged events (drivers/firmware/efi/libstub/efi-stub-helper.c).
_TAG = struct.Struct("<II")
_GPT_HEADER_SIZE = 92
_SWITCH = {b"\1": "on", b"\0": "off"}
_VARIABLES = (
    EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
    EventType.EV_EFI_VARIABLE_BOOT,
    EventType.EV_EFI_VARIABLE_BOOT2,
    EventType.EV_EFI_VARIABLE_AUTHORITY,
)
_IMAGES = {
    EventType.EV_EFI_BOOT_SERVICES_APPLICATION: "EFI application",
    EventType.EV_EFI_BOOT_SERVICES_DRIVER: "EFI boot service driver",
    EventType.EV_EFI_RUNTIME_SERVICES_DRIVER: "EFI runtime driver",
}


def register_name(mr_index: int) -> str:
    """``MRTD``, ``RTMR0`` ... of a CC log's register index."""
    return REGISTERS[mr_index] if 0 <= mr_index < len(REGISTERS) else f"index {mr_index}"


def describe(event: Event) -> str:
    """One line about the event, without control characters and at most ``MAX_TEXT`` characters long."""
    kind, data = event.event_type, event.data
    if kind in _VARIABLES:
        return _clip(_variable(event))
    if kind in _IMAGES:
        return _clip(f"{_IMAGES[EventType(kind)]} {image_path(data)}".rstrip())
    if kind == EventType.EV_SEPARATOR:
        return "separator" if data in (bytes(4), b"\xff" * 4) else f"separator {data[:8].hex()}"
    if kind in (EventType.EV_EFI_GPT_EVENT, EventType.EV_EFI_GPT_EVENT2):
        return _clip(_gpt(data))
    if kind == EventType.EV_EVENT_TAG:
        return _clip(_tagged(data))
    if kind in (EventType.EV_EFI_HANDOFF_TABLES2, EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2):
        return _clip(_named_blob(data))
    if kind == EventType.EV_EFI_HANDOFF_TABLES:
        return "SMBIOS tables" if len(data) == 32 else "hand-off tables"
    if kind == EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB and len(data) == 16:
        base, size = struct.unpack("<QQ", data)
        return f"firmware volume at 0x{base:x}, 0x{size:x} bytes"
    return _clip(text_of(data))


def text_of(data: bytes) -> str:
    """Event data as text: UTF-16 or UTF-8 where it looks like it, else hex."""
    if len(data) >= 4 and len(data) % 2 == 0 and not any(data[1::2]) and any(data[::2]):
        return data.decode("utf-16-le").rstrip("\0")
    stripped = data.rstrip(b"\0")
    try:
        text = stripped.decode("utf-8")
    except UnicodeDecodeError:
        return data.hex()
    return (
        text if stripped and all(character.isprintable() or character in "\n\t" for character in text) else data.hex()
    )


def _clip(text: str) -> str:
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain if len(plain) <= MAX_TEXT else plain[: MAX_TEXT - 3] + "..."


def _variable(event: Event) -> str:
    try:
        variable = VariableData.from_bytes(event.data)
    except WireError:
        return f"variable, damaged description: {event.data[:16].hex()}"
    value = variable.value
    if variable.name == "SecureBoot" and event.event_type == EventType.EV_EFI_VARIABLE_DRIVER_CONFIG:
        return f"variable SecureBoot: {_SWITCH.get(value, 'absent')}"
    if variable.name == "BootOrder" and len(value) % 2 == 0:
        order = ", ".join(f"{number:04X}" for (number,) in struct.iter_unpack("<H", value))
        return f"variable BootOrder: {order}"
    if variable.name.startswith("Boot") and len(value) > 6:
        where = load_option_path(value)
        return f"variable {variable.name}: {load_option_description(value)!r}{f', {where}' if where else ''}"
    if event.event_type == EventType.EV_EFI_VARIABLE_AUTHORITY:
        return f"authority from {variable.name}, {len(value)} bytes"
    return f"variable {variable.name}: {f'{len(value)} bytes' if value else 'absent'}"


def image_path(data: bytes) -> str:
    """Text of the file path nodes in an EFI_IMAGE_LOAD_EVENT."""
    if len(data) < 32:
        return ""
    path = data[32:]
    parts: list[str] = []
    position = 0
    while position + 4 <= len(path):
        kind, subtype, length = struct.unpack_from("<BBH", path, position)
        if length < 4 or position + length > len(path) or kind == 0x7F:
            break
        if (kind, subtype) == (4, 4):
            parts.append(path[position + 4 : position + length].decode("utf-16-le", "replace").rstrip("\0"))
        position += length
    return "".join(parts)


def _gpt(data: bytes) -> str:
    if len(data) < _GPT_HEADER_SIZE + 8 or data[:8] != b"EFI PART":
        return "partition table"
    (count,) = struct.unpack_from("<Q", data, _GPT_HEADER_SIZE)
    return f"partition table (GPT) with {count} partitions"


def _tagged(data: bytes) -> str:
    if len(data) < _TAG.size:
        return f"tagged event {data.hex()}"
    identifier, size = _TAG.unpack_from(data)
    text = text_of(data[_TAG.size : _TAG.size + size])
    known = {
        "LOADED_IMAGE::LoadOptions": "kernel command line (LoadOptions)",
        "Linux initrd": "initrd",
    }
    return known.get(text, f"tagged event 0x{identifier:08x}: {text}")


def _named_blob(data: bytes) -> str:
    name = text_of(data[1 : 1 + data[0]]) if data else ""
    if name == "TdxTable":
        return "TD HOB: the TD's memory map"
    if name.startswith("Fv("):
        return "configuration volume: UEFI variables at rest"
    return name or "firmware blob"
