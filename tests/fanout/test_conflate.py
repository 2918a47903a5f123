"""The policy `latest`, pure: the newest per value in order, and a hole for every run that was left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hub.fanout.conflate import Newest, conflated
from hub.topics.publication import Publication
from hub.topics.splice import Hole


def kept(*seqs: int) -> Newest:
    """The newest events, one per value."""
    return {index: Publication("e", seq, 0, b"") for index, seq in enumerate(seqs)}


def test_holes_lie_between_what_is_kept() -> None:
    found = [
        item.seq if isinstance(item, Publication) else (item.from_, item.to) for item in conflated(kept(9, 4, 5), 2, 12)
    ]
    assert found == [(3, 3), 4, 5, (6, 8), 9, (10, 12)]


def test_nothing_missed_is_nothing() -> None:
    assert list(conflated({}, 7, 7)) == []
    assert list(conflated({}, 7, 9)) == [Hole("overflow", 8, 9)]


@given(after=st.integers(0, 50), seqs=st.sets(st.integers(51, 90)), top=st.integers(90, 99))
def test_every_number_is_there_once(after: int, seqs: set[int], top: int) -> None:
    numbers: list[int] = []
    for item in conflated(kept(*seqs), after, top):
        if isinstance(item, Publication):
            assert item.seq in seqs
            numbers.append(item.seq)
        else:
            assert item.reason == "overflow"
            numbers += range(item.from_, item.to + 1)
    assert numbers == list(range(after + 1, top + 1))
