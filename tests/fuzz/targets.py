"""What is fuzzed: each target takes bytes and lets only undeclared errors through."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import cast

from fuzz import measured
from tdxstack.cli.commands.quote import output_text
from tdxstack.cli.commands.quote import show_members as show_quote
from tdxstack.cli.commands.report import show_members as show_report
from tdxstack.cli.eventlog_text import log_members, log_table, yaml_text
from tdxstack.dcap import Collateral, Verification, Verifier
from tdxstack.dcap.appraisal import appraise
from tdxstack.dcap.certificate import Certificate, CertificateFault, RevocationList
from tdxstack.dcap.chain import Chain
from tdxstack.dcap.document import explanation_members, verification_members
from tdxstack.dcap.enclave_identity import EnclaveIdentity
from tdxstack.dcap.explain import explain
from tdxstack.dcap.policy import Policy
from tdxstack.dcap.signed_json import DocumentFault, signed_body
from tdxstack.dcap.status import VerifyFault
from tdxstack.dcap.tcb_info import TcbInfo
from tdxstack.errors import CollateralError, UsageError, WireError
from tdxstack.measure.boot import event_members
from tdxstack.measure.check import false_descriptions
from tdxstack.measure.describe import describe
from tdxstack.measure.difference import diff_logs
from tdxstack.measure.logs import load
from tdxstack.measure.replay import replay, replay_tpm
from tdxstack.pcs.bundle import read_bundle
from tdxstack.pcs.registration import read_csv
from tdxstack.services.pccs.admission import Admission
from tdxstack.services.pccs.intake import Intake
from tdxstack.services.pccs.policy import read_policy
from tdxstack.services.pccs.records import RawTcb
from tdxstack.services.pccs.refusal import Refusal
from tdxstack.services.pccs.routes_admin import registration_of
from tdxstack.services.pccs.store import Store
from tdxstack.services.verifier.evidence import read_evidence
from tdxstack.wire.quote import Quote
from tdxstack.wire.sgx_registration import RegistrationConfiguration, RegistrationStatus, ServerRequest
from tdxstack.wire.tdreport import TdReport

CORPUS = Path(__file__).parent / "corpus"
#: When the corpus was made, in Unix seconds: its collateral is valid then.
NOW = int((CORPUS / "now").read_text()) if (CORPUS / "now").exists() else 0


@cache
def _quote() -> bytes:
    return (CORPUS / "quote" / "v5").read_bytes()


@cache
def _verifier() -> Verifier:
    collateral = Collateral.from_json((CORPUS / "collateral" / "whole").read_text())
    return Verifier(collateral, [(CORPUS / "certificate" / "root").read_bytes()])


def _use(verification: Verification) -> None:
    """Everything that is made of a verification."""
    json.dumps(verification_members(appraise(verification, Policy())))
    json.dumps(explanation_members(explain(verification)))


def quote(data: bytes) -> None:
    """Quotes, judged by good collateral."""
    verification = _verifier().verify(data, now=NOW)
    _use(verification)
    if verification.authentic:
        good = _verifier().verify(_quote(), now=NOW).quote
        assert verification.quote is not None
        assert good is not None
        assert verification.quote.signature.attestation_key == good.signature.attestation_key


def collateral(data: bytes) -> None:
    """Collateral as one JSON document, by which a good quote is judged."""
    text = data.decode("utf-8", "replace")
    try:
        given = Collateral.from_json(text)
    except CollateralError:
        given = Collateral.salvage(text)
    _use(Verifier(given, [(CORPUS / "certificate" / "root").read_bytes()]).verify(_quote(), now=NOW))


def certificate(data: bytes) -> None:
    """Certificates in DER, with the SGX extension."""
    with suppress(CertificateFault):
        _ = Certificate(data).sgx


def chain(data: bytes) -> None:
    """Chains in PEM."""
    try:
        parsed = Chain(data)
    except VerifyFault:
        return
    _ = (parsed.intermediate, parsed.topmost)


def crl(data: bytes) -> None:
    """CRLs: DER, and the same bytes as text."""
    with suppress(CertificateFault):
        RevocationList(data)
    with suppress(CertificateFault):
        RevocationList.from_text(data.decode("latin-1"))


def documents(data: bytes) -> None:
    """TCB info, enclave identity, and responses of the provisioning service."""
    text = data.decode("utf-8", "surrogateescape")
    for read in (TcbInfo.from_json, EnclaveIdentity.from_json, lambda body: signed_body(body, "tcbInfo")):
        with suppress(DocumentFault):
            read(text)


def tdreport(data: bytes) -> None:
    """TDREPORTs."""
    try:
        report = TdReport.from_bytes(data)
    except WireError:
        return
    assert report.to_bytes() == data


def eventlog(data: bytes) -> None:
    """Event logs of any format: shown as document, table and YAML, described, replayed, compared."""
    try:
        loaded = load(data)
    except WireError:
        return
    body = {"schema": "", **log_members(loaded)}
    json.dumps(body).encode()
    log_table(loaded, body)
    yaml_text(body).encode("utf-8", "backslashreplace")
    replay(loaded.log)
    replay_tpm(loaded.original)
    false_descriptions(loaded.original.events)
    event_members(loaded.log)
    diff_logs(loaded.log, loaded.log)
    for event in loaded.log.events:
        assert describe(event).isprintable()


def shown(data: bytes) -> None:
    """What ``quote show`` and ``report show`` print."""
    with suppress(WireError):
        output_text(show_quote(Quote.from_bytes(data)))
    with suppress(WireError):
        output_text(show_report(TdReport.from_bytes(data)))


def policy(data: bytes) -> None:
    """Policy files."""
    with suppress(UsageError):
        Policy.from_text(data.decode("utf-8", "replace"))


class _EmptyStore:
    """As much of the PCCS's store as taking collateral reads."""

    def raw_tcbs(self, *_: str) -> list[RawTcb]:
        return []

    def platform(self, *_: str) -> None:
        return None


def pccs(data: bytes) -> None:
    """Bodies of requests to a PCCS: collateral, registrations, policies."""
    admission = Admission(frozenset(), lambda: NOW)
    store = cast(Store, _EmptyStore())
    for version in (3, 4):
        with suppress(Refusal):
            Intake(data, version, admission, store).read()
    for read in (registration_of, read_policy, read_evidence):
        with suppress(Refusal):
            read(data)


def registration(data: bytes) -> None:
    """UEFI variables of a registration, PCKIDRetrievalTool's files, bundles."""
    for kind in (ServerRequest, RegistrationStatus, RegistrationConfiguration):
        with suppress(WireError):
            kind.from_bytes(data)
    text = data.decode("utf-8", "replace")
    with suppress(UsageError):
        read_csv(text)
    with suppress(CollateralError, UsageError):
        read_bundle(text)


_ALL = (quote, shown, collateral, certificate, chain, crl, documents, tdreport, eventlog, policy, pccs, registration)
TARGETS: dict[str, Callable[[bytes], None]] = {target.__name__: target for target in _ALL} | measured.TARGETS
