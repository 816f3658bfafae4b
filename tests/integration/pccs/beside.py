"""Two PCCS at once: ours, and Intel's own where ``TDXSTACK_INTEL_PCCS`` says that it is."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
from benchmarks import intel_pccs

from .conftest import Server

V3, V4, TDX = "/sgx/certification/v3", "/sgx/certification/v4", "/tdx/certification/v4"
#: Differ as docs/reference/pccs.md says.
OURS = {"content-type", "warning", "date", "connection", "keep-alive", "etag", "request-id", "content-length"}


class Both:
    """Ours first, then Intel's."""

    def __init__(self, ours: Server, intels: httpx2.Client, platform: dict[str, str]) -> None:
        self.clients = ours.client, intels
        self.tokens = {kind: ours.token(kind) for kind in ("user", "admin")}
        self.platform = platform

    def ask(self, method: str, path: str, **words: Any) -> tuple[httpx2.Response, httpx2.Response]:
        ours, intels = (client.request(method, path, **words) for client in self.clients)
        return ours, intels


@contextmanager
def beside(ours: Server, home: Path, platform: dict[str, str], **settings: Any) -> Iterator[Both]:
    """Start Intel's in ``home``, with the tokens and TLS files of ours and the settings given."""
    tokens = {kind: ours.token(kind)[f"{kind}-token"] for kind in ("user", "admin")}
    tls = intel_pccs.Files(ours.folder / "tls.crt", ours.folder / "tls.key")
    program = intel_pccs.program()
    assert program is not None
    with intel_pccs.serving(program, home, tls, tokens, **settings) as url:
        context = ssl.create_default_context(cafile=str(ours.folder / "tls-ca.crt"))
        with httpx2.Client(base_url=url, verify=context, timeout=30, trust_env=False) as client:
            yield Both(ours, client, platform)


def differences(ours: httpx2.Response, intels: httpx2.Response) -> list[str]:
    """What differs and is not said to; the text of a refusal may go on with a detail."""
    if ours.status_code != intels.status_code:
        return [f"status {ours.status_code}, Intel's {intels.status_code}"]
    same = ours.content == intels.content if ours.status_code == 200 else ours.text.startswith(intels.text)
    found = [] if same else [f"body {ours.text[:80]!r}, Intel's {intels.text[:80]!r}"]
    for name in sorted((set(ours.headers) | set(intels.headers)) - OURS):
        values = [unquote(answer.headers.get(name, "")) for answer in (ours, intels)]
        if values[0] != values[1]:
            found.append(f"{name}: {values[0]!r}, Intel's {values[1]!r}")
    assert len(ours.headers["request-id"]) == len(intels.headers["request-id"])
    return found
