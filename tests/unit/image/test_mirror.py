"""The machine's own mirror is found in either style of source file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.image.mirror import configured_mirror

LIST = """# deb http://commented.example/debian bookworm main
deb http://security.example/debian-security bookworm-security main
deb [arch=amd64 signed-by=/x.gpg] http://mirror.example/debian/ bookworm main contrib
deb-src http://source.example/debian bookworm main
"""
DEB822 = """Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm

Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [("sources.list", LIST), ("sources.list.d/a.list", LIST), ("sources.list.d/debian.sources", DEB822)],
)
def test_found(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    assert configured_mirror("debian", tmp_path) == "http://mirror.example/debian"
    assert configured_mirror("ubuntu", tmp_path) is None


def test_mirror_file(tmp_path: Path) -> None:
    (tmp_path / "mirrors").write_text("# best first\nhttp://near.example/debian\thint\nhttp://far.example/debian\n")
    (tmp_path / "sources.list").write_text(f"deb mirror+file:{tmp_path}/mirrors trixie main\n")
    assert configured_mirror("debian", tmp_path) == "http://near.example/debian"


def test_nothing_configured(tmp_path: Path) -> None:
    assert configured_mirror("debian", tmp_path) is None


def test_environment_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TDXSTACK_MIRROR_DEBIAN", "http://mine.example/debian/")
    assert configured_mirror("debian", tmp_path) == "http://mine.example/debian"
