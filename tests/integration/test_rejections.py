"""The proof of a real boot, falsified in every way: each must be rejected, and at the right step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import Tdxctl
from tdxstack.attest.attestation import Attestation, attest, verifier_of
from tdxstack.attest.evidence import Evidence
from tdxstack.attest.expectation import read_expectation
from tdxstack.attest.judge import Verdict
from tdxstack.dcap import Collateral, Verifier
from tdxstack.dcap.certificate import split_pem
from tdxstack.dcap.policy import Policy
from tdxstack.measure.prediction import Prediction
from tdxstack.platform.software.collateral import sign_raw
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.platform.software.quoting import ReportRefused
from tdxstack.wire.quote import Quote, unsigned_quote
from tdxstack.wire.tcg import EventLog
from tdxstack.wire.tdreport import TdReport

pytestmark = pytest.mark.integration

#: Where each part of a version 4 quote ends (TDX DCAP Quote Generation Library, A.3), and which steps of
#: verification may notice a change in it.
SIGNED_END = 632
PARTS: tuple[tuple[int, str, frozenset[str]], ...] = (
    (48, "header", frozenset({"quote_format", "quote_signature"})),
    (SIGNED_END, "TD report", frozenset({"quote_signature", "tdx_module"})),
    (636, "length of the signature data", frozenset({"quote_format"})),
    (700, "signature", frozenset({"quote_signature"})),
    (764, "attestation key", frozenset({"attestation_key"})),
    (770, "type and size of the certification data", frozenset({"quote_format"})),
    (1218, "QE report and its signature", frozenset({"qe_report_signature"})),
    (1220, "size of the authentication data", frozenset({"quote_format"})),
    (1252, "authentication data", frozenset({"attestation_key"})),
    (1258, "type and size of the PCK chain", frozenset({"quote_format"})),
)


@pytest.fixture(scope="module")
def quote(quickstart: Any) -> bytes:
    return Path(quickstart["files"]["quote"]).read_bytes()


@pytest.fixture(scope="module")
def verifier(quickstart: Any) -> Verifier:
    files = quickstart["files"]
    collateral = Collateral.from_json(Path(files["collateral"]).read_text())
    return Verifier(collateral, [Path(files["root"]).read_bytes()])


def _first_fault(verifier: Verifier, quote: bytes) -> str | None:
    """Name of the step that ended verification; None if the quote was taken for authentic."""
    result = verifier.verify(quote, now=int(time.time()))
    if result.authentic:
        return None
    return next(step.name for step in result.steps if step.outcome == "fail")


def _flipped(data: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def test_any_flipped_bit_is_found_at_the_right_step(verifier: Verifier, quote: bytes) -> None:
    assert _first_fault(verifier, quote) is None
    start = 0
    for end, part, steps in PARTS:
        for at in range(start, end):
            for bit in range(8) if at < SIGNED_END else (at % 8,):
                found = _first_fault(verifier, _flipped(quote, at, bit))
                assert found in steps, f"{part}: bit {bit} of byte {at} ended at {found}"
        start = end


def test_a_flipped_bit_in_the_certificates(verifier: Verifier, quote: bytes) -> None:
    """In the PEM text of the chain: all that makes another certificate counts, all else (line ends) does not."""
    for at in range(PARTS[-1][0], len(quote)):
        changed = _flipped(quote, at, at % 8)
        found = _first_fault(verifier, changed)
        same = found is None and split_pem(changed) == split_pem(quote)
        assert found == "pck_certificate" or same, f"byte {at} ({quote[at : at + 1]!r}) ended at {found}"


@pytest.fixture
def evidence(quickstart: Any, quote: bytes) -> Evidence:
    files = {kind: Path(path).read_bytes() for kind, path in quickstart["files"].items()}
    return Evidence(bytes.fromhex(quickstart["nonce"]), files["report"], quote, files["ccel_table"], files["ccel"])


@pytest.fixture(scope="module")
def expected(tdxctl: Tdxctl, quickstart: Any, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    path = tmp_path_factory.mktemp("expected") / "expected.json"
    path.write_text(tdxctl.ok("measure", "predict", "--td", quickstart["td"]["name"], "--json"))
    return read_expectation(path)


@pytest.fixture
def judged(quickstart: Any, expected: Prediction) -> Callable[[Evidence], Attestation]:
    """Judges evidence as ``quickstart`` does, by the platform's collateral and root."""
    collateral = json.loads(Path(quickstart["files"]["collateral"]).read_text())
    root = Path(quickstart["files"]["root"]).read_bytes()

    def judge(given: Evidence) -> Attestation:
        return attest(given, expected, verifier_of(collateral, root), Policy(), now=int(time.time()))

    return judge


