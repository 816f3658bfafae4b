"""Settings out of a file, and tokens."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest

from tdxstack.errors import UsageError
from tdxstack.services.pccs.settings import Settings
from tdxstack.services.pccs.tokens import WAITING, Token, TooManyGuesses, hash_token, new_token


def test_the_written_file_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "pccs.toml"
    path.write_text(Settings(port=1234, trust_roots=["intel", "root.pem"], user_token='a"\\b').to_toml())
    found = Settings.load(path)
    assert (found.port, found.user_token) == (1234, 'a"\\b')
    assert found.trust_roots == ["intel", str(tmp_path / "root.pem")]
    assert found.database == f"sqlite:///{tmp_path}/pccs.db"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port = 'x'", "not of type int"),
        ("port = true", "not of type int"),
        ("port = 70000", "port 70000"),
        ("colour = 1", "not a setting"),
        ("mode = 'EAGER'", "mode 'EAGER'"),
        ("host = '0.0.0.0'", "in the clear"),
        ("tls_key = 'k'", "the other is not"),
        ("trust_roots = [1]", "not of type list"),
        ("max_body_bytes = 1", "out of bounds"),
        ("= 1", "Invalid"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "pccs.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        Settings.load(path)


def test_a_token_by_scrypt_and_by_sha512() -> None:
    token = new_token()
    for configured in (hash_token(token), hashlib.sha512(token.encode()).hexdigest().upper()):
        found = Token(configured)
        assert found.matches(token)
        assert found.matches(token), "remembered"
        for wrong in ("", token + "x", token[:-1], token.swapcase(), "x" * 5000, "\udc80"):
            assert not found.matches(wrong)
    assert hash_token(token) != hash_token(token), "each has its own salt"


@pytest.mark.parametrize(
    "configured",
    [
        "",
        "x",
        "0" * 127,
        "scrypt:16384:8:1:00:00",
        f"scrypt:16383:8:1:{'0' * 32}:{'0' * 64}",
        f"scrypt:9999999:8:1:{'0' * 32}:{'0' * 64}",
        f"scrypt:16384:99:1:{'0' * 32}:{'0' * 64}",
        f"scrypt:16384:8:0:{'0' * 32}:{'0' * 64}",
    ],
)
def test_hashes_that_are_none(configured: str) -> None:
    with pytest.raises(UsageError):
        Token(configured)


def test_guessing_is_bounded_and_does_not_lock_out_who_is_known() -> None:
    found = Token(hash_token("right"))
    assert found.matches("right")
    with ThreadPoolExecutor(WAITING + 1) as guessers:
        with found._busy:  # nothing is looked at: all places are soon taken
            guesses = [guessers.submit(found.matches, f"wrong {number}") for number in range(WAITING + 1)]
            refused = next(as_completed(guesses))
            assert found.matches("right")
            assert isinstance(refused.exception(), TooManyGuesses)
        guesses.remove(refused)
        assert [guess.result() for guess in guesses] == [False] * WAITING
