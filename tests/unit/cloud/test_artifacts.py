"""artifacts.yaml, and files that are what they must be."""

from __future__ import annotations

import hashlib
import http.server
import io
import lzma
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tdxstack.cloud.artifacts import Artifact, ArtifactManifest
from tdxstack.errors import NetworkFault, SystemFault, UsageError

CONTENT = b"an image" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as archive:
        member = tarfile.TarInfo("folder/disk.raw")
        member.size = len(CONTENT)
        archive.addfile(member, io.BytesIO(CONTENT))
    return stream.getvalue()


FILES = {"/disk.qcow2": CONTENT, "/disk.raw.xz": lzma.compress(CONTENT), "/disk.raw.tar.xz": _tar()}


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sums = "".join(f"{hashlib.sha256(data).hexdigest()} *{name[1:]}\n" for name, data in FILES.items())
            data = {**FILES, "/SHA256SUMS": sums.encode()}.get(self.path)
            self.send_response(200 if data else 404)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()
        thread.join()


@pytest.mark.parametrize("name", FILES)
def test_over_the_network(server: str, name: str) -> None:
    artifact = Artifact("image", server + name, f"{server}/SHA256SUMS")
    path = artifact.get()
    assert path.read_bytes() == CONTENT
    assert path.suffix in (".qcow2", ".raw")
    kept = hashlib.sha256(FILES[name]).hexdigest()
    assert Artifact("image", "http://127.0.0.1:1" + name, kept).get() == path, "taken from the cache"


def test_what_is_not_what_it_must_be(server: str, tmp_path: Path) -> None:
    with pytest.raises(SystemFault, match="has sha256"):
        Artifact("image", f"{server}/disk.qcow2", "0" * 64).get()
    with pytest.raises(UsageError, match="without sha256sum"):
        Artifact("image", f"{server}/disk.qcow2").get()
    with pytest.raises(NetworkFault, match="404"):
        Artifact("image", f"{server}/absent", DIGEST).get()
    with pytest.raises(SystemFault, match="no digest of absent"):
        Artifact("image", f"{server}/absent", f"{server}/SHA256SUMS").get()
    with pytest.raises(UsageError, match="none of file"):
        Artifact("image", "ftp://host/x", DIGEST).get()
    file = tmp_path / "disk"
    file.write_bytes(CONTENT)
    assert Artifact("image", f"file://{file}").get() == file
    assert Artifact("image", f"file://{file}", DIGEST.upper()).get() == file
    with pytest.raises(SystemFault, match="has sha256"):
        Artifact("image", f"file://{file}", "1" * 64).get()
    with pytest.raises(UsageError, match="no file"):
        Artifact("image", f"file://{file}.absent").get()


def test_manifest(tmp_path: Path) -> None:
    path = tmp_path / "artifacts.yaml"
    path.write_text(f"latest-guest-image-debian:\n  source: file:///disk\n  sha256sum: {DIGEST}\n")
    manifest = ArtifactManifest.load(path)
    assert "latest-guest-image-debian" in manifest
    assert manifest["latest-guest-image-debian"].sha256sum == DIGEST
    with pytest.raises(UsageError, match="no artifact other"):
        manifest["other"]
    for text, message in (
        ("- a list\n", "not a table"),
        ("a: b\n", "no source"),
        ("a:\n  source: file:///x\n  md5: y\n", "unknown entry md5"),
        ("a: [\n", "cannot read"),
        ("a:\n  source: file:///x\n  sha256sum: [y]\n", "sha256sum is no text"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            ArtifactManifest.load(path)


@pytest.mark.parametrize("digest", ["0" * 64, "1" * 64, "12345678901234567890e" + "1" * 43])
def test_a_digest_is_text_whatever_its_digits(digest: str, tmp_path: Path) -> None:
    """YAML takes digits alone for a number."""
    disk = tmp_path / "disk"
    disk.write_bytes(CONTENT)
    path = tmp_path / "artifacts.yaml"
    path.write_text(f"image:\n  source: file://{disk}\n  sha256sum: {digest}\n")
    artifact = ArtifactManifest.load(path)["image"]
    assert artifact.sha256sum == digest
    with pytest.raises(SystemFault, match=f"not {digest}"):
        artifact.get()


def test_a_digest_that_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither 64 hex digits nor an URL"):
        Artifact("image", f"file://{tmp_path}", DIGEST[:-1]).get()
    path = tmp_path / "artifacts.yaml"
    path.write_text("image:\n  source: file:///x\n  sha256sum:\n")
    assert ArtifactManifest.load(path)["image"].sha256sum is None
