"""Duties and a Redis that stands still, goes away, forgets, or is another one: who lives keeps what it has."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from hub.embedded import RedisServer
from hub.errors import ErrorCode, HubError
from hub.redis import Redis
from tests.nodes.duty_nodes import ACME, CLOCK, ENDS, HOLDERS, OTHER, WAIT_S, DutyNode, DutyNodes, runs_on
from tests.support.log_catcher import caught_logs
from tests.support.servers import client, running_redis
from tests.support.topologies import redis_cluster, redis_pair
from tests.support.waiting import until


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that may be hurt, and keeps its data over a restart."""
    with running_redis(append_only=True, options={"appendfsync": "always"}) as server:
        yield server


async def lives_through(nodes: DutyNodes, server: RedisServer, *, kept: bool) -> None:
    """Three nodes with duties; the third has died by now. What the first two have they keep; its own is adopted."""
    one, two, _ = nodes._opened[:3]
    with client(server) as link:
        assert (link.hlen(HOLDERS) > 0) == kept
    await until(lambda: not kept or sorted(one.adopted + two.adopted) == ["acme/2"], WAIT_S)
    third = nodes.add()
    await runs_on(third.redis, 1200)
    assert (one.lost, two.lost) == ([], [])
    assert one.duties.holds(ACME, "0")
    assert two.duties.holds(ACME, "1")
    assert not await third.duties.take(ACME, "0")
    assert not await third.duties.take(ACME, "1")
    assert third.adopted == []


async def three_with_duties(server: RedisServer) -> DutyNodes:
    nodes = DutyNodes(server.url)
    for number in range(3):
        node = nodes.add()
        assert await node.duties.take(ACME, str(number))
    return nodes


async def test_redis_stands_still_for_longer_than_the_lease(own_redis: RedisServer) -> None:
    nodes = await three_with_duties(own_redis)
    own_redis.signal(signal.SIGSTOP)
    await nodes._opened[2].kill()
    await asyncio.sleep(2.0)  # five leases: nothing can be seen meanwhile
    own_redis.signal(signal.SIGCONT)
    await lives_through(nodes, own_redis, kept=True)
    await nodes.close()


async def test_redis_is_restarted_with_its_data(own_redis: RedisServer) -> None:
    nodes = await three_with_duties(own_redis)
    with caught_logs() as logs:
        own_redis.kill()
        await nodes._opened[2].kill()
        await asyncio.sleep(1.5)  # almost four leases
        own_redis.start()
        await lives_through(nodes, own_redis, kept=True)
        await nodes.close()
    assert 2 <= len(logs.named("duties_not_renewed")) <= 4
    assert not logs.errors()


async def test_redis_is_restarted_without_its_data() -> None:
    with running_redis() as server:
        nodes = await three_with_duties(server)
        server.kill()
        await nodes._opened[2].kill()
        server.start()
        nodes._opened[0].duties._wake.set()

        def written_anew() -> bool:
            with client(server) as link:
                return set(link.hgetall(HOLDERS)) == {"acme/0", "acme/1"}

        await until(written_anew, WAIT_S)
        assert [node.lost for node in nodes._opened] == [[], [], []]
        third = nodes.add()
        assert not await third.duties.take(ACME, "0")
        assert await third.duties.take(ACME, "2"), "what nobody alive has is forgotten with the data"
        await nodes.close()


async def test_data_is_lost_and_another_node_was_faster(nodes: DutyNodes, redis: Redis) -> None:
    one, two = nodes.add(start=False, duty_lease_s=4.0), nodes.add(duty_lease_s=4.0)
    await one.duties.take(ACME, "a")
    for key in (ENDS, HOLDERS, CLOCK):
        await redis.command(key, "DEL", key)
    assert await two.duties.take(ACME, "a")
    one.book.start()  # only now, or it might have renewed its own in between
    await until(lambda: one.lost == ["acme/a"], WAIT_S)
    assert two.duties.holds(ACME, "a")


