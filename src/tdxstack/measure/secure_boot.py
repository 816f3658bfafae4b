"""The secure boot variables as firmware measures them at start.

Source: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.8 (PCR 7): SecureBoot, PK, KEK, db, dbx, whether
they exist or not; edk2 ``AuthVariableLib`` for how SecureBoot follows from PK and SecureBootEnable.
"""

from __future__ import annotations

from uuid import UUID

from tdxstack.errors import WireError
from tdxstack.wire.efi.signatures import CERT_X509, Signature, read_lists
from tdxstack.wire.efi.variable import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, VariableData
from tdxstack.wire.efi.varstore import Variable, VariableStore
from tdxstack.wire.pe import PeImage

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
    table, size = PeImage.from_bytes(image).certificate_table
    signature = image[table : table + size]
    for entry in _entries(firmware, variables):
        if signature and entry.data in signature:
            return VariableData(IMAGE_SECURITY_DATABASE, "db", entry.to_bytes())
    return None


def _entries(firmware: bytes, variables: tuple[Variable, ...] | None) -> list[Signature]:
    if variables is None:
        variables = VariableStore.from_bytes(firmware).variables
    values = [one.value for one in variables if (one.name, one.guid) == ("db", IMAGE_SECURITY_DATABASE)]
    return [
        one for value in values for group in read_lists(value) if group.type == CERT_X509 for one in group.signatures
    ]
