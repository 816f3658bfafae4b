"""Opening databases: SQLite (write-ahead log, synced at every commit) or PostgreSQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tdxstack.errors import SystemFault, UsageError

#: Execution option of a connection whose transactions write.
WRITES = "tdxstack_writes"
#: Seconds that a writer waits for another one.
BUSY_SECONDS = 20
_URL_HINT = "sqlite:////PATH or postgresql+psycopg://USER@HOST/DATABASE"


def sql_fault(error: SQLAlchemyError) -> SystemFault:
    """What the database says, in one line."""
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    return SystemFault(f"database: {reason}", hint="check the database's URL, its server and its disk")


def open_engine(url: str, *, power_loss: bool = True) -> Engine:
    """An engine for a database URL; nothing is connected yet.

    Args:
        power_loss: whether what was committed must outlive a loss of power; a killed process loses nothing in any
            case. PostgreSQL has a setting of its own for it.

    Raises:
        UsageError: the URL is that of no database that is supported.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UsageError("the database's URL cannot be read", hint=_URL_HINT) from None
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed, pool_size=8, max_overflow=8, pool_pre_ping=True, pool_timeout=BUSY_SECONDS)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise UsageError("no database of a kind that is supported", hint=_URL_HINT)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    if not power_loss:
        event.listen(engine, "connect", _sync_less)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Transactions are begun by us, since a writer must hold the lock before it reads."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_SECONDS * 1000}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sync_less(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
