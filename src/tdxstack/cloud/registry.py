"""A registry of container images, by the OCI distribution interface (Docker Registry HTTP API v2).

Source: OCI Distribution Specification 1.1, "Content Discovery", "Pulling manifests", "Content Management".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tdxstack.errors import NetworkFault, SystemFault, UsageError

TIMEOUT = 30.0
PAGE = 100
MAX_PAGES = 10000
MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_NAME = re.compile(r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
_REFERENCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|sha256:[0-9a-f]{64}")
_NEXT = re.compile(r'<([^>]+)>;\s*rel="?next"?')


class Registry:
    """A registry at ``url`` (``http://host:port``); ``user`` and ``password`` for basic authentication.

    Every method raises NetworkFault where the registry cannot be asked or answers with a fault.
    """

    def __init__(self, url: str, *, user: str | None = None, password: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is no registry's URL", hint="e.g. https://registry.example:5000")
        self._url = url.rstrip("/")
        self._auth = (user, password or "") if user is not None else None

    def is_available(self) -> bool:
        """Whether it answers, and speaks this interface."""
        try:
            return bool(self._ask("GET", "/v2/").status_code == 200)
        except NetworkFault:
            return False

    def repositories(self) -> list[str]:
        """Names of all repositories."""
        return [name for page in self._pages(f"/v2/_catalog?n={PAGE}") for name in page.get("repositories") or []]

    def tags(self, repository: str) -> list[str]:
        """Tags of a repository; empty where there is no such repository."""
        path = f"/v2/{_checked(repository)}/tags/list?n={PAGE}"
        return [tag for page in self._pages(path, absent_ok=True) for tag in page.get("tags") or []]

    def is_image_exist(self, repository: str, tag: str = "latest") -> bool:
        """Whether there is an image of that tag."""
        return self.digest(repository, tag) is not None

    def digest(self, repository: str, tag: str = "latest") -> str | None:
        """The manifest's digest (``sha256:...``), or None where there is no such image."""
        answer = self._ask("HEAD", self._manifest(repository, tag), absent_ok=True)
        return None if answer.status_code == 404 else str(answer.headers.get("docker-content-digest", ""))

    def manifest(self, repository: str, tag: str = "latest") -> dict[str, Any]:
        """The manifest of an image, or of a list of images."""
        found: dict[str, Any] = self._ask("GET", self._manifest(repository, tag)).json()
        return found

    def delete(self, repository: str, digest: str) -> None:
        """Delete the manifest of a digest; its tags go with it."""
        if not digest.startswith("sha256:"):
            raise UsageError(f"{digest!r} is no digest", hint="Registry.digest(repository, tag)")
        self._ask("DELETE", self._manifest(repository, digest))

    @staticmethod
    def _manifest(repository: str, reference: str) -> str:
        if not _REFERENCE.fullmatch(reference):
            raise UsageError(f"{reference!r} is neither a tag nor a digest", hint="e.g. latest, sha256:...")
        return f"/v2/{_checked(repository)}/manifests/{reference}"

    def _pages(self, path: str, *, absent_ok: bool = False) -> Iterator[dict[str, Any]]:
        for _ in range(MAX_PAGES):
            answer = self._ask("GET", path, absent_ok=absent_ok)
            if answer.status_code == 404:
                return
            yield answer.json()
            following = _NEXT.search(answer.headers.get("link", ""))
            if following is None:
                return
            path = following[1].removeprefix(self._url)
            if not path.startswith("/v2/"):
                raise SystemFault(
                    f"{self._url}: the next page is elsewhere: {path}", hint="see that the URL is the registry's own"
                )

    def _ask(self, method: str, path: str, *, absent_ok: bool = False) -> Any:
        import httpx2

        try:
            answer = httpx2.request(
                method, self._url + path, headers={"Accept": f"{MANIFESTS}, application/json"}, auth=self._auth,
                timeout=TIMEOUT,
            )  # fmt: skip
        except httpx2.HTTPError as error:
            raise NetworkFault(f"registry {self._url}: {error}", hint="check the URL and the network") from error
        if answer.is_success or (absent_ok and answer.status_code == 404):
            return answer
        hint = "give user and password" if answer.status_code == 401 else "check the name and the registry's log"
        raise NetworkFault(f"registry {self._url}: {method} {path}: HTTP {answer.status_code}", hint=hint)


def _checked(repository: str) -> str:
    if not _NAME.fullmatch(repository):
        raise UsageError(f"{repository!r} is no repository's name", hint="lower case, e.g. library/redis")
    return repository
