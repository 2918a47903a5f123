"""A service's process that does nothing but publish: events a second in batches, and one by one in many tasks.

``python -m loadtest.publisher SECONDS WINDOW`` with the hub's settings in the environment; prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import uvloop

from hub.config import load_settings
from hub.fanout.bodies import encode_body
from hub.fanout.broker import Draft, Published, TopicState
from hub.fanout.publisher import NewEvent, Publisher, event_id
from hub.fanout.redis_broker import RedisBroker
from hub.orgs import OrgId
from hub.redis import Redis
from hub.telemetry import Metrics
from hub.topics.kinds import TopicKind, TopicKinds
from hub.topics.topic import Topic
from loadtest.service import HISTORY, KIND

ORG = "acme"
TOPICS = 50
DATA = {"text": "x" * 60}


async def measure(seconds: float, window: int) -> dict[str, float]:
    """Events a second: ``batched`` and ``single``."""
    settings = load_settings(os.environ)
    client = Redis(settings)
    await client.start()
    broker = RedisBroker(client, settings, NoEvents())
    kinds = TopicKinds([TopicKind(name=KIND, history=HISTORY)])
    publisher = Publisher(settings, Metrics(), kinds, broker)
    topics = [Topic(OrgId.from_operator(ORG), KIND, f"{number:05d}") for number in range(TOPICS)]
    try:
        return {
            "batched": await _rate(lambda: _batch(broker, topics, window), window, seconds),
            "single": await _single(publisher, topics, window, seconds),
        }
    finally:
        await client.close()


class NoEvents:
    """Nobody here listens."""

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """Never called: no link is started."""

    def on_state(self, channel: bytes, state: TopicState) -> None:
        """Never called."""

    def on_link(self, ready: bool) -> None:
        """Never called."""


async def _rate(work: Callable[[], Awaitable[None]], events: int, seconds: float) -> float:
    await work()
    began, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        await work()
        done += events
    return done / elapsed


async def _batch(broker: RedisBroker, topics: Sequence[Topic], window: int) -> None:
    data = msgspec.Raw(msgspec.json.encode(DATA))
    drafts = [
        Draft(topics[number % TOPICS], HISTORY, encode_body(event_id(), "bench", data, None, None))
        for number in range(window)
    ]
    for outcome in await broker.publish_many(drafts):
        if not isinstance(outcome, Published):
            raise RuntimeError(f"not published: {outcome}")


async def _single(publisher: Publisher, topics: Sequence[Topic], window: int, seconds: float) -> float:
    done = 0
    until = time.perf_counter() + seconds

    async def publish(topic: Topic) -> None:
        nonlocal done
        while time.perf_counter() < until:
            await publisher.publish(topic, NewEvent(topic.text, "bench", DATA))
            done += 1

    async with asyncio.TaskGroup() as tasks:
        for number in range(window):
            tasks.create_task(publish(topics[number % TOPICS]))
    return done / seconds


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(float(sys.argv[1]), int(sys.argv[2])))))
