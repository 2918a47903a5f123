"""Who on this node listens to which topic: ``LocalTopic``, ``Subscription``, and what a ``Subscriber`` must do.

Data and bookkeeping. ``hub.fanout`` moves subscriptions between the states and delivers; the edge owns sockets. The one
thing written from here is what a subscription that leaves a walk (``hub.topics.walk``) has coming to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from hub.errors import HubError
from hub.protocol.codec import Encoding, Packet
from hub.protocol.frames import Position, ServerFrame
from hub.topics.filters import TagFilter
from hub.topics.kinds import TopicKind
from hub.topics.publication import Publication
from hub.topics.splice import Asked
from hub.topics.topic import Topic

if TYPE_CHECKING:
    from hub.topics.walk import Walk


class Subscriber(Protocol):
    """What delivery needs of a connection."""

    @property
    def encoding(self) -> Encoding: ...

    @property
    def user(self) -> str:
        """Whose connection it is, in the organisation of its topics."""

    @property
    def flags(self) -> Mapping[str, bool]:
        """What is on for whoever it is, at the moment."""

    @property
    def congested(self) -> bool:
        """More is unsent than the mark allows; nothing further should be delivered until it says so."""

    @property
    def gone(self) -> bool:
        """Closed; whatever is delivered is dropped."""

    def deliver(self, packet: Packet) -> None:
        """Writes ready bytes. Never blocks, never raises."""

    def send(self, frame: ServerFrame) -> None:
        """Writes one frame of this subscriber's own."""

    async def writable(self) -> None:
        """Returns when the subscriber is not congested any more, or is gone."""

    def end_subscription(self, text: str, error: HubError) -> None:
        """Leaves a topic, as its client writes it, and tells the client why."""


class SubState(Enum):
    """Where a subscription stands. The transitions are in ``hub.fanout``."""

    JOINING = auto()
    """History is being read; the verdict has not been sent."""
    LIVE = auto()
    """In the live set: its position is the topic's."""
    AHEAD = auto()
    """History brought it further than the live link has come; live events are skipped until they catch up."""
    CATCHING_UP = auto()
    """Fed from history by the catch-up task of its connection."""
    PAUSED = auto()
    """The connection is congested; goes on by the kind's slow policy when it is not any more."""
    WINDOW_FULL = auto()
    """ack:true and as many events unacknowledged as the window allows."""
    ENDED = auto()

    __hash__ = object.__hash__


class Subscription:
    """One join of one topic on one connection. A later join of the same topic is another object.

    So what is under way for this one (a page, a heal) meets ENDED here and is dropped.
    """

    __slots__ = (
        "acked",
        "acked_epoch",
        "asked",
        "epoch",
        "filter",
        "first_permitted",
        "position_sent_at",
        "seq",
        "skipped",
        "state",
        "subscriber",
        "topic",
        "unacked",
        "window",
    )

    def __init__(self, topic: LocalTopic, subscriber: Subscriber, asked: Asked) -> None:
        self.topic = topic
        self.subscriber = subscriber
        self.asked: Asked = asked
        self.state = SubState.JOINING
        self.filter: TagFilter | None = None
        self.first_permitted = 1
        self.window = 0
        """Events that may be unacknowledged; 0: no window."""
        self.unacked: deque[int] | None = None
        self.epoch = ""
        self.seq = 0
        """The position of a picky subscription always, of another while it is not LIVE; see ``position``."""
        self.acked = 0
        """Acknowledged up to here, in ``acked_epoch``."""
        self.acked_epoch = ""
        self.skipped = 0
        """Events that did not match the filter since the client was last told a position."""
        self.position_sent_at = 0.0
        """Monotonic seconds; kept for filtered subscriptions only."""

    @property
    def picky(self) -> bool:
        """Needs a look at every event: filtered, or with a window."""
        return self.filter is not None or self.window > 0

    @property
    def position(self) -> Position:
        """Everything up to here was sent or did not match, or comes by the walk that is under way."""
        if self.state is SubState.LIVE and not self.picky:
            return Position(self.topic.epoch, self.topic.top)
        return Position(self.epoch, self.seq)

    def settled(self) -> Position:
        """Exactly what was written: a client that goes on from there gets every event once.

        What comes by a walk is written now; what was accepted in this turn and goes out at its end does not count.
        """
        local = self.topic
        if self.state is SubState.LIVE:
            if local.walk is not None:
                local.walk.leave(self, SubState.LIVE)
            if local.pending and not self.picky:
                first = min((one.seq for one in local.pending if one.seq), default=local.top + 1)
                return Position(local.epoch, first - 1)
        return self.position

    @property
    def window_room(self) -> int:
        """How many more events may be delivered before acknowledgements must come."""
        if self.unacked is None:
            return 1 << 30
        return self.window - len(self.unacked)


