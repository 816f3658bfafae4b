"""The fix of a firmware setting in words: its name, its usual menu path, and the vendor's own where it differs."""

from __future__ import annotations

from tdxstack.preflight.data import table


def advice(key: str, manufacturer: str = "") -> str:
    """What to set in the BIOS. ``manufacturer`` is SMBIOS's, empty where it is not known."""
    entry = table("bios")[key]
    for vendor, path in entry.get("vendor", {}).items():
        if manufacturer.lower().startswith(vendor.lower()):
            return f"in the BIOS: {path}"
    return f"in the BIOS set {entry['setting']} (usually {entry['path']}; menus differ between vendors)"
