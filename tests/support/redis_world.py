"""A broker on a real server, and an ear that remembers what came: the setting of all tests of the Redis engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from hub.config import Settings, load_settings
from hub.embedded import RedisServer
from hub.fanout.broker import Draft, HistoryPage, HistoryRequest, Publication, TopicState
from hub.fanout.envelope import parse_envelope
from hub.fanout.redis_broker import RedisBroker
from hub.orgs import OrgId
from hub.redis import Redis
from hub.topics.kinds import History
from hub.topics.topic import Topic
from tests.support.waiting import until

ORG = OrgId.from_claim("acme")
KEPT = History(count=100, bytes=1_000_000, age_s=3600)


def redis_settings(url: str, **changes: Any) -> Settings:
    """Settings with the short pauses that tests want, and a patience that a busy machine needs; ``changes`` win.

    Who names ``redis_timeout_s`` wants a line that is hurt to be noticed soon, also by its probe.
    """
    quick: dict[str, Any] = {
        "redis_connect_timeout_s": 10.0,
        "redis_timeout_s": 10.0,
        "probe_interval_s": 0.1,
        "probe_timeout_s": min(10.0, changes.get("redis_timeout_s", 10.0)),
        "reconnect_max_s": 0.2,
    }
    given = {"database_url": "unused", "jwt_secret": "x" * 32, **quick, **changes}
    return load_settings({}, redis_url=url, **given)


def topic(key: str, kind: str = "events", org: OrgId = ORG) -> Topic:
    """A topic of the test's organisation."""
    return Topic(org, kind, key)


def draft(subject: Topic, body: bytes = b'{"id":"1"}', history: History | None = KEPT, **more: Any) -> Draft:
    """An event for ``subject``."""
    return Draft(subject, history, body, **more)


def wanted(subject: Topic, after: Any = "start", limit: int = 1000, max_bytes: int = 10_000_000) -> HistoryRequest:
    """A request for history."""
    return HistoryRequest(subject, after, limit, max_bytes)


async def page(broker: RedisBroker, subject: Topic, after: Any = "start", **bounds: int) -> HistoryPage:
    """One page; fails the test when it is an error."""
    (outcome,) = await broker.read([wanted(subject, after, **bounds)])
    assert isinstance(outcome, HistoryPage), outcome
    return outcome


class Ear:
    """``BrokerEvents`` that remembers."""

    def __init__(self) -> None:
        self.publications: dict[bytes, list[Publication]] = {}
        self.states: dict[bytes, list[TopicState]] = {}
        self.links: list[bool] = []
        self.batches: list[int] = []

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        self.batches.append(len(batch))
        for channel, envelope in batch:
            self.publications.setdefault(channel, []).append(parse_envelope(envelope))

    def on_state(self, channel: bytes, state: TopicState) -> None:
        self.states.setdefault(channel, []).append(state)

    def on_link(self, ready: bool) -> None:
        self.links.append(ready)

    def heard(self, subject: Topic) -> list[Publication]:
        """What came on a topic."""
        return self.publications.get(subject.names.channel.encode(), [])

    def state_of(self, subject: Topic) -> list[TopicState]:
        """The states that came by themselves."""
        return self.states.get(subject.names.channel.encode(), [])


class World:
    """Settings, client, broker and ear that belong together."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ear = Ear()
        self.redis = Redis(settings)
        self.broker = RedisBroker(self.redis, settings, self.ear)

    async def ready(self, timeout: float = 30.0) -> None:
        """Waits until the links stand."""
        await until(lambda: self.broker.ready, timeout, "the links to be ready")


async def restart(server: RedisServer) -> None:
    """Stops and starts a server, and lets the event loop, which that has blocked, notice the closed connections."""
    server.stop()
    server.start()
    await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def world(url: str, *, listening: bool = True, **changes: Any) -> AsyncIterator[World]:
    """A started world; ``listening``: with its links up."""
    it = World(redis_settings(url, **changes))
    await it.redis.start()
    try:
        if listening:
            await it.broker.start()
            await it.ready()
        yield it
    finally:
        await it.broker.close()
        await it.redis.close()
