"""Entity Attestation Results: what appraisal found, as AR4SI claims in a signed token.

draft-ietf-rats-ar4si (trustworthiness vector), draft-ietf-rats-ear (the token), RFC 7519 and 7515 (JWT, JWS),
RFC 7518 section 3.4 (ES384: ECDSA on P-384 with SHA-384), RFC 7638 (the key's thumbprint as ``kid``).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tdxstack.dcap.appraisal import Appraisal
from tdxstack.dcap.document import policy_members, quote_members, supplemental_members
from tdxstack.dcap.policy import Policy
from tdxstack.dcap.status import TcbStatus
from tdxstack.dcap.verification import Verification
from tdxstack.errors import EvidenceRejected, UsageError
from tdxstack.wire.sgx_report import SgxReportBody
from tdxstack.wire.tdreport import TdAttributes

PROFILE = "tag:github.com,2023:veraison/ear"
DEVELOPER = "tdxstack"
#: Bytes of each half of an ES384 signature.
_COORDINATE = 48
#: Of ``eat_nonce``, in bytes.
NONCE_SIZES = range(8, 89)
#: How far the verifier's clock may be ahead.
CLOCK_SECONDS = 60

_TD_RULES = ("td.mr_tds", "td.rtmr0", "td.rtmr1", "td.rtmr2", "td.rtmr3")
_CODE_RULES = (*_TD_RULES, "enclave.mr_enclaves", "enclave.mr_signers")
_CONFIGURATION_RULES = ("td.allow", "td.require", "td.attributes", "td.xfam", "td.check")
_INSTANCE_RULES = ("platform.instance_ids", "platform.ppids")
_VALID_TCB = (TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED)


class Tier(IntEnum):
    """Tiers of trustworthiness claims, by their smallest value; the token says the worst one by name."""

    NONE = 0
    AFFIRMING = 2
    WARNING = 32
    CONTRAINDICATED = 96

    @classmethod
    def of(cls, claim: int) -> Tier:
        """Tier of a claim's value, from -128 to 127. (AR4SI, section 2.3.2)"""
        if -1 <= claim <= 1:
            return cls.NONE
        if -32 <= claim <= 31:
            return cls.AFFIRMING
        return cls.WARNING if -96 <= claim <= 95 else cls.CONTRAINDICATED


# Values of AR4SI, section 2.3.
CRYPTOGRAPHIC_FAILURE = 99
RECOGNIZED_INSTANCE, UNRECOGNIZED_INSTANCE = 2, 97
SAFE_CONFIGURATION, UNSAFE_CONFIGURATION, UNSUPPORTABLE_CONFIGURATION = 3, 32, 96
APPROVED_RUNTIME, APPROVED_BOOT, UNRECOGNIZED_RUNTIME = 2, 3, 33
GENUINE_HARDWARE, UNSAFE_HARDWARE, CONTRAINDICATED_HARDWARE = 2, 32, 96
ENCRYPTED_RUNTIME, ISOLATED_RUNTIME, VISIBLE_RUNTIME = 2, 32, 96


def trustworthiness_vector(appraisal: Appraisal) -> dict[str, int]:
    """The claims that the evidence and the policy give cause to make.

    A software platform encrypts nothing: its hardware and runtime are at best a warning.
    """
    verification = appraisal.verification
    failed = {rule.name for rule in appraisal.failed}
    rules = {rule.name for rule in appraisal.rules}
    if not verification.genuine:
        return {"hardware": CRYPTOGRAPHIC_FAILURE}
    vector = {"hardware": _hardware(appraisal), "configuration": _configuration(appraisal, failed)}
    if rules & set(_INSTANCE_RULES):
        vector["instance-identity"] = UNRECOGNIZED_INSTANCE if failed & set(_INSTANCE_RULES) else RECOGNIZED_INSTANCE
    if rules & set(_CODE_RULES):
        whole = set(_TD_RULES[:4]) <= rules or "enclave.mr_enclaves" in rules
        approved = APPROVED_RUNTIME if whole else APPROVED_BOOT
        vector["executables"] = UNRECOGNIZED_RUNTIME if failed & set(_CODE_RULES) else approved
    isolated = ISOLATED_RUNTIME if verification.software else ENCRYPTED_RUNTIME
    vector["runtime-opaque"] = VISIBLE_RUNTIME if _debug(appraisal) else isolated
    for rule in appraisal.rules:  # a Rego policy's claims: the worse of two counts
        if rule.name.startswith("rego."):
            name, claim = rule.name.removeprefix("rego."), int(rule.actual)
            vector[name] = max(vector.get(name, 0), claim, key=Tier.of) if claim else vector.get(name, 0)
    return vector


def _hardware(appraisal: Appraisal) -> int:
    verification = appraisal.verification
    if not verification.authentic:
        return CONTRAINDICATED_HARDWARE
    valid = verification.launch_status in _VALID_TCB and not verification.expired and not verification.software
    return GENUINE_HARDWARE if valid else UNSAFE_HARDWARE


def _configuration(appraisal: Appraisal, failed: set[str]) -> int:
    if _debug(appraisal):
        return UNSUPPORTABLE_CONFIGURATION
    status = appraisal.verification.launch_status
    unsafe = any(name.startswith(_CONFIGURATION_RULES) for name in failed)
    return UNSAFE_CONFIGURATION if unsafe or (status and status.needs_configuration) else SAFE_CONFIGURATION


