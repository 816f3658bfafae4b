"""The secure boot variables as firmware measures them at start.

Source: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.8 (PCR 7): SecureBoot, PK, KEK, db, dbx, whether
they exist or not; edk2 ``AuthVariableLib`` for how SecureBoot follows from PK and SecureBootEnable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from tdxstack.errors import WireError
from tdxstack.measure.shim import SHIM_LOCK, Shim
from tdxstack.measure.trace import Trace
from tdxstack.wire.efi.signatures import CERT_X509, Signature, read_lists
from tdxstack.wire.efi.variable import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, VariableData
from tdxstack.wire.efi.varstore import Variable, VariableStore
from tdxstack.wire.pe import PeImage
from tdxstack.wire.tcg import EventType

SECURE_BOOT_ENABLE = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
_MEASURED = (
    ("PK", GLOBAL_VARIABLE),
    ("KEK", GLOBAL_VARIABLE),
    ("db", IMAGE_SECURITY_DATABASE),
    ("dbx", IMAGE_SECURITY_DATABASE),
)


def secure_boot_variables(
    firmware: bytes, variables: tuple[Variable, ...] | None = None, *, capable: bool = True
) -> list[tuple[VariableData, str]]:
    """The five variables in measuring order, each with where its value comes from.

    Args:
        firmware: the firmware file, whose store is read unless ``variables`` are given.
        variables: the variables at boot.
        capable: the firmware has secure boot built in; without it there is no SecureBoot variable.
    """
    if variables is None:
        try:
            variables = VariableStore.from_bytes(firmware).variables
        except WireError:
            variables = ()
    known = {(one.name, one.guid): one.value for one in variables}
    enrolled = bool(known.get(("PK", GLOBAL_VARIABLE)))
    enabled = known.get(("SecureBootEnable", SECURE_BOOT_ENABLE), b"\1") == b"\1"
    on = capable and enrolled and enabled
    state = "on: PK is enrolled in the firmware file" if on else "off: no PK in the firmware file, or disabled"
    value = (b"\1" if on else b"\0") if capable else b""
    if not capable:
        state = "not built into this firmware"
    found = [(VariableData(GLOBAL_VARIABLE, "SecureBoot", value), f"secure boot is {state}")]
    for name, guid in _MEASURED:
        value = known.get((name, guid), b"")
        why = f"{len(value)} bytes in the firmware's variable store" if value else "not enrolled in the firmware file"
        found.append((VariableData(guid, name, value), why))
    return found


def is_on(firmware: bytes, variables: tuple[Variable, ...] | None, *, capable: bool) -> bool:
    """Whether the firmware will enforce secure boot."""
    (state, _), *_ = secure_boot_variables(firmware, variables, capable=capable)
    return state.value == b"\1"


def authority_of(image: bytes, firmware: bytes, variables: tuple[Variable, ...] | None = None) -> VariableData | None:
    """The db entry that vouches for a signed image, as the firmware measures it (EV_EFI_VARIABLE_AUTHORITY).

    An entry counts that is one of the certificates in the image's signature; None if there is none (the image is not
    signed, or its signer's issuer is in db, which is not looked into).

    Raises:
        WireError: the image is no PE image, or db is damaged.
    """
    entry = _signer(image, _entries(firmware, variables))
    return None if entry is None else VariableData(IMAGE_SECURITY_DATABASE, "db", entry.to_bytes())


def _signer(image: bytes, entries: list[Signature]) -> Signature | None:
    table, size = PeImage.from_bytes(image).certificate_table
    signature = image[table : table + size]
    return next((entry for entry in entries if signature and entry.data in signature), None)


def _entries(firmware: bytes, variables: tuple[Variable, ...] | None) -> list[Signature]:
    if variables is None:
        variables = VariableStore.from_bytes(firmware).variables
    values = [one.value for one in variables if (one.name, one.guid) == ("db", IMAGE_SECURITY_DATABASE)]
    return [
        one for value in values for group in read_lists(value) if group.type == CERT_X509 for one in group.signatures
    ]


@dataclass(slots=True)
class SecureBootTrust:
    """Who vouches for what is started while secure boot is on. Firmware and shim each measure an entry once."""

    entries: list[Signature]
    vendor: bytes = b""
    _measured: set[tuple[str, bytes]] = field(default_factory=set)

    @classmethod
    def of(cls, firmware: bytes, variables: tuple[Variable, ...] | None, *, capable: bool) -> SecureBootTrust | None:
        """What a firmware trusts, or None where secure boot is off.

        Raises:
            WireError: db is damaged.
        """
        return cls(_entries(firmware, variables)) if is_on(firmware, variables, capable=capable) else None

    def firmware_verifies(self, trace: Trace, image: bytes, unknown: str | None = None) -> None:
        """The event of the firmware's check of an image; ``unknown`` says why it is not known, if so.

        Raises:
            WireError: no PE image.
        """
        why = "the db entry that vouches for the image's signature"
        entry = None if unknown else _signer(image, self.entries)
        if entry is None:
            why = unknown or "unknown because no certificate in db is the image's signer: the firmware refuses it"
            trace.add(7, EventType.EV_EFI_VARIABLE_AUTHORITY, None, "authority", why)
            return
        self._once(trace, "firmware", VariableData(IMAGE_SECURITY_DATABASE, "db", entry.to_bytes()), why)

    def shim_verifies(self, trace: Trace, image: bytes, shim: Shim | None) -> None:
        """The event of shim's check of an image: by db, else by the vendor's key, which is in its MokListRT.

        Args:
            shim: when its second stage is checked; None for what that stage has it check.

        Raises:
            WireError: no PE image.
        """
        if shim is not None:
            self.vendor = shim.vendor_authorized
        entry = _signer(image, self.entries)
        vendor = _signer(image, [Signature(SHIM_LOCK, self.vendor)] if self.vendor else [])
        if entry is not None:
            found = VariableData(IMAGE_SECURITY_DATABASE, "db", entry.data)
            self._once(trace, "shim", found, "the db entry by which shim accepts the image")
        elif vendor is not None:
            found = VariableData(SHIM_LOCK, "MokListRT", vendor.data)
            self._once(trace, "shim", found, "the vendor's key, by which shim accepts the image")
        else:
            why = "unknown because neither db nor shim's vendor key is the image's signer: shim refuses it"
            trace.add(7, EventType.EV_EFI_VARIABLE_AUTHORITY, None, "authority", why)

    def _once(self, trace: Trace, who: str, authority: VariableData, why: str) -> None:
        data = authority.to_bytes()
        if (who, data) not in self._measured:
            self._measured.add((who, data))
            trace.add(7, EventType.EV_EFI_VARIABLE_AUTHORITY, data, "authority", why)
