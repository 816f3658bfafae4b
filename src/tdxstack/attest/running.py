"""Attestation of a TD that runs: fresh evidence out of its guest, judged, kept."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdxstack.attest.attestation import Attestation, attest, verifier_of
from tdxstack.attest.evidence import Evidence
from tdxstack.dcap.policy import Policy
from tdxstack.errors import StateError
from tdxstack.measure.prediction import Prediction
from tdxstack.platform.base import Platform
from tdxstack.platform.registry import open_platform
from tdxstack.system import paths
from tdxstack.system.files import private_directory, sha256_file, write_atomic
from tdxstack.vm import lifecycle
from tdxstack.vm.expect import expect, started_argv
from tdxstack.vm.record import TdRecord
from tdxstack.vm.spec import Ima
from tdxstack.vm.state import State

REPORT_DATA_SIZE = 64


def attest_td(
    name: str, expected: Prediction | None, policy: Policy | None, output: Path | None
) -> tuple[Attestation, dict[str, Any]]:
    """Have a running TD prove itself anew; the attestation and its ``tdxstack/attestation/v1`` members.

    Args:
        name: the TD.
        expected: its registers; None predicts them from the files of its specification.
        policy: appraisal policy; None is the strict one.
        output: where the evidence is kept; None is a directory under the home.

    Raises:
        StateError: it does not run.
        TdxStackError: its guest gave no evidence; a rejected attestation is no error here.
    """
    record = lifecycle.status(name)
    if record.state is not State.RUNNING:
        raise StateError(f"TD {name}", "attest", record.state.value, "running", hint=f"tdxctl td start {name}")
    platform = open_platform(record.spec.platform)
    evidence = fresh_evidence(name, ima=record.spec.ima is not Ima.OFF)
    if expected is None:
        expected = expect(record.spec, machine=started_argv(record))
    return judged(record, platform, evidence, expected, output, policy=policy)


def fresh_evidence(name: str, *, ima: bool = False) -> Evidence:
    """Evidence over a nonce that nobody could know before; with the IMA list if ``ima``."""

    def call(method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = lifecycle.call_guest(name, method, params)
        return answer

    return Evidence.from_guest(call, secrets.token_bytes(REPORT_DATA_SIZE), ima=ima)


def judged(
    record: TdRecord,
    platform: Platform,
    evidence: Evidence,
    expected: Prediction,
    output: Path | None,
    *,
    policy: Policy | None = None,
) -> tuple[Attestation, dict[str, Any]]:
    """Judge evidence by the platform's own collateral and root, keep it, and say all of it as plain values."""
    root, collateral = platform.trust_root(), dict(platform.collateral())
    verifier = verifier_of(collateral, root)
    attestation = attest(evidence, expected, verifier, policy or Policy(), now=int(time.time()))
    directory = output or paths.home() / "attestations" / f"{record.name}-{evidence.report_data.hex()[:12]}"
    files = _save(directory, evidence, collateral, root)
    present = lifecycle.status(record.name)
    return attestation, {
        "platform": str(platform.kind),
        "td": _td_members(present),
        "firmware": _firmware_members(present),
        **attestation.to_document(),
        "files": {kind: str(path) for kind, path in files.items()},
    }


def _save(directory: Path, evidence: Evidence, collateral: dict[str, str], root: bytes) -> dict[str, Path]:
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_der_x509_certificate

    private_directory(directory)
    files = evidence.save(directory)
    for kind, name, data in (
        ("collateral", "collateral.json", json.dumps(collateral, indent=1).encode()),
        ("root", "root.pem", load_der_x509_certificate(root).public_bytes(Encoding.PEM)),
    ):
        write_atomic(directory / name, data)
        files[kind] = directory / name
    return files


def _td_members(record: TdRecord) -> dict[str, Any]:
    spec, run = record.spec, record.run
    return {
        "name": record.name,
        "state": record.state.value,
        "vcpus": spec.vcpus,
        "memory": spec.memory,
        "image": str(spec.image),
        "kernel": str(spec.kernel),
        "initrd": str(spec.initrd),
        "cmdline": spec.cmdline,
        "accelerator": run.accelerator,
        "ssh_port": run.ssh_port,
    }


def _firmware_members(record: TdRecord) -> dict[str, Any]:
    """The firmware that was booted, by the digest it had when it was started."""
    path = record.run.firmware or str(record.spec.firmware)
    return {"path": path, "sha256": record.run.firmware_sha256 or sha256_file(Path(path))}