def test_the_evidence_as_it_is(judged: Callable[[Evidence], Attestation], evidence: Evidence) -> None:
    assert judged(evidence).verdict is Verdict.ACCEPTED


def test_a_quote_for_another_nonce(
    tdxctl: Tdxctl, quickstart: Any, judged: Callable[[Evidence], Attestation], evidence: Evidence
) -> None:
    late = judged(replace(evidence, report_data=bytes(64)))
    assert late.verdict is Verdict.REJECTED
    assert next(reason.split(":")[0] for reason in late.reasons()) == "nonce"
    files = quickstart["files"]
    words = ("quote", "verify", files["quote"], "--collateral", files["collateral"], "--trust-root", files["root"])
    assert tdxctl(*words, "--report-data", quickstart["nonce"]).returncode == 0
    done = tdxctl(*words, "--report-data", "00" * 64, "--json")
    assert done.returncode == 3
    body = json.loads(done.stdout)
    assert (body["accepted"], body["authentic"]) == (False, True)
    assert [rule["name"] for rule in body["policy"]["rules"] if rule["outcome"] == "fail"] == ["binding.report_data"]


def test_a_report_of_another_moment(judged: Callable[[Evidence], Attestation], evidence: Evidence) -> None:
    other = replace(TdReport.from_bytes(evidence.tdreport), report_data=bytes(64)).to_bytes()
    result = judged(replace(evidence, tdreport=other))
    assert result.verdict is Verdict.REJECTED
    assert any(reason.startswith("TDREPORT") for reason in result.reasons())


