"""Tokens of users and administrators: hashed in the configuration, compared in constant time.

``scrypt:N:R:P:SALT:HASH`` (RFC 7914; salt and hash in hexadecimal) is what :func:`hash_token` makes. The 128
hexadecimal digits of SHA-512 that Intel's PCCS configures are taken too, so that an installation can move without
new tokens.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading

from tdxstack.errors import UsageError

_N, _R, _P = 1 << 14, 8, 1
#: What a configuration may ask of us at most: 128 MiB, some 0.5 s.
_MAX_N, _MAX_R, _MAX_P = 1 << 17, 16, 4
_SCRYPT = re.compile(r"scrypt:(\d{1,7}):(\d{1,2}):(\d):([0-9a-f]{16,128}):([0-9a-f]{64})\Z")
_SHA512 = re.compile(r"[0-9a-fA-F]{128}\Z")
#: Longer tokens are refused unread.
MAX_TOKEN = 1024
#: How many tokens may wait to be looked at.
WAITING = 4


class TooManyGuesses(Exception):
    """More tokens that are not known to be right came in at once than are looked at."""


def new_token() -> str:
    """A token of 256 random bits."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """The configuration's form of a token, with a salt of its own."""
    salt = secrets.token_bytes(16)
    return f"scrypt:{_N}:{_R}:{_P}:{salt.hex()}:{_scrypt(token, salt, _N, _R, _P).hex()}"


def _scrypt(token: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(token.encode(), salt=salt, n=n, r=r, p=p, maxmem=1 << 28, dklen=32)


class Token:
    """A configured token. Thread-safe.

    scrypt takes about 50 ms by design; a token that was right once is remembered by a keyed digest, under a key that
    lives as long as this object.

    Raises:
        UsageError: the configured value is neither form.
    """

    def __init__(self, configured: str) -> None:
        scrypt, sha512 = _SCRYPT.match(configured), _SHA512.match(configured)
        if scrypt:
            self._n, self._r, self._p = int(scrypt[1]), int(scrypt[2]), int(scrypt[3])
            self._salt, self._hash = bytes.fromhex(scrypt[4]), bytes.fromhex(scrypt[5])
            self._check_cost()
        elif sha512:
            self._n = 0
            self._hash = bytes.fromhex(configured)
        else:
            raise UsageError("a token's hash is neither scrypt nor SHA-512", hint="tdxctl pccs init makes tokens")
        self._key = secrets.token_bytes(32)
        self._known = secrets.token_bytes(32)
        self._places = threading.BoundedSemaphore(WAITING)
        self._busy = threading.Lock()

    def _check_cost(self) -> None:
        power = self._n > 1 and self._n & (self._n - 1) == 0
        if not power or self._n > _MAX_N or not 1 <= self._r <= _MAX_R or not 1 <= self._p <= _MAX_P:
            raise UsageError("a token's scrypt parameters are out of bounds", hint="tdxctl pccs init makes tokens")

    def matches(self, token: str) -> bool:
        """Whether ``token`` is the one; only the one that was right before is told quickly."""
        if not token or len(token) > MAX_TOKEN:
            return False
        data = token.encode("utf-8", "surrogateescape")
        digest = hmac.digest(self._key, data, "sha256")
        if hmac.compare_digest(digest, self._known):
            return True
        if not self._n:
            right = hmac.compare_digest(hashlib.sha512(data).digest(), self._hash)
        else:
            right = hmac.compare_digest(self._derive(data), self._hash)
        if right:
            self._known = digest
        return right

    def _derive(self, data: bytes) -> bytes:
        """One at a time: guessing costs the guesser time, and us one core and a few threads at most."""
        if not self._places.acquire(blocking=False):
            raise TooManyGuesses
        try:
            with self._busy:
                return hashlib.scrypt(
                    data, salt=self._salt, n=self._n, r=self._r, p=self._p, maxmem=1 << 28, dklen=32
                )
        finally:
            self._places.release()
