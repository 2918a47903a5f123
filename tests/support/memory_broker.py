"""A broker in memory for tests of what stands above it: it can refuse, hang, forget and become another server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from hub.errors import HubError
from hub.fanout.broker import (
    ConditionFailed,
    Draft,
    HistoryPage,
    HistoryRequest,
    Published,
    ServerChanged,
    TopicState,
    TopMoved,
)
from hub.topics.topic import Topic


class MemoryBroker:
    """``Broker`` without Redis. Reading history and subscribing are not there: nobody under test asks for them."""

    def __init__(self) -> None:
        self.server = "s1"
        self.events: dict[Topic, list[bytes]] = {}
        self.keys: dict[tuple[Topic, str], int] = {}
        self.refuse: Callable[[Draft], HubError | None] = lambda _: None
        """Asked for every draft before it is looked at."""
        self.open = asyncio.Event()
        """While it is cleared, calls hang before they do anything."""
        self.open.set()
        self.calls = 0
        self.waiting = 0

    @property
    def ready(self) -> bool:
        return True

    async def publish(self, draft: Draft) -> Published:
        (outcome,) = await self.publish_many([draft])
        if isinstance(outcome, Published):
            return outcome
        raise outcome

    async def publish_many(self, drafts: Sequence[Draft]) -> list[Published | HubError | ConditionFailed]:
        self.calls += 1
        self.waiting += 1
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1
        return [self._publish(draft) for draft in drafts]

    def _publish(self, draft: Draft) -> Published | HubError | ConditionFailed:
        refused = self.refuse(draft)
        if refused is not None:
            return refused
        if draft.if_server is not None and draft.if_server != self.server:
            return ServerChanged(self.server)
        events = self.events.setdefault(draft.topic, [])
        if draft.key is not None:
            seq = self.keys.get((draft.topic, draft.key))
            if seq is not None:
                return Published("e", seq, True, self.server)
        kept = draft.history is not None and not draft.ephemeral
        if kept and draft.if_top not in (None, len(events)):
            return TopMoved(self.server, len(events))
        events += (draft.body, *draft.further)
        if draft.key is not None:
            self.keys[draft.topic, draft.key] = len(events)
        return Published("e", len(events), False, self.server)

    def fail_over(self, server: str, kept: int) -> None:
        """Becomes another server, to which the first ``kept`` events of every topic had been replicated."""
        self.server = server
        for topic, events in self.events.items():
            del events[kept:]
            for name in [name for name, seq in self.keys.items() if name[0] == topic and seq > kept]:
                del self.keys[name]

    def data(self, topic: Topic) -> list[object]:
        """The ``data`` of a topic's events, in order."""
        return [msgspec.json.decode(body)["data"] for body in self.events.get(topic, [])]

    async def read(self, requests: Sequence[HistoryRequest]) -> list[HistoryPage | HubError]:
        raise NotImplementedError

    async def subscribe(self, topics: Sequence[Topic]) -> list[TopicState | HubError]:
        raise NotImplementedError

    def unsubscribe(self, topics: Sequence[Topic]) -> None:
        raise NotImplementedError

    async def servers(self) -> dict[str, str]:
        return {"memory": self.server}

    async def server_of(self, topic: Topic) -> str:
        return self.server