class Phase(Enum):
    """Whether this process can trust what it hears of a topic."""

    SUBSCRIBING = auto()
    """Asked Redis; what arrives is buffered until the state is known."""
    LIVE = auto()
    HEALING = auto()
    """A hole or another epoch was seen; what arrives is buffered until history closed it."""

    __hash__ = object.__hash__


Group = tuple[()] | tuple[Subscription] | set[Subscription]
"""Subscriptions of one topic. Most topics have one listener on a node, and a set with one takes 216 bytes."""


def _grown(group: Group, sub: Subscription) -> Group:
    """``group`` with ``sub``; use it in place of ``group``."""
    if isinstance(group, set):
        group.add(sub)
        return group
    return {*group, sub} if group and group[0] is not sub else (sub,)


def _shrunk(group: Group, sub: Subscription) -> Group:
    """``group`` without ``sub``, if it was there; use it in place of ``group``."""
    if isinstance(group, set):
        group.discard(sub)
        return group or ()
    return () if sub in group else group


class LocalTopic:
    """A topic that somebody on this node listens to. There may be one per connection: what is empty takes no memory."""

    __slots__ = (
        "ahead",
        "backlog",
        "backlog_bytes",
        "doubted",
        "epoch",
        "holders",
        "kind",
        "last_ts",
        "live_json",
        "live_msgpack",
        "pending",
        "phase",
        "picky",
        "subscribed",
        "subscriptions",
        "tail",
        "tail_bytes",
        "tail_users",
        "top",
        "topic",
        "walk",
    )

    def __init__(self, topic: Topic, kind: TopicKind) -> None:
        self.topic = topic
        self.kind = kind
        self.phase = Phase.SUBSCRIBING
        self.subscribed: asyncio.Future[HubError | None] | None = None
        """Set while the first subscriber waits for Redis; later joiners wait for the same."""
        self.doubted = False
        """A state came while the topic was not LIVE: history must be read once more."""
        self.epoch = ""
        self.top = 0
        self.last_ts = 0
        self.holders = 0
        """Subscriptions in any state but ENDED, and joins under way; at 0 the topic is given up after a delay."""
        self.subscriptions: Group = ()
        """In any state but ENDED."""
        self.live_json: Group = ()
        self.live_msgpack: Group = ()
        self.picky: Group = ()
        """Also live, but needs a look at every event."""
        self.ahead: Group = ()
        self.pending: list[Publication] | None = None
        """Accepted in this turn, not yet delivered."""
        self.backlog: list[Publication] | None = None
        """Arrived while not LIVE; bounded by join_tail_bytes."""
        self.backlog_bytes = 0
        self.tail: deque[Publication] | None = None
        """The newest live events, kept only while somebody reads history to join them; bounded by join_tail_bytes."""
        self.tail_bytes = 0
        self.tail_users = 0
        self.walk: Walk | None = None
        """Set while not everybody in the live set has been written everything up to ``top``."""

    @property
    def channel(self) -> bytes:
        """Its Redis channel."""
        return self.topic.channel

    @property
    def position(self) -> Position:
        """What the live set has got, or gets by the walk that is under way."""
        return Position(self.epoch, self.top)

    def add(self, subscription: Subscription) -> None:
        """A new subscription; ``discard`` must follow."""
        self.subscriptions = _grown(self.subscriptions, subscription)

    def discard(self, subscription: Subscription) -> None:
        """It has ended."""
        self.subscriptions = _shrunk(self.subscriptions, subscription)

    def keep_tail(self) -> None:
        """Somebody reads history: what comes live meanwhile is kept. ``release_tail`` must follow."""
        self.tail_users += 1

    def release_tail(self) -> None:
        """One reader less; without any the tail is dropped."""
        self.tail_users -= 1
        if self.tail_users == 0:
            self.drop_tail()

    def add_to_tail(self, publication: Publication, most_bytes: int) -> None:
        """One more live event; the oldest go when the tail has more than ``most_bytes``."""
        if self.tail is None:
            self.tail = deque()
        self.tail.append(publication)
        self.tail_bytes += len(publication.body)
        while self.tail_bytes > most_bytes:
            self.tail_bytes -= len(self.tail.popleft().body)

    def drop_tail(self) -> None:
        """Forgets the tail; who reads history meets what comes from now on, or reads again."""
        self.tail = None
        self.tail_bytes = 0

    def add_live(self, subscription: Subscription) -> None:
        """Into the live set. It must have got everything up to the topic's position."""
        subscription.state = SubState.LIVE
        subscription.asked = "now"
        subscription.epoch, subscription.seq = self.epoch, self.top
        if subscription.picky:
            self.picky = _grown(self.picky, subscription)
        elif subscription.subscriber.encoding is Encoding.JSON:
            self.live_json = _grown(self.live_json, subscription)
        else:
            self.live_msgpack = _grown(self.live_msgpack, subscription)

    def add_ahead(self, subscription: Subscription) -> None:
        """It has got more than the topic; ``leave_ahead`` or ``leave_live`` takes it out."""
        subscription.state = SubState.AHEAD
        self.ahead = _grown(self.ahead, subscription)

    def leave_ahead(self, subscription: Subscription) -> None:
        """Out of the ahead set; the caller says which state comes next."""
        self.ahead = _shrunk(self.ahead, subscription)

    def leave_live(self, subscription: Subscription, state: SubState) -> None:
        """Out of the live set (or the ahead set), into ``state``, with the position it had."""
        if self.walk is not None:
            self.walk.leave(subscription, state)
        position = subscription.position
        subscription.epoch, subscription.seq = position.epoch, position.seq
        subscription.state = state
        self.live_json = _shrunk(self.live_json, subscription)
        self.live_msgpack = _shrunk(self.live_msgpack, subscription)
        self.picky = _shrunk(self.picky, subscription)
        self.leave_ahead(subscription)

    def finish_walk(self) -> None:
        """Everybody in the live set has been written everything up to ``top``."""
        walk, self.walk = self.walk, None
        if walk is not None:
            walk.finish()

    def live_subscriptions(self) -> Iterator[Subscription]:
        """Everybody in the live set."""
        for group in (self.live_json, self.live_msgpack, self.picky):
            yield from group


class LocalTopics:
    """All topics with a listener on this node, by Redis channel. Entries that nobody holds are removed."""

    __slots__ = ("_by_channel",)

    def __init__(self) -> None:
        self._by_channel: dict[bytes, LocalTopic] = {}

    def __len__(self) -> int:
        return len(self._by_channel)

    def __iter__(self) -> Iterator[LocalTopic]:
        return iter(self._by_channel.values())

    def get(self, channel: bytes) -> LocalTopic | None:
        """The topic of a channel, if somebody listens."""
        return self._by_channel.get(channel)

    def hold(self, topic: Topic, kind: TopicKind) -> tuple[LocalTopic, bool]:
        """The local topic with one holder more; True if it is new and must be subscribed in Redis."""
        local = self._by_channel.get(topic.channel)
        new = local is None
        if local is None:
            local = self._by_channel[topic.channel] = LocalTopic(topic, kind)
        local.holders += 1
        return local, new

    def remove(self, local: LocalTopic) -> None:
        """Forgets a topic that nobody holds."""
        if self._by_channel.get(local.channel) is local:
            del self._by_channel[local.channel]
