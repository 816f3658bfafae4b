"""The platform's directory: made whole, private, damaged, in use, refreshed, deleted."""

from __future__ import annotations

import itertools
import json
import stat
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from tdxstack.errors import LockHeld, PlatformMissing, StateError, UsageError
from tdxstack.platform.registry import list_platforms, open_platform
from tdxstack.platform.software.collateral import LIFETIME, Collateral
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.platform.software.sgx_extension import SGX_EXTENSION_OID
from tdxstack.platform.software.tcb import FMSPC, ModuleVersion, PlatformTcb, TcbReference
from tdxstack.system import files, paths


def test_create_open_list_delete() -> None:
    assert SoftwarePlatform.names() == []
    SoftwarePlatform.create("b")
    created = SoftwarePlatform.create("a")
    assert SoftwarePlatform.names() == ["a", "b"]
    assert [platform.name for platform in list_platforms()] == ["a", "b"]
    assert open_platform("a").trust_root() == created.trust_root()
    assert open_platform("b").trust_root() != created.trust_root()
    created.delete()
    assert SoftwarePlatform.names() == ["b"]
    assert [path.name for path in paths.platforms().iterdir()] == ["b"]
    with pytest.raises(PlatformMissing):
        open_platform("a")


def test_default_is_made_on_first_use() -> None:
    first = open_platform("software")
    assert open_platform("software").trust_root() == first.trust_root()


def test_names_taken_or_reserved(platform: SoftwarePlatform) -> None:
    with pytest.raises(StateError):
        SoftwarePlatform.create(platform.name)
    with pytest.raises(UsageError):
        SoftwarePlatform.create("tdx")
    with pytest.raises(UsageError):
        SoftwarePlatform.create("../x")


def test_keys_are_private(platform: SoftwarePlatform) -> None:
    keys = list(platform.directory.glob("*.key"))
    assert len(keys) == 6
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)
    assert stat.S_IMODE(platform.directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["platform.json", "root.crt", "pck.key", "attestation.key", "report.key"])
@pytest.mark.parametrize("content", [None, b"", b"\xffjunk", b"{}"])
def test_damage_is_named(platform: SoftwarePlatform, name: str, content: bytes | None) -> None:
    path = platform.directory / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PlatformMissing) as caught:
        SoftwarePlatform.open(platform.name).quoting_enclave()
    assert (content is None and name == "platform.json") or name.split(".", maxsplit=1)[0] in str(caught.value)
    assert caught.value.hint


def test_key_of_another_certificate(platform: SoftwarePlatform) -> None:
    (platform.directory / "pck.key").write_bytes((platform.directory / "root.key").read_bytes())
    with pytest.raises(PlatformMissing, match="not the certificate's"):
        platform.quoting_enclave()


def test_in_use(platform: SoftwarePlatform) -> None:
    with platform.used_by("demo"):
        assert platform.describe()["tds"] == ["demo"]
        with pytest.raises(StateError, match="demo"):
            platform.delete()
        with pytest.raises(LockHeld), platform.used_by("demo"):
            pass
    assert platform.describe()["tds"] == []
    platform.delete()


def test_a_look_at_the_users_does_not_stop_a_start(
    platform: SoftwarePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = files.private_directory(platform.directory / "in-use") / "demo"
    with ExitStack() as looking:
        looking.enter_context(files.locked(mark))
        monkeypatch.setattr("tdxstack.platform.software.store.time.sleep", lambda pause: looking.close())
        with platform.used_by("demo"):
            assert platform.describe()["tds"] == ["demo"]


def test_collateral_windows(platform: SoftwarePlatform) -> None:
    collateral = Collateral.from_json(platform.collateral())
    body = json.loads(collateral.tcb_info)
    issued, ends = (datetime.fromisoformat(body[key]) for key in ("issueDate", "nextUpdate"))
    now = datetime.now(UTC)
    assert issued < now < ends
    assert ends - issued == LIFETIME
    crl = x509.load_der_x509_crl(collateral.pck_crl)
    assert crl.next_update_utc == ends
    assert Collateral.from_json(collateral.to_json()) == collateral


def test_refresh_only_when_stale(platform: SoftwarePlatform) -> None:
    first = platform.collateral()
    assert platform.collateral() == first
    soon = datetime.now(UTC) + timedelta(days=22)
    assert platform.refresh(soon, only_if_stale=True) == first
    late = datetime.now(UTC) + timedelta(days=24)
    second = platform.refresh(late, only_if_stale=True)
    assert second["tcb_info"] != first["tcb_info"]
    numbers = [
        x509.load_der_x509_crl(bytes.fromhex(value["pck_crl"]))
        .extensions.get_extension_for_class(x509.CRLNumber)
        .value.crl_number
        for value in (first, second)
    ]
    assert numbers == [1, 2]


def test_roles_by_name(platform: SoftwarePlatform) -> None:
    names = {
        stem: x509.load_pem_x509_certificate((platform.directory / f"{stem}.crt").read_bytes())
        .subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0]
        .value
        for stem in ("root", "platform-ca", "pck", "tcb-signing")
    }
    assert "SGX Root CA" in names["root"]
    assert "CA" in names["platform-ca"]
    assert "SGX PCK Certificate" in names["pck"]
    assert "SGX TCB Signing" in names["tcb-signing"]
    assert "CA" not in str(names["pck"])


def test_sgx_extension_reads_back(platform: SoftwarePlatform) -> None:
    import dcap_qvl  # type: ignore[import-untyped]

    pem = (platform.directory / "pck.crt").read_bytes()
    extension = dcap_qvl.parse_pck_extension_from_pem(pem)
    tcb = platform.tcb()
    assert bytes(extension.fmspc) == FMSPC
    assert bytes(extension.cpu_svn) == tcb.cpusvn
    assert extension.pce_svn == tcb.pcesvn
    assert bytes(extension.ppid).startswith(b"software")
    certificate = x509.load_pem_x509_certificate(pem)
    assert [item.oid.dotted_string for item in certificate.extensions][-1] == SGX_EXTENSION_OID


def test_pck_chain(platform: SoftwarePlatform) -> None:
    chain = x509.load_pem_x509_certificates(platform.pck_chain().encode())
    assert len(chain) == 3
    for certificate, issuer in itertools.pairwise(chain):
        certificate.verify_directly_issued_by(issuer)


def test_module_svn_does_not_go_down(platform: SoftwarePlatform) -> None:
    with pytest.raises(StateError):
        platform.update_module(ModuleVersion(svn=4))
    platform.update_module(ModuleVersion(update=24, svn=6))
    assert platform.describe()["tdx_module"] == "1.5.24"
    assert platform.describe()["behind_its_collateral"] is True


@pytest.mark.parametrize(
    "change",
    [
        {"components": [1] * 15},
        {"components": [256] * 16},
        {"pcesvn": -1},
        {"qe_svn": "4"},
        {"module": {"svn": 1, "x": 2}},
    ],
)
def test_tcb_from_json_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        PlatformTcb.from_json(PlatformTcb().to_json() | change)


def test_reference_round_trip() -> None:
    reference = TcbReference(evaluation=3, advisories=("A", "B"), revoked_pck=True)
    assert TcbReference.from_json(json.loads(json.dumps(reference.to_json()))) == reference


def test_failed_creation_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from tdxstack.platform.software.store import Store

    def full(self: Store, now: datetime) -> Collateral:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "renew_collateral", full)
    with pytest.raises(Exception, match="No space left"):
        SoftwarePlatform.create("full")
    assert list(Path(paths.platforms()).iterdir()) == []
