"""Work that one node does at a time: nodes that die, leave and hang, and a Redis that goes away or forgets."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from hub.embedded import RedisServer
from hub.errors import ErrorCode, HubError
from hub.redis import Redis
from tests.nodes.duty_nodes import ACME, CLOCK, ENDS, HOLDERS, OTHER, DutyNodes
from tests.support.cut_proxy import CutProxy
from tests.support.log_catcher import caught_logs
from tests.support.redis_world import redis_settings
from tests.support.servers import client, running_redis
from tests.support.topologies import redis_cluster, redis_pair
from tests.support.waiting import until

WAIT_S = 15.0  # two cores that others use as well; leases here are 0.4 s


@pytest.fixture
async def nodes(redis_url: str) -> AsyncIterator[DutyNodes]:
    nodes = DutyNodes(redis_url)
    yield nodes
    await nodes.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = Redis(redis_settings(redis_url))
    yield redis
    await redis.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that may be hurt, and keeps its data over a restart."""
    with running_redis(append_only=True, options={"appendfsync": "always"}) as server:
        yield server


async def held(redis: Redis) -> set[str]:
    """What has a holder in Redis; every one of them has a lease."""
    duties = {duty.decode() for duty in await redis.command(HOLDERS, "HKEYS", HOLDERS)}
    assert duties == {duty.decode() for duty in await redis.command(ENDS, "ZRANGE", ENDS, 0, -1)}
    return duties


async def runs_on(redis: Redis, ms: int) -> None:
    """Returns when the duty clock has gone on for ``ms``: whatever should not happen in this time would have."""

    async def now() -> int:
        return int(await redis.command(CLOCK, "HGET", CLOCK, "ms") or 0)

    begin = await now()

    async def passed() -> bool:
        return await now() - begin >= ms

    await until(passed, WAIT_S, "the duty clock to go on")


# --- taking and releasing --------------------------------------------------------------------------------------------


async def test_one_node_has_it(nodes: DutyNodes) -> None:
    one, two = nodes.add(), nodes.add()
    assert await one.duties.take(ACME, "a")
    assert await one.duties.take(ACME, "a"), "it has it already"
    assert not await two.duties.take(ACME, "a")
    assert await two.duties.take(OTHER, "a"), "another organisation's is another duty"
    assert await two.duties.take(ACME, "b/with/slash ü")
    assert (one.duties.holds(ACME, "a"), two.duties.holds(ACME, "a")) == (True, False)
    assert (one.metric("hub_duties"), two.metric("hub_duties")) == (1, 2)


async def test_of_many_who_want_it_one_gets_it(nodes: DutyNodes) -> None:
    several = [nodes.add(start=False) for _ in range(4)]
    for name in map(str, range(20)):
        outcomes = await asyncio.gather(*(node.duties.take(ACME, name) for node in several * 3))
        winners = {number % 4 for number, outcome in enumerate(outcomes) if outcome}
        assert len(winners) == 1
        assert [node.duties.holds(ACME, name) for node in several].count(True) == 1


async def test_what_is_held_stays_held(nodes: DutyNodes, redis: Redis) -> None:
    one, two = nodes.add(), nodes.add()
    await one.duties.take(ACME, "a")
    await runs_on(redis, 1200)
    assert not await two.duties.take(ACME, "a")
    assert (two.adopted, one.lost, one.adopted) == ([], [], [])


async def test_what_is_done_is_nobodys(nodes: DutyNodes, redis: Redis) -> None:
    one, two = nodes.add(), nodes.add()
    for name in "abc":
        await one.duties.take(ACME, name)
    one.duties.release(ACME, "a")
    one.duties.release(ACME, "a")
    one.duties.release(ACME, "never taken")
    assert not one.duties.holds(ACME, "a")

    async def gone() -> bool:
        return await held(redis) == {"acme/b", "acme/c"}

    await until(gone)
    assert one.metric("hub_duties") == 2
    assert await two.duties.take(ACME, "a")
    await runs_on(redis, 800)
    assert (one.adopted, two.adopted, one.lost, two.lost) == ([], [], [], [])


