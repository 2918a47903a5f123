"""Moving one subscription through its states: replay, going live, windows, positions, gaps.

Everything here is synchronous: between a look at the topic and the move that follows from it nothing else can happen.
Who calls: ``membership`` (joins), ``catch_up`` (pages), ``dispatcher`` (live events), ``healer`` (other epochs).
"""

from __future__ import annotations

import time

from hub.config import Settings
from hub.errors import bad_request
from hub.fanout.errands import Errands
from hub.fanout.history import SharedPage
from hub.fanout.run import Run
from hub.protocol.frames import Gap, Position, PositionFrame
from hub.telemetry import Metrics
from hub.topics.splice import Hole, plan_recovery, splice
from hub.topics.subscriptions import LocalTopic, Phase, Subscription, SubState


class Delivery:
    """Delivers to single subscriptions and decides their next state."""

    def __init__(self, settings: Settings, metrics: Metrics, errands: Errands) -> None:
        self._settings = settings
        self._metrics = metrics
        self._errands = errands

    # --- replay

    def replay(self, sub: Subscription, page: SharedPage) -> None:
        """Announces what is missing, delivers the page, and moves the subscription on."""
        plan = plan_recovery(sub.asked, page.state, sub.first_permitted)
        for hole in plan.holes:
            self.announce(sub, page.state.epoch, hole)
        enter(sub, page.state.epoch, plan.after)
        self.write(sub, page.run)
        if not page.more and sub.window_room > 0:
            # A page that was not cut short ends at the top, also when the window or a filter left events out.
            sub.seq = max(sub.seq, page.state.top)
        self.settle(sub, more=page.more)

    def settle(self, sub: Subscription, *, more: bool = False) -> None:
        """The next state of a subscription that is not live, by where it stands against its topic."""
        local = sub.topic
        sub.asked = Position(sub.epoch, sub.seq)
        if sub.window_room <= 0:
            sub.state = SubState.WINDOW_FULL
        elif more:
            self._errands.catch_up(sub)
        elif sub.subscriber.congested:
            sub.state = SubState.PAUSED
        elif local.kind.history is None:
            self._go_live(sub)
        elif sub.epoch != local.epoch:
            self._await_heal(sub)
        elif sub.seq >= local.top:
            self._meet(sub)
        else:
            self._bridge(sub)

    def read_again(self, sub: Subscription) -> None:
        """The subscription goes on from history, at its own position."""
        sub.asked = Position(sub.epoch, sub.seq)
        self._errands.catch_up(sub)

    def _await_heal(self, sub: Subscription) -> None:
        # History and the live link disagree on the epoch. Either the topic is being healed, or this page is what shows
        # that it must be; afterwards the healer settles everybody who is ahead.
        sub.topic.add_ahead(sub)
        if sub.topic.phase is Phase.LIVE:
            self._errands.heal(sub.topic)

    def _go_live(self, sub: Subscription) -> None:
        sub.topic.add_live(sub)
        if sub.topic.kind.presence:
            self._errands.live(sub)

    def _meet(self, sub: Subscription) -> None:
        local = sub.topic
        if sub.seq == local.top:
            self._go_live(sub)
        else:
            local.add_ahead(sub)

    def _bridge(self, sub: Subscription) -> None:
        """Live events went on while history was read: the buffered tail closes the gap, or history is read again."""
        local = sub.topic
        run, complete = splice(Position(sub.epoch, sub.seq), local.tail or ())
        if complete and run and run[-1].seq == local.top:
            self.write(sub, Run(local.topic.wire, run))
            self.settle(sub)  # it is at the top now, unless its window is full
        else:
            self._errands.catch_up(sub)

    # --- writing

    def write(self, sub: Subscription, run: Run) -> None:
        """The events of ``run`` beyond the subscription's position; its position follows."""
        start = 0
        while start < len(run) and run.publications[start].seq <= sub.seq:
            start += 1
        if start == len(run):
            return
        if sub.picky:
            self._write_picky(sub, run, start)
            return
        sub.subscriber.deliver(run.part(sub.subscriber.encoding, start))
        self._metrics.delivered(sub.topic.kind.name, len(run) - start)
        # Not simply the last one's: an ephemeral event has no number.
        sub.seq = max(run.publications[index].seq for index in range(start, len(run)))

    def write_live(self, sub: Subscription, run: Run) -> None:
        """Live events to a picky subscription; it leaves the live set when its window is full."""
        self._write_picky(sub, run, 0)
        if sub.window_room <= 0:
            sub.topic.leave_live(sub, SubState.WINDOW_FULL)
            sub.asked = Position(sub.epoch, sub.seq)

    def _write_picky(self, sub: Subscription, run: Run, start: int) -> None:
        encoding = sub.subscriber.encoding
        sent = 0
        for index in range(start, len(run)):
            if sub.window_room <= 0:
                break
            seq = run.publications[index].seq
            if sub.filter is None or sub.filter.matches(run.tags(index)):
                sub.subscriber.deliver(run.single(encoding, index))
                sent += 1
                if seq and sub.unacked is not None:
                    sub.unacked.append(seq)
            elif seq:
                sub.skipped += 1
            sub.seq = max(sub.seq, seq)
        self._metrics.delivered(sub.topic.kind.name, sent)
        if sub.skipped >= self._settings.position_skip_events:
            self.tell_position(sub)

    def tell_position(self, sub: Subscription) -> None:
        """A ``position`` frame: everything up to here was delivered or did not match."""
        sub.skipped = 0
        sub.position_sent_at = time.monotonic()
        sub.subscriber.send(PositionFrame(sub.topic.topic.wire, sub.epoch, sub.seq))

    def announce(self, sub: Subscription, epoch: str, hole: Hole) -> None:
        """A ``gap`` frame."""
        self._metrics.gap(sub.topic.kind.name, hole.reason)
        self._errands.gapped(sub)
        sub.subscriber.send(gap_frame(sub.topic, epoch, hole))

    # --- acknowledgements and congestion

    def acknowledge(self, sub: Subscription, position: Position) -> bool:
        """Takes a cumulative acknowledgement. False: it says nothing new, or is of another epoch.

        Raises ``bad_request`` when it is beyond what was sent.
        """
        current = sub.position
        if sub.acked_epoch != current.epoch:
            sub.acked, sub.acked_epoch = 0, current.epoch
        if position.epoch != current.epoch or position.seq <= sub.acked:
            return False
        if position.seq > current.seq:
            raise bad_request(f"acknowledged up to {position.seq}, but only {current.seq} was sent")
        sub.acked = position.seq
        if sub.unacked is not None:
            while sub.unacked and sub.unacked[0] <= position.seq:
                sub.unacked.popleft()
            if sub.state is SubState.WINDOW_FULL and sub.window_room > 0:
                self.settle(sub)
        return True

    def pause(self, sub: Subscription) -> None:
        """Its connection is congested: out of the live set, with the position it has."""
        if sub.state in (SubState.LIVE, SubState.AHEAD):
            sub.topic.leave_live(sub, SubState.PAUSED)
            sub.asked = Position(sub.epoch, sub.seq)
            self._metrics.slow_consumer(sub.topic.kind.name)

    def skip_to_live(self, sub: Subscription) -> None:
        """The policy ``gap``: announces what was missed and goes on with what comes."""
        local = sub.topic
        if local.kind.history is None:
            self.announce(sub, "", Hole("overflow"))
        elif sub.epoch != local.epoch:
            # Which of the two epochs is the newer one is only known from history.
            self.read_again(sub)
            return
        elif sub.seq < local.top:
            self.announce(sub, local.epoch, Hole("overflow", sub.seq + 1, local.top))
            sub.seq = local.top
        self.settle(sub)


def enter(sub: Subscription, epoch: str, seq: int) -> None:
    """Puts a subscription at a position. What was unacknowledged in another epoch can be acknowledged no more."""
    if sub.epoch != epoch and sub.unacked is not None:
        sub.unacked.clear()
    sub.epoch, sub.seq = epoch, seq


def gap_frame(local: LocalTopic, epoch: str, hole: Hole) -> Gap:
    """The frame that announces ``hole``; no range when the epoch changed."""
    if hole.from_ == 0:
        return Gap(local.topic.wire, epoch, hole.reason)
    return Gap(local.topic.wire, epoch, hole.reason, hole.from_, hole.to)
