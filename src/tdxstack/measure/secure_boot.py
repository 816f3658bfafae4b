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
from tdxstack.wire.der import SEQUENCE, tlv
from tdxstack.wire.efi.signatures import CERT_SHA256, CERT_X509, Signature, read_lists
from tdxstack.wire.efi.variable import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, VariableData
from tdxstack.wire.efi.varstore import Variable, VariableStore
from tdxstack.wire.pe import PeImage, authenticode
from tdxstack.wire.tcg import EventType

SECURE_BOOT_ENABLE = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
#: WIN_CERTIFICATE: length, revision, type.
_CERTIFICATE_HEADER = 8
#: Fields of TBSCertificate before the subject: version, serial number, algorithm, issuer, validity.
_SUBJECT_FIELD = 5
_VERSION_TAG = 0xA0
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

    An entry counts that is one of the certificates in the image's signatures, or whose subject issued one of them;
    None if there is none. Signatures are not verified.

    Raises:
        WireError: the image is no PE image, or db is damaged.
    """
    entry = _signer(image, _entries(firmware, variables))
    return None if entry is None else VariableData(IMAGE_SECURITY_DATABASE, "db", entry.to_bytes())


def _signer(image: bytes, entries: list[Signature]) -> Signature | None:
    found = (entry for signature in _signatures(image) for entry in entries if _vouches(entry.data, signature))
    return next(found, None)


def _signatures(image: bytes) -> list[bytes]:
    """The WIN_CERTIFICATE entries of an image, in order."""
    position, size = PeImage.from_bytes(image).certificate_table
    end = min(position + size, len(image))
    found: list[bytes] = []
    while position + _CERTIFICATE_HEADER <= end:
        length = int.from_bytes(image[position : position + 4], "little")
        if length < _CERTIFICATE_HEADER:
            break
        found.append(image[position : min(position + length, end)])
        position += (length + 7) & ~7
    return found


def _vouches(certificate: bytes, signature: bytes) -> bool:
    """Whether a signature holds the certificate, or names it as an issuer."""
    subject = _subject(certificate)
    return certificate in signature or (subject is not None and subject in signature)


def _subject(certificate: bytes) -> bytes | None:
    """The subject of an X.509 certificate as DER (RFC 5280, section 4.1), or None if it cannot be found."""
    try:
        _, start, _ = tlv(certificate, 0)
        _, position, _ = tlv(certificate, start)
        # The version, which tells by its tag, may be left out.
        for _ in range(_SUBJECT_FIELD if certificate[position] == _VERSION_TAG else _SUBJECT_FIELD - 1):
            _, _, position = tlv(certificate, position)
        tag, _, end = tlv(certificate, position)
    except IndexError:
        return None
    return certificate[position:end] if tag == SEQUENCE else None


def _entries(
    firmware: bytes, variables: tuple[Variable, ...] | None, name: str = "db", kind: UUID = CERT_X509
) -> list[Signature]:
    """The entries of one kind in db or dbx."""
    if variables is None:
        variables = VariableStore.from_bytes(firmware).variables
    values = [one.value for one in variables if (one.name, one.guid) == (name, IMAGE_SECURITY_DATABASE)]
    return [one for value in values for group in read_lists(value) if group.type == kind for one in group.signatures]


@dataclass(slots=True)
class SecureBootTrust:
    """Who vouches for what is started while secure boot is on. Firmware and shim each measure an entry once.

    ``entries`` are db's certificates, ``forbidden`` what dbx holds: certificates, and SHA-256 digests of images.
    """

    entries: list[Signature]
    forbidden: frozenset[bytes] = frozenset()
    vendor: bytes = b""
    _measured: set[tuple[str, bytes]] = field(default_factory=set)

    @classmethod
    def of(cls, firmware: bytes, variables: tuple[Variable, ...] | None, *, capable: bool) -> SecureBootTrust | None:
        """What a firmware trusts, or None where secure boot is off.

        Raises:
            WireError: db or dbx is damaged.
        """
        if not is_on(firmware, variables, capable=capable):
            return None
        forbidden = [one for kind in (CERT_X509, CERT_SHA256) for one in _entries(firmware, variables, "dbx", kind)]
        return cls(_entries(firmware, variables), frozenset(one.data for one in forbidden))

    def firmware_verifies(self, trace: Trace, image: bytes, unknown: str | None = None) -> None:
        """The event of the firmware's check of an image; ``unknown`` says why it is not known, if so.

        Raises:
            WireError: no PE image.
        """
        why = "the db entry that vouches for the image's signature"
        unknown = unknown or self._refused(image, "the firmware")
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
        vendor = [Signature(SHIM_LOCK, self.vendor)] if self.vendor else []
        accepted, refused = False, self._refused(image, "shim")
        for signature in () if refused else _signatures(image):
            # Every signature is looked at, and by what it is accepted is measured.
            for name, guid, entries in (
                ("db", IMAGE_SECURITY_DATABASE, self.entries),
                ("MokListRT", SHIM_LOCK, vendor),
            ):
                entry = next((one for one in entries if _vouches(one.data, signature)), None)
                if entry is not None:
                    accepted = True
                    why = f"the entry of {name} by which shim accepts a signature of the image"
                    self._once(trace, "shim", VariableData(guid, name, entry.to_bytes()), why)
                    break
        if not accepted:
            why = refused or "unknown because neither db nor shim's vendor key is the image's signer: shim refuses it"
            trace.add(7, EventType.EV_EFI_VARIABLE_AUTHORITY, None, "authority", why)

    def _refused(self, image: bytes, who: str) -> str | None:
        """Why dbx forbids an image, or None."""
        if not self.forbidden:
            return None
        if authenticode(image, "sha256")[0] in self.forbidden:
            return f"unknown because dbx holds the image's digest: {who} refuses it"
        if any(one in signature for one in self.forbidden for signature in _signatures(image)):
            return f"unknown because dbx holds a certificate of the image's signatures: {who} refuses it"
        return None

    def _once(self, trace: Trace, who: str, authority: VariableData, why: str) -> None:
        data = authority.to_bytes()
        if (who, data) not in self._measured:
            self._measured.add((who, data))
            trace.add(7, EventType.EV_EFI_VARIABLE_AUTHORITY, data, "authority", why)
