"""The Verifier as an object: threads, pickling, many at once, other forms of certification data, bad input."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.dcap import Collateral, Verifier, VerifierPool
from tdxstack.dcap.appraisal import appraise
from tdxstack.dcap.certificate import Certificate, split_pem, to_pem
from tdxstack.dcap.policy import Policy
from tdxstack.dcap.roots import INTEL_ROOT_DER
from tdxstack.errors import CollateralError, UsageError
from tdxstack.wire.quote import CertificationData, PckIdentity, QeCertification, Quote

NOW = 1751000000


@pytest.fixture(scope="session")
def real(vectors: Path) -> Path:
    return vectors / "attestation" / "real" / "dcapqvl-tdx-v4"


@pytest.fixture(scope="session")
def quote(real: Path) -> bytes:
    return (real / "quote.bin").read_bytes()


@pytest.fixture(scope="session")
def collateral(real: Path) -> Collateral:
    return Collateral.from_json((real / "collateral.json").read_text())


@pytest.fixture(scope="session")
def verifier(collateral: Collateral) -> Verifier:
    return Verifier(collateral=collateral, roots=["intel"])


def recertified(quote: bytes, kind: int, data: bytes) -> bytes:
    parsed = Quote.from_bytes(quote)
    outer = parsed.signature.certification
    assert isinstance(outer, QeCertification)
    certification = replace(outer, certification=CertificationData(kind, data))
    return replace(parsed, signature=replace(parsed.signature, certification=certification)).to_bytes()


def test_intel_root_is_the_published_key() -> None:
    root = Certificate(INTEL_ROOT_DER)
    assert root.self_issued
    assert root.signed_by(root)
    key = root.key
    assert key is not None
    assert f"{key.public_numbers().x:064x}".startswith("0ba9c4c0")
    assert f"{key.public_numbers().y:064x}".endswith("ae7394")


def test_threads_and_pickle_agree(verifier: Verifier, quote: bytes) -> None:
    wrong = quote[:600] + bytes([quote[600] ^ 1]) + quote[601:]
    again = pickle.loads(pickle.dumps(verifier))  # noqa: S301
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda raw: again.verify(raw, now=NOW).status, [quote, wrong] * 50))
    assert results == ["UpToDate", "INVALID_QUOTE_SIGNATURE"] * 50


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_quotes_of_any_buffer(verifier: Verifier, quote: bytes, kind: Callable[[bytes], bytes]) -> None:
    verification = verifier.verify(kind(quote), now=NOW)
    assert (verification.status, verification.raw) == ("UpToDate", quote)
    assert pickle.loads(pickle.dumps(verification)).status == "UpToDate"  # noqa: S301
    assert repr(verification) == f"Verification(status='UpToDate', authentic=True, now={NOW})"


@pytest.mark.parametrize("wrong", [5, None, "0400", [4, 0]])
def test_what_is_no_buffer_is_a_fault_of_the_caller(verifier: Verifier, wrong: Any) -> None:
    with pytest.raises(TypeError):
        verifier.verify(wrong, now=NOW)
    with pytest.raises(TypeError):
        verifier.verify_many([wrong], now=NOW)


def test_a_single_root(collateral: Collateral, quote: bytes) -> None:
    for root in ("intel", INTEL_ROOT_DER, to_pem(INTEL_ROOT_DER), INTEL_ROOT_DER.hex()):
        assert Verifier(collateral, root).verify(quote, now=NOW).authentic


def test_an_sgx_quote_has_no_tdx_module(vectors: Path) -> None:
    folder = vectors / "attestation" / "real" / "dcapqvl-sgx-v3"
    verifier = Verifier(collateral=Collateral.from_json((folder / "collateral.json").read_text()))
    now = json.loads((folder / "meta.json").read_text())["valid_from"]
    steps = {step.name: step.outcome for step in verifier.verify((folder / "quote.bin").read_bytes(), now=now).steps}
    assert steps.pop("tdx_module") == "skip"
    assert steps.pop("tcb_level") == "warn"
    assert set(steps.values()) == {"pass"}


@pytest.mark.processes
def test_many_in_processes(verifier: Verifier, quote: bytes) -> None:
    wrong = quote[:600] + bytes([quote[600] ^ 1]) + quote[601:]
    results = verifier.verify_many([quote, wrong, b"no quote"] * 60, now=NOW, workers=2)
    assert [r.status for r in results[:3]] == ["UpToDate", "INVALID_QUOTE_SIGNATURE", "UNSUPPORTED_QUOTE_FORMAT"]
    assert len({r.status for r in results}) == 3
    assert results[0].supplemental.fmspc == "b0c06f000000"
    with VerifierPool(verifier, 1) as pool:
        assert [r.authentic for r in pool.verify(iter([quote]), now=NOW)] == [True]


def test_expiry_is_judged_at_every_call(verifier: Verifier, quote: bytes) -> None:
    assert not verifier.verify(quote, now=NOW).expired
    assert verifier.verify(quote, now=NOW + 10**9).expired
    assert not verifier.verify(quote, now=NOW).expired


def test_leaf_in_the_quote_chain_in_the_collateral(collateral: Collateral, quote: bytes) -> None:
    leaf, *_ = split_pem(quote)
    raw = recertified(quote, 4, to_pem(leaf).encode() + b"\0")
    assert Verifier(collateral=collateral).verify(raw, now=NOW).status == "UpToDate"


def test_quote_that_only_names_its_pck(collateral: Collateral, quote: bytes) -> None:
    sgx = Certificate(split_pem(quote)[0]).sgx
    pem = "".join(to_pem(der) for der in split_pem(quote))
    identity = PckIdentity(sgx.ppid, sgx.tcb.cpu_svn, sgx.tcb.pce_svn, 0)
    raw = recertified(quote, 1, identity.to_bytes())
    alone = Verifier(collateral=collateral).verify(raw, now=NOW)
    assert (alone.missing, alone.authentic) == (True, False)
    brought = Verifier(collateral=replace(collateral, pck_certificate_chain=pem))
    assert brought.verify(raw, now=NOW).status == "UpToDate"
    assert appraise(brought.verify(raw, now=NOW), Policy()).accepted
    for kind, data in (
        (1, replace(identity, ppid=bytes(16)).to_bytes()),
        (1, b"too short"),
        (3, replace(identity, ppid=bytes(384), pce_svn=sgx.tcb.pce_svn - 1).to_bytes()),
        (2, replace(identity, ppid=bytes(256), pce_id=1).to_bytes()),
    ):
        verification = brought.verify(recertified(quote, kind, data), now=NOW)
        assert verification.status == "UpToDate"  # as Intel's library, which does not compare them
        assert [rule.name for rule in appraise(verification, Policy()).failed] == ["collateral.require_named_pck"]


def test_chain_of_the_collateral_never_replaces_the_quotes(collateral: Collateral, quote: bytes) -> None:
    verifier = Verifier(collateral=replace(collateral, pck_certificate_chain="nothing"))
    assert verifier.verify(quote, now=NOW).status == "UpToDate"


def test_roots_in_every_form(collateral: Collateral, quote: bytes) -> None:
    from cryptography import x509

    parsed = x509.load_der_x509_certificate(INTEL_ROOT_DER)
    pem = to_pem(INTEL_ROOT_DER)
    for root in ("intel", pem, pem.encode(), INTEL_ROOT_DER, parsed, Certificate(INTEL_ROOT_DER)):
        verifier = Verifier(collateral=collateral, roots=[root])
        assert pickle.loads(pickle.dumps(verifier)).verify(quote, now=NOW).authentic  # noqa: S301


@pytest.mark.parametrize("root", [b"", b"\x30\x00", "-----BEGIN CERTIFICATE-----", b"\xff" * 300])
def test_false_roots_are_refused(collateral: Collateral, root: bytes | str) -> None:
    with pytest.raises(UsageError):
        Verifier(collateral=collateral, roots=[root])
    with pytest.raises(UsageError):
        Verifier(collateral=collateral, roots=[])


def test_a_root_has_to_sign_itself(collateral: Collateral, quote: bytes) -> None:
    with pytest.raises(UsageError, match="not signed by itself"):
        Verifier(collateral=collateral, roots=[split_pem(quote)[1]])


@settings(max_examples=150)
@given(data=st.data())
def test_no_changed_quote_is_authentic(verifier: Verifier, quote: bytes, data: st.DataObject) -> None:
    signed = 636 + int.from_bytes(quote[632:636], "little")
    bit = data.draw(st.integers(0, signed * 8 - 1))
    changed = bytearray(quote)
    changed[bit // 8] ^= 1 << bit % 8
    result = verifier.verify(bytes(changed), now=NOW)
    # White space and line ends of the PEM are the only bytes that may differ.
    if result.authentic:
        assert split_pem(bytes(changed)) == split_pem(quote)
        assert Quote.from_bytes(bytes(changed)).signed_bytes() == Quote.from_bytes(quote).signed_bytes()
    assert result.steps
    assert result.supplemental


def test_a_flipped_bit_in_every_byte(verifier: Verifier, quote: bytes) -> None:
    """Only what PEM does not count (line ends, the last NUL, unused bits of a last digit) can be changed."""
    end = 636 + int.from_bytes(quote[632:636], "little")
    harmless = set()
    for at in range(end):
        changed = quote[:at] + bytes([quote[at] ^ 1 << at % 8]) + quote[at + 1 :]
        if verifier.verify(changed, now=NOW).authentic:
            assert split_pem(changed) == split_pem(quote), at
            if at // 4 != 632 // 4:  # how many of the zero bytes after it count as signature data
                harmless.add(quote[at : at + 1])
    assert harmless <= {b"\n", b"\0", b"I"}


@given(st.binary(max_size=2000))
def test_noise_is_a_verdict(verifier: Verifier, noise: bytes) -> None:
    result = verifier.verify(noise, now=NOW)
    assert not result.authentic
    assert result.judgement.fault_offset is not None


@settings(max_examples=100)
@given(data=st.data())
def test_changed_collateral_is_a_verdict(collateral: Collateral, quote: bytes, data: st.DataObject) -> None:
    members = json.loads(collateral.to_json())
    name = data.draw(st.sampled_from(sorted(set(members) - {"pck_crl_issuer_chain"})))
    text = members[name]
    at = data.draw(st.integers(0, len(text) - 1))
    kind = data.draw(st.sampled_from(["char", "cut", "text"]))
    if kind == "char":
        members[name] = text[:at] + data.draw(st.characters()) + text[at + 1 :]
    elif kind == "cut":
        members[name] = text[:at] or "x"
    else:
        members[name] = data.draw(st.text(min_size=1, max_size=30))
    changed = Collateral.from_json(json.dumps(members))
    result = Verifier(collateral=changed).verify(quote, now=NOW)
    if result.authentic and not result.expired:
        same = changed.tcb_info == collateral.tcb_info and changed.qe_identity == collateral.qe_identity
        assert same
    assert result.steps
    assert result.supplemental


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "{}",
        '{"tcb_info": 1}',
        "[" * 100000,
        '{"a":' * 100000,
        "\0",
        '{"tcb_info": ' + "9" * 5000 + "}",
    ],
)
def test_false_collateral_says_which_item(text: str) -> None:
    with pytest.raises(CollateralError) as caught:
        Collateral.from_json(text)
    assert caught.value.item in ("collateral", "tcb_info")


def test_nested_tcb_info(collateral: Collateral, quote: bytes) -> None:
    for depth, status in (
        (31, "TCB_INFO_INVALID_SIGNATURE"),
        (32, "SGX_TCB_INFO_INVALID"),
        (900, "SGX_TCB_INFO_INVALID"),
    ):
        nested = '{"x":' + '{"a":' * (depth - 2) + "{}" + "}" * (depth - 2) + "," + collateral.tcb_info[1:]
        if depth == 32:
            nested = nested.replace("{}", '{"a":1}')
        result = Verifier(collateral=replace(collateral, tcb_info=nested)).verify(quote, now=NOW)
        assert result.qvl.tcb_info == status, depth
