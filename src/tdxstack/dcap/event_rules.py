"""Rules on the boot that a replayed event log proves: images, command lines, secure boot and its keys.

The log is read and replayed by ``tdxstack.measure.boot``; here it is what :class:`BootRecord` says, held against the
quote's registers and the policy's ``[events]``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tdxstack.dcap.policy_sections import EventsPolicy
from tdxstack.wire.quote import Quote, TdReportBody

if TYPE_CHECKING:
    from tdxstack.dcap.policy import Policy

#: What firmware adds to the command line of a kernel that it hands an initrd (measure.linux.load_options).
_INITRD = "initrd=initrd"
_SWITCH = {b"\1": "on", b"\0": "off", None: "not in the log"}
#: The application register: what extends it need not be in the boot's log.
_APPLICATION_RTMR = 3


class Rule(NamedTuple):
    """One rule: whether it holds, what it wants, what is there. ``name`` is that of the policy's setting."""

    name: str
    holds: bool
    wanted: str
    actual: str


class CommandLine(Protocol):
    """A kernel's command line: SHA-384 as it was extended, and the text where the log has it."""

    @property
    def digest(self) -> bytes: ...
    @property
    def text(self) -> str | None: ...


class BootRecord(Protocol):
    """What a log proves of the boot; see ``tdxstack.measure.boot``."""

    @property
    def rtmrs(self) -> Sequence[bytes]: ...
    @property
    def covered(self) -> Sequence[bool]: ...
    @property
    def problems(self) -> Sequence[str]: ...
    @property
    def images(self) -> Sequence[bytes]: ...
    @property
    def command_lines(self) -> Sequence[CommandLine]: ...
    @property
    def initrds(self) -> Sequence[bytes]: ...
    @property
    def variables(self) -> Mapping[str, bytes]: ...
    @property
    def authorities(self) -> Sequence[bytes]: ...


def event_rules(quote: Quote | None, policy: Policy, boot: BootRecord | None) -> Iterator[Rule]:
    """The rules, where a log was given or the policy asks for what only a log can show."""
    events = policy.events
    if quote is None or not isinstance(quote.body, TdReportBody) or not (boot or policy.needs_log):
        return
    if boot is None:
        yield Rule("events.require_log", False, "an event log that leads to the quote's registers", "no event log")
        return
    yield _replays(quote.body, boot)
    yield from _digests("events.kernels", events.kernels, boot.images)
    yield from _digests("events.initrds", events.initrds, boot.initrds)
    if events.command_lines:
        wrong = [line for line in boot.command_lines if not _allowed(line, events.command_lines)]
        actual = " and ".join(_words(line) for line in wrong or boot.command_lines) or "none in the log"
        wanted = " or ".join(map(repr, events.command_lines))
        yield Rule("events.command_lines", bool(boot.command_lines) and not wrong, wanted, actual)
    yield from _secure_boot(events, boot)


def _replays(body: TdReportBody, boot: BootRecord) -> Rule:
    wrong = [
        index
        for index, value in enumerate(boot.rtmrs)
        if value != body.rtmrs[index] and (index != _APPLICATION_RTMR or boot.covered[index])
    ]
    actual = "; ".join([f"RTMR{index} {boot.rtmrs[index].hex()}" for index in wrong] + list(boot.problems))
    wanted = "; ".join(f"RTMR{index} {body.rtmrs[index].hex()}" for index in wrong) or "a log that replays"
    return Rule("events.require_log", not actual, wanted, actual or "it replays to the quote's registers")


def _digests(name: str, allowed: tuple[bytes, ...], found: Sequence[bytes]) -> Iterator[Rule]:
    """Everything that is there has to be in the list, and something has to be there."""
    if allowed:
        wrong = [digest for digest in found if digest not in allowed]
        actual = " and ".join(digest.hex() for digest in wrong or found) or "none in the log"
        yield Rule(name, bool(found) and not wrong, " or ".join(item.hex() for item in allowed), actual)


def _allowed(line: CommandLine, texts: Sequence[str]) -> bool:
    """By its text, with or without the kernel's path before it, or by the digest of LoadOptions."""
    if line.text is not None:
        return line.text in texts or line.text.partition(" ")[2] in texts
    forms = [form for text in texts for form in (text, f"{_INITRD} {text}", f"{text} {_INITRD}")]
    return line.digest in {hashlib.sha384((form + "\0").encode("utf-16-le")).digest() for form in forms}


def _words(line: CommandLine) -> str:
    return repr(line.text) if line.text is not None else f"one whose SHA-384 is {line.digest.hex()}"


def _secure_boot(events: EventsPolicy, boot: BootRecord) -> Iterator[Rule]:
    if events.require_secure_boot:
        value = boot.variables.get("SecureBoot")
        yield Rule("events.require_secure_boot", value == b"\1", "on", _SWITCH.get(value, "off"))
    for name, variable, allowed in (
        ("pk", "PK", events.pk),
        ("kek", "KEK", events.kek),
        ("db", "db", events.db),
        ("dbx", "dbx", events.dbx),
    ):
        if allowed:
            content = boot.variables.get(variable)
            digest = None if content is None else hashlib.sha256(content).digest()
            wanted = " or ".join(item.hex() for item in allowed)
            actual = digest.hex() if digest else "not in the log"
            yield Rule(f"events.{name}", digest in allowed, wanted, actual)
    yield from _digests("events.authorities", events.authorities, [_sha256(value) for value in boot.authorities])


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
