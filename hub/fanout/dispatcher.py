"""From the reader to the sockets: checks every position, encodes once, writes once per subscriber and turn.

``turns`` says what comes together. Of that, publications are only collected; then each topic is flushed, so that a
subscriber costs one write, not one per event. Nothing here awaits; but what more subscribers want than one turn of the
event loop has time for goes out over several (a walk). Those who need a look at every event, because of a filter or a
window, are served at once all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from hub.config import Settings
from hub.fanout.delivery import Delivery
from hub.fanout.envelope import parse_envelope
from hub.fanout.errands import Errands
from hub.fanout.run import Run
from hub.protocol.codec import Encoding, Packet
from hub.telemetry import Metrics
from hub.topics.publication import Publication, TopicState
from hub.topics.subscriptions import Group, LocalTopic, LocalTopics, Phase, Subscription
from hub.topics.walk import Walk

log = structlog.get_logger(__name__)

Listener = Callable[[bytes], None]

STEP_WRITES = 250  # in one turn of the event loop: one or two milliseconds


class Dispatcher:
    """Implements ``BrokerEvents``."""

    def __init__(
        self, settings: Settings, metrics: Metrics, topics: LocalTopics, delivery: Delivery, errands: Errands
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._topics = topics
        self._delivery = delivery
        self._errands = errands
        self._listeners: dict[bytes, tuple[Listener, Callable[[], None]]] = {}
        self._postponed: list[Callable[[], None]] = []
        self._in_turn = False
        self._unechoed: set[LocalTopic] = set()
        """Topics with something pending that its author does not get."""
        self._walking: deque[tuple[LocalTopic, Walk, Run]] = deque()

    # --- from the broker

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """One turn."""
        dirty: list[LocalTopic] = []
        for channel, envelope in batch:
            local = self._topics.get(channel)
            if local is None:
                self._to_listener(channel, envelope)
                continue
            try:
                publication = parse_envelope(envelope)
            except ValueError:
                # Others of this turn are counted already and must still be delivered.
                log.warning("unreadable envelope dropped", kind=local.topic.kind)
                continue
            if self._accept(local, publication):
                if local.pending is None:
                    local.pending = [publication]
                    dirty.append(local)
                else:
                    local.pending.append(publication)
        self.flush(dirty)

    def on_state(self, channel: bytes, state: TopicState) -> None:
        """The link was lost or moved: whatever happened meanwhile is a hole."""
        local = self._topics.get(channel)
        if local is None:
            if channel in self._listeners:
                self._listeners[channel][1]()
            return
        # What heals is doubted at its end anyway; twice would be two snapshots for everybody who is present.
        if local.kind.history is not None and local.phase is not Phase.LIVE:
            # What is being read of the topic may be older than this.
            local.doubted = True
        elif local.kind.history is not None and (state.epoch != local.epoch or state.top > local.top):
            self._errands.heal(local)
        elif local.kind.presence:
            self._errands.doubted(local)

    def on_link(self, ready: bool) -> None:
        """Counts changes; readiness is asked of the broker itself."""
        self._metrics.link(ready)

    def listen(self, channel: bytes, listener: Listener, doubted: Callable[[], None]) -> None:
        """Bodies of ephemeral publications on a control channel. ``doubted`` is called when some may have been lost."""
        self._listeners[channel] = listener, doubted

    # --- positions

    def _accept(self, local: LocalTopic, publication: Publication) -> bool:
        """Whether this is the next event of the topic. A repeat is dropped; a hole or another epoch starts healing."""
        if publication.seq == 0:
            if local.phase is Phase.SUBSCRIBING:
                return False
            if local.kind.presence:
                self._errands.ephemeral(local, publication)
            if not publication.echo:
                self._unechoed.add(local)
            return True
        if local.phase is not Phase.LIVE:
            self._keep_back(local, publication)
            return False
        if publication.epoch == local.epoch:
            if publication.seq == local.top + 1:
                self._advance(local, publication)
                return True
            if publication.seq <= local.top:
                return False
        self._keep_back(local, publication)
        self._errands.heal(local)
        return False

    def _advance(self, local: LocalTopic, publication: Publication) -> None:
        local.top = publication.seq
        local.last_ts = publication.ts
        if local.tail_users:
            local.add_to_tail(publication, self._settings.join_tail_bytes)

    def _keep_back(self, local: LocalTopic, publication: Publication) -> None:
        """Buffers what arrives while the topic is not LIVE. Too much is dropped: history has it."""
        local.backlog_bytes += len(publication.body)
        if local.backlog is not None and local.backlog_bytes <= self._settings.join_tail_bytes:
            local.backlog.append(publication)
        else:
            # The first, or too much: the newest stays, so that the healer sees how far it has to read.
            local.backlog = [publication]
            local.backlog_bytes = len(publication.body)

    def accept_run(self, local: LocalTopic, publications: Sequence[Publication]) -> None:
        """Delivers a run that directly follows the topic's position (healed or kept back) to everybody live."""
        for publication in publications:
            self._advance(local, publication)
        local.pending = [*(local.pending or ()), *publications]
        self.flush([local])

    # --- delivery

    def flush(self, dirty: Sequence[LocalTopic]) -> None:
        """Writes what is pending; then connections that became congested leave the live sets."""
        with self.turn():
            for local in dirty:
                pending, local.pending = local.pending, None
                if not pending:
                    continue
                try:
                    self._flush_topic(local, Run(local.topic.wire, pending))
                except Exception:
                    # The other topics' events are counted already and must not wait for ever.
                    log.exception("delivery failed", kind=local.topic.kind)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While it lasts, live sets change only as delivery itself wants; ``when_settled`` waits for its end."""
        if self._in_turn:
            yield
            return
        self._in_turn = True
        try:
            yield
        finally:
            self._in_turn = False
            postponed, self._postponed = self._postponed, []
            for action in postponed:
                action()

    def _flush_topic(self, local: LocalTopic, run: Run) -> None:
        local.finish_walk()
        if local in self._unechoed:
            self._flush_apart(local, run)
            return
        delivered = len(local.live_json) + len(local.live_msgpack)
        if delivered > STEP_WRITES:
            self._set_out(local, run, Walk(_parts(local, run)))
        else:
            if local.live_json:
                _deliver(run.whole(Encoding.JSON), local.live_json)
            if local.live_msgpack:
                _deliver(run.whole(Encoding.MSGPACK), local.live_msgpack)
            self._written(local, run)
        self._metrics.delivered(local.kind.name, delivered * len(run))
        if local.picky:
            for sub in tuple(local.picky):
                self._delivery.write_live(sub, run)
        if local.ahead:
            for sub in tuple(local.ahead):
                self._lead(local, sub, run)

    def _lead(self, local: LocalTopic, sub: Subscription, run: Run) -> None:
        """A subscription that is ahead skips what it has, and is live when the topic has caught up with it."""
        if sub.epoch != local.epoch:
            return
        self._delivery.write(sub, run)
        if sub.seq <= local.top:
            local.leave_ahead(sub)
            self._delivery.settle(sub)

    def _flush_apart(self, local: LocalTopic, run: Run) -> None:
        """The same for a run of which not everybody gets everything."""
        self._unechoed.discard(local)
        own = run.of_authors()
        walk = Walk(_parts(local, run), own)
        if len(local.live_json) + len(local.live_msgpack) > STEP_WRITES:
            self._set_out(local, run, walk)
        else:
            walk.finish()
            self._walked(local, run, walk)
        for sub in tuple(local.picky):
            self._delivery.write_live(sub, own.get(sub.subscriber.user, run))
        for sub in tuple(local.ahead):
            self._lead(local, sub, own.get(sub.subscriber.user, run))

    def _set_out(self, local: LocalTopic, run: Run, walk: Walk) -> None:
        """Begins a walk to everybody in the live set."""
        local.walk = walk
        self._walking.append((local, walk, run))
        if len(self._walking) == 1:
            self._step()

    def _step(self) -> None:
        """One step of one walk; walks take turns."""
        local, walk, run = self._walking.popleft()
        try:
            walk.step(STEP_WRITES)
        except Exception:
            # Whoever it was is not in the walk any more; the others must not wait for ever.
            log.exception("delivery failed", kind=local.topic.kind)
        if walk:
            self._walking.append((local, walk, run))
        else:
            if local.walk is walk:
                local.walk = None
            self._walked(local, run, walk)
        if self._walking:
            asyncio.get_running_loop().call_soon(self._step)

    def _walked(self, local: LocalTopic, run: Run, walk: Walk) -> None:
        if walk.events:
            self._metrics.delivered(local.kind.name, walk.events)
        self._written(local, run)

    def _written(self, local: LocalTopic, run: Run) -> None:
        latency_ms = time.time() * 1000 - run.publications[-1].ts
        self._metrics.received(local.kind.name, local.topic.key, len(run), latency_ms)

    def when_settled(self, action: Callable[[], None]) -> None:
        """Runs ``action`` now, or at the end of the turn: the live sets must not change while they are iterated."""
        if self._in_turn:
            self._postponed.append(action)
        else:
            action()

    # --- control channels

    def _to_listener(self, channel: bytes, envelope: bytes) -> None:
        if channel not in self._listeners:
            return
        listener, _ = self._listeners[channel]
        try:
            listener(parse_envelope(envelope).body)
        except Exception:
            log.exception("control message not taken")


def _deliver(packet: Packet, group: Group) -> None:
    for sub in group:
        sub.subscriber.deliver(packet)


def _parts(local: LocalTopic, run: Run) -> list[tuple[Packet, Group]]:
    groups = ((Encoding.JSON, local.live_json), (Encoding.MSGPACK, local.live_msgpack))
    return [(run.whole(encoding), group) for encoding, group in groups if group]
