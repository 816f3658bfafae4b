"""The tables. Identifiers are in upper case; what Intel signed is kept as bytes.

One table holds all signed documents and CRLs, since they are all read by name, kept with a chain and replaced whole.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()


class Kind(StrEnum):
    """Kinds of documents."""

    TCB = "tcb"
    IDENTITY = "identity"
    PCK_CRL = "pckcrl"
    ROOT_CRL = "rootcacrl"
    CRL = "crl"
    NUMBERS = "evaluationnumbers"


class State(IntEnum):
    """States of a registration."""

    NEW = 0
    NOT_AVAILABLE = 1
    DELETED = 9


#: ``name``: FMSPC with TEE for TCB info, enclave id, CA, or the URI of a CRL.
#: ``evaluation``: standard, early, a number, or empty.
documents = Table(
    "documents",
    metadata,
    Column("kind", String(24), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("name", String(2048), primary_key=True),
    Column("evaluation", String(16), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("issuer_chain", Text, nullable=False),
    Column("fetched", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
)

platforms = Table(
    "platforms",
    metadata,
    Column("qe_id", String(260), primary_key=True),
    Column("pce_id", String(4), primary_key=True),
    Column("platform_manifest", Text, nullable=False),
    Column("enc_ppid", String(768), nullable=False),
    Column("fmspc", String(12), nullable=False),
    Column("ca", String(16), nullable=False),
    Index("platforms_fmspc", "fmspc"),
)

pck_certificates = Table(
    "pck_certificates",
    metadata,
    Column("qe_id", String(260), primary_key=True),
    Column("pce_id", String(4), primary_key=True),
    Column("tcbm", String(36), primary_key=True),
    Column("pem", Text, nullable=False),
)

#: TCBMs for which Intel had no certificate when asked.
pck_unavailable = Table(
    "pck_unavailable",
    metadata,
    Column("qe_id", String(260), primary_key=True),
    Column("pce_id", String(4), primary_key=True),
    Column("tcbm", String(36), primary_key=True),
)

#: Which certificate a platform gets at a raw TCB.
platform_tcbs = Table(
    "platform_tcbs",
    metadata,
    Column("qe_id", String(260), primary_key=True),
    Column("pce_id", String(4), primary_key=True),
    Column("cpu_svn", String(32), primary_key=True),
    Column("pce_svn", String(4), primary_key=True),
    Column("tcbm", String(36), nullable=False),
)

pck_chains = Table(
    "pck_chains",
    metadata,
    Column("ca", String(16), primary_key=True),
    Column("issuer_chain", Text, nullable=False),
)

#: ``manifest_digest``: SHA-256 of the manifest, which is too long for a key.
registrations = Table(
    "registrations",
    metadata,
    Column("qe_id", String(260), primary_key=True),
    Column("pce_id", String(4), primary_key=True),
    Column("cpu_svn", String(32), primary_key=True),
    Column("pce_svn", String(4), primary_key=True),
    Column("manifest_digest", String(64), primary_key=True),
    Column("enc_ppid", String(768), nullable=False),
    Column("platform_manifest", Text, nullable=False),
    Column("state", Integer, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Index("registrations_state", "state"),
)

appraisal_policies = Table(
    "appraisal_policies",
    metadata,
    Column("id", String(96), primary_key=True),
    Column("type", Integer, nullable=False),
    Column("fmspc", String(12), nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("policy", Text, nullable=False),
    Index("appraisal_policies_fmspc", "fmspc"),
)

#: One row for each thing that is set once for the database: ``upstream``, ``generation``, leases of periodic work.
facts = Table(
    "facts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
)
