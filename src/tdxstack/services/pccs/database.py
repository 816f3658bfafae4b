"""The database: SQLite (one file, write-ahead log, synced at every commit) or PostgreSQL, shared by replicas.

Every writing transaction first raises the ``generation``: so writers queue up, and readers that keep answers in
memory learn that these are old.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from tdxstack.errors import StateError, SystemFault
from tdxstack.services.pccs import schema
from tdxstack.services.sql import WRITES, open_engine, sql_fault

#: alembic's scripts.
MIGRATIONS = Path(__file__).with_name("migrations")
_MIGRATION_LOCK = 0x7464785F706363


class Database:
    """The database behind one or several replicas. Thread-safe.

    Args:
        url: SQLAlchemy's, e.g. ``sqlite:////var/lib/pccs/pccs.db`` or ``postgresql+psycopg://user@host/db``.
        clock: Unix seconds.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = open_engine(url)
        self.clock = clock
        self.insert: Any = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert

    def close(self) -> None:
        self._engine.dispose()

    def migrate(self) -> None:
        """Bring the schema up to this version's; replicas that start together wait for each other.

        Raises:
            SystemFault: the database cannot be reached or is of a later version.
        """
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        try:
            with self._engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
                if self._engine.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                row = {"name": "generation", "number": 0, "text": ""}
                connection.execute(self.insert(schema.facts).values(row).on_conflict_do_nothing())
        except CommandError as error:
            raise SystemFault(f"database: {error}", hint="use the version of tdxstack that wrote it") from None
        except SQLAlchemyError as error:
            raise sql_fault(error) from None

    def check(self) -> int:
        """Read one row; the generation.

        Raises:
            SystemFault: the database cannot be reached.
        """
        try:
            with self._engine.connect() as connection:
                found = connection.execute(
                    select(schema.facts.c.number).where(schema.facts.c.name == "generation")
                ).scalar()
        except SQLAlchemyError as error:
            raise sql_fault(error) from None
        if found is None:
            raise SystemFault("database: it was not initialised", hint="tdxctl pccs init")
        return int(found)

    def bind_upstream(self, upstream: str) -> None:
        """Say where this database's collateral comes from; once said it stays.

        Raises:
            StateError: it was filled from another upstream.
        """
        with self.writing() as connection:
            row = {"name": "upstream", "number": 0, "text": upstream}
            connection.execute(self.insert(schema.facts).values(row).on_conflict_do_nothing())
            found = connection.execute(select(schema.facts.c.text).where(schema.facts.c.name == "upstream")).scalar()
        if found != upstream:
            raise StateError(
                "database",
                f"serve {upstream}",
                f"filled from {found}",
                "a database of its own",
                hint="tdxctl pccs init",
            )

    def upstream(self) -> str:
        """What :meth:`bind_upstream` said; empty if it was never called."""
        with self.reading() as connection:
            query = select(schema.facts.c.text).where(schema.facts.c.name == "upstream")
            return str(connection.execute(query).scalar() or "")

    def take_lease(self, name: str, seconds: int) -> bool:
        """Whether this replica may do periodic work ``name``, which no other does for ``seconds``."""
        now = int(self.clock())
        facts = schema.facts
        holder = secrets.token_hex(8)
        row = {"name": f"lease:{name}", "number": now + seconds, "text": holder}
        with self._engine.begin() as connection:
            statement = self.insert(facts).values(row)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["name"],
                    set_={"number": statement.excluded.number, "text": statement.excluded.text},
                    where=facts.c.number <= now,
                )
            )
            found = connection.execute(select(facts.c.text).where(facts.c.name == row["name"])).scalar()
        return bool(found == holder)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for reading. Raises SystemFault where the database refuses."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise sql_fault(error) from error

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction; it is durable when the block ends. Raises SystemFault where the database refuses."""
        try:
            with self._engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
                facts = schema.facts
                connection.execute(
                    update(facts).where(facts.c.name == "generation").values(number=facts.c.number + 1)
                )
                yield connection
        except SQLAlchemyError as error:
            raise sql_fault(error) from error

    def upsert(self, connection: Connection, table: Table, **values: Any) -> None:
        """Insert a row, or change the one of the same key."""
        statement = self.insert(table).values(**values)
        keys = [column.name for column in table.primary_key]
        changed = {name: statement.excluded[name] for name in values if name not in keys}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))
