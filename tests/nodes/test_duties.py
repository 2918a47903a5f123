"""Work that one node does at a time: taken, released, handed over and adopted, by nodes that die, leave and hang."""

from __future__ import annotations

import asyncio
import time

import pytest

from hub.embedded import RedisServer
from hub.errors import ErrorCode, HubError
from hub.orgs import CONTROL_ORG, duty_names
from hub.redis import Redis
from tests.nodes.duty_nodes import ACME, ENDS, HOLDERS, OTHER, WAIT_S, DutyNodes, held, runs_on
from tests.support.cut_proxy import CutProxy
from tests.support.log_catcher import caught_logs
from tests.support.waiting import until

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
    several = [nodes.add(start=False, duty_lease_s=60) for _ in range(4)]
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


async def test_taken_again_before_the_release_has_gone_out(nodes: DutyNodes) -> None:
    one, two = nodes.add(start=False), nodes.add(start=False)
    assert await one.duties.take(ACME, "a")
    one.duties.release(ACME, "a")
    assert await one.duties.take(ACME, "a")
    await one.duties._flush()
    assert not await two.duties.take(ACME, "a")


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


async def test_who_stops_waiting_for_a_duty_leaves_it_to_others(nodes: DutyNodes) -> None:
    # An hour's lease: nobody gets it by waiting.
    one = nodes.add(duty_lease_s=3600)
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

    async def free() -> bool:
        return await nodes.add(start=False).duties.take(ACME, "a")

    await until(free)
    assert not one.duties.holds(ACME, "a")


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
    dead, *alive = (nodes.add(duty_lease_s=3.0, duty_sweep_batch=250) for _ in range(3))
    names = [str(number) for number in range(3000)]
    for begin in range(0, len(names), 500):  # what leaves later than redis_timeout_s is refused
        assert all(await asyncio.gather(*(dead.duties.take(ACME, name) for name in names[begin : begin + 500])))
    await runs_on(redis, 3500)
    assert dead.lost == []
    assert all(node.adopted == [] for node in alive)
    await dead.kill()
    await until(lambda: sum(len(node.adopted) for node in alive) >= len(names), 30)
    assert sorted(duty for node in alive for duty in node.adopted) == sorted(f"acme/{name}" for name in names)


async def test_one_sweep_after_the_other_until_nothing_is_left(nodes: DutyNodes) -> None:
    """With this lease a node sweeps every twenty seconds, but every second while there is more."""
    leaving = nodes.add(start=False)
    for number in range(5):
        await leaving.duties.take(ACME, str(number))
    await leaving.book.close()
    other = nodes.add(duty_lease_s=80, duty_sweep_batch=2)
    await until(lambda: len(other.adopted) == 5, WAIT_S)


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
    assert (await redis.command(HOLDERS, "HGET", HOLDERS, "acme/of the dead")).startswith(b"node-0/")
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
    assert all(isinstance(outcome, HubError) for outcome in outcomes), "nobody would work on it"
    await until(lambda: len(other.adopted) == 50, WAIT_S)


async def test_what_is_being_adopted_while_the_node_leaves_is_handed_over(nodes: DutyNodes) -> None:
    dead, leaving = nodes.add(), nodes.add(start=False, duty_lease_s=3600)
    swept, retired = asyncio.Event(), asyncio.Event()
    sweep = leaving.duties._table.sweep

    async def answered_late(most: int) -> list[str]:
        duties = await sweep(most)
        swept.set()
        await retired.wait()
        return duties

    leaving.duties._table.sweep = answered_late  # type: ignore[method-assign]
    await dead.duties.take(ACME, "a")
    await dead.duties.hand_over()
    leaving.book.start()
    await swept.wait()
    leaving.book.retire()
    retired.set()
    await leaving.book.close()
    assert leaving.adopted == []
    other = nodes.add(duty_lease_s=3600)
    await until(lambda: other.adopted == ["acme/a"], WAIT_S)


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


