"""Cases: history and live events put together, and the plan of a recovery."""

from __future__ import annotations

from hub.protocol.frames import Position
from hub.topics.publication import Publication, TopicState
from hub.topics.splice import plan_recovery, splice
from tests.bench.timer import Case, Run

EVENTS = 500


async def _splice() -> Run:
    buffered = [Publication("e1", seq, 1, b"{}") for seq in range(1, EVENTS + 1)]
    middle = Position("e1", EVENTS // 2)

    def run() -> object:
        return splice(middle, buffered)

    assert run() == (buffered[EVENTS // 2 :], True)
    return run


async def _plan() -> Run:
    state = TopicState("e2", 1000, 501, "e1", 700, "server")
    asked = (Position("e2", 990), Position("e2", 10), Position("e1", 600), Position("e0", 5), "now", "start", 100)

    def run() -> None:
        for one in asked:
            plan_recovery(one, state, 600)

    assert [plan_recovery(one, state).after for one in asked] == [990, 500, 600, 500, 1000, 500, 900]
    return run


def cases() -> list[Case]:
    """All of this module."""
    return [
        Case(f"splice: {EVENTS} buffered, half of them repeats", "event", EVENTS, _splice),
        Case("splice: plan of a recovery", "plan", 7, _plan),
    ]
