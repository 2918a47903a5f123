"""The fan-out wired as a node wires it, over a ``FakeBroker``, and connections that judge what comes to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hub.config import Settings
from hub.errors import HubError
from hub.fanout.bodies import encode_body
from hub.fanout.broker import Draft, Published
from hub.fanout.catch_up import CatchUp
from hub.fanout.delivery import Delivery
from hub.fanout.dispatcher import Dispatcher
from hub.fanout.errands import Errands
from hub.fanout.healer import Healer
from hub.fanout.history import History
from hub.fanout.membership import Joined, JoinRequest, Membership
from hub.fanout.turnstile import Turnstile
from hub.orgs import OrgId
from hub.protocol.codec import Encoding, Packet, packet
from hub.protocol.frames import Event, Gap, Position, PositionFrame, ServerFrame, TagValue, Unsubscribed, Verdict
from hub.protocol.session import refusal
from hub.telemetry import Metrics
from hub.topics.filters import TagFilter, tags_of
from hub.topics.kinds import History as Kept
from hub.topics.kinds import SlowPolicy, TopicKind
from hub.topics.splice import Asked
from hub.topics.subscriptions import LocalTopic, LocalTopics, Subscription, SubState
from hub.topics.topic import Topic
from tests.support.fake_broker import FakeBroker
from tests.support.record import Record, Violation

ORG = OrgId.from_claim("acme")

REPLAY = TopicKind(name="replay")
LATEST = TopicKind(name="latest", slow=SlowPolicy.LATEST, latest_tag="g")
SKIP = TopicKind(name="skip", slow=SlowPolicy.GAP)
FLEETING = TopicKind(name="fleeting", history=None, slow=SlowPolicy.GAP)
PACED = TopicKind(name="paced", paced=True)
SHORT = TopicKind(name="short", history=Kept(count=5))

_decoders: dict[Encoding, Any] = {
    Encoding.JSON: msgspec.json.Decoder(ServerFrame),
    Encoding.MSGPACK: msgspec.msgpack.Decoder(ServerFrame),
}


def settings(**overrides: Any) -> Settings:
    """Settings for tests without servers."""
    return Settings(redis_url="redis://unused", database_url="postgresql://unused", **overrides)


def topic(kind: TopicKind, key: str = "1") -> Topic:
    """A topic of the tests' organisation."""
    return Topic(ORG, kind.name, key)


def draft(
    kind: TopicKind, key: str = "1", *, g: TagValue | None = None, ephemeral: bool = False, data: Any = None
) -> Draft:
    """An event; ``g`` is its only tag."""
    body = encode_body("id", "name", data, None if g is None else {"g": g}, None)
    return Draft(topic(kind, key), kind.history, body, ephemeral=ephemeral)


def hidden(kind: TopicKind, user: str, key: str = "1", *, g: TagValue | None = None) -> Draft:
    """An ephemeral event that its author ``user`` does not get; a ``FakeConnection`` of his objects to it."""
    body = encode_body("id", "hidden", {"hidden_from": user}, None if g is None else {"g": g}, user)
    return Draft(topic(kind, key), kind.history, body, ephemeral=True, echo=False)


class FanOut:
    """Everything between the broker and the subscribers of one node."""

    def __init__(self, broker: FakeBroker | None = None, **overrides: Any) -> None:
        self.settings = settings(**overrides)
        self.broker = broker or FakeBroker()
        self.metrics = Metrics()
        self.violations: list[Violation] = []
        """What connections got against the contract; the hub may swallow what a subscriber raises."""
        self.topics = LocalTopics()
        self.errands = errands = Errands()
        self.delivery = Delivery(self.settings, self.metrics, errands)
        self.dispatcher = Dispatcher(self.settings, self.metrics, self.topics, self.delivery, errands)
        self.history = History(self.settings, self.broker)
        self.healer = Healer(
            self.settings, self.metrics, self.topics, self.history, self.dispatcher, self.delivery, errands
        )
        turnstile = Turnstile(self.settings, self.metrics)
        self.catch_up = CatchUp(self.settings, self.history, self.delivery, turnstile)
        errands.performed_by(heal=self.healer.heal, catch_up=self.catch_up.start)
        self.membership = Membership(
            self.settings, self.topics, self.broker, self.history, self.healer, self.delivery, turnstile
        )
        self.broker.events = self.dispatcher

    def publish(self, kind: TopicKind, count: int = 1, key: str = "1", **tags: Any) -> Published:
        """Publishes without bringing it to anybody; ``broker.pump`` does that."""
        for _ in range(count):
            outcome = self.broker.publish_now(draft(kind, key, **tags))
        assert isinstance(outcome, Published)
        return outcome

    def local(self, kind: TopicKind, key: str = "1") -> LocalTopic:
        """The local topic; it must be there."""
        found = self.topics.get(topic(kind, key).channel)
        assert found is not None
        return found

    async def close(self) -> None:
        """Ends all tasks."""
        await self.membership.close()
        await self.catch_up.close()
        await self.healer.close()
        await self.history.close()


