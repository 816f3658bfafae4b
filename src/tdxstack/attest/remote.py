"""Attestation of a running TD by a verifier service: challenge, evidence out of the guest, token."""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdxstack.dcap import ear
from tdxstack.errors import StateError
from tdxstack.platform.verifier_client import VerifierClient, gather
from tdxstack.vm import lifecycle
from tdxstack.vm.state import State


def attest_remotely(
    name: str, client: VerifierClient, *, ima: bool = False, policy: str | None = None
) -> dict[str, Any]:
    """Have a verifier judge a running TD; the members of ``tdxstack/remote-attestation/v1``.

    The token's signature, time and nonce are checked with the keys that the verifier publishes.

    Args:
        name: the TD.
        ima: whether its run-time measurement list is sent too.
        policy: one of the verifier's, by name.

    Raises:
        StateError: the TD does not run.
        EvidenceRejected: the verifier does not take the evidence, or its token does not hold.
        CollateralUnreachable: the verifier cannot be asked.
    """
    record = lifecycle.status(name)
    if record.state is not State.RUNNING:
        raise StateError(f"TD {name}", "attest", record.state.value, "running", hint=f"tdxctl td start {name}")

    def call(method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = lifecycle.call_guest(name, method, params)
        return answer

    nonce = client.challenge()
    verdict = client.attest(gather(call, nonce, ima=ima, policy=policy))
    text = urlsafe_b64encode(nonce).rstrip(b"=").decode()
    claims = ear.verify(verdict.token, client.keys(), now=int(time.time()), nonce=text)
    return {
        "td": name,
        "verifier": client.url,
        "nonce": text,
        **{member: value for member, value in verdict.document.items() if member != "token"},
        "ear_status": claims["submods"]["cpu0"]["ear.status"],
        "software": claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["software"],
        "token": verdict.token,
    }


def save_token(path: Path, token: str) -> None:
    """Keep a token for who relies on it."""
    from tdxstack.system.files import write_atomic

    write_atomic(path, token + "\n", mode=0o600)
