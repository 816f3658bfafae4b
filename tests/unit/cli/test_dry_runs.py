"""What changes something (nouns host, module, deploy, build, image) has a dry run, and that changes nothing."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_trees import HOSTS
from tdx_modules import blob, releases, signer
from tdxstack.cli.main import build_parser, main
from tdxstack.measure import seam
from tdxstack.system import paths

NOUNS = ("host", "module", "deploy", "build", "image")
READING = {
    "host check",
    "host components",
    "host diagnose",
    "module show",
    "module check",
    "deploy check",
    "deploy status",
    "build list",
    "image list",
    "image show",
}
#: What changes something -> its words, with places of the tests' own. What needs a running node or an image of one's
#: own has tests beside it that name them.
CHANGING = {
    "host install": ["--root", "{root}"],
    "host uninstall": ["--root", "{root}"],
    "host qcnl": ["--root", "{root}", "--set", "pccs_url=https://pccs.example/sgx/certification/v4/"],
    "host capture": ["{place}/captured", "--root", "{root}"],
    "module stage": ["{module}", "--root", "{root}"],
    "module update": ["{shelf}", "--root", "{root}"],
    "module rollback": ["--root", "{root}"],
    "deploy init": ["-i", "{place}/hosts"],
    "build package": ["shim", "--output", "{place}/packages"],
    "build repository": ["{packages}"],
    "image build": ["fedora", "--output", "{place}/x.qcow2"],
    "image delete": ["old-000000000000"],
}
ELSEWHERE = {"deploy apply", "image sign"}


def _leaves(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield " ".join(path), {word for action in parser._actions for word in action.option_strings}
    for group in groups:
        for name, child in group.choices.items():
            yield from _leaves(child, (*path, name))


def _commands() -> dict[str, set[str]]:
    return {name: options for name, options in _leaves(build_parser()) if name.split()[0] in NOUNS}


def test_every_command_either_reads_or_changes() -> None:
    assert set(_commands()) == READING | set(CHANGING) | ELSEWHERE


def test_what_changes_has_a_dry_run_and_what_reads_a_document() -> None:
    for name, options in _commands().items():
        assert ("--dry-run" in options) is (name not in READING), name
        assert "--json" in options or name not in READING, name


def _state(place: Path) -> dict[str, tuple[str, bytes]]:
    found = {}
    for path in sorted(place.rglob("*")):
        content = b"" if path.is_symlink() or not path.is_file() else path.read_bytes()
        found[str(path.relative_to(place))] = (oct(path.lstat().st_mode), content)
    return found


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A host's tree with what each command looks for; all that a dry run could spoil is below it."""
    monkeypatch.setattr(seam.check_module, "__defaults__", (signer(),))
    place, root = tmp_path / "place", tmp_path / "place/root"
    shutil.copytree(HOSTS / "good-upstream", root)
    (root / "sys/devices/faux/tdx_host/version").write_text("1.5.08\n")
    (root / "boot/efi/EFI/TDX").mkdir(parents=True)
    upload = root / "sys/class/firmware/tdx_module"
    upload.mkdir(parents=True)
    for name, text in (("loading", "0"), ("data", ""), ("status", "idle"), ("error", "")):
        (upload / name).write_text(text)
    (paths.images() / "old-000000000000").mkdir(parents=True)
    (place / "packages").mkdir()
    (place / "packages/x_1_all.deb").write_bytes(b"")
    shelf = releases(place / "releases", "1.5.09")
    (place / "module.bin").write_bytes(blob().to_bytes())
    module = str(place / "module.bin")
    # something to uninstall and to roll back
    assert main(["host", "install", "--root", str(root), "--only", "modules", "--yes"]) == 0
    assert main(["module", "stage", module, "--root", str(root), "--yes"]) == 0
    return {
        "place": str(place),
        "root": str(root),
        "shelf": str(shelf),
        "module": module,
        "packages": str(place / "packages"),
    }


@pytest.mark.parametrize("name", sorted(CHANGING))
def test_a_dry_run_shows_and_changes_nothing(
    name: str, places: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = _state(Path(places["place"]))
    capsys.readouterr()
    words = [word.format(**places) for word in CHANGING[name]]
    assert main([*name.split(), *words, "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert (shown.out + shown.err).strip()
    assert _state(Path(places["place"])) == before
    assert (paths.images() / "old-000000000000").is_dir()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("image", "list"), 0),
        (("image", "show", "none"), 2),
        (("image", "delete", "none", "--dry-run"), 2),
        (("image", "build", "--dry-run"), 0),
    ],
)
def test_image_verbs_that_change_nothing_create_no_directory(
    words: tuple[str, ...], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TDXSTACK_HOME", "TDXSTACK_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "absent" / name))
    assert main([*words]) == status
    assert not (tmp_path / "absent").exists()
