"""The keys to enrol, from the options of ``firmware enroll`` and ``firmware secure-boot``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tdxstack.errors import UsageError, WireError

if TYPE_CHECKING:
    from tdxstack.firmware.enroll import SecureBootKeys

_DIGEST_DIGITS = 64


def keys_from(args: argparse.Namespace) -> SecureBootKeys:
    """The keys of ``--keys``, ``--pk``, ``--kek``, ``--db``, ``--dbx`` and ``--owner``.

    Raises:
        UsageError: one is missing, or a file is not what it should be.
    """
    from tdxstack.firmware.enroll import OWNER, SecureBootKeys
    from tdxstack.firmware.keys import read_certificate

    folder: Path | None = args.keys
    pk = args.pk or (folder / "PK.pem" if folder else None)
    if pk is None:
        raise UsageError("no platform key", hint="give --keys DIR, or --pk, --kek and --db")
    kek = args.kek or ([folder / "KEK.pem"] if folder else [])
    db = args.db or ([folder / "db.pem"] if folder else [])
    forbidden = _forbidden(args.dbx)
    owner = args.owner or OWNER
    return SecureBootKeys(
        read_certificate(pk),
        tuple(map(read_certificate, kek)),
        tuple(map(read_certificate, db)),
        tuple(forbidden.certificates),
        tuple(forbidden.digests),
        b"".join(forbidden.contents),
        (owner, owner, owner),
    )


@dataclass(slots=True)
class _Forbidden:
    """What goes into dbx: certificates (DER), SHA-256 digests of images, and signature lists as they are."""

    certificates: list[bytes] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)


def _forbidden(words: list[str]) -> _Forbidden:
    found = _Forbidden()
    for word in words:
        digest = _digest(word)
        if digest is not None:
            found.digests.append(digest)
        else:
            _sort_file(Path(word), found)
    return found


def _digest(word: str) -> bytes | None:
    if len(word) != _DIGEST_DIGITS or Path(word).exists():
        return None
    try:
        return bytes.fromhex(word)
    except ValueError:
        return None


def _sort_file(path: Path, found: _Forbidden) -> None:
    """Tell by its content what a file forbids: an image, signature lists, a signed update of them, a certificate."""
    from tdxstack.firmware.enroll import content_of_update
    from tdxstack.firmware.keys import read_certificate
    from tdxstack.wire.pe import authenticode

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if data[:2] == b"MZ":
        try:
            found.digests.append(authenticode(data, "sha256")[0])
        except WireError as error:
            raise UsageError(f"{path}: {error}") from None
        return
    for read in (content_of_update, _lists):
        try:
            found.contents.append(read(data))
            return
        except WireError:
            continue
    found.certificates.append(read_certificate(path))


def _lists(data: bytes) -> bytes:
    from tdxstack.wire.efi.signatures import read_lists

    if not read_lists(data):
        raise WireError("EFI_SIGNATURE_LIST", "SignatureType", 0, "no list")
    return data
