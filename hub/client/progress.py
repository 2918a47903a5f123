"""Where a client stands in one topic: which event is new, which a repeat, which a hole. Pure; no I/O, no buffers.

Event frames carry ``seq`` but not ``epoch``; the epoch is the one of the last verdict or gap.
"""

from __future__ import annotations

from enum import Enum

from hub.client.errors import ProtocolViolation
from hub.protocol.frames import Position


class Outcome(Enum):
    """What to do with something that arrived."""

    NEW = "new"
    REPEAT = "repeat"


class Progress:
    """Keeps the guarantee of one topic: every (epoch, seq) once, in order, and no hole that no gap announced.

    ``position`` is what to resume from: the last event or range that was taken in, or None when nothing is known yet.
    A filtered topic may leave numbers out; there only the order is checked.
    """

    __slots__ = ("_ceiling", "_filtered", "_floor", "_next", "_owed", "epoch", "position", "received")

    def __init__(self, *, filtered: bool = False) -> None:
        self._filtered = filtered
        self.position: Position | None = None
        self.epoch = ""
        self.received = 0
        """Highest number seen on this connection, repeats included: what may be acknowledged on it."""
        self._floor = 0
        self._next: int | None = None  # None: whatever comes next is the start
        self._ceiling: int | None = None  # the highest number that may be that start
        self._owed = False  # the verdict said that something is missing and no gap has said what

    def has_left(self, asked: Position | None) -> bool:
        """Whether the older connection of a planned move has led beyond what a verdict about ``asked`` speaks of.

        Numbers of two epochs cannot be compared, and one who asked without a position cannot tell where it begins.
        """
        return self.position is not None and (asked is None or asked.epoch != self.position.epoch)

    def joined(self, asked: Position | None, *, epoch: str, top: int, recovered: bool, live_only: bool) -> None:
        """A verdict came. ``asked`` is the position that was asked for, ``live_only`` that nothing older was wanted.

        Not called for what it ``has_left``: that is asked for again.
        """
        self._owed = not recovered
        self._ceiling = top + 1
        if asked is None:
            self.epoch, self.received, self._floor, self._next = epoch, 0, 0, None
            if epoch and (live_only or top == 0):
                self._reached(top)
            return
        self.received = asked.seq if asked.epoch == epoch else 0
        if asked.epoch != epoch:
            self.epoch, self._floor, self._next = epoch, 0, None
        elif epoch != self.epoch or self._next is None:
            self.epoch = epoch
            self._reached(max(asked.seq, self.position.seq if self.position is not None else 0))
        # Else nothing changes: after a planned move the old connection may have brought us beyond `asked` already.

    def event(self, seq: int) -> Outcome:
        """An event with this number came. Raises ``ProtocolViolation`` on a hole; then nothing has changed."""
        expected = self._next
        if seq <= self._floor:
            self.received = max(self.received, seq)
            return Outcome.REPEAT
        if self._owed:
            raise ProtocolViolation(f"event {seq} came before the gap that the verdict promised")
        if not self._filtered:
            if expected is not None and seq != expected:
                raise ProtocolViolation(f"event {seq} came where {expected} was due, and no gap announced that")
            if expected is None and self._ceiling is not None and seq > self._ceiling:
                raise ProtocolViolation(f"event {seq} came first, but the topic's top was {self._ceiling - 1}")
        self._reached(seq)
        return Outcome.NEW

    def gap(self, epoch: str, first: int | None, last: int | None) -> Outcome:
        """A gap was announced. Raises ``ProtocolViolation`` when it leaves a hole before itself."""
        if last is None:
            # No range: start over. `position` stays, because only it tells the hub where this client came from.
            self._ceiling = self._ceiling if epoch == self.epoch and self._owed else None
            self.epoch, self._floor, self._next, self.received = epoch, 0, None, 0
            self._owed = False
            return Outcome.NEW
        if epoch != self.epoch:
            self.epoch, self._floor, self._next, self._ceiling = epoch, 0, None, None
        if last <= self._floor:
            self._owed = False
            return Outcome.REPEAT
        if not self._filtered and first is not None and self._next is not None and first > self._next:
            raise ProtocolViolation(f"a gap from {first} came where {self._next} was due")
        self._owed = False
        self._reached(last)
        return Outcome.NEW

    def adopt(self, epoch: str, seq: int) -> Outcome:
        """A ``position`` frame: everything up to there was delivered or did not match the filter."""
        if epoch != self.epoch or seq <= self._floor:
            return Outcome.REPEAT
        if not self._filtered:
            raise ProtocolViolation(f"position {seq} skips events of a subscription without a filter")
        self._reached(seq)
        return Outcome.NEW

    def _reached(self, seq: int) -> None:
        self._floor = seq
        self._next = seq + 1
        self.received = max(self.received, seq)
        self.position = Position(self.epoch, seq)