async def test_what_a_node_has_in_hand_it_does_not_adopt(nodes: DutyNodes, redis: Redis) -> None:
    node = nodes.add(start=False)
    for name in ("held", "being released"):
        await node.duties.take(ACME, name)
    node.duties.release(ACME, "being released")
    answered = asyncio.Event()
    take = node.duties._table.take

    async def answered_late(duty: str) -> bool:
        taken = await take(duty)
        await answered.wait()
        return taken

    node.duties._table.take = answered_late  # type: ignore[method-assign]
    taking = asyncio.create_task(node.duties.take(ACME, "being taken"))

    async def all_known() -> bool:
        return len(await held(redis)) == 3

    await until(all_known)
    for duty in await held(redis):
        await redis.command(ENDS, "ZADD", ENDS, "XX", 0, duty)
    await node.duties._sweep()
    answered.set()
    assert await taking
    assert node.adopted == []


async def test_what_is_done_too_late_is_the_other_nodes_business(nodes: DutyNodes, redis: Redis) -> None:
    late, other = nodes.add(start=False), nodes.add(start=False)
    await late.duties.take(ACME, "a")
    await redis.command(ENDS, "ZADD", ENDS, "XX", 0, "acme/a")
    await other.duties._sweep()
    late.duties.release(ACME, "a")
    await late.duties._flush()
    assert await held(redis) == {"acme/a"}
    await other.duties._renew()
    assert (other.adopted, other.lost) == (["acme/a"], [])


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


# --- leases of their own, duties of the hub itself -------------------------------------------------------------------


async def test_a_purpose_may_have_a_lease_of_its_own(nodes: DutyNodes, redis: Redis) -> None:
    node = nodes.add(start=False)
    longer = node.book.of("longer", lease_s=3600)
    assert node.book.of("longer") is longer
    assert await longer.take(ACME, "a")
    names = duty_names("longer")
    now = int(await redis.command(names.clock, "HGET", names.clock, "ms"))
    ends = int(await redis.command(names.ends, "ZSCORE", names.ends, "acme/a"))
    assert 3_590_000 < ends - now <= 3_600_000


async def test_what_is_not_handed_over_runs_out(nodes: DutyNodes, redis: Redis) -> None:
    leaving, other = nodes.add(start=False), nodes.add(start=False)
    adopted: list[str] = []
    stays = leaving.book.of("stays", lease_s=0.6, hands_over=False)
    other.book.of("stays", lease_s=0.6, hands_over=False).on_adopt(lambda _, name: adopted.append(name))
    assert await stays.take(ACME, "a")
    assert await stays.take(ACME, "done")
    stays.release(ACME, "done")
    names = duty_names("stays")
    await redis.command(names.ends, "ZADD", names.ends, 1, "acme/a")
    await leaving.book.close()
    assert float(await redis.command(names.ends, "ZSCORE", names.ends, "acme/a")) > 1, "it has a whole lease left"
    assert not stays.holds(ACME, "a")
    assert not await other.book.of("stays").take(ACME, "a"), "it has not run out"
    assert await other.book.of("stays").take(ACME, "done"), "what is done is told all the same"
    other.book.start()
    await until(lambda: adopted == ["a"], WAIT_S)


async def test_the_hub_has_duties_of_its_own(nodes: DutyNodes) -> None:
    dead, alive = nodes.add(), nodes.add()
    assert await dead.duties.take(CONTROL_ORG, "a")
    await dead.kill()
    await until(lambda: alive.adopted == ["_hub/a"], WAIT_S)
    assert alive.duties.holds(CONTROL_ORG, "a")


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


async def test_purposes_are_apart_and_asked_for_in_time(nodes: DutyNodes) -> None:
    one, two = nodes.add(start=False), nodes.add()
    another = one.book.of("another")
    assert one.book.of("another") is another
    assert await another.take(ACME, "a")
    assert await two.duties.take(ACME, "a")
    with pytest.raises(ValueError, match="purpose"):
        one.book.of("no/purpose")
    with pytest.raises(RuntimeError, match="when the service is made"):
        two.book.of("another")


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
