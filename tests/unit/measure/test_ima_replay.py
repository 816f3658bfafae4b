"""How much of an IMA list a register covers."""

from __future__ import annotations

import hashlib

from tdxstack.measure.ima_replay import cover, covered
from tdxstack.measure.rtmr import ZERO, fold
from tdxstack.wire.ima import ImaEntry, read_ascii
from tdxstack.wire.tcg import Algorithm, Digest, Event, EventLog, EventType, SpecIdEvent

FIRMWARE = hashlib.sha384(b"initrd").digest()
EVENT = Event(3, EventType.EV_EVENT_TAG, (Digest(Algorithm.SHA384, FIRMWARE),), b"initrd")
LOG = EventLog(SpecIdEvent(), (EVENT,))


def entry(name: str, index: int = 10) -> ImaEntry:
    value = hashlib.sha384(name.encode()).digest()
    fields = (b"sha384:\0" + value, name.encode() + b"\0")
    data = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
    line = f"{index} {hashlib.sha1(data).hexdigest()} ima-ng sha384:{value.hex()} {name}"  # noqa: S324 - IMA's own
    return read_ascii(line.encode())[0]


ENTRIES = tuple(map(entry, ("boot_aggregate", "/bin/a", "/bin/b")))


def value(*names: str) -> bytes:
    return fold((FIRMWARE, *(entry(name).extended() for name in names)), ZERO)


def test_a_prefix_is_found() -> None:
    for count in range(4):
        names = [one.name for one in ENTRIES[:count]]
        found = cover(LOG, ENTRIES, value(*names))
        assert (found.covered, found.total, len(found.extends), found.problems) == (count, 3, count, ())


def test_another_order_or_content_is_not() -> None:
    for names in (("/bin/a", "boot_aggregate"), ("boot_aggregate", "/bin/b"), ("boot_aggregate", "/bin/x")):
        found = cover(LOG, ENTRIES, value(*names))
        assert found.covered is None
        assert len(found.extends) == 3


def test_without_a_value_all_count() -> None:
    assert cover(LOG, ENTRIES, None).covered == 3


def test_entries_of_other_registers_extend_nothing() -> None:
    entries = (ENTRIES[0], entry("elsewhere", index=11), ENTRIES[1])
    assert covered(fold((FIRMWARE,)), entries, value("boot_aggregate", "/bin/a")) == 3