class FakeConnection:
    """A ``Subscriber`` that keeps what it gets, judged by a ``Record`` per topic; joins and leaves as the edge does.

    It becomes congested when more than ``room`` frames were not taken by ``drain``.
    """

    def __init__(
        self, hub: FanOut, encoding: Encoding = Encoding.JSON, room: int = 1_000_000, user: str = "u1"
    ) -> None:
        self.hub = hub
        self.user = user
        self.encoding = encoding
        self.room = room
        self.congested = False
        self.gone = False
        self.unsent = 0
        self.frames: list[ServerFrame] = []
        self.packets: list[Packet] = []
        self.subscriptions: dict[str, Subscription] = {}
        self.records: dict[str, Record] = {}
        self._writable = asyncio.Event()

    # --- Subscriber

    def deliver(self, packet: Packet) -> None:
        if self.gone:
            return
        assert packet.encoding is self.encoding
        self.packets.append(packet)
        for payload in packet.payloads:
            self._take(_decoders[self.encoding].decode(payload))
        self.unsent += len(packet.payloads)
        if self.unsent > self.room and not self.congested:
            self.congest()

    def send(self, frame: ServerFrame) -> None:
        if not self.gone:
            self.deliver(packet(frame, self.encoding))

    async def writable(self) -> None:
        if self.congested and not self.gone:
            self._writable.clear()
            await self._writable.wait()

    def end_subscription(self, text: str, error: HubError) -> None:
        self.hub.membership.leave(self.subscriptions.pop(text))
        self.records[text].left()
        self.send(Unsubscribed(text, error.code, error.message, error.retry))

    def _take(self, frame: ServerFrame) -> None:
        self.frames.append(frame)
        if isinstance(frame, Event) and frame.name == "hidden" and frame.by == self.user:
            self.hub.violations.append(Violation(f"{frame} came to its author"))
        if isinstance(frame, Event | Gap | PositionFrame):
            try:
                self.records[frame.topic].take(frame)
            except Violation as violation:
                self.hub.violations.append(violation)

    # --- congestion, as the edge handles it

    def congest(self) -> None:
        """The socket takes nothing more."""
        self.congested = True
        self.hub.dispatcher.when_settled(self._pause)

    def drain(self, count: int | None = None) -> None:
        """The client reads ``count`` frames (None: all)."""
        self.unsent = 0 if count is None else max(0, self.unsent - count)
        if self.congested and self.unsent <= self.room // 4:
            self.congested = False
            self._writable.set()
            self.hub.dispatcher.when_settled(self._resume)

    def _pause(self) -> None:
        if self.congested:
            for sub in self.subscriptions.values():
                self.hub.delivery.pause(sub)

    def _resume(self) -> None:
        if not self.congested and not self.gone:
            self.hub.catch_up.resume([sub for sub in self.subscriptions.values() if sub.state is SubState.PAUSED])

    # --- requests

    async def join(
        self,
        kind: TopicKind,
        asked: Asked = "now",
        key: str = "1",
        *,
        g: TagValue | None = None,
        ack: bool = False,
        first_permitted: int = 1,
    ) -> Verdict:
        """Joins one topic; ``g``: filtered by that tag."""
        (verdict,) = await self.join_all(
            [
                JoinRequest(
                    topic(kind, key), kind, asked, None if g is None else TagFilter({"g": g}), ack, first_permitted
                )
            ],
            {} if g is None else {topic(kind, key).wire: g},
        )
        return verdict

    async def join_all(self, requests: Sequence[JoinRequest], wanted: Mapping[str, TagValue] = {}) -> list[Verdict]:
        """Joins many at once. ``wanted``: the tag's value that a filtered topic asks for."""
        verdicts: list[Verdict] = []
        joined: list[Joined] = []
        outcomes = await self.hub.membership.join(self, requests)
        for request, outcome in zip(requests, outcomes, strict=True):
            text = request.topic.wire
            if isinstance(outcome, HubError):
                verdicts.append(refusal(text, outcome))
                continue
            if self.gone:
                self.hub.membership.leave(outcome.subscription)
                continue
            verdicts.append(Verdict(text, True, outcome.epoch, outcome.seq, outcome.recovered))
            self.subscriptions[text] = outcome.subscription
            joined.append(outcome)
            record = self.records.setdefault(text, Record(text))
            record.matches = _matcher(self.hub.broker, request.topic, wanted[text]) if text in wanted else None
            record.joined(verdicts[-1], request.asked)
        for item in joined:
            self.hub.membership.activate(item)
        return verdicts

    def leave(self, kind: TopicKind, key: str = "1") -> None:
        """Unsubscribes."""
        text = topic(kind, key).wire
        sub = self.subscriptions.pop(text, None)
        if sub is not None:
            self.hub.membership.leave(sub)
        if text in self.records:
            self.records[text].left()

    def acknowledge(self, kind: TopicKind, key: str = "1", position: Position | None = None) -> bool:
        """Acknowledges up to ``position`` (None: everything that came)."""
        text = topic(kind, key).wire
        position = position or self.records[text].acknowledgeable
        return position is not None and self.hub.delivery.acknowledge(self.subscriptions[text], position)

    def lose(self) -> None:
        """The socket is gone."""
        self.gone = True
        for sub in self.subscriptions.values():
            self.hub.membership.leave(sub)
        self.subscriptions.clear()
        for record in self.records.values():
            record.left()
        self._writable.set()

    # --- what came

    def state(self, kind: TopicKind, key: str = "1") -> SubState:
        """Where the subscription stands."""
        return self.subscriptions[topic(kind, key).wire].state

    def seqs(self, kind: TopicKind, key: str = "1") -> list[int]:
        """The numbers of the events that came."""
        record = self.records.get(topic(kind, key).wire)
        return [] if record is None else [seq for _, seq in record.events]

    def tale(self, kind: TopicKind, key: str = "1") -> list[int | str]:
        """All events that came, in order: their numbers, or who caused those that have none."""
        text = topic(kind, key).wire
        events = [frame for frame in self.frames if isinstance(frame, Event) and frame.topic == text]
        return [frame.seq or frame.by or "" for frame in events]

    def gaps(self, kind: TopicKind, key: str = "1") -> list[tuple[str, int | None, int | None]]:
        """The gaps that came: reason and range."""
        return [(gap.reason, gap.from_, gap.to) for gap in self.records[topic(kind, key).wire].gaps]

    def complete(self, kind: TopicKind, key: str = "1") -> bool:
        """Whether everything of the topic has come or was announced, and the hub thinks so too."""
        state = self.hub.broker.state(topic(kind, key))
        sub = self.subscriptions.get(topic(kind, key).wire)
        # Of an epoch that has just begun its record alone cannot tell what is due.
        if sub is not None and (sub.topic.walk is not None or sub.position != Position(state.epoch, state.top)):
            return False
        with contextlib.suppress(AssertionError):
            self.records[topic(kind, key).wire].must_be_complete(state.epoch, state.top)
            return True
        return False


def _matcher(broker: FakeBroker, of: Topic, wanted: TagValue) -> Any:
    channel = of.names.channel.encode()

    def matches(epoch: str, seq: int) -> bool:
        body = broker.published.get((channel, epoch, seq))
        return body is not None and tags_of(body).get("g") == wanted

    return matches
