"""The client's fallbacks against hubs as they are: flags are flipped and nodes change while events flow."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hub.client import ClientOptions, HubClient, RequestRefused
from hub.embedded import RedisServer
from hub.flags import FixedFlags
from tests.support.cut_proxy import CutProxy
from tests.support.running_hub import RunningHub, running_hub
from tests.support.waiting import until

TOPICS = ("room:a", "events:finance")
OPTIONS = ClientOptions(
    backoff_base_s=0.05,
    backoff_max_s=0.2,
    upgrade_after_s=30.0,
    move_jitter_s=0.05,
    ack_interval_s=0.05,
    use_system_proxy=False,
)


@pytest.fixture
async def nodes(redis_server: RedisServer) -> AsyncIterator[list[RunningHub]]:
    async with contextlib.AsyncExitStack() as stack:
        start = [
            running_hub(
                "direct",
                redis_server.url,
                flags=FixedFlags({"realtime_v2": True, "finance_realtime_v2": True, "rooms": True}),
                flags_drain_window_s=0.05,
                node=name,
            )
            for name in ("here", "there")
        ]
        yield [await stack.enter_async_context(node) for node in start]


class Story:
    """A client that reads, and events that are numbered."""

    def __init__(self, client: HubClient, speaker: HubClient) -> None:
        self.client = client
        self.speaker = speaker
        self.read: dict[str, list[int]] = {topic: [] for topic in TOPICS}
        self.sent = 0
        self._speaking = True
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Story:
        ready = asyncio.Event()
        self._tasks = [asyncio.create_task(self._read(topic, ready)) for topic in TOPICS]
        await ready.wait()
        self._tasks.append(asyncio.create_task(self._speak()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert [one for one in results if not isinstance(one, asyncio.CancelledError)] == []

    async def all_read(self) -> None:
        """Speaks no more; everything has come, once, in order."""
        self._speaking = False
        await self._tasks.pop()
        last = self.sent
        await until(lambda: all(numbers[-1:] == [last] for numbers in self.read.values()), 30, "the last event")
        assert self.read == {topic: list(range(1, last + 1)) for topic in TOPICS}
        assert self.client.counters.gaps == self.client.counters.violations == 0

    async def over(self, transport: str) -> None:
        """The client has moved, and some more events have come there."""
        await until(lambda: self.client.transport == transport, 30, transport)
        goal = self.sent + 5
        await until(lambda: min(max(numbers, default=0) for numbers in self.read.values()) >= goal, 30, "events there")

    async def _read(self, topic: str, ready: asyncio.Event) -> None:
        async with self.client.subscribe(topic, since="start") as subscription:
            ready.set()
            async for event in subscription:
                self.read[topic].append(event.data)

    async def _speak(self) -> None:
        while self._speaking:
            number = self.sent + 1
            for topic in TOPICS:
                await self.speaker.publish(topic, "n", number)
            self.sent = number
            await asyncio.sleep(0.005)


def client_of(node: RunningHub, url: str, org: str, **changes: Any) -> HubClient:
    options = ClientOptions(**{name: getattr(OPTIONS, name) for name in OPTIONS.__struct_fields__} | changes)
    return HubClient(url, lambda: node.token(org), options=options)


async def test_flags_move_a_client_and_bring_it_back(nodes: list[RunningHub]) -> None:
    node, org = nodes[0], uuid.uuid4().hex
    async with (
        client_of(node, node.url, org) as client,
        client_of(node, node.url, org, transports=("poll",)) as speaker,
        Story(client, speaker) as story,
    ):
        await story.over("websocket")
        for _ in range(2):
            node.flip(realtime_v2=False)
            await story.over("sse")
            node.flip(realtime_v2=True)
            await story.over("websocket")
        node.flip(finance_realtime_v2=False)
        await story.over("sse")
        assert client.flags["finance_realtime_v2"] is False
        node.flip(finance_realtime_v2=True)
        await story.over("websocket")
        await story.all_read()


@pytest.mark.parametrize("transport", ["sse", "poll"])
async def test_any_node_will_do(nodes: list[RunningHub], transport: Any) -> None:
    """A door that leads to another node with each connection: no sticky sessions."""
    first, org = nodes[0], uuid.uuid4().hex
    async with CutProxy(("127.0.0.1", first.port)) as door:

        async def turn() -> None:
            for node in itertools.cycle(nodes):
                door.target = ("127.0.0.1", node.port)
                await asyncio.sleep(0.02)

        turning = asyncio.create_task(turn())
        url = f"ws://127.0.0.1:{door.port}/ws"
        async with (
            client_of(first, url, org, transports=(transport,), http_idle_s=0.0, posted_answer_s=0.2) as client,
            client_of(first, first.url, org) as speaker,
            Story(client, speaker) as story,
        ):
            await story.over(transport)
            for number in range(8):
                assert await client.call("test.echo", {"number": number}, retry=True) == {"number": number}
                async with client.subscribe("big:other"):
                    await client.publish("big:other", "n", number)
            with pytest.raises(RequestRefused, match="tus"):
                await client.call("test.intake", {})
            await story.over(transport)
            await story.all_read()
        turning.cancel()


async def test_a_node_that_has_not_heard_yet_keeps_nobody_down(nodes: list[RunningHub]) -> None:
    """Switched on again: the attempt to come up reaches a node that hears of it a moment later."""
    here, there = nodes
    async with CutProxy(("127.0.0.1", here.port)) as door:
        url, org = f"ws://127.0.0.1:{door.port}/ws", uuid.uuid4().hex
        async with client_of(here, url, org) as client, client.subscribe("room:a"):
            await until(lambda: client.transport == "websocket", 30, "the socket")
            there.flip(realtime_v2=False)
            here.flip(realtime_v2=False)
            await until(lambda: client.transport == "sse", 30, "the fallback")
            door.target = ("127.0.0.1", there.port)
            here.flip(realtime_v2=True)
            registry = there.gateway.metrics.registry
            refused = functools.partial(registry.get_sample_value, "hub_errors_total", {"code": "feature_disabled"})
            await until(refused, 30, "an attempt that comes too early")
            there.flip(realtime_v2=True)
            await until(lambda: client.transport == "websocket", 30, "the socket again")


async def test_what_a_welcome_has_on_again_brings_a_client_back(nodes: list[RunningHub]) -> None:
    """Its polls come to another node, which knows already: nobody sends it a ``flags`` frame."""
    here, there = nodes
    async with CutProxy(("127.0.0.1", here.port)) as door:
        url, org = f"ws://127.0.0.1:{door.port}/ws", uuid.uuid4().hex
        ways: Any = ("websocket", "poll")
        async with (
            client_of(here, url, org, transports=ways, http_idle_s=0.0) as client,
            client.subscribe("room:a"),
            client_of(here, here.url, org, transports=("poll",)) as speaker,
        ):
            await until(lambda: client.transport == "websocket", 30, "the socket")
            there.flip(realtime_v2=False)
            here.flip(realtime_v2=False)
            await until(lambda: client.transport == "poll", 30, "the fallback")
            there.flip(realtime_v2=True)
            door.target = ("127.0.0.1", there.port)
            await speaker.publish("room:a", "n", 1)  # ends the poll that waits
            await until(lambda: client.transport == "websocket", 30, "the socket again")
