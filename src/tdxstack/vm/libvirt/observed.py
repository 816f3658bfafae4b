"""A TD's record against what libvirt says, for the moments when no supervisor watches.

What libvirt or a person changed behind our back is found here: a domain that ended, was started, or is no longer
defined.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tdxstack.errors import SystemFault
from tdxstack.vm.libvirt import domains
from tdxstack.vm.libvirt.connection import call, open_connection
from tdxstack.vm.libvirt.domains import Seen
from tdxstack.vm.record import TdRecord, save
from tdxstack.vm.state import ACTIVE, State

UNDEFINED = "libvirt no longer knows it: somebody undefined it; the next start defines it again"
UNREACHABLE = "not verified: its libvirt does not answer"
FOUND = "found running: it was started through libvirt"
UNWATCHED = "its supervisor is gone, its domain goes on; the next command that needs one starts another"
ENDED_WITH_SUPERVISOR = "its supervisor was killed, and its domain ended with it"

EDITED = "its definition was changed through libvirt; the next start defines it from its settings again"

States = dict[str, Seen]


def observed_by_libvirt(record: TdRecord, known: dict[str, Any]) -> TdRecord:
    """The record as libvirt shows it; call it with the TD's lock held. A changed state is on disk.

    ``known`` keeps what a libvirt has said, by its URI: within one look at many TDs each is asked once.
    """
    spec = record.spec
    try:
        seen = _states(spec.connect, known).get(domains.uuid_of(spec.name), Seen(domains.ABSENT, 0))
    except SystemFault:
        return replace(record, reason=UNREACHABLE)
    if record.state in ACTIVE:
        return _kept(_without_supervisor(record, seen.state, seen.reason), record)
    if seen.state in domains.ALIVE:
        return _kept(_running(record, seen.state, FOUND), record)
    if seen.state == domains.ABSENT and not spec.transient:
        return replace(record, reason=UNDEFINED)
    return record if seen.as_defined else replace(record, reason=EDITED)


def _states(uri: str, known: dict[str, Any]) -> States:
    if uri not in known:
        try:
            connection = open_connection(uri)
            try:
                known[uri] = call(lambda: domains.states(connection), uri)
            finally:
                connection.close()
        except SystemFault as error:
            known[uri] = error
    answer: States | SystemFault = known[uri]
    if isinstance(answer, SystemFault):
        raise answer
    return answer


def _without_supervisor(record: TdRecord, present: int, reason: int) -> TdRecord:
    if domains.is_bound(record.spec):
        if present in domains.ALIVE:
            _destroy(record)
        return record.moved(State.FAILED, ENDED_WITH_SUPERVISOR)
    if present in domains.ALIVE:
        return _running(record, present, UNWATCHED)
    ending = domains.ending_while_away(present, reason)
    if record.state is State.STARTING:
        return record.moved(State.FAILED, ENDED_WITH_SUPERVISOR)
    return record.moved(State.FAILED if ending.fault else State.STOPPED, ending.fault or ending.reason)


def _running(record: TdRecord, present: int, why: str) -> TdRecord:
    """The record of a domain that runs: by the states that lie between."""
    state = State.PAUSED if present in domains.HALTED else State.RUNNING
    if record.state is state:
        return record if record.reason == why else replace(record, reason=why)
    if record.state not in ACTIVE:
        record = record.moved(State.STARTING)
    return record.moved(state, why)


def _destroy(record: TdRecord) -> None:
    uri = record.spec.connect
    connection = open_connection(uri)
    try:
        domain = domains.find(connection, domains.uuid_of(record.name))
        if domain is not None and domain.isActive():
            call(domain.destroy, uri)
    finally:
        connection.close()


def _kept(found: TdRecord, before: TdRecord) -> TdRecord:
    if found != before:
        save(found)
    return found
