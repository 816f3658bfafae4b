"""What is kept, and how it is found. What a method has written is durable when it returns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, func, select, update

from tdxstack.pcs.source import Ca, PckCertificate
from tdxstack.services.pccs import schema
from tdxstack.services.pccs.database import Database
from tdxstack.services.pccs.records import Document, Platform, PlatformRecord, RawTcb, Registration
from tdxstack.services.pccs.schema import Kind, State


class Store(Database):
    """Documents, platforms, registrations and policies. Thread-safe."""

    # Documents

    def document(self, kind: Kind, version: int, name: str, evaluation: str = "") -> Document | None:
        """The document by its key."""
        c = schema.documents.c
        where = (c.kind == kind.value) & (c.version == version) & (c.name == name) & (c.evaluation == evaluation)
        with self.reading() as connection:
            row = connection.execute(select(schema.documents).where(where)).one_or_none()
        return _document(row) if row is not None else None

    def documents(self) -> list[Document]:
        """All of them, sorted by key."""
        c = schema.documents.c
        with self.reading() as connection:
            rows = connection.execute(select(schema.documents).order_by(c.kind, c.version, c.name, c.evaluation))
            return [_document(row) for row in rows]

    def put_documents(self, found: Iterable[Document]) -> None:
        """Keep documents; one of the same key is replaced."""
        with self.writing() as connection:
            self._put_documents(connection, found)

    def _put_documents(self, connection: Connection, found: Iterable[Document]) -> None:
        for one in found:
            self.upsert(
                connection,
                schema.documents,
                kind=one.kind.value,
                version=one.version,
                name=one.name,
                evaluation=one.evaluation,
                body=one.body,
                issuer_chain=one.issuer_chain,
                fetched=one.fetched,
                expires=one.expires,
            )

    # Platforms and their PCK certificates

    def platform(self, qe_id: str, pce_id: str) -> Platform | None:
        """The platform by its ids."""
        with self.reading() as connection:
            row = connection.execute(
                select(schema.platforms).where(_of(schema.platforms, qe_id, pce_id))
            ).one_or_none()
        return _platform(row) if row is not None else None

    def platforms(self, fmspcs: Sequence[str] = ()) -> list[tuple[Platform, RawTcb]]:
        """Platforms with the raw TCBs they asked for; of some FMSPCs, or all."""
        joined = schema.platforms.join(
            schema.platform_tcbs,
            (schema.platforms.c.qe_id == schema.platform_tcbs.c.qe_id)
            & (schema.platforms.c.pce_id == schema.platform_tcbs.c.pce_id),
        )
        query = select(schema.platforms, schema.platform_tcbs.c.cpu_svn, schema.platform_tcbs.c.pce_svn)
        query = query.select_from(joined).order_by(schema.platforms.c.qe_id, schema.platforms.c.pce_id)
        if fmspcs:
            query = query.where(schema.platforms.c.fmspc.in_(fmspcs))
        with self.reading() as connection:
            rows = connection.execute(query)
            return [(_platform(row), RawTcb(row.cpu_svn, row.pce_svn)) for row in rows]

    def raw_tcbs(self, qe_id: str, pce_id: str) -> list[RawTcb]:
        """The raw TCBs for which a certificate of the platform was selected."""
        table = schema.platform_tcbs
        with self.reading() as connection:
            rows = connection.execute(select(table).where(_of(table, qe_id, pce_id)))
            return [RawTcb(row.cpu_svn, row.pce_svn) for row in rows]

    def selected(self, qe_id: str, pce_id: str, raw: RawTcb) -> PckCertificate | None:
        """The certificate that was selected for a raw TCB."""
        tcbs, certificates = schema.platform_tcbs, schema.pck_certificates
        where = _of(tcbs, qe_id, pce_id) & (tcbs.c.cpu_svn == raw.cpu_svn) & (tcbs.c.pce_svn == raw.pce_svn)
        same = _of(certificates, qe_id, pce_id) & (certificates.c.tcbm == tcbs.c.tcbm)
        with self.reading() as connection:
            row = connection.execute(
                select(certificates.c.tcbm, certificates.c.pem)
                .select_from(tcbs.join(certificates, same))
                .where(where)
            ).one_or_none()
        return PckCertificate(row.tcbm, row.pem) if row is not None else None

    def certificates(self, qe_id: str, pce_id: str) -> tuple[list[PckCertificate], list[str]]:
        """The platform's certificates, and the TCBMs for which there were none."""
        have, lack = schema.pck_certificates, schema.pck_unavailable
        with self.reading() as connection:
            rows = connection.execute(select(have.c.tcbm, have.c.pem).where(_of(have, qe_id, pce_id)))
            found = [PckCertificate(row.tcbm, row.pem) for row in rows]
            missing = connection.execute(select(lack.c.tcbm).where(_of(lack, qe_id, pce_id))).scalars().all()
        return found, [str(tcbm) for tcbm in missing]

    def pck_chain(self, ca: Ca) -> str | None:
        """PEM of the intermediate and the root that issued PCK certificates."""
        with self.reading() as connection:
            table = schema.pck_chains
            return connection.execute(select(table.c.issuer_chain).where(table.c.ca == ca.value)).scalar()

    def put_selection(self, qe_id: str, pce_id: str, raw: RawTcb, tcbm: str) -> None:
        """Remember which certificate a raw TCB gets."""
        with self.writing() as connection:
            self._put_selection(connection, qe_id, pce_id, raw, tcbm)

    def _put_selection(self, connection: Connection, qe_id: str, pce_id: str, raw: RawTcb, tcbm: str) -> None:
        key = {"qe_id": qe_id, "pce_id": pce_id, "cpu_svn": raw.cpu_svn, "pce_svn": raw.pce_svn}
        self.upsert(connection, schema.platform_tcbs, **key, tcbm=tcbm)

    def put_platforms(self, records: Iterable[PlatformRecord], found: Iterable[Document] = ()) -> None:
        """Replace platforms with all their certificates, and keep documents, in one transaction."""
        with self.writing() as connection:
            for record in records:
                self._put_platform(connection, record)
            self._put_documents(connection, found)

    def _put_platform(self, connection: Connection, record: PlatformRecord) -> None:
        one = record.platform
        ids = {"qe_id": one.qe_id, "pce_id": one.pce_id}
        self.upsert(
            connection,
            schema.platforms,
            **ids,
            platform_manifest=one.platform_manifest,
            enc_ppid=one.enc_ppid,
            fmspc=one.fmspc,
            ca=one.ca.value,
        )
        for table in (schema.pck_certificates, schema.pck_unavailable, schema.platform_tcbs):
            connection.execute(delete(table).where(_of(table, one.qe_id, one.pce_id)))
        for certificate in record.certificates:
            self.upsert(connection, schema.pck_certificates, **ids, tcbm=certificate.tcbm, pem=certificate.pem)
        for tcbm in record.unavailable:
            connection.execute(self.insert(schema.pck_unavailable).values(**ids, tcbm=tcbm).on_conflict_do_nothing())
        for raw, tcbm in record.selected.items():
            self._put_selection(connection, one.qe_id, one.pce_id, raw, tcbm)
        self.upsert(connection, schema.pck_chains, ca=one.ca.value, issuer_chain=record.issuer_chain)

    # Registrations

    def register(self, registration: Registration, state: State) -> None:
        """Keep a registration in a state."""
        with self.writing() as connection:
            self.upsert(
                connection,
                schema.registrations,
                qe_id=registration.qe_id,
                pce_id=registration.pce_id,
                cpu_svn=registration.cpu_svn,
                pce_svn=registration.pce_svn,
                manifest_digest=hashlib.sha256(registration.platform_manifest.encode()).hexdigest(),
                enc_ppid=registration.enc_ppid,
                platform_manifest=registration.platform_manifest,
                state=int(state),
                updated=int(self.clock()),
            )

    def registrations(self, state: State) -> list[Registration]:
        """Those in a state, oldest first."""
        with self.reading() as connection:
            return self._registrations(connection, state)

    def take_registrations(self, state: State) -> list[Registration]:
        """Those in a state, which are DELETED by that; each is handed out once."""
        table = schema.registrations
        with self.writing() as connection:
            found = self._registrations(connection, state)
            connection.execute(
                update(table)
                .where(table.c.state == int(state))
                .values(state=int(State.DELETED), updated=int(self.clock()))
            )
        return found

    @staticmethod
    def _registrations(connection: Connection, state: State) -> list[Registration]:
        table = schema.registrations
        rows = connection.execute(
            select(table).where(table.c.state == int(state)).order_by(table.c.updated, table.c.qe_id)
        )
        return [
            Registration(row.qe_id, row.pce_id, row.cpu_svn, row.pce_svn, row.enc_ppid, row.platform_manifest)
            for row in rows
        ]

    # Appraisal policies

    def put_policy(self, identifier: str, kind: int, fmspc: str, is_default: bool, policy: str) -> None:
        """Keep an appraisal policy; a default one takes the place of the default of its kind and FMSPC."""
        table = schema.appraisal_policies
        with self.writing() as connection:
            if is_default:
                same = (table.c.type == kind) & (table.c.fmspc == fmspc)
                connection.execute(update(table).where(same).values(is_default=False))
            self.upsert(
                connection, table, id=identifier, type=kind, fmspc=fmspc, is_default=is_default, policy=policy
            )

    def default_policies(self, fmspc: str) -> list[str]:
        """The default policies for an FMSPC, by type."""
        table = schema.appraisal_policies
        with self.reading() as connection:
            rows = connection.execute(
                select(table.c.policy).where((table.c.fmspc == fmspc) & table.c.is_default).order_by(table.c.type)
            )
            return [str(row.policy) for row in rows]

    def expiries(self) -> dict[str, tuple[int, int]]:
        """How many documents there are of each kind, and when the first of them expires (Unix seconds)."""
        c = schema.documents.c
        query = select(c.kind, func.count(), func.min(c.expires)).group_by(c.kind).order_by(c.kind)
        with self.reading() as connection:
            return {str(kind): (int(number), int(expires)) for kind, number, expires in connection.execute(query)}

    def counts(self) -> dict[str, int]:
        """Rows of each table."""
        with self.reading() as connection:
            return {
                table.name: int(connection.execute(select(func.count()).select_from(table)).scalar() or 0)
                for table in schema.metadata.sorted_tables
                if table is not schema.facts
            }


def _of(table: Table, qe_id: str, pce_id: str) -> Any:
    return (table.c.qe_id == qe_id) & (table.c.pce_id == pce_id)


def _document(row: Row[Any]) -> Document:
    return Document(
        Kind(row.kind),
        row.version,
        row.name,
        row.evaluation,
        bytes(row.body),
        row.issuer_chain,
        row.fetched,
        row.expires,
    )


def _platform(row: Row[Any]) -> Platform:
    return Platform(row.qe_id, row.pce_id, row.platform_manifest, row.enc_ppid, row.fmspc, Ca(row.ca))