async def test_released_and_taken_again_in_one_breath(nodes: DutyNodes, redis: Redis) -> None:
    one, two = nodes.add(), nodes.add()
    for number in range(200):
        assert await one.duties.take(ACME, "a")
        one.duties.release(ACME, "a")
        if number % 3 == 0:
            await asyncio.sleep(0)  # lets the release set out, but not come back
    assert await one.duties.take(ACME, "a")
    await runs_on(redis, 500)
    assert one.duties.holds(ACME, "a")
    assert not await two.duties.take(ACME, "a")
    assert (one.lost, two.adopted) == ([], [])


async def test_taken_and_released_before_anything_was_renewed_leaves_nothing(nodes: DutyNodes, redis: Redis) -> None:
    one = nodes.add()

    async def work(number: int) -> None:
        assert await one.duties.take(ACME, str(number))
        one.duties.release(ACME, str(number))

    await asyncio.gather(*(work(number) for number in range(500)))

    async def nothing() -> bool:
        return await held(redis) == set()

    await until(nothing, WAIT_S)
    await runs_on(redis, 300)
    assert await held(redis) == set(), "a renewal has overtaken a release"


async def test_a_node_takes_so_many(nodes: DutyNodes) -> None:
    one, two = nodes.add(max_duties=2), nodes.add()
    assert [await one.duties.take(ACME, name) for name in "ab"] == [True, True]
    with pytest.raises(HubError) as caught:
        await one.duties.take(ACME, "c")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert await two.duties.take(ACME, "c")
    await two.kill()
    one.duties.release(ACME, "a")
    await until(lambda: one.adopted == ["acme/c"], WAIT_S)
    assert not one.lost


# --- nodes that die, leave, hang -------------------------------------------------------------------------------------


async def test_what_a_dead_node_had_is_adopted_once(nodes: DutyNodes, redis: Redis) -> None:
    dead, *alive = (nodes.add() for _ in range(4))
    names = [f"{org}/{number}" for org in (ACME, OTHER) for number in range(20)]
    assert all([await dead.duties.take(org, str(number)) for org in (ACME, OTHER) for number in range(20)])
    await alive[0].duties.take(ACME, "its own")
    await dead.kill()
    await until(lambda: sum(len(node.adopted) for node in alive) >= len(names), WAIT_S)
    await runs_on(redis, 800)
    assert sorted(duty for node in alive for duty in node.adopted) == sorted(names)
    assert all(node.holds(duty) for node in alive for duty in node.adopted)
    assert all(node.lost == [] for node in alive)
    assert sum(node.metric("hub_duties_adopted_total") for node in alive) == len(names)


async def test_thousands_are_kept_and_adopted_in_batches(nodes: DutyNodes, redis: Redis) -> None:
    # A lease that a stutter of a busy machine does not end.
    dead, *alive = (nodes.add(duty_lease_s=2.0, duty_sweep_batch=250) for _ in range(3))
    names = [str(number) for number in range(5000)]
    assert all(await asyncio.gather(*(dead.duties.take(ACME, name) for name in names)))
    await runs_on(redis, 2500)
    assert dead.lost == []
    assert all(node.adopted == [] for node in alive)
    await dead.kill()
    await until(lambda: sum(len(node.adopted) for node in alive) >= len(names), 30)
    assert sorted(duty for node in alive for duty in node.adopted) == sorted(f"acme/{name}" for name in names)


async def test_nobody_adopts_what_nobody_can_do(nodes: DutyNodes, redis: Redis) -> None:
    dead, alive = nodes.add(), nodes.add(start=False)
    alive.duties._adopt = None
    alive.book.start()
    await dead.duties.take(ACME, "a")
    await dead.kill()

    async def free() -> bool:
        return await alive.duties.take(ACME, "a")

    await until(free, WAIT_S, "the lease to end all the same")
    assert alive.adopted == []


