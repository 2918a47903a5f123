"""What one person got of one topic: in order, each event once, no hole that no gap announced. Pure.

A short and independent reading of PROTOCOL sections 3 to 5; the strict judge of the fault oracle is in the tests.
"""

from __future__ import annotations

from typing import Any

_ANY = 2**62


class Violation(Exception):
    """The hub broke its contract towards this person."""


class Record:
    """One topic over any number of connections. ``filtered``: numbers that do not match may be absent."""

    __slots__ = ("_highest", "_lowest", "_owed", "epoch", "filtered", "repeats", "seen", "top", "topic")

    def __init__(self, topic: str, *, filtered: bool = False) -> None:
        self.topic = topic
        self.filtered = filtered
        self.epoch = ""
        self.seen = 0
        """Everything up to here came or will not come; what to resume from."""
        self.top = 0
        """The newest event when the topic was last joined."""
        self.repeats = 0
        # The next number lies between these; they are equal unless only the hub knows where it begins.
        self._lowest = self._highest = 1
        self._owed = False

    @property
    def position(self) -> dict[str, Any] | None:
        """For ``since`` and ``ack``; None: nothing is known yet."""
        return {"epoch": self.epoch, "seq": self.seen} if self.epoch else None

    @property
    def caught_up(self) -> bool:
        """Whether everything has come that was there when the topic was joined; of a filtered one nobody can tell."""
        return not self._owed and (self.filtered or self.seen >= self.top)

    def joined(self, verdict: dict[str, Any], since: dict[str, Any] | None, *, by_session: bool = False) -> None:
        """A verdict that is ok. ``since``: the position asked for, None: live only.

        ``by_session``: the hub knew the position; it may lie before ours, and what came between comes again.
        """
        epoch, self.top = verdict["epoch"], verdict["seq"]
        self._owed = not verdict["recovered"]
        if since is None and not by_session:
            self.epoch, self.seen = epoch, self.top
            self._expect(self.top + 1)
            if self._owed:
                raise Violation("not recovered, although nothing was asked for")
        elif by_session:
            self._expect(1, self.seen + 1)
        elif since is not None:
            self._expect(since["seq"] + 1)
        if not self._owed and epoch != self.epoch:
            raise Violation("recovered across a change of epoch")

    def event(self, seq: int) -> bool:
        """An event with a number came. True: it is new, False: it came before on another connection."""
        if self._owed:
            raise Violation(f"event {seq} before the gap that the verdict promised")
        lowest, highest = self._lowest, self._highest
        if seq < lowest:
            raise Violation(f"event {seq} again or out of order, {lowest} was due")
        self._expect(seq + 1)
        new = seq > self.seen
        self.seen = max(self.seen, seq)
        if seq > highest and not self.filtered:
            # Said once: what follows is judged from here on.
            raise Violation(f"events {highest} to {seq - 1} are missing without a gap")
        self.repeats += not new
        return new

    def gap(self, frame: dict[str, Any]) -> None:
        """A gap that the hub announced: no violation, but it must begin where we are."""
        self._owed = False
        last = frame.get("to")
        if last is None:
            self.epoch, self.seen = frame["epoch"], 0
            self._expect(1, _ANY)
            return
        first, lowest, highest = frame["from"], self._lowest, self._highest
        self.seen = max(self.seen, last)
        self._expect(last + 1)
        if not self.filtered and not lowest <= first <= highest:
            raise Violation(f"a gap from {first}, but {lowest} was due")

    def _expect(self, lowest: int, highest: int | None = None) -> None:
        self._lowest, self._highest = lowest, lowest if highest is None else highest

    def skipped_to(self, frame: dict[str, Any]) -> None:
        """A ``position`` frame."""
        if not self.filtered:
            raise Violation("a position on a subscription without a filter")
        if frame["epoch"] != self.epoch or frame["seq"] < self.seen:
            raise Violation(f"position {frame['epoch']}:{frame['seq']} is behind {self.epoch}:{self.seen}")
        self.seen = frame["seq"]
        self._expect(self.seen + 1)
