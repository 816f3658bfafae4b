"""Sources: downloaded once, checked against their pin, kept in the cache. A download that broke off is resumed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tdxstack.deploy.packaging.recipe import Archive, Repository
from tdxstack.errors import EvidenceRejected, NetworkFault, SystemFault, UsageError
from tdxstack.image.mirror import configured_mirror
from tdxstack.image.sandbox import clean_environment
from tdxstack.system import paths
from tdxstack.system.files import locked, private_directory, sha256_file
from tdxstack.system.process import run

Progress = Callable[[str], None]

DEBIAN = "https://deb.debian.org/debian"
#: No source is larger: a kernel's repository has 300 MB in an archive.
MAXIMUM_BYTES = 2 << 30
CONNECT_SECONDS, READ_SECONDS, GIT_SECONDS = 30.0, 120.0, 3600.0


def addresses(archive: Archive) -> list[str]:
    """Where the archive is asked for, in order."""
    found: list[str] = []
    for url in archive.urls:
        if url.startswith("debian:"):
            path = url.removeprefix("debian:")
            found += [f"{mirror}/{path}" for mirror in (configured_mirror("debian"), DEBIAN) if mirror]
        else:
            found.append(url)
    return list(dict.fromkeys(found))


def cached(archive: Archive) -> Path:
    """Where the archive is kept, or will be."""
    return paths.cache() / "sources" / f"{archive.sha256[:16]}-{archive.name}"


def obtain(archive: Archive, progress: Progress) -> Path:
    """The archive's file, whole and checked.

    Raises:
        UsageError: its digest has to be given by the user.
        EvidenceRejected: what came is not what is pinned; it is not kept.
        NetworkFault: no address answers.
    """
    if not archive.sha256:
        hint = f"read it at {archive.sums} and give --pin {archive.name}=SHA256"
        raise UsageError(f"the digest of {archive.name} is not known here", hint=hint)
    target = cached(archive)
    private_directory(target.parent)
    with locked(target.with_name(f".{target.name}.lock")):
        if not target.is_file():
            _download(archive, target, progress)
        elif sha256_file(target) != archive.sha256:
            target.unlink()
            _download(archive, target, progress)
    return target


def _download(archive: Archive, target: Path, progress: Progress) -> None:
    partial = target.with_name(f".{target.name}.part")
    faults: list[str] = []
    for url in addresses(archive):
        progress(f"downloading {archive.name} from {urlsplit(url).hostname or url}")
        try:
            _stream(url, partial)
        except NetworkFault as fault:
            faults.append(fault.message)
            continue
        digest = sha256_file(partial)
        if digest == archive.sha256:
            partial.replace(target)
            return
        partial.unlink()
        faults.append(f"{url}: sha256 {digest}")
    if any("sha256" in fault for fault in faults):
        text = f"{archive.name}: {'; '.join(faults)}, but {archive.sha256} is pinned"
        raise EvidenceRejected("source digest", text, hint="do not build from it; try another mirror")
    hint = f"check the network; or put the file there yourself: {target}"
    raise NetworkFault(f"{archive.name} cannot be downloaded: {'; '.join(faults)}", hint=hint)


def _stream(url: str, partial: Path) -> None:
    """Append to ``partial`` what is missing of ``url``."""
    import httpx2

    have = partial.stat().st_size if partial.exists() else 0
    timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with httpx2.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            if response.status_code == 416:
                return
            if response.status_code not in (200, 206):
                raise NetworkFault(f"{url}: HTTP status {response.status_code}")
            mode = "ab" if response.status_code == 206 else "wb"
            with partial.open(mode) as stream:
                for chunk in response.iter_bytes():
                    if stream.tell() > MAXIMUM_BYTES:
                        raise NetworkFault(f"{url}: more than {MAXIMUM_BYTES >> 20} MB")
                    stream.write(chunk)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise NetworkFault(f"{url}: {error or type(error).__name__}") from error
    except OSError as error:
        raise SystemFault(f"cannot write {partial}: {error.strerror}", hint=f"df -h {partial.parent}") from error


def check_out(repository: Repository, target: Path, log: Path, progress: Progress) -> None:
    """The commit's files, with those of its submodules, in ``target``, which is made.

    Raises:
        EvidenceRejected: the commit that came is another; NetworkFault: it did not come.
    """
    progress(f"fetching {repository.name} {repository.commit[:12]}")
    target.mkdir(parents=True, exist_ok=True)
    git = ["git", "-C", str(target), "-c", "advice.detachedHead=false", "-c", "protocol.allow=user"]
    steps = [
        [*git, "init", "--quiet"],
        [*git, "fetch", "--quiet", "--depth=1", repository.git, repository.commit],
        [*git, "checkout", "--quiet", "--detach", "FETCH_HEAD"],
    ]
    if repository.submodules:
        steps.append([*git, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"])
    environment = clean_environment() | {"HOME": str(target), "GIT_TERMINAL_PROMPT": "0"}
    for step in steps:
        done = run(step, timeout=GIT_SECONDS, env=environment, check=False)
        with log.open("ab") as stream:
            stream.write(f"$ {' '.join(step)}\n".encode() + done.stdout + done.stderr)
        if done.returncode != 0:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise NetworkFault(f"{repository.git}: {''.join(last) or 'git failed'}", hint=f"the whole log: {log}")
    head = run([*git, "rev-parse", "HEAD"], timeout=60, env=environment).text.strip()
    if head != repository.commit:
        raise EvidenceRejected("source commit", f"{repository.name} is at {head}, not {repository.commit}")


def patch_files(tree: Path, series: str, glob: str) -> Iterator[Path]:
    """The patches below ``tree``, in their order.

    Raises:
        SystemFault: the series or one of its patches is not there.
    """
    if glob:
        found = sorted(tree.glob(glob))
        if not found:
            raise SystemFault(f"no patch matches {glob}")
        yield from found
        return
    listing = tree / series
    if not listing.is_file():
        raise SystemFault(f"no patch series {series}")
    for line in listing.read_text(errors="replace").splitlines():
        name = line.split("#", 1)[0].split()
        if not name:
            continue
        path = listing.parent / name[0]
        if not path.is_file() or not path.resolve().is_relative_to(tree.resolve()):
            raise SystemFault(f"{series}: no patch {name[0]}")
        yield path


def pinned(digest: str) -> str:
    """A SHA-256 digest that the user gave.

    Raises:
        UsageError: it is none.
    """
    with contextlib.suppress(ValueError):
        if len(bytes.fromhex(digest)) == hashlib.sha256().digest_size:
            return digest.lower()
    raise UsageError(f"{digest!r} is no SHA-256 digest", hint="64 hexadecimal digits")
