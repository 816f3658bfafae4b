"""``artifacts.yaml``: the images and kernels that tests use, with where they come from and what they must be.

::

    latest-guest-image-debian:
      source: file:///var/lib/images/debian-13.raw
      sha256sum: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

``source`` is ``file://``, ``http://`` or ``https://``; ``sha256sum`` is the digest itself, or the URL of a file as
sha256sum(1) writes it. What comes over the network must have one.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from tdxstack.errors import NetworkFault, SystemFault, UsageError
from tdxstack.system import paths
from tdxstack.system.files import locked, private_directory, sha256_file

ATTEMPTS = 5
TIMEOUT = 60.0
CHUNK = 1 << 20
#: A checksum file is short.
MAX_CHECKSUMS = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file by its ``source``, and what its SHA-256 must be."""

    name: str
    source: str
    sha256sum: str | None = None

    def get(self, folder: Path | None = None) -> Path:
        """The file: in place for ``file://``, else in the cache (or ``folder``), downloaded once; ``.xz`` unpacked.

        Raises:
            NetworkFault: it cannot be fetched.
            SystemFault: it is not what it must be, or there is no space.
            UsageError: an unknown kind of source, or one from the network without a digest.
        """
        wanted = self._wanted()
        scheme, _, rest = self.source.partition("://")
        if scheme == "file":
            path = Path(unquote(rest))
            if not path.is_file():
                raise UsageError(f"{self.name}: no file {path}", hint="check artifacts.yaml")
            self._judge(path, wanted)
            return path
        if wanted is None:
            raise UsageError(f"{self.name}: {self.source} without sha256sum", hint="add sha256sum to artifacts.yaml")
        target = (
            folder or private_directory(paths.cache() / "artifacts")
        ) / f"{wanted[:16]}-{_file_name(self.source)}"
        with locked(target.with_name(f".{target.name}.lock")):
            if not target.exists():
                self._fetch(target, wanted)
        return _unpacked(target)

    def _wanted(self) -> str | None:
        given = self.sha256sum
        if given is None or _DIGEST.fullmatch(given.lower()):
            return given.lower() if given else None
        if "://" not in given:
            raise UsageError(
                f"{self.name}: sha256sum {given!r} is neither 64 hex digits nor an URL", hint="check artifacts.yaml"
            )
        text = b"".join(_content(given, limit=MAX_CHECKSUMS)).decode(errors="replace")
        file = _file_name(self.source)
        for line in text.splitlines():
            digest, _, name = line.strip().partition(" ")
            if _DIGEST.fullmatch(digest.lower()) and name.strip().lstrip("*") in (file, ""):
                return digest.lower()
        raise SystemFault(f"{self.name}: {given} has no digest of {file}", hint="check artifacts.yaml")

    def _judge(self, path: Path, wanted: str | None) -> None:
        if wanted is not None and (found := sha256_file(path)) != wanted:
            raise SystemFault(
                f"{self.name}: {path} has sha256 {found}, not {wanted}", hint="check artifacts.yaml, or the file"
            )

    def _fetch(self, target: Path, wanted: str) -> None:
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            digest = hashlib.sha256()
            with unfinished.open("wb") as stream:
                for part in _content(self.source):
                    digest.update(part)
                    stream.write(part)
            if digest.hexdigest() != wanted:
                raise SystemFault(
                    f"{self.name}: {self.source} has sha256 {digest.hexdigest()}, not {wanted}",
                    hint="check artifacts.yaml; the source may have changed",
                )
            unfinished.replace(target)
        except OSError as error:
            raise SystemFault(f"{self.name}: {error}", hint=f"df -h {target.parent}") from error
        finally:
            unfinished.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class ArtifactManifest:
    """The entries of an ``artifacts.yaml`` by name."""

    artifacts: Mapping[str, Artifact]

    @classmethod
    def load(cls, path: Path) -> ArtifactManifest:
        """Read a file.

        Raises:
            UsageError: it cannot be read, or is not a table of entries with a source.
        """
        import yaml  # type: ignore[import-untyped]

        try:
            # Every scalar is text: a digest of digits alone is no number.
            table = yaml.load(path.read_text(), Loader=yaml.BaseLoader) or {}  # noqa: S506 - it makes no objects
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"cannot read {path}: {error}", hint="see docs/howto/stack-tests.md") from None
        if not isinstance(table, dict):
            raise UsageError(f"{path} is not a table of artifacts", hint="see docs/howto/stack-tests.md")
        return cls({str(name): _artifact(path, str(name), entry) for name, entry in table.items()})

    def __contains__(self, name: str) -> bool:
        return name in self.artifacts

    def __getitem__(self, name: str) -> Artifact:
        """The artifact of that name.

        Raises:
            UsageError: there is none.
        """
        if name not in self.artifacts:
            raise UsageError(f"no artifact {name}", hint=f"artifacts.yaml has {', '.join(self.artifacts) or 'none'}")
        return self.artifacts[name]


