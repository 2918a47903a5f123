"""Fault oracle with ``hub.client``: behind a door that leads to one node and then to another, it misses nothing."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from hub.client import ClientOptions, HubClient
from hub.embedded import RedisServer
from tests.support.cut_proxy import CutProxy
from tests.support.hub_process import POLITE_EXIT
from tests.support.servers import client
from tests.support.waiting import until
from tests.system.conftest import Arena, linked
from tests.system.judge import read_truth
from tests.system.ordeal import ORG, TOPICS, Plan, token

pytestmark = pytest.mark.faults

CLIENTS = 8


class Reader:
    """A program that uses the client: every topic, from its start."""

    def __init__(self, url: str, name: str) -> None:
        self.numbers: dict[str, list[int]] = {topic: [] for topic in TOPICS}
        self.gaps: list[str] = []
        options = ClientOptions(backoff_base_s=0.2, backoff_max_s=1.0)
        self._client = HubClient(url, lambda: token(name), options=options)

    async def run(self) -> None:
        async with self._client as hub, asyncio.TaskGroup() as group:
            for topic in TOPICS:
                group.create_task(self._read(hub, topic))

    async def _read(self, hub: HubClient, topic: str) -> None:
        subscription = hub.subscribe(topic, since="start", on_gap=lambda gap: self.gaps.append(gap.reason))
        async for event in subscription:
            self.numbers[topic].append(event.data["number"])


async def test_it_misses_nothing(arena: Arena, own_redis: RedisServer) -> None:
    plan = Plan(clients=10, rate=150)
    async with arena.ordeal("hub.client: kill, drain, CLIENT KILL", plan, [own_redis.url] * 2, linked(own_redis)) as it:
        first, second = it.nodes
        async with CutProxy(("127.0.0.1", first.port)) as door:
            readers = [Reader(f"ws://127.0.0.1:{door.port}/ws", f"reader-{number}") for number in range(CLIENTS)]
            tasks = [asyncio.create_task(reader.run()) for reader in readers]
            try:
                await until(lambda: all(all(reader.numbers.values()) for reader in readers), 30, "everybody to read")
                door.target = ("127.0.0.1", second.port)
                await first.kill()
                await it.flows(100)
                await first.start()
                door.target = ("127.0.0.1", first.port)
                assert await second.terminate() == POLITE_EXIT
                await it.flows(100)
                with client(own_redis) as link:
                    link.client_kill_filter(_type="pubsub")
                await it.flows(100)
                await second.start()
                await it.publisher.stop(30)
                await it.outbox_is_empty()
                with client(own_redis) as link:
                    truths = read_truth(link, ORG, TOPICS)
                wanted = {topic: [number for _, number in sorted(truths[topic].numbers.items())] for topic in TOPICS}
                await until(lambda: all(behind(reader, wanted) == [] for reader in readers), 30, "everybody at the top")
                assert [reader.numbers for reader in readers] == [wanted] * CLIENTS
                assert [reader.gaps for reader in readers] == [[]] * CLIENTS
            finally:
                for task in tasks:
                    task.cancel()
                with contextlib.suppress(ExceptionGroup):
                    await asyncio.gather(*tasks, return_exceptions=True)
        it.publisher.start()


def behind(reader: Reader, wanted: dict[str, list[int]]) -> list[str]:
    """Topics whose last event has not come."""
    return [topic for topic, numbers in wanted.items() if reader.numbers[topic][-1] != numbers[-1]]