def _debug(appraisal: Appraisal) -> bool:
    quote = appraisal.verification.quote
    if quote is None:
        return False
    body = quote.body
    return body.debug if isinstance(body, SgxReportBody) else bool(body.td_attributes & TdAttributes.DEBUG)


def claims(
    appraisal: Appraisal,
    *,
    issued_at: int,
    lifetime: int = 300,
    nonce: str | None = None,
    policy: str | None = None,
) -> dict[str, Any]:
    """The token's claims.

    Args:
        issued_at: Unix seconds.
        lifetime: seconds.
        nonce: the relying party's; RFC 9711 (section 4.1) wants :data:`NONCE_SIZES` bytes.
        policy: id of the policy, where it is not that of the appraisal's own settings.

    Evidence that the policy rejects is ``contraindicated``, whatever the vector says.
    """
    verification = appraisal.verification
    vector = trustworthiness_vector(appraisal)
    worst = max((Tier.of(claim) for claim in vector.values()), default=Tier.NONE)
    tier = worst if appraisal.accepted else Tier.CONTRAINDICATED
    submodule = {
        "ear.status": tier.name.lower(),
        "ear.trustworthiness-vector": vector,
        "ear.appraisal-policy-id": policy or policy_id(appraisal.policy),
        "ear.veraison.annotated-evidence": _annotated_evidence(verification),
        "ear.veraison.policy-claims": policy_members(appraisal),
    }
    body: dict[str, Any] = {
        "eat_profile": PROFILE,
        "iat": issued_at,
        "exp": issued_at + lifetime,
        "ear.verifier-id": {"developer": DEVELOPER, "build": "tdxctl"},
        "submods": {"cpu0": submodule},
    }
    if nonce is not None:
        body["eat_nonce"] = nonce
    return body


def _annotated_evidence(verification: Verification) -> dict[str, Any]:
    return {
        "quote": quote_members(verification),
        "supplemental": supplemental_members(verification),
        "status": verification.status,
        "qvl": {name: str(status) for name, status in verification.qvl._asdict().items()},
        "launch_status": verification.launch_status,
        "current_status": verification.current_status,
        "advisories": list(verification.advisories),
        "software": verification.software,
    }


def policy_id(policy: Policy) -> str:
    """Names a policy by its name and the hash of all its settings."""
    members = json.dumps(policy.to_members(), sort_keys=True, separators=(",", ":"))
    return f"{policy.name}:sha256:{hashlib.sha256(members.encode()).hexdigest()}"


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A signing key: an unencrypted P-384 private key in PEM. Raises UsageError."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"token key: {error}", hint=_KEY_HINT) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise UsageError("token key: not a P-384 key", hint=_KEY_HINT)
    return key


_KEY_HINT = "openssl ecparam -name secp384r1 -genkey -noout -out key.pem"


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The public key as a JWK, with its thumbprint as ``kid``: what a relying party verifies tokens with."""
    numbers = key.public_numbers()
    jwk = {"crv": "P-384", "kty": "EC", "x": _number(numbers.x), "y": _number(numbers.y)}
    thumbprint = hashlib.sha256(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()).digest()
    return {**jwk, "alg": "ES384", "use": "sig", "kid": _base64url(thumbprint)}


def sign(body: Mapping[str, Any], key: ec.EllipticCurvePrivateKey, *, kid: str | None = None) -> str:
    """The claims as a JWT in compact form, signed with ES384. ``kid``: the key's thumbprint, if it is known."""
    header = {"alg": "ES384", "typ": "JWT", "kid": kid or public_jwk(key.public_key())["kid"]}
    signed = f"{_json(header)}.{_json(body)}"
    r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA384())))
    return f"{signed}.{_base64url(r.to_bytes(_COORDINATE, 'big') + s.to_bytes(_COORDINATE, 'big'))}"


def verify(token: str, keys: Iterable[Mapping[str, Any]], *, now: int, nonce: str | None = None) -> dict[str, Any]:
    """The claims of a token that one of ``keys`` (JWK, P-384) signed.

    Args:
        now: Unix seconds.
        nonce: what ``eat_nonce`` must be.

    Raises:
        EvidenceRejected: not such a token, not signed by any of them, expired, or for another nonce.
    """
    try:
        head, payload, tail = token.split(".")
        header, body, signature = (
            json.loads(_unbase64url(head)),
            json.loads(_unbase64url(payload)),
            _unbase64url(tail),
        )
        key = next(_public_key(jwk) for jwk in keys if jwk.get("kid") == header["kid"])
        if header["alg"] != "ES384" or len(signature) != 2 * _COORDINATE:
            raise ValueError("not signed with ES384")
        r, s = (int.from_bytes(half, "big") for half in (signature[:_COORDINATE], signature[_COORDINATE:]))
        signed = f"{head}.{payload}".encode()
        key.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
        if not body["iat"] - CLOCK_SECONDS <= now <= body["exp"]:
            raise EvidenceRejected("token", "the token is not valid now", hint="check the clocks of both machines")
        if nonce is not None and body.get("eat_nonce") != nonce:
            raise EvidenceRejected("token", "the token is for another nonce")
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, InvalidSignature) as error:
        reason = str(error) or type(error).__name__
        raise EvidenceRejected("token", f"the token is not one of this verifier's: {reason}") from None
    return dict(body)


def _public_key(jwk: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    x, y = (int.from_bytes(_unbase64url(str(jwk[name])), "big") for name in ("x", "y"))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()


def _unbase64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _json(value: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _number(value: int) -> str:
    return _base64url(value.to_bytes(_COORDINATE, "big"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
