"""The life of a TD: one state machine, and what each state allows.

::

    defined ──► starting ──► running ◄──► paused
                   │            │            │
                   │            ▼            │
                   ├───────► stopping ◄──────┤
                   ▼            ▼            ▼
                 failed      stopped       saved

A machine that outlived its supervisor stays in its state when another takes charge of it.
A start that is refused before it makes a machine goes back to where it came from.
From failed, stopped and saved a TD starts again; reverting to a snapshot makes a TD at rest a saved one.
"""

from __future__ import annotations

from enum import StrEnum

from tdxstack.errors import StateError


class State(StrEnum):
    """Where a TD is in its life. It is on disk before anybody is told."""

    DEFINED = "defined"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SAVED = "saved"
    FAILED = "failed"


#: States in which a supervisor must be alive and hold the TD's lock.
ACTIVE = frozenset({State.STARTING, State.RUNNING, State.PAUSED, State.STOPPING})
#: States from which a TD can start.
STARTABLE = frozenset({State.DEFINED, State.STOPPED, State.SAVED, State.FAILED})

_NEXT: dict[State, frozenset[State]] = {
    State.DEFINED: frozenset({State.STARTING, State.SAVED}),
    State.STARTING: frozenset({State.RUNNING, State.PAUSED, State.STOPPING, *STARTABLE}),
    State.RUNNING: frozenset(
        {State.RUNNING, State.STARTING, State.PAUSED, State.STOPPING, State.STOPPED, State.SAVED, State.FAILED}
    ),
    State.PAUSED: frozenset({State.PAUSED, State.RUNNING, State.STOPPING, State.STOPPED, State.SAVED, State.FAILED}),
    State.STOPPING: frozenset({State.STOPPED, State.RUNNING, State.PAUSED, State.FAILED}),
    State.STOPPED: frozenset({State.STARTING, State.SAVED}),
    State.SAVED: frozenset({State.STARTING, State.STOPPED, State.FAILED}),
    State.FAILED: frozenset({State.STARTING, State.SAVED}),
}


def allowed(present: State, wanted: State) -> bool:
    """Whether a TD may go from ``present`` to ``wanted`` in one step."""
    return wanted in _NEXT[present]


def require(name: str, operation: str, present: State, needed: frozenset[State], hint: str | None = None) -> None:
    """Raise StateError unless ``present`` is one of ``needed``; without a ``hint`` it says how to come there."""
    if present not in needed:
        words = " or ".join(sorted(state.value for state in needed))
        raise StateError(f"TD {name}", operation, present.value, words, hint=hint or _way(name, present, needed))


def _way(name: str, present: State, needed: frozenset[State]) -> str:
    """The command that brings a TD from ``present`` to one of ``needed``, or tells more of it."""
    if present is State.PAUSED and State.RUNNING in needed:
        verb = "resume"
    elif present is State.RUNNING and needed == {State.PAUSED}:
        verb = "suspend"
    elif present in ACTIVE and not needed & ACTIVE:
        verb = "stop"
    elif present in STARTABLE and needed & ACTIVE:
        verb = "start"
    else:
        verb = "show"
    return f"tdxctl td {verb} {name}"