async def test_a_node_started_anew_under_its_name_adopts_what_it_had(nodes: DutyNodes) -> None:
    before = nodes.add(name="n")
    await before.duties.take(ACME, "a")
    await before.kill()
    again = nodes.add(name="n")
    assert not again.duties.holds(ACME, "a")
    await until(lambda: again.adopted == ["acme/a"], WAIT_S)


async def test_a_node_that_leaves_hands_over(nodes: DutyNodes) -> None:
    # An hour's lease: nobody gets it by waiting. The others sweep when they start, and in a quarter of an hour.
    leaving = nodes.add(duty_lease_s=3600)
    await leaving.duties.take(ACME, "a")
    await leaving.duties.take(ACME, "done")
    leaving.duties.release(ACME, "done")
    await leaving.book.close()
    assert not leaving.duties.holds(ACME, "a")
    with pytest.raises(HubError):
        await leaving.duties.take(ACME, "b")
    others = [nodes.add(duty_lease_s=3600) for _ in range(2)]
    await until(lambda: [duty for node in others for duty in node.adopted] == ["acme/a"], WAIT_S)
    assert leaving.lost == []
    assert leaving.metric("hub_duties") == 0


async def test_a_node_about_to_leave_keeps_what_it_has_and_adopts_nothing(nodes: DutyNodes, redis: Redis) -> None:
    dead, leaving = nodes.add(), nodes.add()
    await dead.duties.take(ACME, "of the dead")
    await leaving.duties.take(ACME, "a")
    leaving.book.retire()
    await dead.kill()
    await runs_on(redis, 1000)
    assert leaving.adopted == []
    with pytest.raises(HubError):
        await leaving.duties.take(ACME, "b")
    other = nodes.add()
    await until(lambda: other.adopted == ["acme/of the dead"], WAIT_S)
    assert leaving.duties.holds(ACME, "a")


async def test_what_is_being_taken_while_the_node_leaves_is_handed_over(nodes: DutyNodes) -> None:
    leaving, other = nodes.add(duty_lease_s=3600), nodes.add()
    taking = [asyncio.ensure_future(leaving.duties.take(ACME, str(number))) for number in range(50)]
    await asyncio.sleep(0)  # lets them set out
    await leaving.book.close()
    outcomes = await asyncio.gather(*taking, return_exceptions=True)
    assert all(outcome is True or isinstance(outcome, HubError) for outcome in outcomes)
    await until(lambda: len(other.adopted) == 50, WAIT_S)


async def test_a_node_that_hung_learns_what_it_has_lost(nodes: DutyNodes) -> None:
    hung, other = nodes.add(), nodes.add()
    await hung.duties.take(ACME, "a")
    await hung.duties.take(ACME, "b")
    # Its event loop stands, so its keeper does: the nodes of this test share one loop.
    keep = hung.duties._renew

    async def hang() -> None:
        await until(lambda: len(other.adopted) == 2, WAIT_S)
        await keep()

    hung.duties._renew = hang  # type: ignore[method-assign]
    await until(lambda: sorted(hung.lost) == ["acme/a", "acme/b"], WAIT_S)
    assert not hung.duties.holds(ACME, "a")
    assert hung.metric("hub_duties_lost_total") == 2
    assert not await hung.duties.take(ACME, "a")
    assert other.lost == []


async def test_a_node_that_stood_still_alone_has_lost_nothing(nodes: DutyNodes, redis: Redis) -> None:
    one = nodes.add()
    await one.duties.take(ACME, "a")
    time.sleep(1.0)  # noqa: ASYNC251 - the event loop hangs, as is tested here
    await runs_on(redis, 600)
    assert (one.lost, one.adopted) == ([], [])
    assert one.duties.holds(ACME, "a")


