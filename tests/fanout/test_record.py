"""The judge judged: each breach of the contract that ``Record`` must see, and what it must let pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hub.protocol.frames import Event, Gap, Position, PositionFrame, Verdict
from tests.support.record import Asked, Record, Violation

Step = Callable[[Record], None]


def event(seq: int | None) -> Step:
    return lambda record: record.take(Event("a:b", "id", "name", 1, None, seq))


def gap(reason: str, from_: int | None = None, to: int | None = None, epoch: str = "e") -> Step:
    return lambda record: record.take(Gap("a:b", epoch, reason, from_, to))  # type: ignore[arg-type]


def position(seq: int, epoch: str = "e") -> Step:
    return lambda record: record.take(PositionFrame("a:b", epoch, seq))


def joined(asked: Asked, seq: int = 5, *, recovered: bool = True, epoch: str = "e") -> Step:
    return lambda record: record.joined(Verdict("a:b", True, epoch, seq, recovered), asked)


def left() -> Step:
    return lambda record: record.left()


def ends(top: int, epoch: str = "e") -> Step:
    return lambda record: record.must_be_complete(epoch, top)


SINCE_3 = joined(Position("e", 3))
LOST_1_TO_3 = joined(Position("e", 0), recovered=False)
OTHER = joined(Position("d", 3), recovered=False)


@pytest.mark.parametrize(
    "steps",
    [
        [joined("now"), event(6), event(7), ends(7)],
        [SINCE_3, event(4), event(5), event(None), event(6), ends(6)],
        [LOST_1_TO_3, gap("expired", 1, 3), event(4), event(5), ends(5)],
        [LOST_1_TO_3, gap("expired", 1, 2), gap("not_permitted", 3, 3), event(4), event(5), ends(5)],
        [OTHER, gap("epoch_changed"), event(3), event(4), event(5), ends(5)],
        [joined(Position("e", 9), recovered=False), gap("epoch_changed"), event(1)],
        [joined("start"), event(3), event(4)],
        [joined(2), event(4), event(5), event(6)],
        [joined("now"), event(6), gap("overflow", 7, 9), event(10), ends(10)],
        [joined("now"), event(6), gap("epoch_changed", epoch="f"), event(2), event(3), ends(3, "f")],
        [joined("now"), event(6), left(), joined("now", 6), event(7)],
        [joined("now"), event(6), left(), SINCE_3, event(4)],
        [joined("now", 0, epoch=""), event(None), gap("overflow", epoch=""), event(None)],
    ],
)
def test_what_the_contract_allows(steps: list[Step]) -> None:
    record = Record("a:b")
    for step in steps:
        step(record)


@pytest.mark.parametrize(
    "steps",
    [
        [event(1)],
        [event(None)],
        [gap("expired", 1, 2)],
        [joined("now"), event(6), left(), event(7)],
        [joined("now"), left(), event(None)],
        [joined("now"), joined("now")],
        [joined("now"), event(5)],
        [joined("now"), event(6), event(6)],
        [joined("now"), event(6), event(7), event(6)],
        [joined("now"), event(7)],
        [joined("now"), event(6), event(8)],
        [joined("now", recovered=False)],
        [joined("start"), event(7)],
        [joined(2), event(3)],
        [joined(2), event(7)],
        [SINCE_3, event(5)],
        [SINCE_3, gap("expired", 5, 6)],
        [SINCE_3, gap("expired", 3, 6)],
        [SINCE_3, gap("expired", 4, 3)],
        [SINCE_3, gap("expired")],
        [SINCE_3, gap("expired", 4, 5, epoch="f")],
        [SINCE_3, gap("epoch_changed")],
        [SINCE_3, gap("epoch_changed", 4, 5, epoch="f")],
        [SINCE_3, position(4)],
        [LOST_1_TO_3, event(4)],
        [LOST_1_TO_3, ends(5)],
        [LOST_1_TO_3, gap("epoch_changed", epoch="f")],
        [LOST_1_TO_3, gap("expired", 1, 3), event(5)],
        [LOST_1_TO_3, gap("expired", 1, 3), event(3)],
        [joined(Position("d", 3))],
        [OTHER, event(4)],
        [OTHER, gap("expired", 4, 5)],
        [OTHER, gap("epoch_changed", epoch="f")],
        [OTHER, gap("epoch_changed"), event(4), event(6)],
        [joined("now"), event(6), ends(7)],
        [joined("now"), event(6), ends(5)],
        [joined("now"), event(6), ends(6, "f")],
    ],
)
def test_each_breach_is_seen_at_its_last_step(steps: list[Step]) -> None:
    record = Record("a:b")
    for step in steps[:-1]:
        step(record)
    with pytest.raises(Violation):
        steps[-1](record)


@pytest.mark.parametrize(
    ("steps", "fine"),
    [
        ([joined("now"), event(8), position(9), event(10)], True),
        ([joined("now"), event(8), event(12)], False),  # 10 matches
        ([joined("now"), position(9)], False),
        ([joined("now"), event(8), position(7)], False),
        ([joined("now"), event(8), position(9, "f")], False),
        ([joined("now"), event(8), ends(9)], True),
        ([joined("now"), ends(9)], False),
    ],
)
def test_a_filtered_client_misses_only_what_does_not_match(steps: list[Step], fine: bool) -> None:
    record = Record("a:b", matches=lambda _, seq: seq % 2 == 0 and seq > 6)
    for step in steps[:-1]:
        step(record)
    if fine:
        steps[-1](record)
    else:
        with pytest.raises(Violation):
            steps[-1](record)


def test_what_the_client_may_say_next() -> None:
    record = Record("a:b")
    assert (record.resumable, record.acknowledgeable) == (None, None)
    joined("now")(record)
    assert record.acknowledgeable == Position("e", 5)
    event(6)(record)
    assert record.resumable == record.acknowledgeable == Position("e", 6)
    gap("epoch_changed", epoch="f")(record)
    assert (record.resumable, record.acknowledgeable) == (Position("e", 6), None)
