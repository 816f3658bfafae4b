"""Bundles: sets of collateral in one file, for machines without a network.

``{"schema": "tdxstack/collateral-bundle/v1", "created": ..., "entries": [...]}``; an entry is ``{"evaluation":
"standard", "collateral": {...}}`` and says for reading what it is for (``tee``, ``fmspc``, ``ca``, ``holds_from``).
A bundle needs no trust: everything in it is signed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from tdxstack.dcap import Collateral
from tdxstack.errors import CollateralAbsent, CollateralError
from tdxstack.pcs import inspect
from tdxstack.pcs.collateral import Wanted, describe
from tdxstack.pcs.from_quote import wanted_for
from tdxstack.pcs.source import (
    STANDARD,
    Ca,
    Crl,
    Enclave,
    EvaluationSet,
    PckCertificates,
    PlatformIdentity,
    SignedDocument,
    Tee,
)

SCHEMA = "tdxstack/collateral-bundle/v1"
#: Sets in one bundle.
MAX_ENTRIES = 1024
MAX_SIZE = 64 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A set and the evaluation set it was fetched as."""

    wanted: Wanted
    collateral: Collateral


def write_bundle(entries: Iterable[Entry], created: str) -> str:
    """The bundle's text. ``created`` is a date for people."""
    rows = []
    for entry in entries:
        described = describe(entry.collateral)
        rows.append(
            {
                "tee": described.tee.value,
                "fmspc": described.fmspc,
                "ca": described.ca.value,
                "evaluation": entry.wanted.evaluation.name,
                "tcb_evaluation_data_number": described.number,
                "holds_from": described.span.start,
                "holds_to": described.span.end,
                "collateral": json.loads(entry.collateral.to_json()),
            }
        )
    return json.dumps({"schema": SCHEMA, "created": created, "entries": rows}, indent=1, ensure_ascii=False)


def read_bundle(text: str) -> list[Entry]:
    """Read a bundle, or a single set of collateral.

    Raises:
        CollateralError: it is neither.
    """
    if len(text) > MAX_SIZE:
        raise CollateralError("bundle", f"bundle: {len(text)} characters, more than {MAX_SIZE}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CollateralError(
            "bundle", f"bundle: not JSON: {error}", hint="tdxctl collateral bundle makes one"
        ) from None
    if not isinstance(document, dict) or "schema" not in document:
        return [_entry(Collateral.from_json(text), STANDARD)]
    rows = document.get("entries")
    if document["schema"] != SCHEMA or not isinstance(rows, list) or len(rows) > MAX_ENTRIES:
        raise CollateralError("bundle", f"bundle: not {SCHEMA} with up to {MAX_ENTRIES} entries")
    return [_row(row) for row in rows]


def _row(row: object) -> Entry:
    if not isinstance(row, dict) or not isinstance(row.get("collateral"), dict):
        raise CollateralError("bundle", "bundle: an entry without collateral")
    name = row.get("evaluation", "standard")
    collateral = Collateral.from_json(json.dumps(row["collateral"]))
    return _entry(collateral, EvaluationSet(name if isinstance(name, str) else ""))


def _entry(collateral: Collateral, evaluation: EvaluationSet) -> Entry:
    described = describe(collateral)
    return Entry(Wanted(described.fmspc, described.tee, described.ca, evaluation), collateral)


def held_for(entries: Iterable[Entry], quote: bytes, at: int) -> Collateral:
    """The set for a quote's platform that held at ``at`` (Unix seconds), issued last; else the last one there is.

    Raises:
        WireError: it is no quote.
        CollateralError: there is none for its platform.
    """
    wanted = wanted_for(quote, STANDARD)
    platform = (wanted.fmspc, wanted.tee, wanted.ca)
    found = [entry for entry in entries if (entry.wanted.fmspc, entry.wanted.tee, entry.wanted.ca) == platform]
    if not found:
        raise CollateralAbsent("bundle", f"the bundle has no collateral of {wanted}", hint=f"add it: {_ADD}")

    def fitness(entry: Entry) -> tuple[bool, bool, int]:
        span = describe(entry.collateral).span
        return span.holds(at), entry.wanted.evaluation == STANDARD, span.start

    return max(found, key=fitness).collateral


_ADD = "tdxctl collateral bundle BUNDLE --fmspc FMSPC -o NEW"


class BundleSource:
    """A :class:`~tdxstack.pcs.source.Source` of what bundles hold; it has no PCK certificates."""

    def __init__(self, entries: Iterable[Entry], name: str = "bundle") -> None:
        self._entries = list(entries)
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def close(self) -> None:
        """Nothing is open."""

    def tcb_info(self, tee: Tee, fmspc: str, evaluation: EvaluationSet = STANDARD) -> SignedDocument:
        for entry in self._matching(evaluation):
            if entry.wanted.tee is tee and entry.wanted.fmspc == fmspc.upper():
                found = entry.collateral
                body = inspect.response(inspect.TCB_INFO, found.tcb_info, found.tcb_info_signature)
                return SignedDocument(body, found.tcb_info_issuer_chain)
        raise self._absent(f"TCB info of {fmspc} ({tee}, {evaluation})")

    def identity(self, enclave: Enclave, evaluation: EvaluationSet = STANDARD) -> SignedDocument:
        for entry in self._matching(evaluation):
            found = entry.collateral
            document = SignedDocument(
                inspect.response(inspect.IDENTITY, found.qe_identity, found.qe_identity_signature),
                found.qe_identity_issuer_chain,
            )
            if f'"id":"{enclave}"' in found.qe_identity.replace(" ", ""):
                return document
        raise self._absent(f"identity of {enclave} ({evaluation})")

    def pck_crl(self, ca: Ca) -> Crl:
        for entry in self._entries:
            if entry.wanted.ca is ca:
                return Crl(_crl_der(entry.collateral.pck_crl), entry.collateral.pck_crl_issuer_chain)
        raise self._absent(f"PCK CRL of the {ca} CA")

    def root_ca_crl(self) -> Crl:
        if not self._entries:
            raise self._absent("root CA CRL")
        return Crl(_crl_der(self._entries[0].collateral.root_ca_crl))

    def crl(self, uri: str) -> Crl:
        raise self._absent(f"CRL {uri}")

    def pck_certificates(self, platform: PlatformIdentity) -> PckCertificates:
        raise self._absent("PCK certificates")

    def evaluation_numbers(self, tee: Tee) -> SignedDocument:
        raise self._absent(f"TCB evaluation data numbers ({tee})")

    def _matching(self, evaluation: EvaluationSet) -> list[Entry]:
        return [entry for entry in self._entries if entry.wanted.evaluation == evaluation]

    def _absent(self, item: str) -> CollateralAbsent:
        return CollateralAbsent(item, f"{item}: not in {self._name}")


def _crl_der(text: str) -> bytes:
    from tdxstack.dcap.certificate import CertificateFault, RevocationList

    try:
        return RevocationList.from_text(text).der
    except CertificateFault as fault:
        raise CollateralError("crl", f"bundle: {fault}") from None
