"""The first schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_PLATFORM = ("qe_id", sa.String(260)), ("pce_id", sa.String(4))


def _table(name: str, keys: tuple[tuple[str, Any], ...], **columns: Any) -> None:
    primary: list[sa.Column[Any]] = [sa.Column(key, kind, primary_key=True) for key, kind in keys]
    rest: list[sa.Column[Any]] = [sa.Column(column, kind, nullable=False) for column, kind in columns.items()]
    op.create_table(name, *primary, *rest)


def upgrade() -> None:
    _table(
        "documents",
        (
            ("kind", sa.String(24)),
            ("version", sa.Integer()),
            ("name", sa.String(2048)),
            ("evaluation", sa.String(16)),
        ),
        body=sa.LargeBinary(),
        issuer_chain=sa.Text(),
        fetched=sa.BigInteger(),
        expires=sa.BigInteger(),
    )
    _table(
        "platforms",
        _PLATFORM,
        platform_manifest=sa.Text(),
        enc_ppid=sa.String(768),
        fmspc=sa.String(12),
        ca=sa.String(16),
    )
    op.create_index("platforms_fmspc", "platforms", ["fmspc"])
    _table("pck_certificates", (*_PLATFORM, ("tcbm", sa.String(36))), pem=sa.Text())
    _table("pck_unavailable", (*_PLATFORM, ("tcbm", sa.String(36))))
    raw_tcb = (("cpu_svn", sa.String(32)), ("pce_svn", sa.String(4)))
    _table("platform_tcbs", (*_PLATFORM, *raw_tcb), tcbm=sa.String(36))
    _table("pck_chains", (("ca", sa.String(16)),), issuer_chain=sa.Text())
    _table(
        "registrations",
        (*_PLATFORM, *raw_tcb, ("manifest_digest", sa.String(64))),
        enc_ppid=sa.String(768),
        platform_manifest=sa.Text(),
        state=sa.Integer(),
        updated=sa.BigInteger(),
    )
    op.create_index("registrations_state", "registrations", ["state"])
    _table(
        "appraisal_policies",
        (("id", sa.String(96)),),
        type=sa.Integer(),
        fmspc=sa.String(12),
        is_default=sa.Boolean(),
        policy=sa.Text(),
    )
    op.create_index("appraisal_policies_fmspc", "appraisal_policies", ["fmspc"])
    _table("facts", (("name", sa.String(64)),), number=sa.BigInteger(), text=sa.Text())


def downgrade() -> None:
    for table in (
        "facts",
        "appraisal_policies",
        "registrations",
        "pck_chains",
        "platform_tcbs",
        "pck_unavailable",
        "pck_certificates",
        "platforms",
        "documents",
    ):
        op.drop_table(table)
