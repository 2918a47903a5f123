"""Who is present in a topic over several instances: what stands in Redis, what is told, and to whom it is news."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from hub.embedded import RedisServer
from hub.errors import HubError, unavailable
from hub.nodes.presence.table import Change, Changed, PresenceTable, Snapshot
from hub.orgs import OrgId, presence_names, presence_node_key
from hub.redis import Redis
from tests.nodes.presence.stage import AWAY, OFFLINE, ONLINE, Stage, brief, stage
from tests.support.cut_proxy import CutProxy
from tests.support.redis_world import redis_settings, restart, topic
from tests.support.servers import running_redis
from tests.support.topologies import redis_cluster


@pytest.fixture
async def on(redis_url: str) -> AsyncIterator[Stage]:
    async with stage(redis_url) as it:
        yield it


async def test_join_update_and_leave(on: Stage) -> None:
    room = topic("a")
    await on.listen(room)
    first = await on.say("n1", room, ("ann", ONLINE), ("bob", AWAY))
    await on.say("n1", room, ("ann", AWAY))
    last = await on.say("n1", room, ("ann", OFFLINE))
    events = await on.heard(room)
    assert events == [
        {"action": "join", "user": "ann", "name": "ANN", "status": "online", "epoch": first.epoch, "version": 1}
        | {"online": 1, "away": 0},
        {"action": "join", "user": "bob", "name": "BOB", "status": "away", "epoch": first.epoch, "version": 2}
        | {"online": 1, "away": 1},
        {"action": "update", "user": "ann", "name": "ANN", "status": "away", "epoch": first.epoch, "version": 3}
        | {"online": 0, "away": 2},
        {"action": "leave", "user": "ann", "name": "ANN", "status": "offline", "epoch": first.epoch, "version": 4}
        | {"online": 0, "away": 1},
    ]
    assert (last.version, last.again_ms) == (4, 0)
    assert await on.present(room) == {"bob": "away"}


async def test_a_user_of_several_instances_comes_and_goes_once(on: Stage) -> None:
    room = topic("a")
    await on.listen(room)
    await on.say("n1", room, ("ann", AWAY))
    await on.say("n2", room, ("ann", ONLINE))
    await on.say("n1", room, ("ann", ONLINE))
    await on.say("n2", room, ("ann", OFFLINE))
    assert await on.present(room) == {"ann": "online"}
    await on.say("n1", room, ("ann", OFFLINE))
    assert brief(await on.heard(room)) == ["join ann away", "update ann online", "leave ann offline"]
    assert await on.present(room) == {}


async def test_what_is_said_again_is_told_nobody(on: Stage) -> None:
    room = topic("a")
    await on.listen(room)
    await on.say("n1", room, ("ann", ONLINE), ("bob", AWAY))
    again = await on.say("n1", room, ("ann", ONLINE), ("bob", AWAY), ("never", OFFLINE))
    assert again.version == 2
    assert len(await on.heard(room)) == 2


async def test_whole_replaces_what_the_instance_had(on: Stage) -> None:
    room = topic("a")
    await on.listen(room)
    users = [f"u{number}" for number in range(120)]
    await on.say("n1", room, *((user, ONLINE) for user in users))
    await on.say("n2", room, ("u0", AWAY), ("other", ONLINE))
    await on.say("n1", room, ("u1", AWAY), ("new", ONLINE), whole=True)
    assert await on.present(room) == {"u0": "away", "u1": "away", "new": "online", "other": "online"}
    events = await on.heard(room)
    assert [event["version"] for event in events] == list(range(1, len(events) + 1))
    assert sorted(brief(events[121:])) == sorted(
        [
            "update u0 away",
            "update u1 away",
            "join new online",
            *(f"leave u{number} offline" for number in range(2, 120)),
        ]
    )


async def test_a_dead_instance_is_taken_out_of_all_topics(on: Stage) -> None:
    rooms = [topic(f"r{number}") for number in range(60)]
    await on.listen(*rooms)
    await on.table.note("dead", rooms)
    await on.table.note("n2", rooms)
    for room in rooms:
        await on.say("dead", room, *((f"u{number}", ONLINE) for number in range(10)))
        await on.say("n2", room, ("u0", AWAY), ("u1", ONLINE))
    assert await on.table.remove("dead") == 600
    assert await on.table.remove("dead") == 0
    for room in rooms:
        assert await on.present(room) == {"u0": "away", "u1": "online"}
        events = brief((await on.heard(room))[10:])
        assert sorted(events) == [f"leave u{number} offline" for number in range(2, 10)] + ["update u0 away"]


async def test_users_and_names_may_be_anything(on: Stage) -> None:
    room = topic("a")
    await on.listen(room)
    names = [
        '"quoted"',
        "back\\slash",
        "new\nline\r\t",
        "nul\0",
        "🦊 ü \u2028",
        "%s $1 {}",
        " blank ",
        "o1 a2",
        "x" * 2000,
    ]
    await on.say("n1", room, *((name, ONLINE) for name in names))
    await on.say("n2", room, *((name, AWAY) for name in names))
    snapshot = await on.snapshot(room)
    assert snapshot.members is not None
    assert {member.user: member.name for member in snapshot.members} == {name: name.upper() for name in names}
    await on.say("n2", room, whole=True)
    await on.table.remove("n1")
    assert await on.present(room) == {}
    events = await on.heard(room)
    assert [(event["action"], event["user"], event["name"]) for event in events[: len(names)]] == [
        ("join", name, name.upper()) for name in names
    ]
    assert sorted(event["user"] for event in events[len(names) :]) == sorted(names)


async def test_topics_and_organisations_are_apart(on: Stage) -> None:
    one, other = topic("a"), topic("a", org=OrgId.from_claim("other"))
    await on.listen(one, other)
    await on.say("n1", one, ("ann", ONLINE))
    await on.say("n1", other, ("bob", ONLINE))
    assert await on.table.remove("n1") == 2
    assert brief(await on.heard(one)) == ["join ann online", "leave ann offline"]
    assert brief(await on.heard(other)) == ["join bob online", "leave bob offline"]


async def test_a_new_name_is_an_update(on: Stage) -> None:
    room = topic("a")
    await on.listen(room)
    await on.say("n1", room, ("ann", ONLINE), name="Ann")
    await on.say("n2", room, ("ann", AWAY), name="Anna")
    await on.say("n2", room, ("ann", AWAY), name="Anna")
    await on.say("n2", room, ("ann", OFFLINE), name="whatever")
    assert [(event["action"], event["name"]) for event in await on.heard(room)] == [("join", "Ann"), ("update", "Anna")]


async def test_whole_finds_thousands(on: Stage) -> None:
    room = topic("a")
    users = [(f"u{number}", ONLINE) for number in range(3000)]
    await on.say("n1", room, *users)
    outcome = await on.say("n1", room, *users[:1500], ("new", AWAY), whole=True)
    snapshot = await on.snapshot(room)
    assert (snapshot.online, snapshot.away, snapshot.version) == (1500, 1, outcome.version) == (1500, 1, 4501)
    await on.say("n1", room, whole=True)
    assert await on.present(room) == {}


async def test_where_nobody_ever_was(on: Stage) -> None:
    room = topic("a")
    await on.listen(room)
    before = await on.snapshot(room)
    assert (before.version, before.online, before.away, before.members) == (0, 0, 0, ())
    assert before.epoch == (await on.snapshot(room)).epoch
    await on.say("n1", room, ("ann", ONLINE))
    (event,) = await on.heard(room)
    assert (event["epoch"], event["version"]) == (before.epoch, 1)


async def test_many_topics_at_once_keep_their_order(on: Stage) -> None:
    rooms = [topic(f"r{number}") for number in range(333)]
    items = [(room, [Change(f"u{number}", "", ONLINE)] * (number % 3), False) for number, room in enumerate(rooms)]
    outcomes = await on.table.change("n1", items)
    assert [outcome.version for outcome in outcomes if isinstance(outcome, Changed)] == [
        min(number % 3, 1) for number in range(333)
    ]
    snapshots = await on.table.snapshots(rooms)
    assert [snapshot.online for snapshot in snapshots if isinstance(snapshot, Snapshot)] == [
        min(number % 3, 1) for number in range(333)
    ]
    assert await on.table.change("n1", []) == []
    assert await on.table.snapshots([]) == []


# --- too many to list


async def test_too_many_are_counted(redis_url: str) -> None:
    async with stage(redis_url, presence_max_listed=10, presence_count_s=3600) as on:
        room = topic("a")
        await on.listen(room)
        await on.say("n1", room, *((f"u{number}", ONLINE) for number in range(10)))
        first = await on.say("n1", room, ("more", AWAY), ("most", AWAY))
        assert first.again_ms == 0
        later = await on.say("n1", room, ("u0", AWAY))
        assert 3_500_000 < later.again_ms <= 3_600_000
        snapshot = await on.snapshot(room)
        assert (snapshot.online, snapshot.away, snapshot.members) == (9, 3, None)
        again = await on.say("n1", room)
        assert 0 < again.again_ms <= later.again_ms
        assert again.version == later.version == snapshot.version == 13
        renamed = await on.say("n1", room, ("u0", AWAY), name="somebody else")
        assert renamed.version == 13, "where nobody is named that is no news"
        # Near the limit nothing is listed yet; who follows is told that there is something to list by an event of one.
        await on.say("n1", room, ("more", OFFLINE), ("most", OFFLINE))
        assert (await on.snapshot(room)).members is None
        listed = await on.say("n1", room, ("u1", OFFLINE))
        assert listed.again_ms == 0
        assert len(await on.present(room)) == 9
        events = await on.heard(room)
        assert brief(events[10:]) == ["count 10 2", "leave u1 offline"]
        assert [event["version"] for event in events[10:]] == [12, 16]
        assert set(events[10]) == {"action", "epoch", "version", "online", "away"}


async def test_a_count_that_was_held_back_is_told_when_asked_again(redis_url: str) -> None:
    async with stage(redis_url, presence_max_listed=1, presence_count_s=3600) as on:
        room = topic("a")
        await on.listen(room)
        await on.say("n1", room, ("ann", ONLINE), ("bob", ONLINE))
        held_back = await on.say("n2", room, ("cid", ONLINE))
        assert 3_500_000 < held_back.again_ms <= 3_600_000
        # As if so much time had passed.
        members = presence_names(room.org, room.text).members
        await on.world.redis.command(members, "HINCRBY", members, "told_ms", -held_back.again_ms)
        assert (await on.say("n2", room)).again_ms == 0
        assert brief(await on.heard(room)) == ["join ann online", "count 2 0", "count 3 0"]
        assert (await on.say("n1", room)).again_ms == 0, "there is nothing new to tell"
        assert len(await on.heard(room)) == 3


async def test_a_clock_that_was_set_back_holds_nothing_back(redis_url: str) -> None:
    async with stage(redis_url, presence_max_listed=1, presence_count_s=1) as on:
        room = topic("a")
        await on.listen(room)
        await on.say("n1", room, ("ann", ONLINE), ("bob", ONLINE))
        members = presence_names(room.org, room.text).members
        told_ms = int(await on.world.redis.command(members, "HGET", members, "told_ms"))
        await on.world.redis.command(members, "HSET", members, "told_ms", told_ms + 3_600_000)
        assert (await on.say("n1", room, ("cid", ONLINE))).again_ms == 0
        assert brief(await on.heard(room)) == ["join ann online", "count 2 0", "count 3 0"]


async def test_what_a_dead_instance_had_among_many_is_told_at_once(redis_url: str) -> None:
    async with stage(redis_url, presence_max_listed=10, presence_count_s=3600) as on:
        room = topic("a")
        await on.listen(room)
        await on.say("alive", room, *((f"a{number}", ONLINE) for number in range(20)))
        await on.say("dead", room, *((f"d{number}", AWAY) for number in range(500)))
        assert await on.table.remove("dead") == 500
        assert brief(await on.heard(room))[10:] == ["count 20 0", "count 20 0"]
        snapshot = await on.snapshot(room)
        assert (snapshot.online, snapshot.away) == (20, 0)


# --- Redis


async def test_nothing_is_left_when_all_have_gone_but_for_a_time(on: Stage) -> None:
    room = topic("a")
    names, key = presence_names(room.org, room.text), presence_node_key("n1")
    await on.table.begin("n1")
    await on.say("n1", room, ("ann", ONLINE))
    assert await on.table.lives("n1")
    redis = on.world.redis
    for name in (names.members, names.users + "n1", key):
        assert 0 < await redis.command(name, "PTTL", name) <= 86_400_000
    await on.say("n1", room, ("ann", OFFLINE))
    await on.table.unnote("n1", [room])
    assert await redis.command(key, "SCARD", key) == 1
    await on.table.remove("n1")
    assert not await on.table.lives("n1")
    assert await redis.command(key, "EXISTS", key) == 0
    assert await redis.command(names.members, "EXISTS", names.members) == 1, "versions go on"
    assert await redis.command(names.members, "EXISTS", names.users + "n1") == 0
    await redis.command(names.members, "PEXPIRE", names.members, 1000)
    await on.say("n1", room)
    assert await redis.command(names.members, "PTTL", names.members) > 1000, "to say it again keeps it"


async def test_to_ask_for_a_topic_where_nobody_is_leaves_next_to_nothing(on: Stage) -> None:
    room = topic("a")
    members = presence_names(room.org, room.text).members
    epoch = (await on.snapshot(room)).epoch
    redis = on.world.redis
    assert 0 < await redis.command(members, "PTTL", members) <= 60_000
    # Who comes in a moment is of the epoch that was read.
    assert (await on.say("n1", room, ("ann", ONLINE))).epoch == epoch
    assert await redis.command(members, "PTTL", members) > 60_000
    await on.snapshot(room)
    await redis.command(members, "HSET", members, "server", "another")
    assert (await on.snapshot(room)).epoch != epoch
    assert await redis.command(members, "PTTL", members) > 60_000, "of whom somebody is"


async def test_what_is_written_after_a_removal_is_found_by_the_next(on: Stage) -> None:
    """A node that hung writes when others believe it dead, and learns it later."""
    rooms = [topic(f"r{number}") for number in range(50)]
    await on.table.begin("n1")
    await on.table.note("n1", rooms)
    assert await on.table.remove("n1") == 0
    assert not await on.table.lives("n1")
    await on.table.change("n1", [(room, [Change("ann", "", ONLINE)], False) for room in rooms])
    assert await on.table.remove("n1") == 50


async def test_several_remove_the_same_instance(on: Stage) -> None:
    rooms = [topic(f"r{number}") for number in range(40)]
    await on.listen(*rooms)
    for room in rooms:
        await on.say("dead", room, *((f"u{number}", ONLINE) for number in range(30)))
    assert sum(await asyncio.gather(*(on.table.remove("dead") for _ in range(4)))) == 1200
    for room in rooms:
        events = (await on.heard(room))[30:]
        assert sorted(event["user"] for event in events) == sorted(f"u{number}" for number in range(30))
        assert [event["online"] for event in events] == list(range(29, -1, -1))


async def test_another_server_begins_another_epoch() -> None:
    with running_redis(append_only=True, options={"appendfsync": "always"}) as server:
        async with stage(server.url) as on:
            room, quiet = topic("a"), topic("quiet")
            before = await on.say("n1", room, ("ann", ONLINE))
            await on.say("n1", quiet, ("ann", ONLINE))
            await restart(server)
            after = await on.say("n1", room, ("bob", ONLINE))
            assert after.epoch != before.epoch, "a server that took over may not know the newest versions"
            assert await on.present(room) == {"ann": "online", "bob": "online"}
            read = await on.snapshot(quiet)
            assert read.epoch != before.epoch
            assert read.epoch == (await on.say("n1", quiet)).epoch == (await on.snapshot(quiet)).epoch


async def test_a_server_without_data_begins_another_epoch() -> None:
    with running_redis() as server:
        async with stage(server.url) as on:
            room = topic("a")
            before = await on.say("n1", room, ("ann", ONLINE), ("bob", AWAY))
            await restart(server)
            read = await on.snapshot(room)
            assert (read.version, read.members) == (0, ())
            after = await on.say("n1", room, ("ann", ONLINE), ("bob", AWAY), whole=True)
            assert before.epoch != read.epoch == after.epoch
            assert await on.present(room) == {"ann": "online", "bob": "away"}
            assert await on.table.remove("n1") == 2, "also the note of it was written anew"


async def test_without_redis_it_is_said_again(redis_server: RedisServer, on: Stage) -> None:
    rooms = [topic(f"r{number}") for number in range(100)]
    async with CutProxy(redis_server.socket_path) as proxy:
        redis = Redis(redis_settings(f"redis://127.0.0.1:{proxy.port}/0", redis_timeout_s=1.0))
        table = PresenceTable(redis, on.world.settings)
        items = [(room, [Change("ann", "Ann", ONLINE)], True) for room in rooms]
        await table.change("n1", items)
        # What is asked arrives; the answers do not.
        proxy.stall("to_client")
        changed = [(room, [Change("bob", "Bob", AWAY)], True) for room in rooms]
        assert all(isinstance(outcome, HubError) for outcome in await table.change("n1", changed))
        assert all(isinstance(outcome, HubError) for outcome in await table.snapshots(rooms))
        for method in (table.note, table.unnote):
            with pytest.raises(HubError):
                await method("n1", rooms)
        with pytest.raises(HubError):
            await table.remove("n1")
        proxy.resume()
        proxy.cut()
        await on.listen(rooms[0])
        outcomes = await table.change("n1", changed)
        assert all(isinstance(outcome, Changed) for outcome in outcomes)
        assert {outcome.version for outcome in outcomes if isinstance(outcome, Changed)} == {3}
        assert await on.present(rooms[0]) == {"bob": "away"}
        await redis.close()


async def test_what_cannot_be_asked_is_not_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step would wait for ``redis_timeout_s``."""
    redis = Redis(redis_settings("redis://unused"))
    table, steps = PresenceTable(redis, redis_settings("redis://unused")), 0

    async def away(calls: list[object]) -> list[HubError]:
        nonlocal steps
        steps += 1
        return [unavailable("Redis")] * len(calls)

    monkeypatch.setattr(redis, "batch", away)
    rooms = [topic(f"r{number}") for number in range(500)]
    changes = [Change(f"u{number}", "", ONLINE) for number in range(300)]
    for outcomes in (
        await table.change("n1", [(room, changes, True) for room in rooms]),
        await table.snapshots(rooms),
    ):
        assert len(outcomes) == 500
        assert all(isinstance(outcome, HubError) for outcome in outcomes)
    assert steps == 2
    await redis.close()


async def test_presence_in_a_cluster() -> None:
    async with redis_cluster() as cluster, stage(cluster.url) as on:
        rooms = [topic(f"r{number}") for number in range(60)]
        await on.listen(*rooms)
        await on.table.note("n1", rooms)
        for instance, status in (("n1", ONLINE), ("n2", AWAY)):
            changes = [Change("ann", "Ann", status), Change(instance, "", status)]
            outcomes = await on.table.change(instance, [(room, changes, True) for room in rooms])
            assert all(isinstance(outcome, Changed) for outcome in outcomes)
        assert await on.table.remove("n1") == 120
        for room in rooms:
            assert await on.present(room) == {"ann": "away", "n2": "away"}
            assert brief(await on.heard(room))[:3] == ["join ann online", "join n1 online", "join n2 away"]
            assert sorted(brief(await on.heard(room))[3:]) == ["leave n1 offline", "update ann away"]
