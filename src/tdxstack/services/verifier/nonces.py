"""Challenges: issued without keeping anything, used once.

A nonce is 16 random bytes, the time it ends (8 bytes, Unix seconds, big-endian) and 16 bytes of HMAC-SHA-256 over
both, under a key that all replicas have. Only nonces that were used are kept, in the store that the replicas share,
until they end; so asking for challenges costs no room. In SQLite the last of them may be lost with the power; so
a nonce that was issued before this machine started is refused.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, Table, delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from tdxstack.services.sql import WRITES, open_engine, sql_fault

SIZE = 40
_metadata = MetaData()
_used = Table(
    "used_nonces",
    _metadata,
    Column("nonce", LargeBinary(SIZE), primary_key=True),
    Column("ends", BigInteger, nullable=False, index=True),
)


class NonceRefused(Exception):
    """A nonce that is not ours, is over, or was used before; says which."""


class UsedNonces:
    """The shared store. Thread-safe. Raises SystemFault where the database refuses."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url, power_loss=False)
        self._insert = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
        try:
            with self._engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
                _metadata.create_all(connection, checkfirst=True)
        except SQLAlchemyError as error:
            raise sql_fault(error) from None

    def close(self) -> None:
        self._engine.dispose()

    def use(self, nonce: bytes, ends: int) -> bool:
        """Note a nonce as used; whether it was not before."""
        try:
            with self._engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
                row = self._insert(_used).values(nonce=nonce, ends=ends).on_conflict_do_nothing()
                return connection.execute(row).rowcount == 1
        except SQLAlchemyError as error:
            raise sql_fault(error) from None

    def forget(self, now: int) -> None:
        """Drop those that are over: their time refuses them."""
        try:
            with self._engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
                connection.execute(delete(_used).where(_used.c.ends < now - 60))
        except SQLAlchemyError as error:
            raise sql_fault(error) from None


class Nonces:
    """Issues and takes challenges.

    Args:
        key: 32 secret bytes that all replicas share.
        lifetime: seconds.
        clock: Unix seconds.
        booted: when this machine started, by that clock.
    """

    def __init__(
        self, key: bytes, lifetime: int, used: UsedNonces, clock: Callable[[], float], *, booted: float = 0.0
    ) -> None:
        self._booted = booted
        self._key = key
        self.lifetime = lifetime
        self._used = used
        self._clock = clock

    def issue(self) -> tuple[bytes, int]:
        """A nonce (40 bytes) and when it ends."""
        ends = int(self._clock()) + self.lifetime
        body = secrets.token_bytes(16) + ends.to_bytes(8, "big")
        return body + self._tag(body), ends

    def take(self, nonce: bytes) -> None:
        """Use a nonce up.

        Raises:
            NonceRefused: it is not ours, over, or used.
            SystemFault: the store cannot be asked.
        """
        if len(nonce) != SIZE or not hmac.compare_digest(self._tag(nonce[:24]), nonce[24:]):
            raise NonceRefused("The nonce is not one of this verifier's.")
        ends = int.from_bytes(nonce[16:24], "big")
        if self._clock() > ends or ends - self.lifetime < self._booted:
            raise NonceRefused("The nonce is over; ask for another one.")
        if not self._used.use(nonce, ends):
            raise NonceRefused("The nonce was used before.")

    def _tag(self, body: bytes) -> bytes:
        return hmac.digest(self._key, b"tdxstack verifier nonce" + body, "sha256")[:16]