# -- another software platform ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwarePlatform]:
    """Another software platform, made with all the same names, in a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TDXSTACK_HOME", str(tmp_path_factory.mktemp("stranger")))
        yield SoftwarePlatform.create("software")


def test_a_quote_of_another_platform(quote: bytes, verifier: Verifier, stranger: SoftwarePlatform) -> None:
    """The same TD report, word for word, signed by another platform: only the root tells."""
    enclave = stranger.quoting_enclave()
    parsed = Quote.from_bytes(quote)
    signature = enclave._certified(sign_raw(enclave.attestation_key, unsigned_quote(parsed.header, parsed.body)))
    forged = replace(parsed, signature=signature).to_bytes()
    assert forged[:SIGNED_END] == quote[:SIGNED_END]
    theirs = Verifier(Collateral(**stranger.collateral()), [stranger.trust_root()])
    assert _first_fault(theirs, forged) is None, "the forgery is a whole quote"
    assert _first_fault(verifier, forged) == "pck_certificate"
    assert _first_fault(theirs, quote) == "pck_certificate"
    both = Verifier(verifier.collateral, [stranger.trust_root()])
    assert _first_fault(both, forged) == "pck_certificate", "their root does not make our collateral theirs"


def test_another_platform_does_not_quote_our_report(evidence: Evidence, stranger: SoftwarePlatform) -> None:
    with pytest.raises(ReportRefused, match="MAC"):
        stranger.quoting_enclave().quote(evidence.tdreport)


@pytest.mark.parametrize("roots", [[], ["--trust-root", "intel"]])
def test_nothing_is_accepted_without_naming_the_root(tdxctl: Tdxctl, quickstart: Any, roots: list[str]) -> None:
    files = quickstart["files"]
    done = tdxctl("quote", "verify", files["quote"], "--collateral", files["collateral"], *roots, "--json")
    assert done.returncode == 3
    body = json.loads(done.stdout)
    assert (body["accepted"], body["authentic"], body["software"]) == (False, False, True)
    assert next(step["name"] for step in body["steps"] if step["outcome"] == "fail") == "pck_certificate"


# -- the event log ----------------------------------------------------------------------------------------------


def _without_last_of(log: EventLog, index: int) -> EventLog:
    last = max(number for number, event in enumerate(log.events) if event.mr_index == index)
    return replace(log, events=log.events[:last] + log.events[last + 1 :])


def _swapped(log: EventLog, index: int) -> EventLog:
    first, second = [number for number, event in enumerate(log.events) if event.mr_index == index][-2:]
    events = list(log.events)
    events[first], events[second] = events[second], events[first]
    return replace(log, events=tuple(events))


def _other_digest(log: EventLog, index: int) -> EventLog:
    number = max(number for number, event in enumerate(log.events) if event.mr_index == index)
    event = log.events[number]
    digests = tuple(digest._replace(value=_flipped(digest.value, 0, 0)) for digest in event.digests)
    events = (*log.events[:number], replace(event, digests=digests), *log.events[number + 1 :])
    return replace(log, events=events)


def _repeated(log: EventLog, index: int) -> EventLog:
    return replace(log, events=(*log.events, next(event for event in log.events if event.mr_index == index)))


@pytest.mark.parametrize("forge", [_without_last_of, _swapped, _other_digest, _repeated])
@pytest.mark.parametrize("rtmr", [0, 1, 2])
def test_a_forged_log_does_not_replay(
    tdxctl: Tdxctl,
    quickstart: Any,
    judged: Callable[[Evidence], Attestation],
    evidence: Evidence,
    forge: Callable[[EventLog, int], EventLog],
    rtmr: int,
    tmp_path: Path,
) -> None:
    log = EventLog.from_bytes(evidence.ccel)
    forged = forge(log, rtmr + 1).to_bytes()
    assert forged != log.to_bytes()
    result = judged(replace(evidence, ccel=forged))
    assert result.verdict is Verdict.REJECTED
    assert f"event log: does not replay to RTMR{rtmr}: the log is not that of this boot" in result.reasons()
    if rtmr == 2:
        path = tmp_path / "ccel.bin"
        path.write_bytes(forged)
        done = tdxctl("eventlog", "replay", str(path), "--quote", quickstart["files"]["quote"], "--json")
        assert done.returncode == 3
        assert json.loads(done.stdout)["matches"] == [True, True, False, True]


def test_a_log_that_only_tells_another_story(
    tdxctl: Tdxctl,
    quickstart: Any,
    judged: Callable[[Evidence], Attestation],
    evidence: Evidence,
    tmp_path: Path,
) -> None:
    """Digests as they were and other words beside them: replays, and is found out all the same."""
    log = EventLog.from_bytes(evidence.ccel)
    number = next(n for n, event in enumerate(log.events) if event.data.startswith(b"Calling EFI"))
    event = log.events[number]
    told = replace(event, data=event.data.replace(b"Calling", b"Keeping"))
    forged = replace(log, events=(*log.events[:number], told, *log.events[number + 1 :])).to_bytes()
    result = judged(replace(evidence, ccel=forged))
    assert result.verdict is Verdict.REJECTED
    assert [reason.split(":")[0] for reason in result.reasons()] == ["event log"]
    path = tmp_path / "ccel.bin"
    path.write_bytes(forged)
    done = tdxctl("eventlog", "replay", str(path), "--quote", quickstart["files"]["quote"], "--json")
    assert done.returncode == 3
    body = json.loads(done.stdout)
    assert body["matches"] == [True] * 4
    assert body["problems"]


def _reasons(tdxctl: Tdxctl, name: str) -> list[str]:
    """Why a running TD is rejected now; other tests on it may have extended RTMR3."""
    reasons: list[str] = json.loads(tdxctl("attest", name, "--json").stdout)["reasons"]
    return reasons


def test_a_guest_that_forges_its_log_is_found_out(tdxctl: Tdxctl, quickstart: Any) -> None:
    name, log = quickstart["td"]["name"], "/sys/firmware/acpi/tables/data/CCEL"
    at = Path(quickstart["files"]["ccel"]).read_bytes().index(b"S\0e\0c\0u\0r\0e\0B\0o\0o\0t\0")
    before = _reasons(tdxctl, name)
    assert not any("RTMR0" in reason for reason in before)
    forge = f"cp {log} /run/forged && printf X | dd of=/run/forged bs=1 seek={at - 60} conv=notrunc status=none"
    tdxctl.ok("td", "ssh", name, "--", f"{forge} && mount --bind /run/forged {log}")
    try:
        done = tdxctl("attest", name, "--json")
        assert done.returncode == 3, done.stderr
        body = json.loads(done.stdout)
        assert body["verdict"] == "rejected"
        assert body["verification"]["authentic"] is True, "the quote itself is sound"
        assert any(reason.startswith("event log: does not replay to RTMR0") for reason in body["reasons"])
    finally:
        tdxctl.ok("td", "ssh", name, "--", f"umount {log}")
    assert _reasons(tdxctl, name) == before
