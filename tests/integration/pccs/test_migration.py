"""A database of an old version is brought up by replicas that start together, once, with what is in it."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from tdxstack.errors import SystemFault
from tdxstack.services.pccs import database as database_module
from tdxstack.services.pccs.records import Document, Registration
from tdxstack.services.pccs.schema import Kind, State
from tdxstack.services.pccs.store import Store

pytestmark = pytest.mark.integration

#: A later version: a column that is filled from what is there, which would fail or double if it ran twice.
NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("registrations", sa.Column("note", sa.Text(), nullable=False, server_default=""))
    op.execute("UPDATE registrations SET note = note || 'migrated '")
"""


def filled(url: str) -> Store:
    store = Store(url, clock=lambda: 1000)
    store.migrate()
    store.put_documents([Document(Kind.CRL, 4, "a", "", b"body", "", 0, 0)])
    store.register(Registration("QE", "0000", "00", "00", "PPID"), State.NEW)
    return store


def test_replicas_bring_an_old_database_up_once(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = filled(database)
    later = tmp_path / "migrations"
    shutil.copytree(database_module.MIGRATIONS, later, ignore=shutil.ignore_patterns("__pycache__"))
    (later / "versions" / "0002_next.py").write_text(NEXT)
    monkeypatch.setattr(database_module, "MIGRATIONS", later)

    faults: list[SystemFault] = []
    start = threading.Barrier(4)

    def begin() -> None:
        store = Store(database)
        try:
            start.wait()
            store.migrate()
        except SystemFault as error:
            faults.append(error)
        finally:
            store.close()

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []

    engine = create_engine(database)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["0002"]
        assert connection.execute(text("SELECT note FROM registrations")).scalars().all() == ["migrated "]
        assert "note" in {column["name"] for column in inspect(connection).get_columns("registrations")}
    engine.dispose()
    assert [one.body for one in old.documents()] == [b"body"], "a replica of the old version goes on reading"
    assert [one.qe_id for one in old.registrations(State.NEW)] == ["QE"]
    old.close()

    monkeypatch.undo()
    with pytest.raises(SystemFault, match="database") as caught:
        Store(database).migrate()
    assert "version of tdxstack" in (caught.value.hint or "")


def test_a_migration_that_fails_leaves_the_old_version(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = filled(database)
    later = tmp_path / "migrations"
    shutil.copytree(database_module.MIGRATIONS, later, ignore=shutil.ignore_patterns("__pycache__"))
    (later / "versions" / "0002_next.py").write_text(NEXT + '    op.execute("SELECT no_such_column")\n')
    monkeypatch.setattr(database_module, "MIGRATIONS", later)
    with pytest.raises(SystemFault, match="no_such_column"):
        Store(database).migrate()
    engine = create_engine(database)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["0001"]
        assert "note" not in {column["name"] for column in inspect(connection).get_columns("registrations")}
    engine.dispose()
    monkeypatch.undo()
    Store(database).migrate()
    assert len(old.documents()) == 1
    old.close()
