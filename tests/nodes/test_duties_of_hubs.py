"""Duties of whole nodes: killed with -9, asked to leave. What they work on goes on elsewhere, in order, once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hub.api import Duties, ErrorCode, Hub, HubError, Service
from hub.orgs import duty_names
from hub.topics.topic import Topic
from tests.support.duty_service import COUNTS, ORG, PURPOSE
from tests.support.hub_database import HubDatabase
from tests.support.hub_process import POLITE_EXIT, HubProcess
from tests.support.redis_world import World, page, world
from tests.support.running_hub import running_hub
from tests.support.waiting import until

LABEL = f'purpose="{PURPOSE}"'
WAIT_S = 45.0


@pytest.fixture
async def two(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path
) -> AsyncIterator[tuple[HubProcess, HubProcess]]:
    """Two nodes that run; the first has all duties."""
    settings = {
        "HUB_REDIS_URL": redis_url,
        "HUB_DATABASE_URL": hub_database.url("hub_app"),
        "HUB_SERVICES": "tests.support.duty_service:SERVICES",
        # Nobody takes a node for dead whose process the machine keeps waiting for a moment.
        "HUB_DUTY_LEASE_S": "4",
        "HUB_DRAIN_WINDOW_S": "0",
    }
    async with AsyncExitStack() as stack:
        nodes = [HubProcess(name, tmp_path, settings) for name in ("one", "two")]
        for node in nodes:
            stack.push_async_callback(node.kill)
            await node.start()
        yield nodes[0], nodes[1]


async def written(hub: World, number: int) -> list[tuple[int, str]]:
    """What stands in a topic: (count, node); fails unless it is 1, 2, 3 …"""
    found = await page(hub.broker, Topic(ORG, "count", str(number)), limit=100_000)
    counts = [tuple(msgspec.json.decode(entry.body)["data"]) for entry in found.publications]
    assert [count for count, _ in counts] == list(range(1, len(counts) + 1))
    return counts


async def handed_over(hub: World) -> list[tuple[str, str]]:
    """Duties and their holders, but for those that wait to be adopted."""
    ends, holders, _ = duty_names(PURPOSE)
    waiting = {duty.decode() for duty in await hub.redis.command(ends, "ZRANGE", ends, 0, 0, "BYSCORE")}
    found = await hub.redis.command(holders, "HGETALL", holders)
    return [(duty.decode(), holder.decode()) for duty, holder in found.items() if duty.decode() not in waiting]


async def all_go_on_at(hub: World, node: HubProcess) -> None:
    """Every topic has ten more events, and the last ones are the node's."""
    before = [len(await written(hub, number)) for number in range(COUNTS)]

    async def gone_on() -> bool:
        for number in range(COUNTS):
            counts = await written(hub, number)
            assert len(counts) >= before[number] + 10
            assert {who for _, who in counts[-5:]} == {node.name}
        return True

    await until(gone_on, WAIT_S, f"{node.name} to go on with everything")
    assert await node.metric("hub_duties", LABEL) == COUNTS


async def test_what_a_node_works_on_goes_on_when_it_dies_or_leaves(
    redis_url: str, two: tuple[HubProcess, HubProcess]
) -> None:
    one, other = two
    async with world(redis_url, listening=False) as hub:
        await all_go_on_at(hub, one)
        await one.kill()
        await all_go_on_at(hub, other)
        assert await other.metric("hub_duties_adopted_total", LABEL) == COUNTS
        await one.start()
        assert await one.metric("hub_duties", LABEL) == 0
        assert await other.terminate() == POLITE_EXIT
        for duty, holder in await handed_over(hub):
            assert holder.startswith("one/"), f"{duty} was not handed over"
        await all_go_on_at(hub, one)
    for node in two:
        assert not node.faults()
    assert PURPOSE not in other.log(), "duties were not kept well"


class Listener:
    """A service that remembers what it was told, and what it got when it was stopped."""

    def __init__(self) -> None:
        self.duties: Duties
        self.told: list[tuple[str, str, Any]] = []
        self.at_the_end: list[object] = []

    def factory(self, hub: Hub) -> Service:
        """What the hub is given."""
        self.duties = hub.duties.of("listening")
        self.duties.on_signal(lambda org, name, message: self.told.append((org, name, message)))
        return Service(name="listener", stop=self._stop)

    async def _stop(self) -> None:
        self.at_the_end.append(self.duties.holds(ORG, "a"))
        try:
            await self.duties.take(ORG, "b")
        except HubError as error:
            self.at_the_end.append(error.code)


async def test_a_signal_goes_from_hub_to_hub_and_a_hub_that_stops_takes_nothing(redis_url: str) -> None:
    has, asks = Listener(), Listener()
    async with (
        running_hub("direct", redis_url, factories=[has.factory], node="has") as hub,
        running_hub("direct", redis_url, factories=[asks.factory], node="asks") as other,
    ):
        assert await hub.within(lambda: has.duties.take(ORG, "a"))
        await other.within(lambda: asks.duties.signal(ORG, "a", {"please": ["release"]}))
        await until(lambda: has.told == [("acme", "a", {"please": ["release"]})])
        assert asks.told == []
        await hub.stop()
        assert has.at_the_end == [True, ErrorCode.UNAVAILABLE]
        assert await other.within(lambda: asks.duties.take(ORG, "a")), "it was handed over"
