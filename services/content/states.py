"""The states of a stream, and what may be asked of it in each: a table, no I/O."""

from __future__ import annotations

from enum import StrEnum

from hub.api import ErrorCode, HubError


class State(StrEnum):
    """Where a stream stands. The value is what stands on the wire and in the database."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Verb(StrEnum):
    """What its owner may ask of it: the method's name after ``content.``."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    SPEED = "speed"


FINISHED = frozenset({State.COMPLETE, State.CANCELLED, State.FAILED})

# (state, verb) -> state. What is not here is a conflict. Asking again for what is so already is none.
_NEXT: dict[tuple[State, Verb], State] = {
    (State.RUNNING, Verb.PAUSE): State.PAUSED,
    (State.PAUSED, Verb.PAUSE): State.PAUSED,
    (State.RUNNING, Verb.RESUME): State.RUNNING,
    (State.PAUSED, Verb.RESUME): State.RUNNING,
    (State.RUNNING, Verb.CANCEL): State.CANCELLED,
    (State.PAUSED, Verb.CANCEL): State.CANCELLED,
    (State.CANCELLED, Verb.CANCEL): State.CANCELLED,
    (State.RUNNING, Verb.SPEED): State.RUNNING,
    (State.PAUSED, Verb.SPEED): State.PAUSED,
}


def after(state: State, verb: Verb) -> State:
    """The state that follows. Raises ``conflict`` with the state when ``verb`` makes no sense in it."""
    found = _NEXT.get((state, verb))
    if found is None:
        raise HubError(
            ErrorCode.CONFLICT,
            f"the stream is {state}; only one that runs or is paused can be changed",
            details={"state": str(state)},
        )
    return found
