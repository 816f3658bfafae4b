"""Event log and IMA list against a quote, by a TD whose RTMRs were extended by them; requests that carry them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import struct

import pytest

from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.platform.software.td import TrustDomain
from tdxstack.services.pccs.refusal import Refusal
from tdxstack.services.verifier.evidence import Evidence, read_evidence
from tdxstack.services.verifier.logs import Logs, judge_logs
from tdxstack.wire.ima import ImaEntry, read_list
from tdxstack.wire.quote import Quote
from tdxstack.wire.tcg import Algorithm, Digest, Event, EventLog, EventType, SpecIdEvent
from unit.platform.software.conftest import run_td

FIRMWARE, KERNEL = (hashlib.sha384(text).digest() for text in (b"firmware", b"kernel"))


def ima_list(*names: str) -> bytes:
    lines = b""
    for name in names:
        digest = hashlib.sha384(name.encode()).digest()
        data = b"".join(struct.pack("<I", len(one)) + one for one in (b"sha384:\0" + digest, name.encode() + b"\0"))
        lines += f"10 {hashlib.sha1(data).hexdigest()} ima-ng sha384:{digest.hex()} {name}\n".encode()  # noqa: S324
    return lines


def cc_log(*events: tuple[int, bytes]) -> EventLog:
    rows = tuple(
        Event(rtmr + 1, EventType.EV_IPL, (Digest(Algorithm.SHA384, digest),), b"") for rtmr, digest in events
    )
    return EventLog(SpecIdEvent(), rows)


LOG = cc_log((0, FIRMWARE), (2, KERNEL))
ENTRIES = read_list(ima_list("boot_aggregate", "/bin/a", "/bin/b"))


@pytest.fixture
def platform() -> SoftwarePlatform:
    return SoftwarePlatform.create("lab")


@pytest.fixture
def td(platform: SoftwarePlatform) -> TrustDomain:
    """A TD after the boot that LOG tells of."""
    found = run_td(platform.module())
    found.mr_rtmr_extend(0, FIRMWARE)
    found.mr_rtmr_extend(2, KERNEL)
    return found


def judged(
    platform: SoftwarePlatform, td: TrustDomain, log: EventLog | None, ima: tuple[ImaEntry, ...] | None
) -> Logs:
    quote = platform.quoting_enclave().quote(td.mr_report(bytes(64)).to_bytes())
    return judge_logs(Evidence(b"n", quote, event_log=log, ima_list=ima), Quote.from_bytes(quote))


def test_without_logs_nothing_is_said(platform: SoftwarePlatform, td: TrustDomain) -> None:
    assert judged(platform, td, None, None) == Logs(None, None, "")


def test_a_log_that_replays(platform: SoftwarePlatform, td: TrustDomain) -> None:
    assert judged(platform, td, LOG, None) == Logs("replays", None, "")


def test_a_log_that_lacks_an_event(platform: SoftwarePlatform, td: TrustDomain) -> None:
    found = judged(platform, td, cc_log((0, FIRMWARE)), None)
    assert found.fault == found.event_log
    assert found.fault.startswith("RTMR2: the log leads to")


def test_a_list_that_no_register_holds_is_not_bound(platform: SoftwarePlatform, td: TrustDomain) -> None:
    assert judged(platform, td, LOG, ENTRIES) == Logs("replays", "not bound", "")


@pytest.mark.parametrize("extended", [1, 2, 3])
def test_a_list_that_rtmr2_holds_up_to_the_quote(platform: SoftwarePlatform, td: TrustDomain, extended: int) -> None:
    for entry in ENTRIES[:extended]:
        td.mr_rtmr_extend(2, entry.extended())
    assert judged(platform, td, LOG, ENTRIES) == Logs("replays", f"bound to RTMR2 ({extended} of 3 entries)", "")
    assert judged(platform, td, LOG, None).fault.startswith("RTMR2"), "without the list the register is unexplained"


def test_a_list_of_another_boot(platform: SoftwarePlatform, td: TrustDomain) -> None:
    for entry in reversed(ENTRIES):
        td.mr_rtmr_extend(2, entry.extended())
    found = judged(platform, td, LOG, ENTRIES)
    assert found.fault.startswith("RTMR2")
    assert found.ima == "RTMR2: no part of the list leads to what the quote has"


def test_an_entry_whose_digest_was_altered(platform: SoftwarePlatform, td: TrustDomain) -> None:
    for entry in ENTRIES:
        td.mr_rtmr_extend(2, entry.extended())
    altered = (ENTRIES[0], dataclasses.replace(ENTRIES[1], template_digest=bytes(range(20))), ENTRIES[2])
    assert judged(platform, td, LOG, altered).fault == "IMA entry 1: its template digest is not of its fields"


def test_a_list_does_not_explain_another_register(platform: SoftwarePlatform, td: TrustDomain) -> None:
    td.mr_rtmr_extend(1, KERNEL)
    found = judged(platform, td, LOG, ENTRIES)
    assert (found.ima, found.fault.startswith("RTMR1")) == ("not bound", True)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_request_with_everything() -> None:
    body = (
        '{"nonce": "AAAA", "quote": "AAAA", "policy": "lab", '
        f'"event_log": "{_b64(LOG.to_bytes())}", "ima_list": "{_b64(ima_list("/bin/a"))}"}}'
    )
    found = read_evidence(body.encode())
    assert found.event_log == LOG
    assert (found.policy, found.ima_list and found.ima_list[0].name) == ("lab", "/bin/a")


@pytest.mark.parametrize(
    ("members", "names"),
    [
        ('"ima_list": "AAAA"', "ima_list"),
        (f'"event_log": "{_b64(LOG.to_bytes())}", "ima_list": "AAAA"', "ima_list"),
        ('"policy": "../../etc"', "policy"),
        ('"policy": 1', "policy"),
        ('"extra": ""', "extra"),
    ],
)
def test_requests_that_are_none(members: str, names: str) -> None:
    with pytest.raises(Refusal, match=names):
        read_evidence(f'{{"nonce": "AAAA", "quote": "AAAA", {members}}}'.encode())
