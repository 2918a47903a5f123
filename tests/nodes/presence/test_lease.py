"""The life of a node: its lease, its death, and what becomes of those who were present by it alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from hub.errors import unavailable
from tests.nodes.presence.lease_nodes import CLOCK, ENDS, HOLDERS, LeaseNode
from tests.nodes.presence.stage import AWAY, Stage, brief, stage
from tests.support.log_catcher import caught_logs
from tests.support.redis_world import restart, topic
from tests.support.servers import running_redis
from tests.support.waiting import until

WAIT_S = 30.0  # two cores that others use as well; leases here are a second
ROOM = topic("a")
Start = Callable[..., Awaitable[LeaseNode]]


@pytest.fixture
async def on(redis_url: str) -> AsyncIterator[Stage]:
    async with stage(redis_url) as it:
        await it.listen(ROOM)
        yield it


@pytest.fixture
async def start(redis_url: str) -> AsyncIterator[Start]:
    nodes: list[LeaseNode] = []

    async def one_more(url: str = redis_url) -> LeaseNode:
        node = LeaseNode(f"node-{len(nodes)}", url)
        nodes.append(node)
        await node.start()
        return node

    yield one_more
    for node in nodes:
        if node.alive:
            await node.stop()


async def instances(on: Stage) -> set[str]:
    return {duty.decode().removeprefix("_hub/") for duty in await on.world.redis.command(HOLDERS, "HKEYS", HOLDERS)}


async def leases_run(on: Stage, ms: int) -> None:
    """Returns when leases have run for so long: what ends by them would have."""

    async def now() -> int:
        return int(await on.world.redis.command(CLOCK, "HGET", CLOCK, "ms") or 0)

    begin = await now()

    async def passed() -> bool:
        return await now() >= begin + ms

    await until(passed, WAIT_S, "the clock of leases to go on")


async def test_who_lives_stays(on: Stage, start: Start) -> None:
    nodes = [await start() for _ in range(3)]
    for number, node in enumerate(nodes):
        await node.say(ROOM, f"u{number}")
    await leases_run(on, 2500)
    assert await on.present(ROOM) == {"u0": "online", "u1": "online", "u2": "online"}
    assert await instances(on) == {node.lease.instance for node in nodes}
    assert [node.reborn for node in nodes] == [[], [], []]


async def test_a_dead_node_takes_its_users_with_it_once(on: Stage, start: Start) -> None:
    dead, *alive = [await start() for _ in range(4)]
    rooms = [topic(f"r{number}") for number in range(30)]
    await on.listen(*rooms)
    for room in rooms:
        await dead.say(room, *(f"u{number}" for number in range(20)))
        await alive[0].say(room, "u0", status=AWAY)
    await dead.kill()
    # Somebody finds the way back in time, to all rooms at once.
    await asyncio.gather(*(alive[1].say(room, "u1") for room in rooms))

    async def removed() -> bool:
        return all([await on.present(room) == {"u0": "away", "u1": "online"} for room in rooms])

    await until(removed, WAIT_S)
    await until(lambda: _are(on, {node.lease.instance for node in alive}), WAIT_S, "its lease to be forgotten")
    for room in rooms:
        events = brief((await on.heard(room))[20:])
        assert sorted(events) == sorted(["update u0 away", *(f"leave u{number} offline" for number in range(2, 20))]), (
            "one leave each, and none for who has come back"
        )
    assert sum(node.metric("hub_duties_adopted_total") for node in alive) == 1


async def _are(on: Stage, wanted: set[str]) -> bool:
    return await instances(on) == wanted


async def test_a_node_that_leaves_gives_its_users_the_time_of_its_lease(on: Stage, start: Start) -> None:
    leaving, other = await start(), await start()
    await leaving.say(ROOM, "ann", "bob")
    instance = leaving.lease.instance
    await leaving.stop()
    assert instance in await instances(on)
    assert other.metric("hub_duties_adopted_total") == 0
    assert await on.present(ROOM) == {"ann": "online", "bob": "online"}
    await other.say(ROOM, "ann")
    await until(lambda: _are(on, {other.lease.instance}), WAIT_S)
    assert brief(await on.heard(ROOM)) == ["join ann online", "join bob online", "leave bob offline"]


async def test_a_node_that_leaves_while_it_removes_another_gives_that_back(
    on: Stage, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, remover = await start(), await start()
    await dead.say(ROOM, "ann")
    asked: list[str] = []

    async def never(instance: str) -> int:
        asked.append(instance)
        raise unavailable("Redis")

    monkeypatch.setattr(remover.table, "remove", never)
    await dead.kill()
    await until(lambda: asked, WAIT_S)
    await remover.stop()
    ends = {
        duty.decode().removeprefix("_hub/"): float(await on.world.redis.command(ENDS, "ZSCORE", ENDS, duty))
        for duty in await on.world.redis.command(ENDS, "ZRANGE", ENDS, 0, -1)
    }
    # Whoever sweeps next has it; the own one runs on.
    assert ends.pop(dead.lease.instance) == 0
    assert set(ends) == {remover.lease.instance}
    assert ends[remover.lease.instance] > 0


async def test_a_removal_that_fails_goes_on_later(on: Stage, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, alive = await start(), await start()
    await dead.say(ROOM, "ann")
    remove, tries = alive.table.remove, 0

    async def fails_at_first(instance: str) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise unavailable("Redis")
        if tries == 2:
            raise RuntimeError("a fault of the hub, on purpose")
        return await remove(instance)

    monkeypatch.setattr(alive.table, "remove", fails_at_first)
    await dead.kill()
    with caught_logs() as logs:
        await until(lambda: _are(on, {alive.lease.instance}), WAIT_S)
    assert tries == 3
    assert len(logs.named("presence_not_kept")) == 2
    assert brief(await on.heard(ROOM)) == ["join ann online", "leave ann offline"]


async def test_a_remover_that_dies_is_followed_by_another(
    on: Stage, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, first = await start(), await start()
    await dead.say(ROOM, "ann")
    asked: list[str] = []

    async def never(instance: str) -> int:
        asked.append(instance)
        raise unavailable("Redis")

    monkeypatch.setattr(first.table, "remove", never)
    await dead.kill()
    await until(lambda: asked, WAIT_S)
    second = await start()
    await first.kill()
    await until(lambda: _are(on, {second.lease.instance}), WAIT_S)
    assert await on.present(ROOM) == {}


@pytest.mark.parametrize("finished", [True, False])
async def test_who_was_believed_dead_goes_on_as_another(
    finished: bool, on: Stage, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back when the others have ``finished`` its removal, lease and all, or while they are still at it."""
    hung, other = await start(), await start()
    await hung.say(ROOM, "ann", "bob")
    before, renew, lives, remove = hung.lease.instance, hung.duties._renew, hung.table.lives, other.table.remove
    away, back, held_up = asyncio.Event(), asyncio.Event(), asyncio.Event()

    # Its event loop stands, and with it all of its tasks; the nodes of this test share one loop.
    async def hang() -> None:
        await back.wait()
        await renew()

    async def hang_too(instance: str) -> bool:
        await back.wait()
        return await lives(instance)

    async def remove_slowly(instance: str) -> int:
        removed = await remove(instance)
        away.set()
        if not finished:
            await held_up.wait()
        return removed

    monkeypatch.setattr(hung.duties, "_renew", hang)
    monkeypatch.setattr(hung.table, "lives", hang_too)
    monkeypatch.setattr(other.table, "remove", remove_slowly)
    await until(away.is_set, WAIT_S)
    if finished:
        await until(lambda: _are(on, {other.lease.instance}), WAIT_S)
    assert hung.lease.instance == before
    await hung.say(ROOM, "late")  # it has heard of nothing yet
    back.set()
    await until(lambda: hung.reborn, WAIT_S)
    await hung.lease.held()
    assert hung.reborn == [hung.lease.instance] != [before]
    await hung.say(ROOM, "ann")
    held_up.set()

    async def late_is_gone() -> bool:
        return await on.present(ROOM) == {"ann": "online"}

    await until(late_is_gone, WAIT_S)
    await until(lambda: _are(on, {hung.lease.instance, other.lease.instance}), WAIT_S)
    events = brief(await on.heard(ROOM))
    assert sorted(events[2:4]) == ["leave ann offline", "leave bob offline"]
    assert events[4:] == ["join late online", "join ann online", "leave late offline"]
    await leases_run(on, 1500)
    assert await on.present(ROOM) == {"ann": "online"}
    assert (len(hung.reborn), other.reborn) == (1, [])


