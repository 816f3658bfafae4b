from __future__ import annotations

import datetime
import hashlib
import stat
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from firmware_file import GENERIC_4M, firmware_file
from tdxstack.errors import UsageError, WireError
from tdxstack.firmware.effect import effect
from tdxstack.firmware.enroll import (
    SecureBootKeys,
    content_of_update,
    enroll,
    with_variables,
    without_variable,
)
from tdxstack.firmware.keys import new_keys, read_certificate, subject
from tdxstack.measure.mrtd import mrtd
from tdxstack.measure.secure_boot import SecureBootTrust, authority_of, is_on, secure_boot_variables
from tdxstack.measure.trace import Trace
from tdxstack.wire.efi.signatures import CERT_SHA256, read_lists
from tdxstack.wire.efi.variable import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE
from tdxstack.wire.efi.varstore import Variable, VariableStore
from tdxstack.wire.pe import authenticode
from varstore_file import with_store

FIRMWARE = with_store(firmware_file(GENERIC_4M))
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, ...]:
    made = new_keys(tmp_path_factory.mktemp("keys") / "k", "Test", now=NOW)
    return tuple(read_certificate(one.certificate) for one in made)


def keys_of(certificates: tuple[bytes, ...], **more: object) -> SecureBootKeys:
    return SecureBootKeys(certificates[0], (certificates[1],), (certificates[2],), **more)  # type: ignore[arg-type]


def test_keys_are_private_and_not_overwritten(tmp_path: Path) -> None:
    made = new_keys(tmp_path / "keys", "Test", now=NOW)
    assert [one.role for one in made] == ["PK", "KEK", "db"]
    assert {stat.S_IMODE(one.key.stat().st_mode) for one in made} == {0o600}
    assert subject(read_certificate(made[0].certificate)) == "CN=Test PK"
    with pytest.raises(UsageError, match="already"):
        new_keys(tmp_path / "keys", "Test", now=NOW)


def test_enrolment_is_deterministic_and_leaves_mrtd(certificates: tuple[bytes, ...]) -> None:
    after = enroll(FIRMWARE, keys_of(certificates))
    assert after == enroll(FIRMWARE, keys_of(certificates))
    assert len(after) == len(FIRMWARE)
    assert mrtd(after) == mrtd(FIRMWARE)
    result = effect(FIRMWARE, after)
    assert result.lines[0].startswith("MRTD unchanged")
    assert {name for name, _, _ in result.changed} == {
        "configuration volume",
        "variable PK",
        "variable KEK",
        "variable db",
    }, "the made-up firmware has no secure boot built in"


def test_what_is_enrolled_is_what_is_measured(certificates: tuple[bytes, ...]) -> None:
    after = enroll(FIRMWARE, keys_of(certificates))
    values = {variable.name: variable.value for variable, _ in secure_boot_variables(after)}
    assert values["SecureBoot"] == b"\1"
    assert certificates[0] in values["PK"]
    assert certificates[2] in values["db"]
    assert values["dbx"] == b""
    assert is_on(after, None, capable=True)
    assert not is_on(after, None, capable=False)
    assert not is_on(FIRMWARE, None, capable=True)


def test_dbx_and_owners(certificates: tuple[bytes, ...]) -> None:
    owner = UUID(int=7)
    keys = keys_of(certificates, dbx_digests=(b"\1" * 32, b"\2" * 32), owners=(owner, owner, owner))
    store = VariableStore.from_bytes(enroll(FIRMWARE, keys))
    dbx = store.get("dbx", IMAGE_SECURITY_DATABASE)
    assert dbx is not None
    (group,) = read_lists(dbx.value)
    assert group.type == CERT_SHA256
    assert [one.data for one in group.signatures] == [b"\1" * 32, b"\2" * 32]
    pk = store.get("PK", GLOBAL_VARIABLE)
    assert pk is not None
    assert read_lists(pk.value)[0].signatures[0].owner == owner


def test_other_variables_stay_and_keys_are_replaced(certificates: tuple[bytes, ...]) -> None:
    other = Variable("KBSURL", UUID(int=1), b"https://kbs")
    firmware = with_variables(FIRMWARE, [other])
    once = enroll(firmware, keys_of(certificates))
    assert VariableStore.from_bytes(once).get("KBSURL", UUID(int=1)) == other
    assert enroll(once, keys_of(certificates)) == once
    assert without_variable(with_variables(FIRMWARE, [other]), "KBSURL", UUID(int=1)) == FIRMWARE
    with pytest.raises(UsageError, match="no variable"):
        without_variable(FIRMWARE, "KBSURL", UUID(int=1))


def test_authority_is_the_db_entry_in_the_signature(certificates: tuple[bytes, ...]) -> None:
    import struct

    from tdxstack.vm.marker_kernel import marker_kernel

    after = enroll(FIRMWARE, keys_of(certificates))
    image = marker_kernel()
    assert authority_of(image, after) is None
    signature = struct.pack("<IHH", 8 + len(certificates[2]), 0x200, 2) + certificates[2]
    signed = bytearray(image + signature)
    struct.pack_into("<II", signed, 0x400 + 24 + 112 + 32, len(image), len(signature))
    authority = authority_of(bytes(signed), after)
    assert authority is not None
    assert authority.name == "db"
    assert authority.value.endswith(certificates[2])

    def measured(**more: Any) -> tuple[bytes | None, str]:
        trust = SecureBootTrust.of(enroll(FIRMWARE, keys_of(certificates, **more)), None, capable=True)
        assert trust is not None
        trace = Trace()
        trust.firmware_verifies(trace, bytes(signed))
        (event,) = trace.events
        return event.digest, event.why

    assert measured()[0] == hashlib.sha384(authority.to_bytes()).digest()
    digest = authenticode(bytes(signed), "sha256")[0]
    assert measured(dbx_digests=(bytes(32),))[0] is not None
    for forbidden, words in (
        ({"dbx_digests": (digest,)}, "dbx holds the image's digest"),
        ({"dbx_certificates": (certificates[2],)}, "dbx holds a certificate"),
    ):
        unknown, why = measured(**forbidden)
        assert unknown is None
        assert words in why


def test_faults(certificates: tuple[bytes, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        enroll(FIRMWARE, SecureBootKeys(certificates[0], (), ()))
    with pytest.raises(WireError, match="variable store"):
        enroll(bytes(4096), keys_of(certificates))
    with pytest.raises(UsageError, match="dbx"):
        enroll(FIRMWARE, keys_of(certificates, dbx_content=b"junk"))
    with pytest.raises(WireError, match="do not fit"):
        enroll(FIRMWARE, keys_of(certificates, dbx_digests=(bytes(32),) * 2000))
    (tmp_path / "x").write_bytes(b"junk")
    with pytest.raises(UsageError, match="neither"):
        read_certificate(tmp_path / "x")


def test_content_of_a_signed_update(certificates: tuple[bytes, ...]) -> None:
    from tdxstack.firmware.enroll import certificate_lists

    content = certificate_lists([certificates[0]])
    update = bytes(16) + (24 + 100).to_bytes(4, "little") + bytes(120) + content
    assert content_of_update(update) == content
    for damaged in (update[:30], update[:16] + b"\xff" * 4 + update[20:], update + b"x"):
        with pytest.raises(WireError):
            content_of_update(damaged)
