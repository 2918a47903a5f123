"""Readers of one node whom a writer on another one waits for, over a real Redis."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec
import pytest

from hub.embedded import RedisServer
from hub.errors import unavailable
from hub.fanout.control import Control, Lags
from hub.nodes.attention import Attention
from hub.orgs import OrgId
from hub.protocol.frames import Event
from tests.support.clock import Clock
from tests.support.fan_out import PACED, FakeConnection, FanOut, settings
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.running_hub import running_hub
from tests.support.waiting import until

ACME = OrgId.from_claim("acme")


class World(NamedTuple):
    """A writer's node and a reader's node, and clients there, all in one organisation."""

    there: Peers
    writer: RawClient
    attention: Attention
    org: OrgId

    def lag(self, topic: str) -> int:
        """As a service on the writer's node sees it."""
        return self.attention.lag(self.org, topic)

    async def write(self, topic: str, count: int) -> str:
        for number in range(count):
            epoch = (await self.writer.publish(topic, number))["epoch"]
        return str(epoch)

    async def known(self) -> None:
        """Somebody lags elsewhere, and that is known here: whatever was known before would be, too."""
        marker = await self.there.join("marker", subscribe=[{"topic": "paced:marker", "ack": True}])
        await self.write("paced:marker", 20)
        await until(lambda: self.lag("paced:marker") == 20)
        await marker.socket.close()


@pytest.fixture(params=[60.0])
async def world(redis_server: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(
                running_hub("direct", redis_server.url, node=name, attentive_s=request.param, ack_window=50)
            )
            for name in ("here", "there")
        ]
        here = await stack.enter_async_context(Peers(nodes[0]))
        there = await stack.enter_async_context(Peers(nodes[1], org=here.org))
        writer = await here.join("writer")
        yield World(there, writer, nodes[0].service.hub.attention, OrgId.from_claim(here.org))


async def test_a_reader_on_another_node_who_lags_is_seen_until_he_has_caught_up(world: World) -> None:
    reader = await world.there.join("reader", subscribe=[{"topic": "paced:a", "ack": True}])
    epoch = await world.write("paced:a", 30)
    await until(lambda: world.lag("paced:a") == 30)
    assert world.lag("paced:b") == 0
    assert world.attention.lag(OrgId.from_claim("other"), "paced:a") == 0
    await reader.ack("paced:a", epoch, 15)
    await until(lambda: world.lag("paced:a") == 15)
    await world.write("paced:a", 60)
    await until(lambda: world.lag("paced:a") == 75, what="what the window keeps back to count")
    await reader.ack("paced:a", epoch, 30)
    await reader.events(65)
    await reader.ack("paced:a", epoch, 65)
    await reader.events(25)
    await reader.ack("paced:a", epoch, 88)
    await until(lambda: world.lag("paced:a") == 0, what="two events not to matter")


async def test_who_unsubscribes_or_goes_away_is_not_waited_for(world: World) -> None:
    one = await world.there.join("one", subscribe=[{"topic": "paced:a", "ack": True}])
    two = await world.there.join("two", subscribe=[{"topic": "paced:a", "ack": True}])
    epoch = await world.write("paced:a", 30)
    await two.ack("paced:a", epoch, 10)
    await until(lambda: world.lag("paced:a") == 30)
    await one.unsubscribe("paced:a")
    await until(lambda: world.lag("paced:a") == 20)
    two.socket.transport.abort()
    await until(lambda: world.lag("paced:a") == 0)


# Long enough that he is seen to lag before he has been silent for so long, on a machine that takes its time.
@pytest.mark.parametrize("world", [3.0], indirect=True)
async def test_who_is_silent_for_long_is_not_waited_for(world: World) -> None:
    reader = await world.there.join("reader", subscribe=[{"topic": "paced:a", "ack": True}])
    epoch = await world.write("paced:a", 30)
    await until(lambda: world.lag("paced:a") == 30)
    await until(lambda: world.lag("paced:a") == 0)
    await reader.ack("paced:a", epoch, 1)
    await until(lambda: world.lag("paced:a") == 29)


