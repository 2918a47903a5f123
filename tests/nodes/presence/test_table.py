"""Who is present in a topic over several instances: what stands in Redis, what is told, and to whom it is news."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.nodes.presence.stage import AWAY, OFFLINE, ONLINE, Stage, brief, stage
from tests.support.redis_world import topic


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
