"""What one client saw of one topic, checked against PROTOCOL.md while it comes: positions, repeats, gaps.

What a single client cannot know (whether an event existed that it never heard of) is for ``tests.system.judge``.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

_MOST_COMPLAINTS = 5  # per witness: the first ones tell what happened, the rest is noise


class Place(NamedTuple):
    """A position."""

    epoch: str
    seq: int


class Gap(NamedTuple):
    """An announced gap; ``first`` and ``last`` are 0 when the epoch changed."""

    epoch: str
    reason: str
    first: int
    last: int


class Witness:
    """One client's record of one topic, over all its connections."""

    def __init__(self, who: str, topic: str) -> None:
        self.who = who
        self.topic = topic
        self.epoch = ""
        self.seq = 0
        self.seen: dict[Place, int] = {}
        """Number of the event by position."""
        self.numbers: set[int] = set()
        self.gaps: list[Gap] = []
        self.counts: Counter[str] = Counter()
        """``events``, ``lost``, ``duplicated``, ``out of order``, ``repeats`` (allowed ones), ``again`` (new epoch)."""
        self.complaints: list[str] = []
        self._known: Place | None = None
        self._next: int | None = None
        self._may_repeat = False
        self._owed = False
        self._joined = False
        self._epochs: dict[str, set[int]] = {}

    @property
    def known(self) -> Place | None:
        """Where this client is for certain: what it would give as ``since``, or acknowledge."""
        return self._known

    @property
    def subscribed(self) -> bool:
        """Whether the connection it has now is subscribed."""
        return self._joined

    # --- from the client

    def joined(self, epoch: str, seq: int, recovered: bool, *, by_session: bool) -> None:
        """A verdict. ``by_session``: the session's position was used, so what was seen since may come again."""
        first = self._known is None
        self._joined = True
        self._owed = not recovered
        self._may_repeat = by_session
        self._next = None if by_session else self.seq + 1
        if first:
            self.epoch, self.seq, self._next = epoch, seq, seq + 1
            self._known = Place(epoch, seq)
            if not recovered:
                self._complain("not recovered, but nothing was asked for")
        elif recovered and epoch != self.epoch and self._known is not None and epoch != self._known.epoch:
            self._complain(f"recovered in epoch {epoch}, but it was in {self.epoch}")
        if not first and self._known is not None and self._known.epoch != self.epoch:
            # It heard of a new epoch and then nothing: it asked with the position before.
            self.epoch, self.seq = self._known
            self._next = None if by_session else self.seq + 1

    def left(self) -> None:
        """An answered ``unsubscribe``, or the end of the connection."""
        self._joined = False

    def event(self, seq: int, number: int) -> None:
        """An event frame."""
        self.counts["events"] += 1
        if not self._joined:
            self._complain(f"event {seq} without a subscription")
        if self._owed:
            self._complain(f"event {seq} before the gap that the verdict promised")
            self._owed = False
        self._check_order(seq)
        self._next = seq + 1
        place = Place(self.epoch, seq)
        if place in self.seen:
            self._check_repeat(place, number)
        else:
            self._take(place, number)
        if self._known is None or self._known.epoch != self.epoch or seq > self._known.seq:
            self._known = place
        self.seq = max(self.seq, seq)

    def gap(self, epoch: str, reason: str, first: int, last: int) -> None:
        """A gap frame."""
        self.gaps.append(Gap(epoch, reason, first, last))
        if not self._joined:
            self._complain(f"gap {reason} without a subscription")
        self._owed = False
        if reason == "epoch_changed":
            self._change_epoch(epoch, first)
        elif epoch != self.epoch:
            self._complain(f"gap {reason} of epoch {epoch} while in {self.epoch}")
        elif (self._next is not None and first != self._next) or first > self.seq + 1 or last < first:
            self._complain(f"gap {reason} from {first} to {last}, but {self._next or self.seq + 1} comes next")
        else:
            self._next = last + 1
            self.seq = max(self.seq, last)
            self._known = Place(epoch, self.seq)

    def covers(self, epoch: str, seq: int) -> bool:
        """Whether a gap with a range announced that this event will not come."""
        return any(gap.epoch == epoch and gap.first <= seq <= gap.last for gap in self.gaps)

    # --- inside

    def _change_epoch(self, epoch: str, first: int) -> None:
        if first:
            self._complain("gap epoch_changed with a range")
        if epoch == self.epoch and not self._may_repeat:
            self._complain(f"gap epoch_changed, but the epoch is {epoch} as before")
        if epoch != self.epoch:
            # From where it goes on is known to the hub alone; the judge looks at what came of it.
            self.epoch, self.seq = epoch, 0
        self._next = None

    def _check_order(self, seq: int) -> None:
        expected = self._next
        if expected is None:
            started = self._known is not None and self._known.epoch == self.epoch
            if started and seq > self.seq + 1:
                self._fault("lost", seq - self.seq - 1, f"event {seq} follows {self.seq}")
        elif seq > expected:
            self._fault("lost", seq - expected, f"event {seq} follows {expected - 1}")
        elif seq < expected:
            kind = "duplicated" if Place(self.epoch, seq) in self.seen else "out of order"
            self._fault(kind, 1, f"event {seq} follows {expected - 1}")

    def _check_repeat(self, place: Place, number: int) -> None:
        if self.seen[place] != number:
            self._complain(f"event {place.seq} is number {number}, and was {self.seen[place]} before")
        if self._may_repeat:
            self.counts["repeats"] += 1

    def _take(self, place: Place, number: int) -> None:
        self.seen[place] = number
        in_epoch = self._epochs.setdefault(place.epoch, set())
        if number in in_epoch:
            self._fault("duplicated", 1, f"number {number} stands at two positions of one epoch, one is {place.seq}")
        elif number in self.numbers:
            self.counts["again"] += 1
        in_epoch.add(number)
        self.numbers.add(number)

    def _fault(self, kind: str, count: int, text: str) -> None:
        self.counts[kind] += count
        self._complain(f"{kind}: {text} (epoch {self.epoch})")

    def _complain(self, text: str) -> None:
        self.counts["complaints"] += 1
        if len(self.complaints) < _MOST_COMPLAINTS:
            self.complaints.append(f"{self.who} {self.topic}: {text}")
