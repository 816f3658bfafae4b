"""Whatever a host's files say, a check ends with an outcome."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_trees import HOSTS, stack_1_5, upstream
from tdxstack.platform.linux_open_host import open_host
from tdxstack.preflight import components, report, tree
from tdxstack.preflight.capture import collect
from tdxstack.preflight.host import Host

GARBAGE = (b"", b"\xff\xfe\0", b"{", b"[]", b"-1\n", b"9" * 5000, b"a: b\n" * 50, b"[" * 20000)
TREES = {"good-upstream": upstream, "good-1.5": stack_1_5}
PATHS = sorted((name, path) for name, build in TREES.items() for path in build())


def _look(root: Path) -> dict[str, str]:
    host = Host(open_host(root))
    results = tree.check_host(host)
    components.listed(host)
    collect(host.source)
    return {one.check.id: one.outcome.value for one in report.everything(results)}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    for name in TREES:
        shutil.copytree(HOSTS / name, folder / name)
    return folder


@pytest.mark.parametrize("number", range(len(PATHS)), ids=["-".join(one) for one in PATHS])
def test_garbage_in_any_file(copies: Path, number: int) -> None:
    """Each file gets two kinds of garbage, its neighbours others; then it is absent, then a directory."""
    name, path = PATHS[number]
    target = copies / name / path
    good = target.read_bytes()
    try:
        for step in (0, 3):
            target.write_bytes(GARBAGE[(number + step) % len(GARBAGE)])
            assert _look(copies / name)
        target.unlink()
        _look(copies / name)
        target.mkdir()
        _look(copies / name)
        target.rmdir()
    finally:
        target.write_bytes(good)


@settings(max_examples=60)
@given(which=st.sampled_from(PATHS), garbage=st.binary(max_size=200), at=st.integers(0, 2000))
def test_damage_in_any_place(copies: Path, which: tuple[str, str], garbage: bytes, at: int) -> None:
    name, path = which
    target = copies / name / path
    good = target.read_bytes()
    try:
        target.write_bytes(good[:at] + garbage + good[at + len(garbage) :])
        _look(copies / name)
    finally:
        target.write_bytes(good)


def test_malformed_content_fails_with_evidence(tmp_path: Path) -> None:
    root = tmp_path / "host"
    shutil.copytree(HOSTS / "good-upstream", root)
    (root / "sys/firmware/dmi/tables/DMI").write_bytes(b"\x11\x02\x00\x00")
    (root / ".tdxstack/msr.json").write_text('{"0x982": {"0": "what", "1": "0x3"}}')
    (root / "sys/devices/faux/tdx_host/version").write_text("nonsense\n")
    results = {one.check.id: one for one in report.everything(tree.check_host(Host(open_host(root))))}
    assert results["memory.dimms"].outcome == "warn"
    assert "SMBIOS" in results["memory.dimms"].finding.evidence
    assert results["firmware.tme"].outcome == "fail"
    assert "'what'" in results["firmware.tme"].finding.evidence
    assert "nonsense" in results["module.loaded"].finding.evidence


def test_an_empty_tree_fails_and_does_not_crash(tmp_path: Path) -> None:
    assert _look(tmp_path)["cpu.vendor"] == "fail"


def test_links_stay_inside_the_tree(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("outside")
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").symlink_to(secret)
    (root / "proc/cmdline").symlink_to("../../secret")
    (root / "a").symlink_to("/b")
    (root / "b").symlink_to("/a")
    files = open_host(root).files
    for path in ("/proc/cpuinfo", "/proc/cmdline", "/a"):
        assert files.text_or_none(path) is None


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    assert open_host(tmp_path).files.text_or_none("/pipe") is None
