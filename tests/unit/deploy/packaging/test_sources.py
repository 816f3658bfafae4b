"""Sources by HTTP from a server on the loopback: digests, mirrors, downloads that broke off, patch series, git."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tdxstack.deploy.packaging import sources
from tdxstack.deploy.packaging.recipe import Archive, Repository
from tdxstack.errors import EvidenceRejected, NetworkFault, SystemFault, UsageError

BODY = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.seen.append((self.path, asked))
        if self.path == "/absent":
            self.send_error(404)
            return
        body = BODY if self.path == "/whole" else b"something else"
        if self.path == "/broken" and not asked:
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY[:1000])
            return
        if asked:
            body = BODY[int(asked.removeprefix("bytes=").rstrip("-")) :]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[str]:
    _Handler.seen = []
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def _obtain(*urls: str, digest: str = DIGEST) -> Path:
    return sources.obtain(Archive("a.tar", urls, digest), lambda _: None)


def test_it_is_downloaded_once(server: str) -> None:
    assert _obtain(f"{server}/whole").read_bytes() == BODY
    assert _obtain(f"{server}/whole").read_bytes() == BODY
    assert len(_Handler.seen) == 1


def test_a_kept_file_that_was_changed_is_not_used(server: str) -> None:
    _obtain(f"{server}/whole").write_bytes(b"changed")
    assert _obtain(f"{server}/whole").read_bytes() == BODY


def test_the_next_mirror_is_asked(server: str) -> None:
    assert _obtain(f"{server}/absent", f"{server}/other", f"{server}/whole").read_bytes() == BODY
    assert [path for path, _ in _Handler.seen] == ["/absent", "/other", "/whole"]


def test_a_download_that_broke_off_is_resumed(server: str) -> None:
    with pytest.raises(NetworkFault):
        _obtain(f"{server}/broken")
    assert _obtain(f"{server}/broken").read_bytes() == BODY
    assert _Handler.seen[-1] == ("/broken", "bytes=1000-")


def test_what_is_not_pinned_is_refused_and_not_kept(server: str) -> None:
    with pytest.raises(EvidenceRejected, match="is pinned"):
        _obtain(f"{server}/other")
    archive = Archive("a.tar", (f"{server}/other",), DIGEST)
    assert not sources.cached(archive).exists()
    with pytest.raises(UsageError, match="not known") as refused:
        sources.obtain(Archive("a.tar", (f"{server}/other",), "", "https://sums.example"), lambda _: None)
    assert "--pin a.tar=SHA256" in (refused.value.hint or "")


def test_nobody_answers(server: str) -> None:
    with pytest.raises(NetworkFault, match="HTTP status 404") as fault:
        _obtain(f"{server}/absent")
    assert "put the file there yourself" in (fault.value.hint or "")


def test_a_debian_path_is_asked_of_this_machines_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TDXSTACK_MIRROR_DEBIAN", "http://mirror.example/debian")
    archive = Archive("x", ("debian:pool/x", "https://elsewhere.example/x"), DIGEST)
    found = sources.addresses(archive)
    assert found == [
        "http://mirror.example/debian/pool/x",
        "https://deb.debian.org/debian/pool/x",
        "https://elsewhere.example/x",
    ]


def test_patch_series(tmp_path: Path) -> None:
    folder = tmp_path / "debian/patches"
    folder.mkdir(parents=True)
    for name in ("b.patch", "a.patch"):
        (folder / name).write_text("")
    (folder / "series").write_text("# first\nb.patch\n\na.patch -p1 # last\n")
    assert [one.name for one in sources.patch_files(tmp_path, "debian/patches/series", "")] == ["b.patch", "a.patch"]
    assert [one.name for one in sources.patch_files(tmp_path, "", "debian/patches/*.patch")] == ["a.patch", "b.patch"]
    (folder / "series").write_text("missing.patch\n")
    with pytest.raises(SystemFault, match=r"no patch missing\.patch"):
        list(sources.patch_files(tmp_path, "debian/patches/series", ""))
    (folder / "out.patch").symlink_to("/etc/hostname")
    (folder / "series").write_text("out.patch\n")
    with pytest.raises(SystemFault):
        list(sources.patch_files(tmp_path, "debian/patches/series", ""))
    with pytest.raises(SystemFault, match="no patch matches"):
        list(sources.patch_files(tmp_path, "", "x/*"))
    with pytest.raises(SystemFault, match="no patch series"):
        list(sources.patch_files(tmp_path, "nothing", ""))


@pytest.mark.processes
def test_a_commit_is_checked_out(tmp_path: Path) -> None:
    upstream = tmp_path / "upstream"
    git = ["git", "-C", str(upstream), "-c", "user.name=a", "-c", "user.email=a@example"]
    upstream.mkdir()
    subprocess.run([*git, "init", "--quiet"], check=True)
    (upstream / "file").write_text("one\n")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    repository = Repository("x", f"file://{upstream}", head)
    sources.check_out(repository, tmp_path / "tree", tmp_path / "log", lambda _: None)
    assert (tmp_path / "tree/file").read_text() == "one\n"
    absent = Repository("x", f"file://{upstream}", "0" * 40)
    with pytest.raises(NetworkFault):
        sources.check_out(absent, tmp_path / "other", tmp_path / "log", lambda _: None)
    assert "git" in (tmp_path / "log").read_text()