def _artifact(path: Path, name: str, entry: Any) -> Artifact:
    if not isinstance(entry, dict) or not isinstance(entry.get("source"), str):
        raise UsageError(f"{path}: {name} has no source", hint="write source: file:///..., or an URL with sha256sum")
    if unknown := set(entry) - {"source", "sha256sum"}:
        raise UsageError(f"{path}: {name}: unknown entry {sorted(map(str, unknown))[0]}", hint="source, sha256sum")
    digest = entry.get("sha256sum") or None
    if digest is not None and not isinstance(digest, str):
        raise UsageError(f"{path}: {name}: sha256sum is no text", hint="write its 64 hex digits, or an URL of a list")
    return Artifact(name, entry["source"], digest)


def _file_name(url: str) -> str:
    return Path(unquote(urlsplit(url).path)).name or "artifact"


def _content(url: str, *, limit: int | None = None) -> Iterator[bytes]:
    """The bytes behind an URL, in parts.

    Raises:
        NetworkFault: it cannot be fetched, after some attempts.
        UsageError: an unknown kind of URL.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "file":
        path = Path(unquote(rest))
        if not path.is_file():
            raise UsageError(f"no file {path}", hint="check artifacts.yaml")
        with path.open("rb") as stream:
            yield stream.read(limit or -1)
        return
    if scheme not in ("http", "https"):
        raise UsageError(f"{url!r} is none of file://, http://, https://", hint="check artifacts.yaml")
    import httpx2

    for attempt in range(ATTEMPTS):
        sent = 0
        try:
            with httpx2.stream("GET", url, timeout=TIMEOUT, follow_redirects=True) as answer:
                answer.raise_for_status()
                for part in answer.iter_bytes(CHUNK):
                    sent += len(part)
                    if limit is not None and sent > limit:
                        raise SystemFault(
                            f"{url} is longer than {limit} bytes", hint="see that the URL is the right one"
                        )
                    yield part
        except httpx2.HTTPError as error:
            # What was handed on cannot be taken back: only an attempt that gave nothing is made again.
            if sent or attempt == ATTEMPTS - 1:
                raise NetworkFault(f"cannot fetch {url}: {error}", hint="check the network and the URL") from error
        else:
            return


def _unpacked(path: Path) -> Path:
    """The file inside ``.xz`` and ``.tar.xz``, beside it; others as they are.

    Raises:
        SystemFault: an archive with more than one file, or a damaged one.
    """
    if path.suffix != ".xz":
        return path
    target = path.with_suffix("")
    if target.suffix == ".tar":
        target = target.with_suffix("")
    if target.exists():
        return target
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with closing(_member(path)) as source, unfinished.open("wb") as stream:
            shutil.copyfileobj(source, stream, CHUNK)
        unfinished.replace(target)
    except (OSError, lzma.LZMAError, tarfile.TarError) as error:
        raise SystemFault(f"cannot unpack {path}: {error}", hint=f"df -h {path.parent}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def _member(path: Path) -> IO[bytes]:
    if not path.name.endswith(".tar.xz"):
        return lzma.open(path)
    archive = tarfile.open(path, "r|xz")  # noqa: SIM115 - the caller closes the member
    for member in archive:
        if member.isfile() and (stream := archive.extractfile(member)) is not None:
            return stream
    raise SystemFault(f"{path} holds no file", hint="give an archive with one image")
