"""Replay of event logs: the register values that the logs' digests lead to.

A replay proves that the log holds every digest that was extended, in order. It proves nothing about event types and
event data: :mod:`tdxstack.measure.check` looks at those.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tdxstack.measure.rtmr import COUNT, SIZE, fold, rtmr_of_index
from tdxstack.wire.tcg import Algorithm, EventLog, EventType, event_type_name


@dataclass(frozen=True, slots=True)
class Replay:
    """RTMR0..3 after all logs; ``problems`` says what could not be replayed, each as a sentence."""

    rtmr: tuple[bytes, bytes, bytes, bytes]
    extended: tuple[int, int, int, int]
    problems: tuple[str, ...] = ()


def replay(log: EventLog, *more: Iterable[tuple[int, bytes]]) -> Replay:
    """Replay a CC event log, then further logs.

    Args:
        log: the CC log (a CCEL's data area).
        more: (RTMR number, 48-byte digest) pairs of other logs (IMA, applications), in the order of extension; each
            register gets the CC log's events first.
    """
    digests, problems = cc_digests(log)
    for entries in more:
        for rtmr, digest in entries:
            if 0 <= rtmr < COUNT and len(digest) == SIZE:
                digests[rtmr].append(digest)
            else:
                problems.append(f"an entry for register {rtmr} with {len(digest)} bytes cannot be extended")
    first, second, third, fourth = (fold(entries) for entries in digests)
    return Replay(
        (first, second, third, fourth),
        (len(digests[0]), len(digests[1]), len(digests[2]), len(digests[3])),
        tuple(problems),
    )


def cc_digests(log: EventLog) -> tuple[list[list[bytes]], list[str]]:
    """SHA-384 digests of a CC log per RTMR, and what is wrong with the events that have none.

    EV_NO_ACTION events are not extended, whatever their index.
    """
    digests: list[list[bytes]] = [[], [], [], []]
    problems: list[str] = []
    without: list[str] = []
    for number, event in enumerate(log.events):
        if event.event_type == EventType.EV_NO_ACTION:
            continue
        rtmr = rtmr_of_index(event.mr_index)
        digest = event.digest(Algorithm.SHA384)
        if rtmr is not None and digest is not None:
            digests[rtmr].append(digest)
            continue
        name = event_type_name(event.event_type)
        if rtmr is None:
            why = "MRTD cannot be extended" if event.mr_index == 0 else "there is no register beyond RTMR3 (index 4)"
            problems.append(f"event {number} ({name}) has register index {event.mr_index}: {why}")
        else:
            without.append(f"event {number} ({name}) has no SHA-384 digest")
    if len(without) > 1:
        # A log of another kind of TEE: said once.
        without = [f"{without[0]}, nor have {len(without) - 1} further events: no RTMR follows from this log"]
    return digests, [*without, *problems]


def replay_tpm(log: EventLog, algorithm: int = Algorithm.SHA384) -> dict[int, bytes]:
    """PCR values of one bank after a TPM's log (binary_bios_measurements), for the PCRs that were extended.

    PCR 0 starts with the startup locality if the log has a ``StartupLocality`` event (PC Client PFP, 10.4.5.3).
    """
    import hashlib

    names: dict[int, str] = {Algorithm.SHA1: "sha1", Algorithm.SHA256: "sha256", Algorithm.SHA384: "sha384"}
    new = getattr(hashlib, names.get(algorithm, "sha512"))
    size = new().digest_size
    values: dict[int, bytes] = {}
    for event in log.events:
        if event.event_type == EventType.EV_NO_ACTION:
            if event.data.startswith(b"StartupLocality\0") and len(event.data) == 17:
                values[0] = bytes(size - 1) + event.data[16:]
            continue
        digest = event.digest(algorithm)
        if digest is not None:
            values[event.mr_index] = new(values.get(event.mr_index, bytes(size)) + digest).digest()
    return values
