"""Fault oracle: failover to a replica, by hand and by a sentinel, with the link to it cut before; a real cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import redis

from hub.orgs import OrgId
from hub.topics.topic import Topic
from tests.support.cut_proxy import CutProxy
from tests.support.servers import client
from tests.support.topologies import RedisPair, redis_cluster, redis_pair, redis_sentinel
from tests.support.waiting import until
from tests.system.conftest import Arena, linked
from tests.system.ordeal import ORG, TOPICS, Plan

pytestmark = pytest.mark.faults


async def test_failover_to_a_replica(arena: Arena) -> None:
    async with redis_pair() as pair, doors(pair) as proxies:
        urls = [f"redis://127.0.0.1:{proxy.port}/0" for proxy in proxies]
        async with arena.ordeal("failover to a replica", Plan(keeps_data=False), urls, linked(pair.replica)) as it:
            await fail_over(pair, proxies)
        assert it.figures.epoch_changes >= len(it.clients)


async def test_failover_by_a_sentinel(arena: Arena) -> None:
    async with redis_sentinel() as (sentinel, pair):
        plan = Plan(keeps_data=False)
        async with arena.ordeal("failover by a sentinel", plan, [sentinel.url] * 2, linked(pair.replica)) as it:
            pair.master.kill()
            await until(lambda: sentinel.master_port() == pair.replica.port, 60, "the sentinel to promote the replica")
        assert it.figures.epoch_changes >= len(it.clients)


async def test_failover_gives_numbers_twice(arena: Arena) -> None:
    """The replica lacks the newest events; after its promotion others get their numbers."""
    async with redis_pair() as pair, doors(pair) as proxies:
        urls = [f"redis://127.0.0.1:{proxy.port}/0" for proxy in proxies]
        scenario = arena.ordeal("failover, replica link cut", Plan(keeps_data=False), urls, linked(pair.replica))
        async with scenario as it:
            pair.cut_link()
            for number in range(0, len(it.clients), 3):
                # The replica will not know that their sessions have new owners.
                it.clients[number].cut()
            await it.flows(300)
            await fail_over(pair, proxies)
        assert it.figures.epoch_changes >= len(it.clients)
        twice = it.numbers_given_twice()
        assert twice, "no client has seen two events with one number: the fault did not happen"


async def test_failover_that_one_node_learns_late(arena: Arena) -> None:
    """Two masters for a while: what the old one takes meanwhile is gone, except what SQL has committed."""
    async with redis_pair() as pair, doors(pair) as proxies:
        urls = [f"redis://127.0.0.1:{proxy.port}/0" for proxy in proxies]
        scenario = arena.ordeal("failover, one node late", Plan(keeps_data=False), urls, linked(pair.replica))
        async with scenario as it:
            pair.cut_link()
            pair.promote()
            for proxy in proxies:
                await it.flows(150)
                proxy.target = ("127.0.0.1", pair.replica.port)
                proxy.cut()
            pair.master.kill()
        assert it.figures.epoch_changes >= len(it.clients)
        assert it.numbers_given_twice()


async def test_cluster(arena: Arena) -> None:
    async with redis_cluster() as cluster:

        @contextlib.contextmanager
        def link() -> AsyncIterator[redis.Redis]:
            opened = redis.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port, decode_responses=True)
            try:
                yield opened
            finally:
                opened.close()

        async with arena.ordeal("cluster: kill pubsub, move slots", Plan(), [cluster.url] * 2, link) as it:
            for node in cluster.nodes:
                with client(node) as direct:
                    direct.client_kill_filter(_type="pubsub")
            await it.flows(120)
            for text in TOPICS[:3]:
                kind, _, key = text.partition(":")
                name = Topic(OrgId.from_claim(ORG), kind, key).names.position
                here = cluster.node_of(name)
                there = next(node for node in cluster.nodes if node is not here)
                await cluster.move_slot(name, there)
                await it.flows(60)


@contextlib.asynccontextmanager
async def doors(pair: RedisPair) -> AsyncIterator[list[CutProxy]]:
    """A proxy per node, as a name that leads to whoever is master."""
    async with contextlib.AsyncExitStack() as stack:
        target = ("127.0.0.1", pair.master.port)
        yield [await stack.enter_async_context(CutProxy(target)) for _ in range(2)]


async def fail_over(pair: RedisPair, proxies: list[CutProxy]) -> None:
    """The master is gone at once; a moment later the names lead to the replica."""
    pair.master.kill()
    for proxy in proxies:
        proxy.cut()
    await asyncio.sleep(1)  # a failover takes time, in which everything fails
    pair.promote()
    for proxy in proxies:
        proxy.target = ("127.0.0.1", pair.replica.port)
        proxy.cut()
