"""Fault oracle: one Redis that restarts, loses its data, drops subscribers, stalls; and a PostgreSQL that restarts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
import redis

from hub.embedded import PostgresServer, RedisServer
from tests.support.cut_proxy import CutProxy
from tests.support.hub_database import migrated_database
from tests.support.servers import client, temporary_folder
from tests.support.waiting import until
from tests.system.conftest import Arena, linked
from tests.system.judge import read_truth
from tests.system.ordeal import ORG, TOPICS, Ordeal, Plan

pytestmark = pytest.mark.faults


async def test_redis_restarts_with_its_data(arena: Arena, own_redis: RedisServer) -> None:
    async with arena.ordeal("Redis restart, data kept", Plan(), [own_redis.url] * 2, linked(own_redis)) as it:
        await restart(own_redis)
        await it.flows(200)
        # Long enough for the outbox to be refused, and for everybody to wait between two attempts.
        await restart(own_redis, away_s=2)
    assert it.figures.epoch_changes >= len(it.clients), "nobody was told that the server is another one"


async def test_redis_restarts_with_its_data_lost(arena: Arena, own_redis: RedisServer) -> None:
    plan = Plan(keeps_data=False)
    async with arena.ordeal("Redis restart, data lost", plan, [own_redis.url] * 2, linked(own_redis)) as it:
        # What SQL has committed comes again by itself, not only when more of it follows.
        it.publisher.silence("sql")
        await it.flows(100)
        with client(own_redis) as link:
            link.config_set("appendonly", "no")
        await asyncio.to_thread(own_redis.stop)
        for file in own_redis.home.data.glob("appendonlydir/*"):
            file.unlink()
        own_redis.start()
        await until(lambda: not missing_of_sql(it, own_redis), 30, "everything that SQL has committed to be back")
    assert it.figures.epoch_changes >= len(it.clients)


async def test_subscribers_are_killed(arena: Arena, own_redis: RedisServer) -> None:
    async with arena.ordeal("CLIENT KILL TYPE pubsub", Plan(), [own_redis.url] * 2, linked(own_redis)) as it:
        with client(own_redis) as link:
            for _ in range(5):
                assert link.client_kill_filter(_type="pubsub") >= 1
                await it.flows(120)
    assert it.figures.gaps == 0, "everything was still in history"


async def test_a_subscriber_overflows(arena: Arena, own_redis: RedisServer) -> None:
    """Redis drops a subscriber that takes too slowly, with everything that waited for it."""
    async with CutProxy(("127.0.0.1", own_redis.port)) as proxy:
        plan = Plan(clients=30, topics_each=2, rate=150)
        urls = [f"redis://127.0.0.1:{proxy.port}/0", own_redis.url]
        async with arena.ordeal("subscriber's output buffer", plan, urls, linked(own_redis)) as it:
            with client(own_redis) as link:
                link.config_set("client-output-buffer-limit", "pubsub 262144 65536 1")
                dropped = overflows(link)
                proxy.stall("to_client")
                await it.burst(until_true=lambda: overflows(link) > dropped)
                proxy.resume()


async def test_the_link_stalls(arena: Arena, own_redis: RedisServer) -> None:
    async with CutProxy(("127.0.0.1", own_redis.port)) as proxy:
        urls = [f"redis://127.0.0.1:{proxy.port}/0", own_redis.url]
        async with arena.ordeal("Redis link stalled 10 s", Plan(), urls, linked(own_redis)) as it:
            proxy.stall()
            await it.runs(10)

            async def unready() -> bool:
                return await it.nodes[0].health("ready") != 200

            await until(unready, 30, "the node to know that it is cut off")
            proxy.resume()
    assert it.figures.gaps == 0, "everything was still in history"


async def test_a_topic_is_quiet_after_the_link_was_lost(arena: Arena, own_redis: RedisServer) -> None:
    """What came while the link was down is the last event for long: nothing that follows betrays the hole."""
    async with contextlib.AsyncExitStack() as stack:
        target = ("127.0.0.1", own_redis.port)
        proxies = [await stack.enter_async_context(CutProxy(target)) for _ in range(2)]
        urls = [*(f"redis://127.0.0.1:{proxy.port}/0" for proxy in proxies), own_redis.url]
        async with arena.ordeal("quiet after a lost link", Plan(), urls, linked(own_redis)) as it:
            await it.publisher.stop(30)
            for proxy in proxies:
                proxy.refuse()
                proxy.cut()
            marks = await it.mark_through(it.nodes[2])
            for proxy in proxies:
                await proxy.allow()
            await it.reach(marks)
            it.publisher.start()
    assert it.figures.gaps == 0, "everything was still in history"


async def test_postgres_restarts(arena: Arena, own_redis: RedisServer) -> None:
    with lasting_postgres() as postgres:
        async with migrated_database(postgres) as database:
            urls = [own_redis.url] * 2
            scenario = arena.ordeal("PostgreSQL restart", Plan(rate=300), urls, linked(own_redis), database=database)
            async with scenario as it:
                for crash in (False, True, False):
                    await restart_postgres(postgres, crash=crash)
                    await it.flows(300)


@contextlib.contextmanager
def lasting_postgres() -> Iterator[PostgresServer]:
    """One that keeps what it has committed when it is killed; the tests' usual one may lose the last half second."""
    with temporary_folder() as folder:
        server = PostgresServer(folder, durable=False, options={"synchronous_commit": "on"})
        server.start()
        try:
            yield server
        finally:
            server.stop()


async def restart(server: RedisServer, away_s: float = 0) -> None:
    """In order: what it had acknowledged, it has afterwards."""
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(away_s)
    server.start()


async def restart_postgres(server: PostgresServer, *, crash: bool) -> None:
    """``crash``: as if it had been killed; it then recovers from its log."""
    if crash:
        server.kill()
        with contextlib.suppress(Exception):
            await asyncio.to_thread(server.stop)
    else:
        await asyncio.to_thread(server.stop)
    server.start()


def missing_of_sql(it: Ordeal, server: RedisServer) -> set[int]:
    """Numbers of committed events that Redis does not have."""
    with client(server) as link:
        there = {number for truth in read_truth(link, ORG, TOPICS).values() for number in truth.numbers.values()}
    committed = {entry.number for entry in it.publisher.ledger.entries.values() if entry.outbox_number}
    assert committed, "SQL has published nothing"
    return committed - there


def overflows(link: redis.Redis) -> int:
    """Clients that Redis has dropped for their output buffers."""
    return int(link.info("stats")["client_output_buffer_limit_disconnections"])
