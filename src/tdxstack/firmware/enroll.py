"""Secure boot keys and other variables, written into a firmware file's variable store.

The same inputs give the same bytes: no clock, no random number. MRTD does not change, since the store is in the
configuration volume, which is not measured into it; RTMR0 does.

Source: UEFI 2.10, sections 8.2 (attributes) and 32.3 (PK, KEK, db, dbx); edk2 ``SecurityPkg`` for SecureBootEnable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from uuid import UUID

from tdxstack.errors import UsageError, WireError
from tdxstack.measure.secure_boot import SECURE_BOOT_ENABLE
from tdxstack.wire.efi.signatures import CERT_SHA256, CERT_X509, Signature, SignatureList, read_lists
from tdxstack.wire.efi.variable import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE
from tdxstack.wire.efi.varstore import Variable, VariableStore

#: Owner of the keys that this program enrols: UUID version 5 of "tdxstack" in the DNS name space.
OWNER = UUID("8e5505b9-937f-59c7-9db3-45b3fd1f8d07")
#: EFI_TIME 2020-01-01 00:00:00 UTC, the time of enrolment; a later signed update has a later one.
ENROLLED_AT = (2020).to_bytes(2, "little") + bytes((1, 1)) + bytes(12)


class VariableAttributes(IntFlag):
    """EFI_VARIABLE_*."""

    NON_VOLATILE = 0x01
    BOOTSERVICE_ACCESS = 0x02
    RUNTIME_ACCESS = 0x04
    TIME_BASED_AUTHENTICATED_WRITE_ACCESS = 0x20


_KEY = VariableAttributes(0x27)
#: EFI_TIME, and the certificate's header and GUID.
_UPDATE_HEADER = 40
PLAIN = VariableAttributes(0x07)


@dataclass(frozen=True, slots=True)
class SecureBootKeys:
    """What to enrol: certificates as DER, digests of forbidden images as 32 bytes, or whole dbx content.

    ``owners`` are those of PK, KEK and db.
    """

    pk: bytes
    kek: tuple[bytes, ...]
    db: tuple[bytes, ...]
    dbx_certificates: tuple[bytes, ...] = ()
    dbx_digests: tuple[bytes, ...] = ()
    dbx_content: bytes = b""
    owners: tuple[UUID, UUID, UUID] = (OWNER, OWNER, OWNER)


def enroll(firmware: bytes, keys: SecureBootKeys) -> bytes:
    """The firmware file with secure boot on and these keys in it; other variables stay.

    Raises:
        WireError: the file has no variable store, or the keys do not fit.
        UsageError: no certificate for KEK or db, or content of dbx that is none.
    """
    if not keys.kek or not keys.db:
        raise UsageError("secure boot needs a certificate in PK, KEK and db each")
    variables = [
        key_variable("PK", certificate_lists([keys.pk], keys.owners[0])),
        key_variable("KEK", certificate_lists(keys.kek, keys.owners[1])),
        key_variable("db", certificate_lists(keys.db, keys.owners[2])),
    ]
    if forbidden := _forbidden(keys):
        variables.append(key_variable("dbx", forbidden))
    variables.append(secure_boot_switch(on=True))
    return with_variables(firmware, variables)


def key_variable(name: str, content: bytes) -> Variable:
    """PK, KEK, db or dbx with these signature lists."""
    guid = GLOBAL_VARIABLE if name in ("PK", "KEK") else IMAGE_SECURITY_DATABASE
    return Variable(name, guid, content, int(_KEY), ENROLLED_AT)


def secure_boot_switch(*, on: bool) -> Variable:
    """SecureBootEnable: whether firmware with a PK enforces secure boot."""
    return Variable("SecureBootEnable", SECURE_BOOT_ENABLE, bytes([on]), 3)


def certificate_lists(certificates: Sequence[bytes], owner: UUID = OWNER) -> bytes:
    """One list for each certificate, as they may differ in size."""
    return b"".join(SignatureList(CERT_X509, (Signature(owner, one),)).to_bytes() for one in certificates)


def _forbidden(keys: SecureBootKeys) -> bytes:
    try:
        read_lists(keys.dbx_content)
    except WireError as error:
        raise UsageError(f"dbx content is no list of signatures: {error.reason}") from None
    content = keys.dbx_content + certificate_lists(keys.dbx_certificates)
    if keys.dbx_digests:
        content += SignatureList(CERT_SHA256, tuple(Signature(OWNER, one) for one in keys.dbx_digests)).to_bytes()
    return content


def with_variables(firmware: bytes, variables: Sequence[Variable]) -> bytes:
    """The firmware file with these variables set; one of the same name and GUID takes the old one's place.

    Raises:
        WireError: no variable store, or no room.
    """
    store = VariableStore.from_bytes(firmware)
    new = {(one.name, one.guid): one for one in variables}
    kept = [new.pop((old.name, old.guid), old) for old in store.variables]
    return store.written(firmware, (*kept, *new.values()))


def without_variable(firmware: bytes, name: str, guid: UUID) -> bytes:
    """The firmware file without one variable.

    Raises:
        WireError: no variable store.
        UsageError: there is no such variable.
    """
    store = VariableStore.from_bytes(firmware)
    if store.get(name, guid) is None:
        raise UsageError(f"the firmware has no variable {name} of {guid}", hint="tdxctl firmware show FILE")
    return store.written(firmware, tuple(one for one in store.variables if (one.name, one.guid) != (name, guid)))


def content_of_update(update: bytes) -> bytes:
    """The signature lists in a signed update (EFI_VARIABLE_AUTHENTICATION_2 in front), such as a dbxupdate file.

    The signature is not verified: what is enrolled offline is not asked for one.

    Raises:
        WireError: no such update.
    """
    if len(update) < _UPDATE_HEADER:
        raise WireError("EFI_VARIABLE_AUTHENTICATION_2", "TimeStamp", 0, f"{len(update)} bytes")
    size = int.from_bytes(update[16:20], "little")
    if not 24 <= size <= len(update) - 16:
        raise WireError("EFI_VARIABLE_AUTHENTICATION_2", "dwLength", 16, f"{size} of {len(update) - 16} bytes")
    content = update[16 + size :]
    read_lists(content)
    return content
