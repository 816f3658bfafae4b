"""Platforms: their registration, their PCK certificates, and which of these they get."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

from tdxstack.dcap.tcb_info import TcbInfo
from tdxstack.errors import CollateralError
from tdxstack.pcs.source import (
    EARLY,
    STANDARD,
    Ca,
    EvaluationSet,
    PckCertificate,
    PckCertificates,
    PlatformIdentity,
    Tee,
)
from tdxstack.services.pccs.admission import API_V4, parse_tcb_info, tcb_name
from tdxstack.services.pccs.caching import Collateral, Mode
from tdxstack.services.pccs.records import Document, Platform, PlatformRecord, RawTcb, Registration
from tdxstack.services.pccs.refusal import Refusal, Status
from tdxstack.services.pccs.schema import Kind, State
from tdxstack.services.pccs.selection import SelectionFault, reachable, select

#: In which order the TCB infos of an FMSPC are looked at for choosing a certificate.
_PREFERRED = [(tee, evaluation) for tee in Tee for evaluation in (EARLY, STANDARD)]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A PCK certificate and what the answer's headers say."""

    certificate: PckCertificate
    platform: Platform
    issuer_chain: str


def choose(
    raw: RawTcb, certificates: list[PckCertificate], unavailable: Iterable[str], info: TcbInfo, pce_id: str
) -> PckCertificate:
    """The certificate for a raw TCB.

    Raises:
        Refusal: 462 if Intel has none for this TCB yet, 404 if all certificates are above it or do not fit.
    """
    try:
        found = select(raw, certificates, info, pce_id)
    except SelectionFault as fault:
        raise Refusal(Status.NO_CACHE_DATA, str(fault)) from None
    if found is None:
        missing = reachable(raw, unavailable)
        raise Refusal(Status.CERTS_UNAVAILABLE if missing else Status.NO_CACHE_DATA)
    return found


