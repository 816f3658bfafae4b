"""The first event in which a boot differs from a prediction, or two logs from each other, and why that may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from tdxstack.errors import WireError
from tdxstack.measure.cmdline_search import difference_in_words
from tdxstack.measure.describe import describe, text_of
from tdxstack.measure.memory_search import memory_of
from tdxstack.measure.prediction import PredictedEvent, Prediction
from tdxstack.wire.efi.variable import VariableData
from tdxstack.wire.tcg import Event, EventLog, EventType, event_type_name

_ADVICE = {
    "TD HOB": (
        "the TD had another memory size, or another firmware",
        "compare the memory size (-m) and the firmware",
    ),
    "configuration volume": (
        "the firmware file's variable store differs: other secure boot keys or variables",
        "tdxctl firmware show FILE for both firmware files",
    ),
    "kernel": ("another kernel was booted", "compare the kernel files, or predict again from the one that is meant"),
    "inner kernel": ("another kernel is in the unified kernel image", "compare the images' section .linux"),
    "authority": ("another certificate vouched for what was started", "compare db and the signature of the kernel"),
    "initrd": ("another initrd was booted", "compare the initrd files, or predict again from the one that is meant"),
    "command line": (
        "another kernel command line was given (the log holds its digest alone, not its text)",
        "compare the command lines character by character; predict again with the one that is meant",
    ),
    "SMBIOS tables": (
        "other SMBIOS data: -smbios options, memory size, CPU model or machine version",
        "predict from the very arguments the TD was started with",
    ),
    "boot attempt": ("another way of booting", "predict for the boot method that was used"),
    "separator": ("another firmware or firmware release", "tdxctl measure predict --profile for another release"),
    "exit boot services": ("the boot loader or kernel left the firmware in another way", "look at the events before"),
}
_ACPI = (
    "other ACPI tables: devices, memory size, number of vCPUs or QEMU version differ",
    "predict from the very arguments and QEMU that the TD was started with",
)
_VARIABLE = (
    "another value of a UEFI variable: secure boot keys or boot options",
    "tdxctl firmware show FILE; boot options depend on disks and network cards",
)
_GRUB = ("grub_cmd: ", "kernel_cmdline: ")
#: Header of a MAC Address node: messaging device path, 37 bytes.
_MAC_NODE = bytes((3, 11, 37, 0))
_FW_CFG = ("another fw_cfg setting of QEMU", "compare boot order and -fw_cfg options")


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a boot leaves the prediction.

    ``expected`` is None if the log has an event too many, ``logged`` if it has one too few; ``position`` counts the
    register's events from 0.
    """

    rtmr: int
    position: int
    expected: PredictedEvent | None
    logged: Event | None
    cause: str
    advice: str

    @property
    def text(self) -> str:
        """The whole finding in one line."""
        subject = self.expected.name if self.expected else describe(self.logged) if self.logged else "log"
        return f"RTMR{self.rtmr}, event {self.position} ({subject}): {self.cause}"


def diff(prediction: Prediction, log: EventLog) -> Difference | None:
    """The first difference between a prediction and a CC event log, or None if they agree.

    Events that are predicted as unknown agree with any event of their type. Events outside the CC log (IMA's) are
    not looked at.
    """
    found: list[tuple[int, Difference]] = []
    for rtmr in range(4):
        expected = [event for event in prediction.of_register(rtmr) if event.logged]
        logged = [
            event for event in log.events if event.mr_index == rtmr + 1 and event.event_type != EventType.EV_NO_ACTION
        ]
        difference = _first(rtmr, expected, logged)
        if difference is not None:
            anchor = difference.expected or (expected[-1] if expected else None)
            order = prediction.events.index(anchor) if anchor else len(prediction.events)
            found.append((order, difference))
    return min(found, key=lambda item: item[0])[1] if found else None


def _agrees(expected: PredictedEvent, logged: Event) -> bool:
    return expected.digest == logged.digest() or (
        expected.digest is None and expected.event_type == logged.event_type
    )


def _first(rtmr: int, expected: Sequence[PredictedEvent], logged: Sequence[Event]) -> Difference | None:
    for position in range(max(len(expected), len(logged))):
        wanted = expected[position] if position < len(expected) else None
        have = logged[position] if position < len(logged) else None
        if wanted is not None and have is not None and _agrees(wanted, have):
            continue
        if wanted is not None and have is not None:
            if any(_agrees(wanted, later) for later in logged[position + 1 :]) and wanted.digest is not None:
                return Difference(rtmr, position, None, have, *_extra(have))
            if have.digest() in {later.digest for later in expected[position + 1 :]}:
                return Difference(rtmr, position, wanted, None, *_missing(wanted))
            return Difference(rtmr, position, wanted, have, *explain_change(wanted, have))
        if wanted is not None:
            return Difference(rtmr, position, wanted, None, *_missing(wanted))
        if have is not None:
            return Difference(rtmr, position, None, have, *_extra(have))
    return None


def _extra(logged: Event) -> tuple[str, str]:
    cause = f"an event that was not expected: {event_type_name(logged.event_type)}, {describe(logged)}"
    return cause, "find what measured it: an additional device, boot option, driver or boot loader"