async def test_a_node_cut_off_alone_loses_what_it_had_and_learns_it(
    nodes: DutyNodes, redis_server: RedisServer
) -> None:
    async with CutProxy(redis_server.socket_path) as proxy:
        cut_off = nodes.add(url=f"redis://127.0.0.1:{proxy.port}/0")
        other = nodes.add()
        await cut_off.duties.take(ACME, "a")
        proxy.refuse()
        proxy.cut()
        await until(lambda: other.adopted == ["acme/a"], WAIT_S)
        assert cut_off.lost == []
        await proxy.allow()
        await until(lambda: cut_off.lost == ["acme/a"], WAIT_S)
        await cut_off.book.close()
        cut_off.alive = False


async def test_what_cannot_be_adopted_is_tried_again_later_and_holds_up_nobody(nodes: DutyNodes) -> None:
    dead, alive = nodes.add(), nodes.add(start=False)
    attempts: list[str] = []

    def adopt(org: str, name: str) -> None:
        attempts.append(name)
        if name == "bad" and attempts.count("bad") < 3:
            raise RuntimeError("a fault of the service, on purpose")

    alive.duties.on_adopt(adopt)
    for name in ("bad", "good"):
        await dead.duties.take(ACME, name)
    alive.book.start()
    await dead.kill()
    with caught_logs() as logs:
        await until(lambda: attempts.count("bad") == 3, WAIT_S)
    assert attempts.count("good") == 1
    assert alive.duties.holds(ACME, "bad")
    assert len(logs.named("duty_callback_failed")) == 2


# --- Redis that goes away --------------------------------------------------------------------------------------------


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
    one, two = nodes.add(duty_lease_s=4.0), nodes.add(duty_lease_s=4.0)
    await one.duties.take(ACME, "a")
    for key in (ENDS, HOLDERS, CLOCK):
        await redis.command(key, "DEL", key)
    assert await two.duties.take(ACME, "a")
    await until(lambda: one.lost == ["acme/a"], WAIT_S)
    assert two.duties.holds(ACME, "a")


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


async def test_who_stops_waiting_for_a_duty_leaves_it_to_others(nodes: DutyNodes, redis: Redis) -> None:
    one, two = nodes.add(), nodes.add()
    answered = asyncio.Event()
    take = one.duties._table.take

    async def never_told(duty: str) -> bool:
        await take(duty)
        answered.set()
        await asyncio.Event().wait()
        return True

    one.duties._table.take = never_told  # type: ignore[method-assign]
    taking = asyncio.create_task(one.duties.take(ACME, "a"))
    await answered.wait()
    taking.cancel()
    await until(lambda: one.adopted + two.adopted == ["acme/a"], WAIT_S)
    assert await held(redis) == {"acme/a"}


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


# --- signals ---------------------------------------------------------------------------------------------------------


async def test_a_signal_reaches_who_has_the_duty(nodes: DutyNodes) -> None:
    one, two, three = (nodes.add() for _ in range(3))
    await two.duties.take(ACME, "a")
    await one.duties.signal(ACME, "a", {"please": "release"})
    await two.duties.signal(ACME, "a", {"from": "itself"})
    await one.duties.signal(OTHER, "a", {"to": "nobody"})
    await one.duties.signal(ACME, "b", {"to": "nobody"})
    assert two.signals == [("acme/a", {"please": "release"}), ("acme/a", {"from": "itself"})]
    assert (one.signals, three.signals) == ([], [])


async def test_a_signal_that_nobody_can_take_does_no_harm(nodes: DutyNodes) -> None:
    one, two = nodes.add(), nodes.add()
    await two.duties.take(ACME, "a")

    def fail(*_: object) -> None:
        raise RuntimeError("a fault of the service, on purpose")

    two.duties.on_signal(fail)
    with caught_logs() as logs:
        await one.duties.signal(ACME, "a", {})
        await two.duties.signal(ACME, "a", {})
    assert len(logs.named("duty_callback_failed")) == 2
