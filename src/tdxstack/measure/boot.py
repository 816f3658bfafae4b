"""What a replayed log says of the boot, as far as its digests prove it: images, command lines, secure boot's keys.

Nobody signs a log's texts. What is taken from it here is a digest itself, or text and values whose digest is the one
that was extended; an event that claims something else than its digest is of is a problem, not a fact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tdxstack.errors import WireError
from tdxstack.measure.check import digest_matches_data
from tdxstack.measure.describe import describe, image_path, text_of
from tdxstack.measure.ima_replay import cover
from tdxstack.measure.logs import load
from tdxstack.measure.replay import replay
from tdxstack.measure.rtmr import COUNT
from tdxstack.wire.efi.variable import VariableData
from tdxstack.wire.ima import read_list
from tdxstack.wire.tcg import Algorithm, Event, EventLog, EventType, event_type_name

ALGORITHM_NAMES: dict[int, str] = {Algorithm.SHA1: "SHA-1", Algorithm.SHA256: "SHA-256", Algorithm.SHA384: "SHA-384"}
_CMDLINE = b"kernel_cmdline: "
_LOAD_OPTIONS, _INITRD = "kernel command line (LoadOptions)", "initrd"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A kernel's command line: the digest that was extended (SHA-384), and the text where the log has it."""

    digest: bytes
    text: str | None = None


@dataclass(slots=True)
class BootRecord:
    """Facts of a log. Digests are SHA-384 as they were extended.

    ``rtmrs`` are the registers that the log leads to, ``covered`` whether it has events for each; ``images`` are of
    every EFI image that was started (Authenticode) and of the kernel file that GRUB loaded; ``variables`` holds the
    values of secure boot's variables, ``authorities`` those of the database entries that images were let pass by.
    """

    rtmrs: tuple[bytes, ...]
    covered: tuple[bool, ...]
    problems: list[str]
    images: list[bytes] = field(default_factory=list)
    command_lines: list[CommandLine] = field(default_factory=list)
    initrds: list[bytes] = field(default_factory=list)
    variables: dict[str, bytes] = field(default_factory=dict)
    authorities: list[bytes] = field(default_factory=list)


def boot_record(log: EventLog, *more: Iterable[tuple[int, bytes]]) -> BootRecord:
    """Replay a CC event log (and further (RTMR, digest) lists, such as IMA's) and gather what it proves."""
    replayed = replay(log, *more)
    record = BootRecord(replayed.rtmr, tuple(map(bool, replayed.extended)), list(replayed.problems))
    for event in log.events:
        digest = event.digest(Algorithm.SHA384)
        if event.event_type == EventType.EV_NO_ACTION or digest is None:
            continue
        if event.event_type == EventType.EV_EFI_BOOT_SERVICES_APPLICATION:
            record.images.append(digest)
        elif event.event_type == EventType.EV_EVENT_TAG:
            _tagged(event, digest, record)
        elif event.event_type == EventType.EV_IPL:
            _grub(event, digest, record)
        elif event.event_type in (EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, EventType.EV_EFI_VARIABLE_AUTHORITY):
            _variable(event, record)
    _grub_kernels(log, record)
    return record


def read_boot(log: bytes, ima: bytes | None = None, rtmr2: bytes | None = None) -> BootRecord:
    """The record of a log in any known format. What cannot be read is a problem of the record, not an error.

    Args:
        ima: the IMA list of a guest whose kernel extends RTMR2 by it.
        rtmr2: the quote's RTMR2; entries that came after the quote are left away.
    """
    extends: tuple[tuple[int, bytes], ...] = ()
    problems: list[str] = []
    try:
        loaded = load(log)
        problems += [*loaded.problems, *([loaded.fault.message] if loaded.fault else [])]
        if ima is not None:
            listed = cover(loaded.log, read_list(ima), rtmr2)
            extends = listed.extends
            problems += listed.problems
    except WireError as fault:
        return BootRecord((bytes(48),) * COUNT, (False,) * COUNT, [f"a log cannot be read: {fault.message}"])
    record = boot_record(loaded.log, extends)
    record.problems += problems
    return record


def event_members(log: EventLog) -> list[dict[str, object]]:
    """The events as plain values: type's name, register index, digests, and what the data says (its text, or the
    device path of an image). Names are those of Trustee's ``uefi_event_logs``."""
    return [
        {
            "type_name": event_type_name(event.event_type),
            "index": event.mr_index,
            "digests": [
                {"alg": ALGORITHM_NAMES.get(digest.algorithm, f"{digest.algorithm:#x}"), "digest": digest.value.hex()}
                for digest in event.digests
            ],
            "details": _details(event),
        }
        for event in log.events
    ]


def _details(event: Event) -> dict[str, object]:
    if event.event_type == EventType.EV_EFI_BOOT_SERVICES_APPLICATION:
        path = image_path(event.data)
        return {"device_paths": [f"File({path})"] if path else []}
    if event.event_type == EventType.EV_EVENT_TAG:
        return {"string": text_of(event.data[8:])}
    if event.event_type == EventType.EV_IPL:
        return {"string": text_of(event.data)}
    return {"string": describe(event)}


def _tagged(event: Event, digest: bytes, record: BootRecord) -> None:
    what = describe(event)
    if what == _LOAD_OPTIONS:
        record.command_lines.append(CommandLine(digest))
    elif what == _INITRD:
        record.initrds.append(digest)


def _grub(event: Event, digest: bytes, record: BootRecord) -> None:
    if not event.data.startswith(_CMDLINE):
        return
    if digest_matches_data(event):
        text = event.data[len(_CMDLINE) :].rstrip(b"\0").decode("utf-8", "replace")
        record.command_lines.append(CommandLine(digest, text))
    else:
        record.problems.append(f"a command line is not what the log says ({describe(event)})")
        record.command_lines.append(CommandLine(digest))


def _grub_kernels(log: EventLog, record: BootRecord) -> None:
    """The files that GRUB's command lines start with, as GRUB measured them."""
    paths = {line.text.split(" ", 1)[0] for line in record.command_lines if line.text}
    for event in log.events:
        if event.event_type == EventType.EV_IPL and event.data.rstrip(b"\0").decode("utf-8", "replace") in paths:
            record.images.append(event.digest(Algorithm.SHA384) or b"")


def _variable(event: Event, record: BootRecord) -> None:
    try:
        variable = VariableData.from_bytes(event.data)
    except WireError as fault:
        record.problems.append(f"a variable's description is damaged ({fault.message})")
        return
    if not digest_matches_data(event):
        record.problems.append(f"a variable is not what the log says ({describe(event)})")
    elif event.event_type == EventType.EV_EFI_VARIABLE_AUTHORITY:
        record.authorities.append(variable.value)
    else:
        record.variables[variable.name] = variable.value
