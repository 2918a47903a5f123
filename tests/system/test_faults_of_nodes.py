"""Fault oracle: nodes that die or leave, and clients that behave badly."""

from __future__ import annotations

import pytest

from hub.embedded import RedisServer
from tests.support.hub_process import POLITE_EXIT, STOCK_SERVER
from tests.support.waiting import until
from tests.system.conftest import Arena, linked
from tests.system.ordeal import SETTLE_S, Plan

pytestmark = pytest.mark.faults


async def test_a_node_is_killed(arena: Arena, own_redis: RedisServer) -> None:
    async with arena.ordeal("node kill -9", Plan(), [own_redis.url] * 2, linked(own_redis)) as it:
        await it.nodes[0].kill()
        await it.heal()
        await it.nodes[0].start()


async def test_a_node_drains(arena: Arena, own_redis: RedisServer) -> None:
    async with arena.ordeal("SIGTERM drain", Plan(), [own_redis.url] * 2, linked(own_redis)) as it:
        assert await it.nodes[0].terminate() == POLITE_EXIT
        assert STOCK_SERVER or it.nodes[0].said("drained") == 1
        await it.heal()
        await it.nodes[0].start()


async def test_clients_flap(arena: Arena, own_redis: RedisServer) -> None:
    plan = Plan(clients=60, flapping=30)
    async with arena.ordeal("clients flap", plan, [own_redis.url] * 2, linked(own_redis)) as it:
        await it.runs(8)


async def test_everybody_returns_to_quiet_topics(arena: Arena, own_redis: RedisServer) -> None:
    """All that was seen is acknowledged and stored; what comes meanwhile is exactly one event a topic."""
    async with arena.ordeal("return to quiet topics", Plan(), [own_redis.url] * 2, linked(own_redis)) as it:
        await it.publisher.stop(30)
        for _ in range(3):
            await it.stored(linked(own_redis))
            for client in it.clients:
                client.cut()
            await it.reach(await it.publisher.mark())
        it.publisher.start()
    assert it.figures.reconnects >= 3 * len(it.clients)
    again = {
        client.name: {topic: witness.counts["repeats"] for topic, witness in client.witnesses.items()}
        for client in it.clients
        if any(witness.counts["repeats"] for witness in client.witnesses.values())
    }
    assert not again, f"what was acknowledged came again: {again}"


async def test_clients_subscribe_and_unsubscribe_in_a_loop(arena: Arena, own_redis: RedisServer) -> None:
    plan = Plan(toggling=16)
    async with arena.ordeal("subscribe/unsubscribe loop", plan, [own_redis.url] * 2, linked(own_redis)) as it:
        await it.runs(8)


async def test_clients_stop_reading(arena: Arena, own_redis: RedisServer) -> None:
    # Events large enough for what they miss not to fit into the kernel's buffers, which take megabytes.
    settings = {"HUB_UNSENT_HIGH_BYTES": "16384", "HUB_ACK_WINDOW": "60"}
    plan = Plan(lazy=20, pad=12_000, rate=100, settings=settings)
    async with arena.ordeal("clients stop reading 20 s", plan, [own_redis.url] * 2, linked(own_redis)) as it:
        for client in it.lazy:
            client.reading.clear()
        await it.runs(20)

        async def enough_left() -> bool:
            left = [await node.metric("hub_slow_consumers_total") for node in it.nodes]
            return sum(left) >= len(it.lazy)

        await until(enough_left, SETTLE_S, "those who do not read to leave the live set")
        for client in it.lazy:
            client.reading.set()
