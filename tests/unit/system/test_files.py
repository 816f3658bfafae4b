from __future__ import annotations

import os
from pathlib import Path

import pytest

from tdxstack.errors import LockHeld, SystemFault
from tdxstack.system.files import locked, write_atomic, write_cache


def test_write_atomic_replaces_and_sets_the_mode(tmp_path: Path) -> None:
    target = tmp_path / "secret"
    target.write_bytes(b"old")
    write_atomic(target, b"new", mode=0o600)
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["secret"]


def test_write_atomic_on_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "state"
    target.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemFault, match="No space left") as caught:
        write_atomic(target, b"new")
    assert caught.value.hint is not None
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]


def test_locked_refuses_a_second_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locked(lock), pytest.raises(LockHeld), locked(lock, wait=False):
        pass
    with locked(lock, wait=False):
        pass


def test_a_cache_that_is_there_is_filled_and_one_that_is_not_stays_away(tmp_path: Path) -> None:
    write_cache(tmp_path, "facts/one.json", "1")
    assert (tmp_path / "facts" / "one.json").read_text() == "1"
    assert (tmp_path / "facts").stat().st_mode & 0o777 == 0o700
    write_cache(tmp_path / "absent", "facts/one.json", "1")
    assert os.listdir(tmp_path) == ["facts"]
