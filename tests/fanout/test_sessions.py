"""Sessions against a real Redis: who owns one, what is kept, who gets it back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from hub.auth.principal import Principal
from hub.config import Settings
from hub.errors import ErrorCode, HubError
from hub.fanout.sessions import PreviousOwner, SessionOwner, Sessions, SessionSave
from hub.orgs import OrgId, session_key
from hub.protocol.frames import Position
from hub.redis import Redis
from tests.support.servers import running_redis

ACME, OTHER = OrgId.from_claim("acme"), OrgId.from_claim("other")


def who(user: str = "u1", org: OrgId = ACME) -> Principal:
    return Principal(user, org, (), time.time() + 3600)


def owner(connection: str = "c1", node: str = "n1", user: str = "u1", org: OrgId = ACME) -> SessionOwner:
    return SessionOwner(org, user, node, connection)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = Redis(Settings(redis_url=redis_url, database_url="x"))
    yield redis
    await redis.close()


@pytest.fixture
def sessions(redis: Redis) -> Sessions:
    return Sessions(redis, Settings(redis_url="x", database_url="x", max_topics_per_connection=5, session_ttl_s=1000))


POSITIONS = {"events:finance": Position("k3:f9", 41), "user:~x": Position("", 0), "chat:a": Position("é", 2**53)}


def test_ids_are_unguessable_and_written_nowhere(sessions: Sessions) -> None:
    made = {sessions.create() for _ in range(1000)}
    assert len(made) == 1000
    assert all(session.startswith("s_") and len(session) >= 2 + 22 for session in made)


async def test_what_was_saved_comes_back(sessions: Sessions) -> None:
    session = sessions.create()
    assert await sessions.save(session, owner(), POSITIONS)
    found = await sessions.resume(session, who(), "n2", "c2")
    assert found is not None
    assert (found.positions, found.previous) == (POSITIONS, PreviousOwner("n1", "c1"))


async def test_saves_add_up_and_the_newest_of_a_topic_counts(sessions: Sessions) -> None:
    session = sessions.create()
    await sessions.save(session, owner(), {"a:1": Position("e", 1), "a:2": Position("e", 2)})
    await sessions.save(session, owner(), {"a:2": Position("f", 1)})
    found = await sessions.resume(session, who(), "n1", "c2")
    assert found is not None
    assert found.positions == {"a:1": Position("e", 1), "a:2": Position("f", 1)}


async def test_how_a_client_was_present_comes_back(sessions: Sessions) -> None:
    session = sessions.create()

    async def saved(presence: str | None, **positions: Position) -> None:
        assert await sessions.save_many([SessionSave(session, newest, positions, presence=presence)]) == [True]

    async def kept() -> str:
        nonlocal newest
        found = await sessions.resume(session, who(), "n2", "c2")
        assert found is not None
        assert set(found.positions) <= {"a:1"}
        newest = SessionOwner(ACME, "u1", "n2", "c2", found.claim)
        return found.presence

    newest = owner()
    await saved(None)
    assert await kept() == ""
    await saved("offline", **{"a:1": Position("e", 1)})
    assert await kept() == "offline"
    await saved(None, **{"a:1": Position("e", 2)})
    await sessions.release(session, newest)
    assert await kept() == "offline"
    await saved("")
    assert await kept() == ""


async def test_saving_nothing_makes_the_session(sessions: Sessions) -> None:
    session = sessions.create()
    assert await sessions.resume(session, who(), "n1", "c2") is None
    await sessions.save(session, owner(), {})
    found = await sessions.resume(session, who(), "n1", "c2")
    assert found is not None
    assert (found.positions, found.previous) == ({}, PreviousOwner("n1", "c1"))


async def test_unknown_foreign_and_malformed_ones_are_all_the_same(sessions: Sessions, redis: Redis) -> None:
    session = sessions.create()
    await sessions.save(session, owner(), POSITIONS)
    assert await sessions.resume(session, who("u2"), "n2", "c2") is None
    assert await sessions.resume(session, who(org=OTHER), "n2", "c2") is None
    for text in (sessions.create(), "", "s_", session + "\n", session[:-1], "s_" + "}" * 24, "x" * 100_000, "\ud800"):
        assert await sessions.resume(text, who(), "n2", "c2") is None
    # None of them has taken it from its owner.
    assert await sessions.save(session, owner(), {})


async def test_it_expires(sessions: Sessions, redis: Redis) -> None:
    session = sessions.create()
    key = session_key(ACME, session)
    await sessions.save(session, owner(), POSITIONS)
    assert 990 < await redis.command(key, "TTL", key) <= 1000
    await redis.command(key, "EXPIRE", key, 10)
    await sessions.resume(session, who(), "n2", "c2")
    assert 990 < await redis.command(key, "TTL", key) <= 1000
    await redis.command(key, "EXPIRE", key, 10)
    await sessions.save(session, owner("c2", "n2"), {})
    assert 990 < await redis.command(key, "TTL", key) <= 1000
    await redis.command(key, "DEL", key)
    assert await sessions.resume(session, who(), "n2", "c2") is None


async def test_an_older_connection_can_no_longer_write(sessions: Sessions) -> None:
    session = sessions.create()
    await sessions.save(session, owner("c1"), {"a:1": Position("e", 1)})
    await sessions.resume(session, who(), "n1", "c2")
    assert await sessions.save(session, owner("c2"), {"a:1": Position("e", 9)})
    assert not await sessions.save(session, owner("c1"), {"a:1": Position("e", 5), "a:2": Position("e", 5)})
    assert not await sessions.release(session, owner("c1"))
    assert not await sessions.save(session, owner("c2", node="n2"), {"a:1": Position("e", 5)})
    assert not await sessions.save(session, owner("c2", user="u2"), {"a:1": Position("e", 5)})
    found = await sessions.resume(session, who(), "n1", "c3")
    assert found is not None
    assert (found.positions, found.previous) == ({"a:1": Position("e", 9)}, PreviousOwner("n1", "c2"))


async def test_of_many_that_resume_at_once_one_owns_it(sessions: Sessions) -> None:
    session = sessions.create()
    await sessions.save(session, owner("c0"), POSITIONS)
    found = await asyncio.gather(*(sessions.resume(session, who(), "n1", f"c{number}") for number in range(1, 11)))
    previous = {one.previous.connection for one in found if one is not None and one.previous is not None}
    assert len(previous) == 10, "each has thrown out another one"
    kept = [number for number in range(11) if await sessions.save(session, owner(f"c{number}"), {})]
    assert len(kept) == 1
    assert f"c{kept[0]}" not in previous


async def test_a_released_session_has_no_owner_to_throw_out(sessions: Sessions) -> None:
    session = sessions.create()
    await sessions.save(session, owner(), {"a:1": Position("e", 1)})
    assert await sessions.release(session, owner(), {"a:1": Position("e", 2)})
    assert not await sessions.save(session, owner(), {"a:1": Position("e", 1)}), "a late save changes nothing"
    found = await sessions.resume(session, who(), "n2", "c2")
    assert found is not None
    assert (found.positions, found.previous) == ({"a:1": Position("e", 2)}, None)


async def test_a_failover_that_forgets_a_claim_does_not_turn_the_newest_owner_out(
    sessions: Sessions, redis: Redis
) -> None:
    session = sessions.create()
    key = session_key(ACME, session)
    await sessions.save(session, owner("c1"), {"a:1": Position("e", 1)})
    before = await redis.command(key, "DUMP", key)
    found = await sessions.resume(session, who(), "n2", "c2")
    assert found is not None
    # As the promoted replica has it, which has not heard of c2.
    await redis.command(key, "RESTORE", key, 0, before, "REPLACE")
    newest = SessionOwner(ACME, "u1", "n2", "c2", found.claim)
    assert await sessions.save(session, newest, {"a:1": Position("e", 2)})
    assert not await sessions.save(session, owner("c1"), {"a:1": Position("e", 9)})
    again = await sessions.resume(session, who(), "n3", "c3")
    assert again is not None
    assert again.claim > found.claim
    assert (again.positions, again.previous) == ({"a:1": Position("e", 2)}, PreviousOwner("n2", "c2"))


async def test_resuming_ones_own_session_throws_nobody_out(sessions: Sessions) -> None:
    session = sessions.create()
    await sessions.save(session, owner("c1"), {})
    found = await sessions.resume(session, who(), "n1", "c1")
    assert found is not None
    assert (found.positions, found.previous) == ({}, None)


async def test_the_positions_are_bounded_and_the_oldest_go(sessions: Sessions, redis: Redis) -> None:
    session = sessions.create()
    await sessions.save(session, owner(), {f"old:{number}": Position("e", 1) for number in range(4)})
    await sessions.save_many([SessionSave(session, owner(), {}, presence="away")])
    key = session_key(ACME, session)
    for number in range(4):
        # As if they had been saved one after another, a while ago.
        await redis.command(key, "HSET", key, f"old:{number}", f"1:{1000 + number}:e")
    await sessions.save(session, owner(), {f"new:{number}": Position("e", 2) for number in range(3)})
    found = await sessions.resume(session, who(), "n1", "c2")
    assert found is not None
    assert set(found.positions) == {"new:0", "new:1", "new:2", "old:2", "old:3"}
    assert found.presence == "away"


async def test_many_are_saved_in_one_batch_each_with_its_own_outcome(sessions: Sessions) -> None:
    names = [sessions.create() for _ in range(50)]
    saves = [SessionSave(name, owner(f"c{index}"), {"a:1": Position("e", index)}) for index, name in enumerate(names)]
    assert await sessions.save_many(saves) == [True] * 50
    await sessions.resume(names[7], who(), "n2", "elsewhere")
    released = [SessionSave(save.session, save.owner, {}, release=True) for save in saves]
    assert await sessions.save_many(released) == [index != 7 for index in range(50)]
    found = await sessions.resume(names[3], who(), "n2", "c")
    assert found is not None
    assert (found.positions, found.previous) == ({"a:1": Position("e", 3)}, None)
    assert await sessions.save_many([]) == []


async def test_without_redis_it_is_unavailable() -> None:
    with running_redis(tcp=False) as server:
        redis = Redis(Settings(redis_url=server.url, database_url="x"))
        sessions = Sessions(redis, Settings(redis_url="x", database_url="x"))
        session = sessions.create()
        await sessions.save(session, owner(), POSITIONS)
        server.stop()
        with pytest.raises(HubError) as caught:
            await sessions.resume(session, who(), "n1", "c2")
        assert caught.value.code is ErrorCode.UNAVAILABLE
        (outcome,) = await sessions.save_many([SessionSave(session, owner(), {})])
        assert isinstance(outcome, HubError)
        await redis.close()