async def look_after(redis: Redis, node: DutyNode, passed_ms: int) -> tuple[int, int]:
    """What the duty clock makes of it when somebody looks for the first time after so long: (gone on, stands), ms."""

    async def now() -> int:
        seconds, micros = await redis.command(CLOCK, "TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    await redis.command(CLOCK, "HSET", CLOCK, "at", await now() - passed_ms, "ms", 5)
    await node.duties._sweep()
    at, ms = await redis.command(CLOCK, "HMGET", CLOCK, "at", "ms")
    return int(ms) - 5, int(at) - await now()


async def test_the_duty_clock_goes_on_while_somebody_looks(nodes: DutyNodes, redis: Redis) -> None:
    """A lease of 400 s: nodes look every 100 s or more often."""
    node = nodes.add(start=False, duty_lease_s=400, redis_timeout_s=30.0)
    usual = await look_after(redis, node, 60_000)
    assert 60_000 <= usual[0] < 65_000
    assert usual[1] <= 0
    short = await look_after(redis, node, 150_000)
    assert short[0] == 100_000, "whoever was cut off as well has most of its lease left"
    assert short[1] <= 0
    away = await look_after(redis, node, 250_000)
    assert away[0] == 0
    assert 25_000 < away[1] <= 30_000, "everybody can come back before it goes on"
    assert (await look_after(redis, node, -20_000))[0] == 0
    jumped_back = await look_after(redis, node, -3_600_000)
    assert jumped_back[0] == 0
    assert 25_000 < jumped_back[1] <= 30_000


@pytest.mark.parametrize("hours", [-5, 5])
async def test_another_server_with_another_time_takes_over(nodes: DutyNodes, redis: Redis, hours: int) -> None:
    """Redis' clock cannot be moved from here; where it stood at the last look can."""
    one, two = nodes.add(), nodes.add()
    await one.duties.take(ACME, "a")
    at = int(await redis.command(CLOCK, "HGET", CLOCK, "at"))
    await redis.command(CLOCK, "HSET", CLOCK, "at", at - hours * 3_600_000)
    await runs_on(redis, 800)
    assert (one.lost, one.adopted, two.adopted) == ([], [], [])
    await one.kill()
    await until(lambda: two.adopted == ["acme/a"], WAIT_S, "the clock to go on")


async def test_a_replica_is_promoted_that_has_not_heard_of_everything() -> None:
    async with redis_pair() as pair:
        nodes = DutyNodes(pair.master.url)
        one = nodes.add()
        await one.duties.take(ACME, "old")
        await pair.synced()
        pair.cut_link()
        await one.duties.take(ACME, "new")
        pair.promote()
        # As a sentinel has it: the same name, another server.
        moved = nodes.add(url=pair.replica.url, start=False)
        moved.book._me = one.book._me
        one.duties._table._redis = moved.redis
        other = nodes.add(url=pair.replica.url)

        def known() -> bool:
            with client(pair.replica) as link:
                return set(link.hkeys(HOLDERS)) == {"acme/old", "acme/new"}

        await until(known, WAIT_S)
        await runs_on(other.redis, 800)
        assert (one.lost, other.adopted) == ([], [])
        await nodes.close()


async def test_without_redis_nothing_is_taken_and_what_is_done_is_told_later(own_redis: RedisServer) -> None:
    nodes = DutyNodes(own_redis.url)
    one = nodes.add()
    await one.duties.take(ACME, "a")
    await one.duties.take(ACME, "b")
    with caught_logs() as logs:
        own_redis.kill()
        one.duties.release(ACME, "a")
        with pytest.raises(HubError) as caught:
            await one.duties.take(ACME, "c")
        assert caught.value.code is ErrorCode.UNAVAILABLE
        await until(lambda: logs.named("duties_not_renewed"), WAIT_S)
        assert await one.duties.take(ACME, "b"), "it has it"
        own_redis.start()

        def told() -> bool:
            with client(own_redis) as link:
                return set(link.hkeys(HOLDERS)) == {"acme/b"}

        await until(told, WAIT_S)
    await nodes.close()


async def test_duties_live_in_a_cluster() -> None:
    async with redis_cluster() as cluster:
        nodes = DutyNodes(cluster.url)
        dead, alive = nodes.add(), nodes.add()
        assert await dead.duties.take(ACME, "a")
        assert await dead.duties.take(OTHER, "a")
        assert not await alive.duties.take(OTHER, "a")
        await dead.kill()
        await until(lambda: sorted(alive.adopted) == ["acme/a", "other/a"], WAIT_S)
        await nodes.close()