async def test_redis_is_restarted_with_its_data(start: Start) -> None:
    with running_redis(append_only=True, options={"appendfsync": "always"}) as server:
        async with stage(server.url) as on:
            nodes = [await start(server.url) for _ in range(2)]
            await nodes[0].say(ROOM, "ann")
            before = nodes[0].lease.instance
            await restart(server)
            # It might have been with the data of a moment ago.
            await until(lambda: all(node.reborn for node in nodes), WAIT_S, "the nodes to begin anew")
            for node in nodes:
                await node.lease.held()
            await nodes[0].say(ROOM, "ann")
            await until(lambda: _are(on, {node.lease.instance for node in nodes}), WAIT_S, "the old names to go")
            assert await on.present(ROOM) == {"ann": "online"}
            assert before not in await instances(on)
            await leases_run(on, 1500)
            assert [len(node.reborn) for node in nodes] == [1, 1]
            for node in nodes:
                await node.stop()


async def test_a_server_of_a_cluster_comes_back_with_older_data_than_the_notes(on: Stage, start: Start) -> None:
    node = await start()
    before = node.lease.instance
    await node.say(ROOM, "ann")
    # She has left; the server of the notes knows it, that of the topic does not any more.
    await node.table.unnote(before, [ROOM])
    node.lease.left = lambda instance: [ROOM] if instance == before else []
    node.lease._servers = frozenset(["another"])
    await until(lambda: _are(on, {node.lease.instance}), WAIT_S)
    await until(lambda: node.lease.instance != before and not node.lease._past, WAIT_S)
    assert await on.present(ROOM) == {}


async def test_redis_is_restarted_without_its_data(start: Start) -> None:
    with running_redis() as server:
        async with stage(server.url) as on:
            nodes = [await start(server.url) for _ in range(2)]
            await restart(server)
            await until(lambda: all(node.reborn for node in nodes), WAIT_S, "the nodes to begin anew")
            for node in nodes:
                await node.lease.held()
                await node.say(ROOM, "ann")
            names = {node.lease.instance for node in nodes}
            await until(lambda: _are(on, names), WAIT_S, "what the nodes were to be forgotten")
            assert await on.present(ROOM) == {"ann": "online"}
            for node in nodes:
                await node.kill()
            other = await start(server.url)
            await until(lambda: _are(on, {other.lease.instance}), WAIT_S)
            assert await on.present(ROOM) == {}
            await other.stop()


async def test_without_redis_there_is_no_lease_until_it_is_back(start: Start) -> None:
    with running_redis() as server:
        server.stop()
        node = LeaseNode("n", server.url)
        with caught_logs() as logs:
            await node.lease.start()
            node.book.start()
            await until(lambda: logs.named("presence_not_kept"), WAIT_S)
            assert not node.lease._held.is_set()
            server.start()
            await node.lease.held()
        assert not logs.errors()
        await node.stop()
