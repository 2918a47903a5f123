"""Recovery as pure functions: where a replay begins, what is announced, how history and live events become one run.

The rules are those of PROTOCOL sections 3 (verdict) and 5 (recovery). Nothing here does I/O or knows a subscriber.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol, TypeVar

from msgspec import Struct

from hub.protocol.frames import GapReason, Position

Asked = Position | Literal["start", "now"] | int
"""What a subscriber wants: after a position, everything kept, live only, or the last N."""


class State(Protocol):
    """The part of a topic's position record that decides (``hub.fanout.broker.TopicState``)."""

    @property
    def epoch(self) -> str: ...
    @property
    def top(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def previous_epoch(self) -> str: ...
    @property
    def base(self) -> int: ...


class Hole(Struct, frozen=True):
    """Events that will not come: ``from_`` to ``to``, or everything before (both 0) when the epoch changed."""

    reason: GapReason
    from_: int = 0
    to: int = 0


class Plan(Struct, frozen=True):
    """How a subscription goes on: announce ``holes``, then deliver everything with ``seq`` > ``after``."""

    after: int
    recovered: bool
    holes: tuple[Hole, ...] = ()


def plan_recovery(asked: Asked, state: State, first_permitted: int = 1) -> Plan:
    """Where delivery goes on and what is missing. ``first_permitted``: the oldest ``seq`` this principal may see."""
    oldest = min(max(state.first, first_permitted), state.top + 1)
    if asked == "now":
        return Plan(state.top, recovered=True)
    if asked == "start":
        return Plan(oldest - 1, recovered=True)
    if isinstance(asked, int):
        return Plan(max(state.top - asked, oldest - 1), recovered=True)
    if asked.epoch == state.epoch and asked.seq <= state.top:
        return _same_epoch(asked.seq, state, first_permitted, oldest)
    if asked.epoch == state.previous_epoch and asked.epoch:
        after = max(min(asked.seq, state.base), oldest - 1)
    else:
        after = oldest - 1
    return Plan(after, recovered=False, holes=(Hole("epoch_changed"),))


def _same_epoch(seq: int, state: State, first_permitted: int, oldest: int) -> Plan:
    holes = []
    kept_from = min(state.first, state.top + 1)
    if seq + 1 < kept_from:
        holes.append(Hole("expired", seq + 1, kept_from - 1))
        seq = kept_from - 1
    if seq + 1 < oldest and oldest == first_permitted:
        holes.append(Hole("not_permitted", seq + 1, oldest - 1))
        seq = oldest - 1
    elif seq + 1 < oldest:
        # Permitted only beyond the top: what is kept now may not be seen at all.
        holes.append(Hole("not_permitted", seq + 1, state.top))
        seq = state.top
    return Plan(seq, recovered=not holes, holes=tuple(holes))


class Numbered(Protocol):
    """Anything with a position."""

    @property
    def epoch(self) -> str: ...
    @property
    def seq(self) -> int: ...


AnyNumbered = TypeVar("AnyNumbered", bound=Numbered)


def splice(position: Position, buffered: Iterable[AnyNumbered]) -> tuple[list[AnyNumbered], bool]:
    """The events of ``buffered`` that go on after ``position`` without a hole, and whether nothing else was left.

    ``buffered`` is what arrived live while history was read up to ``position``. Repeats are dropped. False means that a
    hole or another epoch begins after the run: history must be read again from the end of the run.
    """
    run: list[AnyNumbered] = []
    seq = position.seq
    for event in buffered:
        if event.epoch != position.epoch or event.seq > seq + 1:
            return run, False
        if event.seq == seq + 1:
            run.append(event)
            seq += 1
    return run, True