async def test_who_does_not_acknowledge_at_all_is_no_concern(world: World) -> None:
    reader = await world.there.join("reader", subscribe=[{"topic": "paced:a"}, {"topic": "room:a", "ack": True}])
    for name in ("paced:a", "room:a"):
        await world.write(name, 30)
        for number in range(30):
            await reader.expect(Event, topic=name, data=number)
    await world.known()
    assert world.lag("paced:a") == world.lag("room:a") == 0


# --- what is said, and what is believed


class Alone:
    """The attention of one node whose clock the test moves."""

    def __init__(self, **changes: int) -> None:
        self.hub = FanOut(ack_window=50)
        self.clock = Clock()
        self.control = Control("n1", self.hub.broker, self.hub.dispatcher)
        given = settings(attention_least=0, **changes)
        self.attention = Attention(given, "n1", self.hub.membership.attentive, self.control, self.clock)

    async def follow(self, key: str) -> FakeConnection:
        connection = FakeConnection(self.hub)
        await connection.join(PACED, key=key, ack=True)
        return connection

    def write(self, count: int, key: str) -> None:
        self.hub.publish(PACED, count, key)
        self.hub.broker.pump()

    @property
    def said(self) -> list[list[tuple[str, str, int]]]:
        """What this node has told the others."""
        controls = [msgspec.json.decode(draft.body).get("control") for draft in self.hub.broker.drafts]
        return [[tuple(lag) for lag in control["lags"]] for control in controls if control is not None]

    async def hear(self, node: str, *lags: tuple[str, str, int]) -> None:
        """Another node tells this one."""
        await self.control.send(Lags(node, lags))
        self.hub.broker.pump()


@pytest.fixture
async def alone(request: pytest.FixtureRequest) -> AsyncIterator[Alone]:
    node = Alone(**getattr(request, "param", {}))
    node.control.start()
    await until(lambda: len(node.hub.broker.wanted) == 2)
    yield node
    await node.control.close()
    await node.hub.close()


async def test_nothing_is_said_while_nobody_lags_and_the_end_is_said_once(alone: Alone) -> None:
    connection = await alone.follow("1")
    await alone.attention.look()
    assert alone.said == []
    alone.write(20, "1")
    await alone.attention.look()
    await alone.attention.look()
    assert alone.said == [[("acme", "paced:1", 20)]] * 2
    connection.acknowledge(PACED)
    for _ in range(3):
        await alone.attention.look()
    assert alone.said[2:] == [[]]


@pytest.mark.parametrize("alone", [{"attention_reports": 2}], indirect=True)
async def test_only_the_worst_are_told(alone: Alone) -> None:
    for key, lag in (("a", 3), ("b", 5), ("c", 4)):
        await alone.follow(key)
        alone.write(lag, key)
    await alone.attention.look()
    assert alone.said == [[("acme", "paced:b", 5), ("acme", "paced:c", 4)]]


async def test_the_worst_of_all_nodes_is_believed_for_a_second(alone: Alone) -> None:
    await alone.hear("n2", ("acme", "content:x", 20))
    await alone.hear("n3", ("acme", "content:x", 30))
    assert alone.attention.lag(ACME, "content:x") == 30
    await alone.hear("n3")
    assert alone.attention.lag(ACME, "content:x") == 20
    alone.clock.now += 1.0
    assert alone.attention.lag(ACME, "content:x") == 20
    alone.clock.now += 0.1
    assert alone.attention.lag(ACME, "content:x") == 0
    await alone.hear("n4")
    assert alone.attention._reports == {}


async def test_what_could_not_be_said_is_said_again(alone: Alone) -> None:
    await alone.follow("1")
    alone.write(20, "1")
    refused = 0

    async def refuse() -> None:
        nonlocal refused
        refused += 1
        raise unavailable("Redis")

    usual, alone.hub.broker.delay = alone.hub.broker.delay, refuse
    alone.attention.start()
    try:
        await until(lambda: refused >= 2)
        alone.hub.broker.delay = usual
        await until(lambda: alone.said[-1:] == [[("acme", "paced:1", 20)]])
    finally:
        await alone.attention.close()
