"""The judge of what one client got of one topic: PROTOCOL sections 3 to 6 as a checker that knows only frames.

Feed a ``Record`` what the client saw, in order. It raises ``Violation`` at the first frame that breaks the contract:
something before the verdict or after the reply to ``unsubscribe``; an event again, out of order or after a hole that no
gap announced; a gap whose range is not exactly what is missing; a promise of the verdict (``recovered``) not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NoReturn

from hub.protocol.frames import Event, Gap, Position, PositionFrame, Verdict

Asked = Position | Literal["start", "now"] | int
Matches = Callable[[str, int], bool]
"""Whether the event (epoch, seq) passes the subscription's filter."""

_ANY = 2**62


class Violation(AssertionError):
    """The hub broke the contract."""


class Record:
    """One client's view of one topic over any number of joins.

    ``matches``: given for a filtered subscription; numbers that do not match may be absent.
    """

    def __init__(self, topic: str, matches: Matches | None = None) -> None:
        self.topic = topic
        self.matches = matches
        self.joined_now = False
        self.epoch = ""
        self.events: list[tuple[str, int]] = []
        """Every numbered event that came, over all joins."""
        self.ephemeral = 0
        self.gaps: list[Gap] = []
        self._lowest = self._highest = 1
        """The next event's ``seq`` lies between these; both are equal unless the client cannot know where it begins."""
        self._owed: Literal["", "range", "epoch"] = ""
        """The gap that a verdict with ``recovered: false`` has promised as the very next frame."""
        self._resumable: Position | None = None

    # --- what the client asked and was answered

    def joined(self, verdict: Verdict, asked: Asked) -> None:
        """A verdict with ``ok: true`` on a subscription that asked for ``asked``."""
        if self.joined_now:
            self._fail("a second verdict without an unsubscribe between")
        if not isinstance(verdict.epoch, str) or not isinstance(verdict.seq, int):
            self._fail("a verdict without a position")
        self.joined_now = True
        self.epoch, top = verdict.epoch, verdict.seq
        self._owed = ""
        if asked == "now":
            self._expect(top + 1)
        elif asked == "start":
            self._expect(1, top + 1)
        elif isinstance(asked, int):
            self._expect(max(1, top - asked + 1), top + 1)
        elif verdict.epoch == "":
            self._expect(1)
        else:
            self._joined_since(verdict, asked, top)
        if not isinstance(asked, Position) and verdict.recovered is not True:
            self._fail(f"asked for {asked!r} and not recovered")

    def _joined_since(self, verdict: Verdict, asked: Position, top: int) -> None:
        self._expect(asked.seq + 1)
        if asked.epoch == verdict.epoch and asked.seq <= top:
            self._owed = "" if verdict.recovered else "range"
        elif verdict.recovered:
            self._fail(f"recovered from {asked}, which is not of this epoch or beyond its top {top}")
        else:
            self._owed = "epoch"

    def left(self) -> None:
        """The reply to ``unsubscribe`` came, or the connection is gone: nothing may follow."""
        self.joined_now = False

    # --- what came

    def take(self, frame: Event | Gap | PositionFrame) -> None:
        """A frame of this topic."""
        if not self.joined_now:
            self._fail(f"{frame} before a verdict or after the reply to unsubscribe")
        if isinstance(frame, Gap):
            self._take_gap(frame)
        elif self._owed:
            self._fail(f"{frame} before the gap that recovered: false promised")
        elif isinstance(frame, PositionFrame):
            self._take_position(frame)
        else:
            self._take_event(frame)

    def _take_event(self, event: Event) -> None:
        if event.seq is None:
            self.ephemeral += 1
            return
        if event.seq < self._lowest:
            self._fail(f"event {event.seq} again or out of order: at least {self._lowest} is due")
        self._pass_over(event.seq, "event")
        self.events.append((self.epoch, event.seq))
        self._expect(event.seq + 1)
        self._resumable = Position(self.epoch, event.seq)

    def _take_gap(self, gap: Gap) -> None:
        self.gaps.append(gap)
        if gap.reason == "epoch_changed":
            if gap.from_ is not None or gap.to is not None:
                self._fail(f"a range in {gap}")
            if self._owed == "range" or (gap.epoch == self.epoch) is not (self._owed == "epoch"):
                self._fail(f"{gap} does not begin another epoch than {self.epoch}")
            self._owed = ""
            self.epoch = gap.epoch
            self._expect(1, _ANY)
            return
        if gap.epoch == "" and gap.from_ is None and gap.reason == "overflow":
            return  # a kind without numbers
        if self._owed == "epoch":
            self._fail(f"{gap} where epoch_changed is owed")
        if gap.epoch != self.epoch:
            self._fail(f"{gap} in epoch {self.epoch}")
        if gap.from_ is None or gap.to is None or gap.to < gap.from_:
            self._fail(f"no range in {gap}")
        if gap.from_ < self._lowest:
            self._fail(f"{gap} covers what came already: at least {self._lowest} is due")
        self._pass_over(gap.from_, "gap")
        self._owed = ""
        self._expect(gap.to + 1)
        self._resumable = Position(self.epoch, gap.to)

    def _take_position(self, frame: PositionFrame) -> None:
        if self.matches is None:
            self._fail("a position without a filter")
        if frame.epoch != self.epoch or frame.seq < self._lowest - 1:
            self._fail(f"{frame} goes back; at ({self.epoch}, {self._lowest - 1})")
        self._pass_over(frame.seq + 1, "position")
        self._expect(frame.seq + 1)
        self._resumable = Position(self.epoch, frame.seq)

    # --- where the client stands

    @property
    def resumable(self) -> Position | None:
        """What the client would give as ``since``: the last position that it saw, ever."""
        return self._resumable

    @property
    def acknowledgeable(self) -> Position | None:
        """What the client may acknowledge in this join; None while it cannot know its number."""
        if not self.joined_now or self._owed or self._lowest != self._highest:
            return None
        return Position(self.epoch, self._lowest - 1)

    def stands_at(self, position: Position) -> None:
        """The hub claims that everything up to there came, was announced, or did not match, and nothing beyond."""
        if self._owed:
            self._fail(f"{position} before the gap that recovered: false promised")
        if position.epoch != self.epoch or position.seq < self._lowest - 1:
            self._fail(f"{position} is not where it stands: ({self.epoch}, {self._lowest - 1})")
        self._pass_over(position.seq + 1, "a claim")

    def must_be_complete(self, epoch: str, top: int) -> None:
        """Everything up to the topic's position has come or was announced."""
        if self._owed:
            self._fail("the gap that recovered: false promised never came")
        if self.epoch != epoch:
            self._fail(f"ends in epoch {self.epoch}; the topic's is {epoch}")
        if self._lowest > top + 1:
            self._fail(f"ends at {self._lowest - 1}, beyond the top {top}")
        if self._highest == _ANY and self.matches is None:
            return  # an epoch has begun and no event has come in it: the client cannot know its number
        self._pass_over(top + 1, "end")

    # --- inside

    def _expect(self, lowest: int, highest: int | None = None) -> None:
        self._lowest, self._highest = lowest, lowest if highest is None else highest

    def _pass_over(self, seq: int, what: str) -> None:
        """Nothing that was due lies before ``seq``."""
        if seq <= self._highest:
            return
        if self.matches is None:
            self._fail(f"{what} at {seq} where {self._highest} is due: a hole that no gap announced")
        for number in range(self._highest, seq):
            if self.matches(self.epoch, number):
                self._fail(f"{what} at {seq}: {number} matches the filter and never came")

    def _fail(self, text: str) -> NoReturn:
        raise Violation(f"{self.topic}: {text}; the last events were {self.events[-5:]}, gaps {self.gaps[-3:]}")