def _missing(expected: PredictedEvent) -> tuple[str, str]:
    cause = f"an expected event is missing: {expected.name} ({expected.why})"
    return cause, "the boot took another path, or the log is incomplete; does it replay?"


def explain_change(expected: PredictedEvent, logged: Event) -> tuple[str, str]:
    """Likely cause and advice where an event has another digest than was predicted."""
    digest = logged.digest()
    for circumstance, alternative in expected.alternatives:
        if alternative == digest:
            return (
                f"{expected.name}: the digest equals {circumstance}",
                "predict with the QEMU and firmware that boot",
            )
    if logged.event_type != expected.event_type:
        cause = (
            f"{event_type_name(logged.event_type)} ({describe(logged)}) in place of {expected.name}: "
            "the boot took another path"
        )
        return cause, "predict for the boot method and firmware that were used"
    if expected.name.startswith("variable "):
        return _changed_variable(expected, logged)
    if expected.name == "command line" and expected.text is not None:
        found = difference_in_words(expected.text, digest or b"")
        if found is not None:
            return f"another kernel command line: {found}", _ADVICE["command line"][1]
    if expected.name == "TD HOB":
        return _changed_memory(expected, digest or b"")
    if expected.name.startswith(_GRUB):
        return _changed_grub(expected, logged)
    if expected.name.startswith("ACPI "):
        return _ACPI
    if expected.name.startswith("fw_cfg "):
        return _FW_CFG
    if expected.name.startswith("UKI "):
        section = expected.name.removeprefix("UKI ")
        return f"the unified kernel image's section {section} differs", "compare the images: ukify inspect FILE"
    return _ADVICE.get(expected.name, ("its content differs", "compare what was booted with what was predicted from"))


def _changed_memory(expected: PredictedEvent, digest: bytes) -> tuple[str, str]:
    """The memory map: the size that the TD had, where its digest is of a usual one."""
    cause, advice = _ADVICE["TD HOB"]
    had, wanted = memory_of(digest), memory_of(expected.digest or b"")
    if had is None:
        return cause, advice
    if had == wanted:
        return f"the TD had another firmware release, with the same {_size(had)} of memory", advice
    expectation = f", not {_size(wanted)}" if wanted else ""
    return f"another memory size: the TD had {_size(had)}{expectation}", advice


def _size(memory: int) -> str:
    return f"{memory >> 30} GiB" if memory % (1 << 30) == 0 else f"{memory >> 20} MiB"


def _changed_grub(expected: PredictedEvent, logged: Event) -> tuple[str, str]:
    """GRUB logs the text that it measures: the first word that differs can be named."""
    kind, _, wanted = expected.name.partition(": ")
    have = text_of(logged.data).removeprefix(f"{kind}: ")
    advice = "compare grub.cfg with the one on the disk that is meant"
    for one, other in zip_longest(wanted.split(" "), have.split(" ")):
        if one == other:
            continue
        if one is None:
            return f"{kind}: the TD had `{other}` besides", advice
        at = f"{one.partition('=')[0]}=" if "=" in one else one
        return f"{kind} differs at `{at}`: " + (f"the TD had `{other}`" if other else f"`{one}` is missing"), advice
    return f"{kind}: the digest is not of the text that the log shows", advice


def _mac_address(value: bytes) -> str | None:
    """The MAC address in a boot option's device path (UEFI 2.10, section 10.3.4.10), or None."""
    at = value.find(_MAC_NODE)
    raw = value[at + len(_MAC_NODE) : at + len(_MAC_NODE) + 6]
    return ":".join(f"{octet:02x}" for octet in raw) if at >= 0 and len(raw) == 6 else None


def _changed_variable(expected: PredictedEvent, logged: Event) -> tuple[str, str]:
    try:
        variable = VariableData.from_bytes(logged.data)
    except WireError:
        return _VARIABLE
    name = variable.name
    if (mac := _mac_address(variable.value)) is not None:
        cause = f"MAC address {mac} is in {name}: a network card's boot option is measured"
        return (
            cause,
            "predict with the MAC address that the TD has (tdxctl td create --mac)",
        )
    if f"variable {name}" != expected.name:
        cause = f"{describe(logged)} in place of {expected.name}: disks, network cards or keys differ"
        return cause, _VARIABLE[1]
    return f"{_VARIABLE[0]}; the TD had {describe(logged)}", _VARIABLE[1]


@dataclass(frozen=True, slots=True)
class LogDifference:
    """The first event in which two logs differ in one register; an event is None where a log ends."""

    mr_index: int
    position: int
    first: Event | None
    second: Event | None


def diff_logs(first: EventLog, second: EventLog) -> tuple[LogDifference, ...]:
    """The first difference of each register, in the order of the first log's events."""
    indexes = list(dict.fromkeys(event.mr_index for event in (*first.events, *second.events)))
    found: list[LogDifference] = []
    for mr_index in indexes:
        mine, theirs = (
            [
                event
                for event in log.events
                if event.mr_index == mr_index and event.event_type != EventType.EV_NO_ACTION
            ]
            for log in (first, second)
        )
        for position in range(max(len(mine), len(theirs))):
            one = mine[position] if position < len(mine) else None
            other = theirs[position] if position < len(theirs) else None
            if one is None or other is None or one.digests != other.digests:
                found.append(LogDifference(mr_index, position, one, other))
                break
    return tuple(found)
