"""Cache, archive and bundles: what is kept, for how long, and what is never handed out."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_pcs import FakeService, load
from tdxstack.errors import CollateralError, CollateralUnreachable
from tdxstack.pcs.archive import Archive
from tdxstack.pcs.bundle import BundleSource, Entry, read_bundle, write_bundle
from tdxstack.pcs.cache import Cache
from tdxstack.pcs.collateral import Wanted, describe, fetch
from tdxstack.pcs.source import Ca, EvaluationSet, Tee

WANTED = Wanted("B0C06F000000")


@pytest.fixture
def window(tdx_folder: Path) -> tuple[int, int]:
    meta = json.loads((tdx_folder / "meta.json").read_text())
    return meta["valid_from"], meta["valid_to"]


def test_the_span_of_a_set_is_the_published_window(service: FakeService, window: tuple[int, int]) -> None:
    described = describe(service.collateral)
    assert (described.span.start, described.span.end) == window
    assert (described.fmspc, described.tee, described.ca, described.number) == (
        "B0C06F000000",
        Tee.TDX,
        Ca.PLATFORM,
        17,
    )


def test_a_cached_set_is_not_asked_for_again(service: FakeService, window: tuple[int, int], tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_age=1000)
    now = window[0] + 10
    first = cache.get(service.client(), WANTED, now)
    asked = len(service.requests)
    second = cache.get(service.client(), WANTED, now + 999)
    assert (first.fresh, second.fresh, len(service.requests)) == (True, False, asked)
    assert second.collateral == service.collateral
    assert cache.get(service.client(), WANTED, now + 1000).fresh
    assert [(entry[0], entry[1]) for entry in cache.entries()] == [("https://pccs.test:8081", WANTED.key)]


def test_an_old_set_that_holds_serves_while_the_source_is_down(
    service: FakeService, window: tuple[int, int], tmp_path: Path
) -> None:
    cache = Cache(tmp_path, max_age=1000)
    cache.get(service.client(), WANTED, window[0])
    service.faults = [httpx2.ConnectError("down") for _ in range(20)]
    stale = cache.get(service.client(), WANTED, window[1])
    assert (stale.fresh, "down" in stale.fault) == (False, True)
    service.faults = [httpx2.ConnectError("down") for _ in range(20)]
    with pytest.raises(CollateralUnreachable):
        cache.get(service.client(), WANTED, window[1] + 1)


def test_what_has_expired_is_never_handed_out(service: FakeService, window: tuple[int, int], tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.get(service.client(), WANTED, window[1])
    with pytest.raises(CollateralError, match="has expired"):
        cache.get(service.client(), WANTED, window[1] + 1, offline=True)
    with pytest.raises(CollateralError, match="does not hold now"):
        cache.get(service.client(), WANTED, window[1] + 1)
    assert cache.clear(window[1]) == 0
    assert cache.clear(window[1] + 1) == 1
    with pytest.raises(CollateralError, match="is not on this machine"):
        cache.get(service.client(), WANTED, window[0], offline=True)


def test_a_damaged_entry_is_fetched_anew(service: FakeService, window: tuple[int, int], tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.get(service.client(), WANTED, window[0])
    for damage in ("", "[]", '{"collateral": {}}', "\x00", '{"collateral": 1, "fetched": "x"}'):
        next(tmp_path.glob("*/*.json")).write_text(damage)
        assert cache.get(service.client(), WANTED, window[0]).fresh


def test_entries_of_other_sources_and_sets_are_apart(
    service: FakeService, window: tuple[int, int], tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    cache.get(service.client(), WANTED, window[0])
    other = Wanted("B0C06F000000", evaluation=EvaluationSet("17"))
    assert cache.get(service.client(), other, window[0]).fresh
    assert cache.get(service.client("https://other.test"), WANTED, window[0]).fresh
    assert len(cache.entries()) == 3


def test_the_archive_finds_what_held_then(vectors: Path, window: tuple[int, int], tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    real = vectors / "attestation" / "real"
    first = load(real / "dcapqvl-tdx-v4")
    path = archive.add(first, "standard")
    assert archive.add(first, "standard") == path
    archive.add(load(real / "flashbots-dcap-v4"), "standard")
    assert archive.find(WANTED, window[0]).collateral == first
    assert archive.find(WANTED, window[1]).collateral == first
    for outside in (window[0] - 1, window[1] + 1):
        with pytest.raises(CollateralError, match="archive"):
            archive.find(WANTED, outside)
    assert len(archive.entries()) == 2


def test_of_several_that_held_the_archive_takes_the_latest(service: FakeService, tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.add(service.collateral, "standard")
    held = json.loads(service.collateral.to_json())
    later = held["tcb_info"].replace("2025-06-19T10:16:03Z", "2025-06-25T10:16:03Z")
    assert later != held["tcb_info"]
    from tdxstack.dcap import Collateral

    second = Collateral.from_json(json.dumps(held | {"tcb_info": later}))
    archive.add(second, "standard")
    start = describe(second).span.start
    assert archive.find(WANTED, start).collateral == second
    assert archive.find(WANTED, start - 1).collateral == service.collateral


def test_fetching_fills_the_archive(service: FakeService, window: tuple[int, int], tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    Cache(tmp_path / "cache", archive=archive).get(service.client(), WANTED, window[0])
    assert archive.find(WANTED, window[0]).evaluation == "standard"


def test_a_bundle_is_a_source_of_what_went_in(vectors: Path) -> None:
    sets = [load(vectors / "attestation" / "real" / name) for name in ("dcapqvl-tdx-v4", "dcapqvl-sgx-v3")]
    text = write_bundle([Entry(WANTED, held) for held in sets], "2025-06-20")
    source = BundleSource(read_bundle(text))
    for held in sets:
        described = describe(held)
        wanted = Wanted(described.fmspc, described.tee, described.ca)
        again = fetch(source, wanted)
        assert (again.tcb_info, again.qe_identity) == (held.tcb_info, held.qe_identity)
        assert (again.tcb_info_signature, again.pck_crl) == (held.tcb_info_signature, held.pck_crl)
    with pytest.raises(CollateralError, match="not in bundle"):
        fetch(source, Wanted("000000000000"))


def test_a_single_set_is_a_bundle_too(service: FakeService) -> None:
    assert read_bundle(service.collateral.to_json())[0].collateral == service.collateral


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"schema": "x", "entries": []}', '{"schema": "tdxstack/x"}', "[" * 9999]
)
def test_bundles_that_are_none(text: str) -> None:
    with pytest.raises(CollateralError):
        read_bundle(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_any_bundle_is_read_or_refused(value: object) -> None:
    for document in (value, {"schema": "tdxstack/collateral-bundle/v1", "entries": [value]}):
        with pytest.raises(CollateralError):
            read_bundle(json.dumps(document))
