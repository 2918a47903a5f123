"""The load test's judge is judged: what the contract allows passes, each way to break it is seen."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.people.record import Record, Violation

E1 = {"epoch": "e1", "seq": 4}


def verdict(top: int, *, epoch: str = "e1", recovered: bool = True) -> dict[str, Any]:
    return {"ok": True, "epoch": epoch, "seq": top, "recovered": recovered}


def live(top: int = 4, *, filtered: bool = False) -> Record:
    record = Record("events:guest", filtered=filtered)
    record.joined(verdict(top), None)
    return record


def take(record: Record, *seqs: int) -> list[bool]:
    return [record.event(seq) for seq in seqs]


def test_live_from_the_top() -> None:
    record = live(4)
    assert record.caught_up
    assert take(record, 5, 6, 7) == [True] * 3
    assert record.position == {"epoch": "e1", "seq": 7}


@pytest.mark.parametrize("seqs", [(4,), (6,), (5, 5), (5, 7), (5, 6, 5)])
def test_again_out_of_order_or_missing(seqs: tuple[int, ...]) -> None:
    with pytest.raises(Violation):
        take(live(4), *seqs)


def test_a_hole_is_said_once() -> None:
    record = live(4)
    with pytest.raises(Violation, match="5 to 6"):
        record.event(7)
    assert take(record, 8, 9) == [True, True]


def test_back_with_a_position() -> None:
    record = live(4)
    record.joined(verdict(6), E1)
    assert not record.caught_up
    assert take(record, 5, 6) == [True, True]
    assert record.caught_up
    record.joined(verdict(9), record.position)
    with pytest.raises(Violation):
        record.event(8)


def test_back_by_the_session_repeats_but_leaves_nothing_out() -> None:
    record = live(4)
    take(record, 5, 6)
    record.joined(verdict(7), None, by_session=True)
    assert take(record, 5, 6, 7) == [False, False, True]
    assert record.repeats == 2
    with pytest.raises(Violation):
        record.event(6)
    record.joined(verdict(9), None, by_session=True)
    with pytest.raises(Violation):
        record.event(9)


def test_a_promised_gap_must_come_and_fit() -> None:
    record = live(4)
    record.joined(verdict(9, recovered=False), E1)
    with pytest.raises(Violation, match="promised"):
        record.event(8)
    record.gap({"from": 5, "to": 7, "epoch": "e1"})
    assert take(record, 8, 9) == [True, True]
    with pytest.raises(Violation, match="a gap from 12"):
        record.gap({"from": 12, "to": 13, "epoch": "e1"})


def test_another_epoch_needs_a_gap() -> None:
    record = live(4)
    with pytest.raises(Violation, match="epoch"):
        record.joined(verdict(9, epoch="e2"), E1)
    record.joined(verdict(9, epoch="e2", recovered=False), E1)
    record.gap({"epoch": "e2", "reason": "epoch_changed"})
    assert take(record, 3, 4) == [True, True]
    with pytest.raises(Violation):
        record.event(6)


def test_a_filter_leaves_numbers_out_but_keeps_the_order() -> None:
    record = live(4, filtered=True)
    assert take(record, 6, 9) == [True, True]
    record.skipped_to({"epoch": "e1", "seq": 20})
    assert record.position == {"epoch": "e1", "seq": 20}
    for broken in (lambda: record.event(20), lambda: record.skipped_to({"epoch": "e1", "seq": 5})):
        with pytest.raises(Violation):
            broken()


def test_positions_are_for_filtered_subscriptions() -> None:
    with pytest.raises(Violation):
        live().skipped_to({"epoch": "e1", "seq": 5})
