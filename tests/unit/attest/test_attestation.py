"""The judgement on real quotes of the software platform: what holds, and every way in which it does not."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tdxstack.attest.attestation import Attestation, attest, verifier_of
from tdxstack.attest.evidence import Evidence
from tdxstack.attest.expectation import read_expectation
from tdxstack.attest.judge import Outcome, Verdict
from tdxstack.dcap.policy import Policy
from tdxstack.errors import EvidenceRejected, UsageError, WireError
from tdxstack.measure.export import prediction_members
from tdxstack.measure.prediction import PredictedEvent, Prediction
from tdxstack.measure.rtmr import fold
from tdxstack.platform.base import TdParameters
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.wire.ima import read_list
from tdxstack.wire.tcg import Algorithm, Digest, Event, EventLog, EventType, SpecIdEvent

NONCE = bytes(range(64))
SEPARATOR = EventType.EV_SEPARATOR
BOOT = (
    (0, "TD HOB", b"memory map"),
    (1, "kernel", b"vmlinuz"),
    (2, "command line", b"root=/dev/vda2"),
    (2, "initrd", b"initrd"),
)


def digest_of(measured: bytes) -> bytes:
    return hashlib.sha384(measured).digest()


@dataclass(frozen=True)
class Boot:
    """A platform, one boot of a TD on it, and the prediction of that boot."""

    platform: SoftwarePlatform
    evidence: Evidence
    expected: Prediction

    def attest(self, evidence: Evidence | None = None, expected: Prediction | None = None) -> Attestation:
        verifier = verifier_of(self.platform.collateral(), self.platform.trust_root())
        return attest(evidence or self.evidence, expected or self.expected, verifier, Policy(), now=int(time.time()))


def booted(platform: SoftwarePlatform, measured: tuple[tuple[int, str, bytes], ...] = BOOT) -> Boot:
    module = platform.module()
    td = module.mng_create(1)
    module.mng_key_config(td)
    module.mng_init(td, TdParameters(memory_bytes=1 << 31))
    module.mr_finalize(td)
    events, predicted = [], []
    for rtmr, name, content in measured:
        td.mr_rtmr_extend(rtmr, digest_of(content))
        events.append(Event(rtmr + 1, SEPARATOR, (Digest(Algorithm.SHA384, digest_of(content)),), content))
        predicted.append(PredictedEvent(rtmr, SEPARATOR, digest_of(content), name, name))
    rtmrs = [fold(digest_of(content) for rtmr, _, content in measured if rtmr == n) for n in range(4)]
    expected = Prediction(
        "software", td.mrtd, (rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]), tuple(predicted), (None,) * 4
    )
    report = td.mr_report(NONCE).to_bytes()
    quote = platform.quoting_enclave().quote(report)
    log = EventLog(SpecIdEvent(), tuple(events)).padded(4096).to_bytes()
    return Boot(platform, Evidence(NONCE, report, quote, b"", log), expected)


@pytest.fixture
def boot() -> Boot:
    return booted(SoftwarePlatform.create("lab"))


def ima_list(*names: str) -> bytes:
    """A list in ASCII, of files called so, with SHA-384 template digests."""
    lines = []
    for name in names:
        value = digest_of(name.encode())
        fields = (b"sha384:\0" + value, name.encode() + b"\0")
        data = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
        lines.append(f"10 {digest_of(data).hex()} ima-ng sha384:{value.hex()} {name}")
    return "\n".join(lines).encode() + b"\n"


def with_ima(boot: Boot, covered: int, data: bytes) -> Boot:
    """The same boot, whose kernel has extended RTMR2 by the first entries of a list."""
    td = boot.platform.module().mng_create(2)
    boot.platform.module().mng_key_config(td)
    boot.platform.module().mng_init(td, TdParameters(memory_bytes=1 << 31))
    boot.platform.module().mr_finalize(td)
    for rtmr, _, content in BOOT:
        td.mr_rtmr_extend(rtmr, digest_of(content))
    for entry in read_list(data)[:covered]:
        td.mr_rtmr_extend(2, entry.extended())
    report = td.mr_report(NONCE).to_bytes()
    quote = boot.platform.quoting_enclave().quote(report)
    evidence = replace(boot.evidence, tdreport=report, quote=quote, ima=data)
    return replace(boot, evidence=evidence)


def failed(attestation: Attestation) -> list[str]:
    return [step.name for step in attestation.measured.steps if step.outcome is Outcome.FAIL]


def test_a_good_boot_is_accepted(boot: Boot) -> None:
    attestation = boot.attest()
    assert attestation.reasons() == []
    assert attestation.verdict is Verdict.ACCEPTED
    document = attestation.to_document()
    assert [r["expected"] == r["replayed"] == r["quoted"] for r in document["rtmr"]] == [True] * 4
    assert document["verification"]["software"] is True


def test_a_quote_for_another_nonce(boot: Boot) -> None:
    attestation = boot.attest(replace(boot.evidence, report_data=bytes(64)))
    assert attestation.verdict is Verdict.REJECTED
    assert failed(attestation) == ["nonce"]


@pytest.mark.parametrize(("number", "name"), [(1, "kernel"), (2, "command line"), (3, "initrd")])
def test_another_file_is_named(boot: Boot, number: int, name: str) -> None:
    changed = list(BOOT)
    changed[number] = (BOOT[number][0], name, b"something else")
    other = booted(boot.platform, tuple(changed))
    attestation = other.attest(expected=boot.expected)
    assert attestation.verdict is Verdict.REJECTED
    assert failed(attestation) == [f"RTMR{BOOT[number][0]}"]
    assert f"({name})" in attestation.reasons()[0]


def test_another_firmware(boot: Boot) -> None:
    attestation = boot.attest(expected=replace(boot.expected, mrtd=bytes(48)))
    assert failed(attestation) == ["MRTD"]
    assert "firmware" in attestation.reasons()[0]


def test_a_forged_log_does_not_replay(boot: Boot) -> None:
    log = EventLog.from_bytes(boot.evidence.ccel)
    forged = replace(log.events[1], digests=(Digest(Algorithm.SHA384, digest_of(b"approved kernel")),))
    bad = replace(log, events=(log.events[0], forged, *log.events[2:])).to_bytes()
    attestation = boot.attest(replace(boot.evidence, ccel=bad))
    assert attestation.verdict is Verdict.REJECTED
    assert failed(attestation) == ["event log"]
    assert "RTMR1" in attestation.reasons()[0]


def test_a_log_that_cannot_be_read(boot: Boot) -> None:
    attestation = boot.attest(replace(boot.evidence, ccel=b"nonsense"))
    assert failed(attestation) == ["event log"]


def test_an_extension_that_is_in_no_log(boot: Boot) -> None:
    log = EventLog.from_bytes(boot.evidence.ccel)
    short = replace(log, events=log.events[:-1]).to_bytes()
    assert "event log" in failed(boot.attest(replace(boot.evidence, ccel=short)))


@pytest.mark.parametrize("told", [False, True])
def test_an_ima_list_carries_rtmr2_on(boot: Boot, told: bool) -> None:
    """Whether the prediction was told of IMA, so that it leaves RTMR2 open, or not."""
    data = ima_list("boot_aggregate", "/bin/sh", "/bin/later")
    measured = with_ima(boot, 2, data)
    entries = PredictedEvent(2, SEPARATOR, None, "IMA entries", "unknown", logged=False)
    first, second, _, fourth = boot.expected.rtmr
    rtmr, reasons = (first, second, None, fourth), (None, None, "unknown", None)
    more = replace(boot.expected, rtmr=rtmr, reasons=reasons, events=(*boot.expected.events, entries))
    attestation = measured.attest(expected=more if told else None)
    assert measured.attest(expected=replace(more, events=more.events[1:])).verdict is Verdict.ACCEPTED
    wrong = replace(more, events=(*more.events[:2], *more.events[3:]))
    assert measured.attest(expected=wrong).verdict is Verdict.REJECTED
    assert attestation.verdict is Verdict.ACCEPTED, attestation.reasons()
    (step,) = [step for step in attestation.measured.steps if step.name == "IMA list"]
    assert step.detail == "RTMR2 covers 2 of 3 entries"


@pytest.mark.parametrize(
    ("covered", "data"),
    [
        (2, ima_list("boot_aggregate", "/bin/evil")),
        (2, ima_list("boot_aggregate", "/bin/sh").replace(b" /bin/sh", b" /bin/as")),
        (2, ima_list("boot_aggregate")),
        (0, ima_list("boot_aggregate")),
        (2, b"junk"),
    ],
)
def test_an_altered_ima_list_is_found(boot: Boot, covered: int, data: bytes) -> None:
    true = with_ima(boot, covered, ima_list("boot_aggregate", "/bin/sh"))
    attestation = true.attest(replace(true.evidence, ima=data))
    assert attestation.verdict is Verdict.REJECTED
    assert "IMA list" in failed(attestation)


def test_another_platform_of_the_same_kind(boot: Boot) -> None:
    other = booted(SoftwarePlatform.create("elsewhere"))
    attestation = boot.attest(other.evidence)
    assert attestation.verdict is Verdict.REJECTED
    assert attestation.appraisal.verification.qvl.pck_certificate != "OK"


def test_a_report_of_another_td(boot: Boot) -> None:
    other = booted(boot.platform, BOOT[:2])
    assert failed(boot.attest(replace(boot.evidence, tdreport=other.evidence.tdreport))) == ["TDREPORT"]


@pytest.mark.parametrize("offset", [48 + 136, 48 + 376, 48 + 520, 636, 700])
def test_a_flipped_bit(boot: Boot, offset: int) -> None:
    """MRTD, RTMR1, REPORTDATA, the signature, the attestation key: each is caught by verification itself."""
    quote = bytearray(boot.evidence.quote)
    quote[offset] ^= 1
    attestation = boot.attest(replace(boot.evidence, quote=bytes(quote)))
    assert attestation.verdict is Verdict.REJECTED
    assert not attestation.appraisal.verification.authentic


def test_the_intel_root_does_not_accept_it(boot: Boot) -> None:
    from tdxstack.dcap import Collateral, Verifier

    verifier = Verifier(Collateral(**boot.platform.collateral()), roots=["intel"])
    attestation = attest(boot.evidence, boot.expected, verifier, Policy(), now=int(time.time()))
    assert attestation.verdict is Verdict.REJECTED


def test_what_cannot_be_predicted_is_said_and_not_accepted(boot: Boot) -> None:
    unknown = replace(
        boot.expected, rtmr=(None, *boot.expected.rtmr[1:]), reasons=("no ACPI tables", None, None, None)
    )
    attestation = boot.attest(expected=unknown)
    assert attestation.to_document()["rtmr"][0]["reason"] == "no ACPI tables"
    assert attestation.verdict is Verdict.REJECTED
    assert attestation.reasons() == ["RTMR0: no ACPI tables"]


def test_evidence_of_an_sgx_enclave_is_refused(boot: Boot) -> None:
    with pytest.raises(WireError):
        boot.attest(replace(boot.evidence, quote=b"\3"))


def test_a_guest_that_answers_nonsense() -> None:
    with pytest.raises(EvidenceRejected, match="no report"):
        Evidence.from_guest(lambda method, params: {"report": 7}, NONCE)


def test_a_prediction_survives_its_document(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "expected.json"
    path.write_text(json.dumps({"schema": "tdxstack/prediction/v1", **prediction_members(boot.expected)}))
    assert read_expectation(path) == boot.expected


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rtmr": 7}', "nonsense"])
def test_what_is_no_prediction_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "expected.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_expectation(path)
