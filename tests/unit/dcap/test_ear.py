"""EAR tokens: claims by AR4SI, a signature that another library checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import ECKey

from tdxstack.cli.main import main
from tdxstack.dcap import ear
from tdxstack.dcap.appraisal import Appraisal, appraise
from tdxstack.dcap.policy import Policy, pinned
from tdxstack.errors import UsageError
from unit.dcap.test_appraisal import verified


@pytest.fixture(scope="session")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def judged(vectors: Path, name: str, policy: dict[str, Any] | None = None, kind: str = "synthetic") -> Appraisal:
    return appraise(verified(vectors / "attestation" / kind / name), Policy.from_members(policy or {}))


def submodule(appraisal: Appraisal) -> dict[str, Any]:
    found: dict[str, Any] = ear.claims(appraisal, issued_at=1)["submods"]["cpu0"]
    return found


def test_another_library_verifies_the_token(vectors: Path, key: ec.EllipticCurvePrivateKey) -> None:
    body = ear.claims(judged(vectors, "ok_v5_td15"), issued_at=1781481600, nonce="fresh")
    token = ear.sign(body, key)
    jwk = ear.public_jwk(key.public_key())
    decoded = jwt.decode(token, ECKey.import_key(dict(jwk)), algorithms=["ES384"])
    assert decoded.claims == json.loads(json.dumps(body))
    assert decoded.header == {"alg": "ES384", "typ": "JWT", "kid": jwk["kid"]}
    assert ECKey.import_key(dict(jwk)).thumbprint() == jwk["kid"]
    assert (decoded.claims["eat_nonce"], decoded.claims["exp"] - decoded.claims["iat"]) == ("fresh", 300)
    other = ear.public_jwk(ec.generate_private_key(ec.SECP384R1()).public_key())
    with pytest.raises(BadSignatureError):
        jwt.decode(token, ECKey.import_key(dict(other)), algorithms=["ES384"])


@pytest.mark.parametrize(
    ("name", "status", "vector"),
    [
        ("ok_v5_td15", "affirming", {"hardware": 2, "configuration": 3, "runtime-opaque": 2}),
        ("plat_OutOfDate", "contraindicated", {"hardware": 32, "configuration": 3, "runtime-opaque": 2}),
        ("td_debug", "contraindicated", {"hardware": 2, "configuration": 96, "runtime-opaque": 96}),
        ("td_no_septve", "contraindicated", {"hardware": 2, "configuration": 32, "runtime-opaque": 2}),
        ("modREV_plat_UpToDate", "contraindicated", {"hardware": 96, "configuration": 3, "runtime-opaque": 2}),
        ("plat_tdx2_none", "contraindicated", {"hardware": 96, "configuration": 3, "runtime-opaque": 2}),
        ("bad_bodyflip", "contraindicated", {"hardware": 99}),
        ("bad_tcbsig", "contraindicated", {"hardware": 99}),
        ("ver6", "contraindicated", {"hardware": 99}),
    ],
)
def test_vector(vectors: Path, name: str, status: str, vector: dict[str, int]) -> None:
    found = submodule(judged(vectors, name))
    assert (found["ear.status"], found["ear.trustworthiness-vector"]) == (status, vector)


def test_accepted_out_of_date_is_a_warning(vectors: Path) -> None:
    found = submodule(judged(vectors, "plat_OutOfDate", {"tcb": {"accepted_statuses": ["OutOfDate"]}}))
    assert found["ear.status"] == "warning"


def test_code_and_instance(vectors: Path) -> None:
    appraisal = judged(vectors, "ok_v5_td15")
    quote: Any = appraisal.verification.quote
    rtmrs = [rtmr.hex() for rtmr in quote.body.rtmrs]
    for policy, executables, status in (
        (pinned("all", quote.body.mr_td.hex(), [*rtmrs[:3], None]), 2, "affirming"),
        (pinned("boot", quote.body.mr_td.hex(), [None, None, None, None]), 3, "affirming"),
        (pinned("other", "11" * 48, []), 33, "contraindicated"),
    ):
        found = submodule(appraise(appraisal.verification, policy))
        assert found["ear.trustworthiness-vector"]["executables"] == executables
        assert found["ear.status"] == status
    instance = {"platform": {"ppids": appraisal.verification.supplemental.ppid}}
    found = submodule(judged(vectors, "ok_v5_td15", instance))
    assert found["ear.trustworthiness-vector"]["instance-identity"] == 2
    found = submodule(judged(vectors, "ok_v5_td15", {"platform": {"ppids": "00" * 16}}))
    assert found["ear.trustworthiness-vector"]["instance-identity"] == 97


def test_report_data_that_is_another_is_contraindicated(vectors: Path) -> None:
    found = submodule(judged(vectors, "ok_v5_td15", {"binding": {"report_data": "ff"}}))
    assert found["ear.status"] == "contraindicated"
    failed = [rule for rule in found["ear.veraison.policy-claims"]["rules"] if rule["outcome"] == "fail"]
    assert [rule["name"] for rule in failed] == ["binding.report_data"]


def test_policy_id_changes_with_the_policy(vectors: Path) -> None:
    strict, lenient = judged(vectors, "ok_v5_td15"), judged(vectors, "ok_v5_td15", {"td": {"allow_debug": True}})
    assert ear.policy_id(strict.policy) != ear.policy_id(lenient.policy)


@pytest.mark.parametrize("data", [b"", b"no key", pem(ec.generate_private_key(ec.SECP256R1()))])
def test_false_keys(data: bytes) -> None:
    with pytest.raises(UsageError):
        ear.load_key(data)


def test_command_writes_a_token(
    vectors: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = vectors / "attestation" / "real" / "dcapqvl-tdx-v4"
    (tmp_path / "key.pem").write_bytes(pem(key))
    argv = ["quote", "verify", str(folder / "quote.bin"), "--collateral", str(folder / "collateral.json")]
    argv += ["--at", "1751000000", "--ear", str(tmp_path / "token.jwt")]
    assert main([*argv, "--nonce", "n"]) == 2
    assert main([*argv[:-2], "--nonce", "fresh-nonce"]) == 2, "it would be passed over"
    capsys.readouterr()
    for nonce, told in (("1234567", True), ("12345678", False)):
        main([*argv, "--ear-key", str(tmp_path / "key.pem"), "--nonce", nonce])
        assert ("RFC 9711" in capsys.readouterr().err) == told
    assert main([*argv, "--ear-key", str(tmp_path / "key.pem")]) == 0
    token = (tmp_path / "token.jwt").read_text().strip()
    decoded = jwt.decode(token, ECKey.import_key(dict(ear.public_jwk(key.public_key()))), algorithms=["ES384"])
    assert decoded.claims["submods"]["cpu0"]["ear.status"] == "affirming"


@pytest.mark.parametrize(
    ("tier", "bounds"),
    [
        (ear.Tier.NONE, [(-1, 1)]),
        (ear.Tier.AFFIRMING, [(-32, -2), (2, 31)]),
        (ear.Tier.WARNING, [(-96, -33), (32, 95)]),
        (ear.Tier.CONTRAINDICATED, [(-128, -97), (96, 127)]),
    ],
)
def test_tiers_are_those_of_ar4si(tier: ear.Tier, bounds: list[tuple[int, int]]) -> None:
    wanted = {claim for first, last in bounds for claim in range(first, last + 1)}
    assert {claim for claim in range(-128, 128) if ear.Tier.of(claim) is tier} == wanted
