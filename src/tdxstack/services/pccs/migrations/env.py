"""Runs by alembic: upgrades over the connection that ``store.migrate`` hands in."""

from __future__ import annotations

from alembic import context

from tdxstack.services.pccs.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
