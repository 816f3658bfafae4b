"""Asks a verifier service (``tdxctl verifier serve``): a challenge, then a verdict on evidence for it.

Standard library alone, so that a guest can prove itself too.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import urllib.error
import urllib.request
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tdxstack.errors import CollateralUnreachable, EvidenceRejected, UsageError

TIMEOUT_SECONDS = 60.0
MAX_ANSWER = 4 << 20

#: How a method of a guest's agent is called: (method, params) -> result.
GuestCall = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier said. ``claims`` are the token's, unchecked; ``document`` is its answer."""

    accepted: bool
    token: str
    claims: Mapping[str, Any]
    document: Mapping[str, Any]


class VerifierClient:
    """One verifier.

    Args:
        url: its root, ``https://host[:port]``.
        ca_file: PEM file of the CAs that sign its TLS certificate; None: the system's.
    """

    def __init__(self, url: str, ca_file: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r}: no URL of a verifier", hint="give one such as https://verifier.example:8082")
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise UsageError(
                f"{url}: plain HTTP beyond this machine", hint="https, with --tls-ca for a CA of your own"
            )
        self.url = url.rstrip("/")
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if parts.scheme == "https":
            handlers.append(urllib.request.HTTPSHandler(context=_tls(ca_file)))
        else:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def challenge(self) -> bytes:
        """A nonce, to be used once."""
        answer = self._call("/v1/challenge", {})
        try:
            return _unbase64url(answer["nonce"])
        except (KeyError, TypeError, ValueError):
            raise CollateralUnreachable("challenge", f"{self.url}: its answer holds no nonce") from None

    def attest(self, evidence: Mapping[str, str]) -> Verdict:
        """Its verdict on evidence as ``POST /v1/attest`` takes it.

        Raises:
            EvidenceRejected: it does not take the evidence (400, 409).
            CollateralUnreachable: it cannot be asked, or cannot judge (5xx).
        """
        answer = self._call("/v1/attest", evidence)
        try:
            token = str(answer["token"])
            claims = json.loads(_unbase64url(token.split(".")[1]))
            return Verdict(answer["accepted"] is True, token, claims, answer)
        except (KeyError, IndexError, TypeError, ValueError):
            raise CollateralUnreachable("token", f"{self.url}: its answer holds no token") from None

    def keys(self) -> list[dict[str, Any]]:
        """The keys (JWK) that its tokens are verified with."""
        found = self._call("/.well-known/jwks.json", None).get("keys")
        return [key for key in found if isinstance(key, dict)] if isinstance(found, list) else []

    def _call(self, path: str, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        method = "GET" if body is None else "POST"
        request = urllib.request.Request(self.url + path, method=method)  # noqa: S310  # http or https, see above
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("content-type", "application/json")
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                return _object(response.read(MAX_ANSWER + 1), self.url)
        except urllib.error.HTTPError as error:
            raise self._refused(path, error.code, error.read(MAX_ANSWER)) from None
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            hint = "give the CA that signed its certificate: --tls-ca FILE" if "CERTIFICATE" in str(reason) else None
            raise CollateralUnreachable(
                "verifier", f"cannot reach the verifier at {self.url}: {reason}", hint=hint or "tdxctl verifier serve"
            ) from None

    def _refused(self, path: str, status: int, data: bytes) -> EvidenceRejected | CollateralUnreachable:
        try:
            detail = str(json.loads(data)["detail"])[:500]
        except (ValueError, KeyError, TypeError):
            detail = "no reason given"
        text = f"the verifier at {self.url} answered {path} with {status}: {detail}"
        if status in (400, 409, 413):
            return EvidenceRejected("verifier", text)
        return CollateralUnreachable("verifier", text, status=status)


def gather(call: GuestCall, nonce: bytes, *, ima: bool = False, policy: str | None = None) -> dict[str, str]:
    """Evidence of a guest for a challenge, as ``POST /v1/attest`` takes it.

    Args:
        ima: whether the run-time measurement list is sent too.
        policy: one of the verifier's, by name.
    """
    report_data = hashlib.sha512(nonce).hexdigest()
    body = {
        "nonce": b64encode(nonce).decode(),
        "quote": str(call("quote", {"report_data": report_data})["quote"]),
        "event_log": str(call("eventlog", {})["data"]),
    }
    if ima:
        body["ima_list"] = str(call("ima", {})["binary"])
    if policy is not None:
        body["policy"] = policy
    return body


def _object(data: bytes, url: str) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if len(data) > MAX_ANSWER or not isinstance(found, dict):
        raise CollateralUnreachable("verifier", f"{url}: its answer is no JSON object", hint="is that a verifier?")
    return found


def _unbase64url(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{ca_file}: no CA certificates there: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Evidence goes where it was meant to go."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:  # noqa: PLR0917 - the base class has them
        """Follow nothing."""
