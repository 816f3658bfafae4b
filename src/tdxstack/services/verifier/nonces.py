"""Challenges: issued without keeping anything, used once.

A nonce is 16 random bytes, the time it ends (8 bytes, Unix seconds, big-endian) and 16 bytes of HMAC-SHA-256 over
both, under a key that all replicas have. Only nonces that were used are kept, in the store that the replicas share,
until they end; so asking for challenges costs no room. In SQLite the last of them may be lost with the power; so
a nonce that was issued before this machine started is refused.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, LargeBinary, MetaData, Table, delete, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from tdxstack.errors import SystemFault
from tdxstack.services.sql import WRITES, open_engine, sql_fault

SIZE = 40
_CREATION_LOCK = 0x74647876657269
_metadata = MetaData()
_used = Table(
    "used_nonces",
    _metadata,
    Column("nonce", LargeBinary(SIZE), primary_key=True),
    Column("ends", BigInteger, nullable=False, index=True),
)


class NonceRefused(Exception):
    """A nonce that is not ours, is over, or was used before; says which."""


@dataclass(slots=True)
class _Use:
    nonce: bytes
    ends: int
    first: bool = False
    fault: SystemFault | None = None
    done: bool = False


class UsedNonces:
    """The shared store. Thread-safe; uses that come at once share a transaction.

    Raises SystemFault where the database refuses.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url, power_loss=False)
        postgres = self._engine.dialect.name == "postgresql"
        insert = postgresql.insert(_used) if postgres else sqlite.insert(_used)
        self._insert = insert.on_conflict_do_nothing().returning(_used.c.ends)
        self._waiting: list[_Use] = []
        self._lock, self._turn = threading.Lock(), threading.Lock()
        with self._writing() as connection:
            if postgres:  # replicas that start together wait for each other
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATION_LOCK})
            _metadata.create_all(connection, checkfirst=True)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            raise sql_fault(error) from None

    def use(self, nonce: bytes, ends: int) -> bool:
        """Note a nonce as used; whether it was not before."""
        mine = _Use(nonce, ends)
        with self._lock:
            self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                with self._lock:
                    batch, self._waiting = self._waiting, []
                self._note(batch)
        if mine.fault is not None:
            raise mine.fault
        return mine.first

    def _note(self, batch: list[_Use]) -> None:
        """In one transaction, in the order of the nonces, so that replicas do not wait for each other in a ring."""
        fault = None
        try:
            with self._writing() as connection:
                for one in sorted(batch, key=lambda use: use.nonce):
                    row = {"nonce": one.nonce, "ends": one.ends}
                    one.first = connection.execute(self._insert, row).first() is not None
        except SystemFault as error:
            fault = error
        finally:
            for one in batch:
                one.fault, one.done = fault, True

    def forget(self, now: int) -> None:
        """Drop those that are over: their time refuses them."""
        with self._writing() as connection:
            connection.execute(delete(_used).where(_used.c.ends < now - 60))

    def check(self) -> int:
        """How many there are."""
        try:
            with self._engine.connect() as connection:
                return int(connection.execute(select(func.count()).select_from(_used)).scalar() or 0)
        except SQLAlchemyError as error:
            raise sql_fault(error) from None


class Nonces:
    """Issues and takes challenges.

    Args:
        key: 32 secret bytes that all replicas share.
        lifetime: seconds.
        clock: Unix seconds.
        booted: when this machine started, by that clock.
        others: keys of replicas that have the key before or after this one: their nonces are taken too.
    """

    def __init__(
        self,
        key: bytes,
        lifetime: int,
        used: UsedNonces,
        clock: Callable[[], float],
        *,
        booted: float = 0.0,
        others: Sequence[bytes] = (),
    ) -> None:
        self._booted = booted
        self._keys = (key, *others)
        self.lifetime = lifetime
        self._used = used
        self._clock = clock

    def issue(self) -> tuple[bytes, int]:
        """A nonce (40 bytes) and when it ends."""
        ends = int(self._clock()) + self.lifetime
        body = secrets.token_bytes(16) + ends.to_bytes(8, "big")
        return body + _tag(self._keys[0], body), ends

    def take(self, nonce: bytes) -> None:
        """Use a nonce up.

        Raises:
            NonceRefused: it is not ours, over, or used.
            SystemFault: the store cannot be asked.
        """
        if len(nonce) != SIZE or not any(hmac.compare_digest(_tag(k, nonce[:24]), nonce[24:]) for k in self._keys):
            raise NonceRefused("The nonce is not one of this verifier's.")
        ends = int.from_bytes(nonce[16:24], "big")
        if self._clock() > ends or ends - self.lifetime < self._booted:
            raise NonceRefused("The nonce is over; ask for another one.")
        if not self._used.use(nonce, ends):
            raise NonceRefused("The nonce was used before.")


def _tag(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, b"tdxstack verifier nonce" + body, "sha256")[:16]
