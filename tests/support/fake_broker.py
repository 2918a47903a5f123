"""``Broker`` in memory with the semantics of the real one, and every way to hurt it: for tests of the fan-out alone.

Positions, forks, bounds and pages follow publish.lua and read.lua. What is published waits on a wire; ``pump`` brings
it to the dispatcher. Answers take as long as ``delay`` and ``arrival`` say.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from hub.errors import HubError, unavailable
from hub.fanout.broker import (
    AnyEpoch,
    BrokerEvents,
    ConditionFailed,
    Draft,
    HistoryPage,
    HistoryRequest,
    Published,
    ServerChanged,
    TopMoved,
)
from hub.fanout.envelope import make_envelope
from hub.protocol.frames import Position
from hub.topics.publication import Publication, TopicState
from hub.topics.topic import Topic


class _Record:
    """A topic's position record and history."""

    def __init__(self, epoch: str, server: str) -> None:
        self.epoch = epoch
        self.top = 0
        self.previous = ""
        self.base = 0
        self.server = server
        self.kept: deque[Publication] = deque()

    def state(self) -> TopicState:
        first = self.top - len(self.kept) + 1
        return TopicState(self.epoch, self.top, first, self.previous, self.base, self.server)


async def _at_once() -> None:
    return


class FakeBroker:
    """See the module. ``events`` is set before anything is pumped."""

    def __init__(self) -> None:
        self.events: BrokerEvents | None = None
        self.server = "s1"
        self.link = asyncio.Event()
        self.link.set()
        self.wire: deque[tuple[bytes, bytes]] = deque()
        self.delay: Callable[[], Awaitable[None]] = _at_once
        """Awaited before an answer is made."""
        self.arrival: Callable[[], Awaitable[None]] = _at_once
        """Awaited between an answer's making and its arrival."""
        self.refuse_read: Callable[[HistoryRequest], bool] = lambda _: False
        self.refuse_subscribe: Callable[[Topic], bool] = lambda _: False
        self.reads: list[HistoryRequest] = []
        self.wanted: dict[bytes, Topic] = {}
        self.drafts: list[Draft] = []
        self.published: dict[tuple[bytes, str, int], bytes] = {}
        """The body of every numbered event that was ever published, by channel, epoch and seq."""
        self._established: set[bytes] = set()
        self._heard: set[bytes] = set()
        self._records: dict[Topic, _Record] = {}
        self._keys: dict[tuple[Topic, str], tuple[str, int]] = {}
        self._epochs = 0
        self._ts = 0

    # --- Broker

    @property
    def ready(self) -> bool:
        return self.link.is_set()

    async def publish(self, draft: Draft) -> Published:
        (outcome,) = await self.publish_many([draft])
        if isinstance(outcome, Published):
            return outcome
        raise outcome

    async def publish_many(self, drafts: Sequence[Draft]) -> list[Published | HubError | ConditionFailed]:
        await self.delay()
        return [self.publish_now(draft) for draft in drafts]

    async def read(self, requests: Sequence[HistoryRequest]) -> list[HistoryPage | HubError]:
        self.reads += requests
        await self.delay()
        pages = [unavailable("redis") if self.refuse_read(request) else self._page(request) for request in requests]
        await self.arrival()
        return pages

    async def subscribe(self, topics: Sequence[Topic]) -> list[TopicState | HubError]:
        for topic in topics:
            channel = topic.names.channel.encode()
            self.wanted[channel] = topic
            if self.link.is_set():
                self._heard.add(channel)
        await self.delay()
        try:
            async with asyncio.timeout(1.0):
                await self.link.wait()
        except TimeoutError:
            return [unavailable("redis") for _ in topics]
        answers = [self._subscribed(topic) for topic in topics]
        await self.arrival()
        return answers

    def _subscribed(self, topic: Topic) -> TopicState | HubError:
        channel = topic.names.channel.encode()
        if channel not in self.wanted or self.refuse_subscribe(topic):
            return unavailable("redis")
        self._heard.add(channel)
        self._established.add(channel)
        return self.state(topic)

    def unsubscribe(self, topics: Sequence[Topic]) -> None:
        for topic in topics:
            channel = topic.names.channel.encode()
            self.wanted.pop(channel, None)
            self._established.discard(channel)
            self._heard.discard(channel)

    async def servers(self) -> dict[str, str]:
        return {"fake": self.server}

    async def server_of(self, topic: Topic) -> str:
        return self.server

    # --- at once, for tests

    def state(self, topic: Topic) -> TopicState:
        """The topic's position record; made or forked when that is due."""
        return self._record(topic).state()

    def publish_now(self, draft: Draft) -> Published | HubError | ConditionFailed:
        self.drafts.append(draft)
        if draft.if_server is not None and draft.if_server != self.server:
            return ServerChanged(self.server)
        if draft.key is not None and (draft.topic, draft.key) in self._keys:
            return Published(*self._keys[draft.topic, draft.key], duplicate=True, server=self.server)
        self._ts += 1
        channel = draft.topic.names.channel.encode()
        if draft.history is not None and not draft.ephemeral:
            record = self._record(draft.topic)
            if draft.if_top is not None and draft.if_top != record.top:
                return TopMoved(self.server, record.top)
        for body in (draft.body, *draft.further):
            publication = self._numbered(draft, body)
            if self.link.is_set() and channel in self._heard:
                self.wire.append((channel, make_envelope(publication)))
        if draft.key is not None:
            self._keys[draft.topic, draft.key] = (publication.epoch, publication.seq)
        return Published(publication.epoch, publication.seq, duplicate=False, server=self.server)

    def pump(self, most: int | None = None) -> int:
        """Brings what waits on the wire, as one turn. Returns how much that was."""
        count = len(self.wire) if most is None else min(most, len(self.wire))
        batch = [self.wire.popleft() for _ in range(count)]
        if batch and self.events is not None:
            self.events.on_messages(batch)
        return count

    # --- ways to hurt

    def cut(self) -> None:
        """The link is lost with everything on it."""
        self.link.clear()
        self.wire.clear()
        self._heard.clear()

    def mend(self) -> None:
        """The link is back: everything wanted is heard again, and its state is told."""
        self.link.set()
        self._heard = set(self.wanted)
        for channel in tuple(self._established):
            if self.events is not None:
                self.events.on_state(channel, self.state(self.wanted[channel]))

    def fail_over(self, server: str, lost: int = 0) -> None:
        """Another server answers; the newest ``lost`` events of every topic had not been replicated to it."""
        self.server = server
        for record in self._records.values():
            for _ in range(min(lost, len(record.kept))):
                record.kept.pop()
                record.top -= 1

    def forget(self, topic: Topic) -> None:
        """The topic's record and history are lost: its numbers begin again."""
        self._records.pop(topic, None)

    def trim(self, topic: Topic, count: int) -> None:
        """The oldest events are no longer kept."""
        kept = self._record(topic).kept
        for _ in range(min(count, len(kept))):
            kept.popleft()

    # --- inside

    def _numbered(self, draft: Draft, body: bytes) -> Publication:
        if draft.history is None or draft.ephemeral:
            return Publication("", 0, self._ts, body, draft.echo)
        record = self._record(draft.topic)
        record.top += 1
        publication = Publication(record.epoch, record.top, self._ts, body)
        record.kept.append(publication)
        while len(record.kept) > draft.history.count:
            record.kept.popleft()
        self.published[draft.topic.names.channel.encode(), record.epoch, record.top] = body
        return publication

    def _record(self, topic: Topic) -> _Record:
        record = self._records.get(topic)
        if record is None:
            record = self._records[topic] = _Record(self._new_epoch(), self.server)
        elif record.server != self.server:
            self._fork(topic, record)
        return record

    def _fork(self, topic: Topic, record: _Record) -> None:
        channel = topic.names.channel.encode()
        record.previous, record.base = record.epoch, record.top
        record.epoch, record.server = self._new_epoch(), self.server
        record.kept = deque(Publication(record.epoch, old.seq, old.ts, old.body) for old in record.kept)
        for old in record.kept:
            self.published[channel, record.epoch, old.seq] = old.body

    def _new_epoch(self) -> str:
        self._epochs += 1
        return f"e{self._epochs}"

    def _page(self, request: HistoryRequest) -> HistoryPage:
        record = self._record(request.topic)
        state = record.state()
        if request.after == "top":
            return HistoryPage(state, (), more=False)
        after = max(_after(request.after, state), state.first - 1)
        found: list[Publication] = []
        size = 0
        for publication in record.kept:
            if publication.seq <= after:
                continue
            if len(found) >= request.limit or (found and size + len(publication.body) > request.max_bytes):
                break
            found.append(publication)
            size += len(publication.body)
        reached = found[-1].seq if found else after
        return HistoryPage(state, tuple(found), more=reached < state.top)


def _after(asked: Position | AnyEpoch | str | int, state: TopicState) -> int:
    if isinstance(asked, AnyEpoch):
        return asked.seq
    if isinstance(asked, int):
        return state.top - asked
    if isinstance(asked, Position):
        if asked.epoch == state.epoch and asked.seq <= state.top:
            return asked.seq
        if asked.epoch == state.previous_epoch and asked.epoch:
            return min(asked.seq, state.base)
    return state.first - 1
