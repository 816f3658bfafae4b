"""The database: migrations against the schema, leases, generations, several writers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from tdxstack.errors import StateError, SystemFault, UsageError
from tdxstack.services.pccs import schema
from tdxstack.services.pccs.records import Document, Registration
from tdxstack.services.pccs.schema import Kind, State
from tdxstack.services.pccs.store import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/pccs.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    found = Store(url, clock=lambda: 1000)
    found.migrate()
    yield found
    found.close()


def document(name: str, body: bytes = b"x") -> Document:
    return Document(Kind.CRL, 4, name, "", body, "", 0, 0)


def test_the_migrations_make_the_schema(store: Store, url: str) -> None:
    with create_engine(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    store.migrate()


def test_a_later_database_is_refused(store: Store, url: str) -> None:
    with create_engine(url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SystemFault, match="database"):
        store.migrate()


def test_sqlite_syncs_at_every_commit(store: Store) -> None:
    with store.reading() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2


def test_writing_raises_the_generation_and_reading_does_not(store: Store) -> None:
    before = store.check()
    store.documents()
    assert store.check() == before
    store.put_documents([document("a")])
    assert store.check() == before + 1


def test_what_fails_leaves_nothing(store: Store) -> None:
    before = store.check()

    def broken() -> Iterator[Document]:
        yield document("a")
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        store.put_documents(broken())
    assert (store.documents(), store.check()) == ([], before)


def test_replicas_that_write_at_once_lose_nothing(store: Store, url: str) -> None:
    others = [Store(url) for _ in range(4)]

    def work(number: int) -> None:
        for step in range(10):
            others[number].put_documents([document(f"{number}-{step}")])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.documents()) == 40
    assert store.check() == 40
    for other in others:
        other.close()


def test_replicas_that_start_at_once_migrate_once(url: str) -> None:
    stores = [Store(url) for _ in range(4)]
    faults: list[BaseException] = []

    def begin(one: Store) -> None:
        try:
            one.migrate()
        except SystemFault as error:
            faults.append(error)

    threads = [threading.Thread(target=begin, args=(one,)) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert stores[0].check() == 0
    for one in stores:
        one.close()


def test_a_lease_is_for_one(url: str, store: Store) -> None:
    other = Store(url, clock=lambda: 1000)
    assert store.take_lease("refresh", 60)
    assert not other.take_lease("refresh", 60)
    assert other.take_lease("other", 60)
    late = Store(url, clock=lambda: 1060)
    assert late.take_lease("refresh", 60)
    late.close()
    other.close()


def test_a_database_stays_with_its_upstream(store: Store) -> None:
    store.bind_upstream("https://a")
    store.bind_upstream("https://a")
    with pytest.raises(StateError, match="filled from https://a"):
        store.bind_upstream("https://b")
    assert store.upstream() == "https://a"


def test_registrations_change_state(store: Store) -> None:
    store.register(Registration("A", "0000", "00", "00", "PPID"), State.NEW)
    store.register(Registration("A", "0000", platform_manifest="M"), State.NEW)
    assert len(store.registrations(State.NEW)) == 2
    store.register(Registration("A", "0000", platform_manifest="M"), State.DELETED)
    assert [one.enc_ppid for one in store.take_registrations(State.NEW)] == ["PPID"]
    assert store.registrations(State.NEW) == []
    assert len(store.registrations(State.DELETED)) == 2


@pytest.mark.parametrize("url", ["", "x", "mysql://h/d", "sqlite://"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises((UsageError, SystemFault)):
        Store(url).migrate()


def test_a_directory_that_is_not_there() -> None:
    with pytest.raises(SystemFault, match="database"):
        Store("sqlite:////nowhere/at/all/pccs.db").migrate()