class Platforms:
    """Thread-safe."""

    def __init__(self, collateral: Collateral) -> None:
        self._collateral = collateral
        self._store = collateral.store
        self._mode = collateral.mode

    def pck_certificate(self, qe_id: str, pce_id: str, raw: RawTcb, enc_ppid: str) -> Answer:
        """The PCK certificate of a platform at a raw TCB. Raises Refusal."""
        platform = self._store.platform(qe_id, pce_id)
        if platform is not None:
            found = self._store.selected(qe_id, pce_id, raw) or self._select_cached(platform, raw)
            return Answer(found, platform, self._chain(platform))
        if self._mode is not Mode.LAZY:
            raise Refusal(Status.PLATFORM_UNKNOWN)
        if not enc_ppid:
            raise Refusal(Status.INVALID_REQUEST, "encrypted_ppid is needed for a platform that is not known here.")
        if not enc_ppid.strip("0"):
            raise Refusal(Status.NO_CACHE_DATA, "The encrypted PPID is all zeros.")
        registration = Registration(qe_id, pce_id, raw.cpu_svn, raw.pce_svn, enc_ppid)
        record, documents = self._fetch(registration, [raw], stranger=True)
        self._store.put_platforms([record], documents)  # also one with no certificate for this TCB: it is known now
        return Answer(self._chosen(record, raw), record.platform, record.issuer_chain)

    def _chosen(self, record: PlatformRecord, raw: RawTcb) -> PckCertificate:
        """The certificate that the record has for a raw TCB. Raises Refusal, which says why it has none."""
        tcbm = record.selected.get(raw)
        if tcbm is None:
            return self._select_cached(record.platform, raw)
        return next(one for one in record.certificates if one.tcbm == tcbm)

    def _select_cached(self, platform: Platform, raw: RawTcb) -> PckCertificate:
        """Choose for a raw TCB that is new, among the certificates that are here."""
        certificates, unavailable = self._store.certificates(platform.qe_id, platform.pce_id)
        found = choose(raw, certificates, unavailable, self._info(platform.fmspc), platform.pce_id)
        if not (unavailable and self._mode is Mode.LAZY):
            self._store.put_selection(platform.qe_id, platform.pce_id, raw, found.tcbm)
        return found

    def _chain(self, platform: Platform) -> str:
        chain = self._store.pck_chain(platform.ca)
        if chain is None:
            raise Refusal(Status.NO_CACHE_DATA)
        return chain

    def _info(self, fmspc: str) -> TcbInfo:
        for tee, evaluation in _PREFERRED:
            document = self._store.document(Kind.TCB, API_V4, tcb_name(tee, fmspc), evaluation.name)
            if document is not None:
                return parse_tcb_info(document.body)
        raise Refusal(Status.NO_CACHE_DATA)

    def register(self, registration: Registration, evaluations: list[EvaluationSet]) -> None:
        """Register a platform (``POST /platforms``).

        In OFFLINE mode it is queued; otherwise its certificates and the collateral are fetched now.

        Raises:
            Refusal
        """
        registration, cached = self._known(registration)
        if self._mode is Mode.OFFLINE:
            if not cached:
                self._store.register(registration, State.NEW)
            return
        if cached:
            documents = self._ensure(evaluations, cached.ca)
            if documents:
                self._store.put_documents(documents)
            return
        if self._mode is Mode.REQ:
            self._store.register(registration, State.NEW)
        raws = [RawTcb(registration.cpu_svn, registration.pce_svn)] if registration.cpu_svn else []
        record, documents = self._fetch(registration, raws)
        documents += self._ensure(evaluations, record.platform.ca)
        self._store.put_platforms([record], documents)
        for raw in raws:
            self._chosen(record, raw)
        if self._mode is Mode.REQ:
            self._store.register(registration, State.DELETED)

    def _ensure(self, evaluations: list[EvaluationSet], ca: Ca) -> list[Document]:
        return [document for one in evaluations for document in self._collateral.ensure(one, ca)]

    def _known(self, registration: Registration) -> tuple[Registration, Platform | None]:
        """The registration with what is known of the platform; the platform, if nothing has to be fetched for it.

        A manifest that is absent from the request matches the one that is kept.
        """
        platform = self._store.platform(registration.qe_id, registration.pce_id)
        if platform is None:
            return registration, None
        if registration.platform_manifest:
            same = platform.platform_manifest == registration.platform_manifest
            return registration, platform if same else None
        registration = dataclasses.replace(registration, platform_manifest=platform.platform_manifest)
        raw = RawTcb(registration.cpu_svn, registration.pce_svn)
        selected = self._store.selected(platform.qe_id, platform.pce_id, raw)
        return registration, platform if selected is not None else None

    def refresh(self, fmspcs: list[str]) -> list[str]:
        """Fetch PCK certificates anew; what failed, in words. Raises Refusal if there is no upstream."""
        _ = self._collateral.upstream.source
        failed: list[str] = []
        seen: dict[tuple[str, str], Platform] = {}
        for platform, _raw in self._store.platforms(fmspcs):
            seen[platform.qe_id, platform.pce_id] = platform
        for one in seen.values():
            registration = Registration(
                one.qe_id, one.pce_id, enc_ppid=one.enc_ppid, platform_manifest=one.platform_manifest
            )
            try:
                record, documents = self._fetch(registration, [])
                self._store.put_platforms([record], documents)
            except Refusal as refusal:
                failed.append(f"platform {one.qe_id}: {refusal}")
        return failed

    def _fetch(
        self, registration: Registration, raws: list[RawTcb], *, stranger: bool = False
    ) -> tuple[PlatformRecord, list[Document]]:
        """All that upstream has of a platform; the raw TCBs that are known, and ``raws``, get their certificates if
        there are any for them."""
        identity = PlatformIdentity(registration.pce_id, registration.enc_ppid, registration.platform_manifest)
        if not identity.manifest and not identity.enc_ppid:
            raise Refusal(Status.INVALID_REQUEST)
        upstream = self._collateral.upstream
        ask = upstream.ask_for_stranger if stranger else upstream.ask
        what = f"PCK certificates of {hashlib.sha256(repr(identity).encode()).hexdigest()}"
        found = ask(what, lambda source: source.pck_certificates(identity))
        self._admit(found)
        documents = self._tcb_infos(found.fmspc)
        info = parse_tcb_info(documents[0].body)
        if self._mode is Mode.REQ:
            self._note_unavailable(registration, found)
        platform = Platform(
            registration.qe_id,
            registration.pce_id,
            registration.platform_manifest,
            registration.enc_ppid,
            found.fmspc,
            found.ca,
        )
        selected: dict[RawTcb, str] = {}
        for raw in (*self._store.raw_tcbs(registration.qe_id, registration.pce_id), *raws):
            try:
                selected[raw] = self._choose(raw, found, info, registration.pce_id)
            except Refusal:
                continue
        record = PlatformRecord(platform, found.certificates, found.unavailable, found.issuer_chain, selected)
        return record, documents

    @staticmethod
    def _choose(raw: RawTcb, found: PckCertificates, info: TcbInfo, pce_id: str) -> str:
        return choose(raw, list(found.certificates), found.unavailable, info, pce_id).tcbm

    def _admit(self, found: PckCertificates) -> None:
        if not found.certificates:
            raise Refusal(Status.CERTS_UNAVAILABLE)
        try:
            self._collateral.admission.pck_certificates(found.certificates, found.issuer_chain, found.fmspc, found.ca)
        except CollateralError as error:
            raise Refusal(Status.PCS_ACCESS_FAILURE, error.message) from error

    def _tcb_infos(self, fmspc: str) -> list[Document]:
        """All TCB infos of an FMSPC that upstream has, the preferred one first."""
        found: list[Document] = []
        for tee, evaluation in _PREFERRED:
            try:
                found.append(self._collateral.fetch(Kind.TCB, tcb_name(tee, fmspc), evaluation.name))
            except Refusal as refusal:
                if refusal.status is not Status.NO_CACHE_DATA:
                    raise
        if not found:
            raise Refusal(Status.NO_CACHE_DATA)
        return found

    def _note_unavailable(self, registration: Registration, found: PckCertificates) -> None:
        """TCBs without a certificate wait in the queue, so that an administrator sees them (``source=reg_na``)."""
        for tcbm in found.unavailable:
            waiting = dataclasses.replace(registration, cpu_svn=tcbm[:32], pce_svn=tcbm[32:36])
            self._store.register(waiting, State.NOT_AVAILABLE)
