"""The Redis client on real servers: addresses, calls, batches, and errors that say what is certain."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from hub.embedded import RedisServer
from hub.errors import ConfigError, ErrorCode, HubError
from hub.redis import Command, Redis, Script, ScriptCall
from hub.redis.masters import Masters, slot_of
from tests.support.cut_proxy import CutProxy
from tests.support.redis_world import draft, redis_settings, restart, topic, world
from tests.support.servers import client, running_redis
from tests.support.waiting import until


def script(text: str) -> Script:
    return Script("test", text, hashlib.sha1(text.encode()).hexdigest())


ECHO = script("return {KEYS[1], ARGV[1]}")


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    it = Redis(redis_settings(redis_url))
    await it.start()
    yield it
    await it.close()


@pytest.mark.parametrize(
    ("url", "mode", "seeds", "login"),
    [
        ("redis://h", "", ("h:6379",), ("", "", 0)),
        ("redis://u:p%40@h:1/3", "", ("h:1",), ("u", "p@", 3)),
        ("rediss://:p@h:1", "", ("h:1",), ("", "p", 0)),
        ("redis://[::1]:7/0", "", ("[::1]:7",), ("", "", 0)),
        ("unix:///run/a.sock?db=2", "", ("unix:/run/a.sock",), ("", "", 2)),
        ("redis+cluster://u:p@a:1,b:2,c", "cluster", ("a:1", "b:2", "c:6379"), ("u", "p", 0)),
        ("rediss+sentinel://:p@a,b:2/main?db=4", "sentinel", ("a:26379", "b:2"), ("", "p", 4)),
    ],
)
def test_an_address_is_understood(url: str, mode: str, seeds: tuple[str, ...], login: tuple[str, str, int]) -> None:
    masters = Masters(redis_settings(url))
    assert (masters.mode, masters.seeds, tuple(masters.login)) == (mode, seeds, login)
    assert masters.tls == url.startswith("rediss")


@pytest.mark.parametrize(
    "url",
    ["", "http://h", "h:6379", "unix+cluster:///x", "redis+other://h", "redis+sentinel://h:1", "redis+cluster://h/3"],
)
def test_a_wrong_address_is_refused_by_its_setting_name(url: str) -> None:
    with pytest.raises(ConfigError, match="HUB_REDIS_URL"):
        Redis(redis_settings(url))


def test_slots_are_those_of_redis(redis_server: RedisServer) -> None:
    assert slot_of("123456789") == 12739
    assert slot_of("{user1000}.following") == slot_of("{user1000}.followers") == slot_of("user1000")
    assert slot_of("foo{}{bar}") != slot_of("bar")
    assert slot_of("foo{{bar}}zap") == slot_of("{bar")


async def test_commands_and_scripts_answer_bytes_and_numbers(redis: Redis) -> None:
    assert await redis.command("k", "SET", "k", b"\x00\xff") == b"OK"
    assert await redis.command("k", "GETDEL", "k") == b"\x00\xff"
    assert await redis.command("k", "GET", "k") is None
    assert await redis.command("k", "INCRBY", "k", 7) == 7
    assert await redis.run(ECHO, ["k"], [1.5]) == [b"k", b"1.5"]
    (address,) = redis.masters()
    assert redis.address_of("anything") == address
    ((where, run_id),) = (await redis.servers()).items()
    assert (where, len(run_id)) == (address, 40)


async def test_a_batch_has_an_outcome_per_call_in_order(redis: Redis) -> None:
    calls = [
        Command("k", ("SET", "k", 1)),
        ScriptCall(ECHO, ("k",), (b"x",)),
        Command("k", ("LPUSH", "k", "not a list")),
        ScriptCall(script("return redis.call('NO-SUCH-COMMAND')"), ("k",), ()),
        Command("k", ("INCR", "k")),
    ]
    first, second, wrong, broken, last = await redis.batch(calls)
    assert (first, second, last) == (b"OK", [b"k", b"x"], 2)
    for outcome, reason in ((wrong, "WRONGTYPE"), (broken, "Unknown command")):
        assert isinstance(outcome, HubError)
        assert outcome.code is ErrorCode.UNAVAILABLE
        assert reason in str(outcome.__cause__)
    assert await redis.batch([]) == []


async def test_an_unknown_script_is_loaded_and_run_once(redis: Redis) -> None:
    once = script("return redis.call('INCR', KEYS[1])")
    assert await redis.batch([ScriptCall(once, ("n",), ()) for _ in range(5)]) == [1, 2, 3, 4, 5]
    await redis.command("", "SCRIPT", "FLUSH")
    assert await redis.run(once, ("n",), ()) == 6


async def test_registered_scripts_are_loaded_on_every_connection(redis_server: RedisServer) -> None:
    it = Redis(redis_settings(redis_server.url))
    it.register(ECHO)
    await it.start()
    assert await it.command("", "SCRIPT", "EXISTS", ECHO.sha) == [1]
    await it.close()


async def test_many_calls_at_once_share_the_connections(redis_server: RedisServer) -> None:
    it = Redis(
        redis_settings(
            redis_server.url,
            redis_max_connections=3,
            redis_departures=2,
            redis_departure_calls=1,
            publish_turn_events=1,
        )
    )
    await it.start()
    assert await asyncio.gather(*(it.run(ECHO, ["k"], [n]) for n in range(50))) == [
        [b"k", b"%d" % n] for n in range(50)
    ]
    with client(redis_server) as link:
        assert len([one for one in link.client_list() if one["name"] == "hub"]) == 2
    await it.close()


async def test_large_batches_leave_a_way_for_single_calls(redis_server: RedisServer) -> None:
    """They travel alone, and would take every connection."""
    few = {"redis_max_connections": 3, "redis_departure_calls": 2, "publish_turn_events": 2}
    it = Redis(redis_settings(redis_server.url, **few))
    await it.start()
    busy = script("local n = 0; for i = 1, 2e5 do n = n + i end; return n")
    batches = [asyncio.create_task(it.batch([ScriptCall(busy, ("k",), ())] * 5)) for _ in range(8)]
    await asyncio.sleep(0)
    assert await it.run(ECHO, ["k"], ["1"]) == [b"k", b"1"]
    assert sum(batch.done() for batch in batches) <= 2
    await asyncio.gather(*batches)
    await it.close()


async def test_a_cancelled_call_does_not_spoil_the_next(redis: Redis) -> None:
    slow = script("local n = 0; for i = 1, 5e6 do n = n + i end; return ARGV[1]")
    for number in range(5):
        call = asyncio.create_task(redis.run(slow, ["k"], ["slow"]))
        await asyncio.sleep(0.002 * number)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert await redis.run(ECHO, ["k"], ["mine"]) == [b"k", b"mine"]


async def test_a_closed_idle_connection_is_replaced_unnoticed(redis: Redis, redis_server: RedisServer) -> None:
    await redis.command("k", "GET", "k")
    with client(redis_server) as link:
        link.client_kill_filter(_type="normal", skipme=True)
    # The event loop must get a chance to see that they are closed.
    await asyncio.sleep(0.01)
    assert await redis.command("k", "SET", "k", 1) == b"OK"


async def test_a_refused_connection_is_certain_and_a_lost_answer_is_not(redis_server: RedisServer) -> None:
    async with CutProxy(("127.0.0.1", redis_server.port or 0)) as proxy:
        it = Redis(redis_settings(f"redis://127.0.0.1:{proxy.port}", redis_timeout_s=2))
        await it.start()
        proxy.stall("to_client")
        with pytest.raises(HubError, match="may have happened") as lost:
            await it.command("lost", "SET", "lost", 1)
        assert lost.value.code is ErrorCode.UNAVAILABLE
        with client(redis_server) as link:
            await until(lambda: link.get("lost") == "1", what="it to have happened all the same")
        proxy.refuse()
        proxy.cut()
        await asyncio.sleep(0.01)
        with pytest.raises(HubError, match="not reachable"):
            await it.command("k", "GET", "k")
        proxy.resume()
        await proxy.allow()
        assert await it.command("lost", "GET", "lost") == b"1"
        await it.close()


async def test_nothing_is_sent_twice(redis_server: RedisServer) -> None:
    async with CutProxy(("127.0.0.1", redis_server.port or 0)) as proxy:
        it = Redis(redis_settings(f"redis://127.0.0.1:{proxy.port}", redis_timeout_s=10))
        await it.start()
        proxy.stall("to_client")
        call = asyncio.create_task(it.command("twice", "INCR", "twice"))
        with client(redis_server) as link:
            link.delete("twice")
            await until(lambda: link.get("twice") == "1")
            proxy.cut()
            proxy.resume()
            with pytest.raises(HubError, match="may have happened"):
                await call
            assert await it.command("other", "GET", "other") is None
            assert link.get("twice") == "1"
        await it.close()


async def test_start_names_what_is_wrong_and_goes_on() -> None:
    with running_redis(options={"maxmemory-policy": "allkeys-lru"}) as server:
        it = Redis(redis_settings(server.url))
        with capture_logs() as logs:
            await it.start()
        (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
        assert (entry["setting"], entry["value"]) == ("maxmemory-policy", "allkeys-lru")
        assert await it.command("k", "GET", "k") is None
        await it.close()


async def test_start_names_a_server_that_is_too_old(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.redis.client.OLDEST_VERSION", (99, 0))
    it = Redis(redis_settings(redis_url))
    with capture_logs() as logs:
        await it.start()
    await it.close()
    assert [entry["setting"] for entry in logs if entry["log_level"] == "error"] == ["HUB_REDIS_URL"]


async def test_start_survives_a_redis_that_is_not_there() -> None:
    with running_redis() as server:
        it = Redis(redis_settings(server.url))
        server.stop()
        with capture_logs() as logs:
            await it.start()
        assert [entry["setting"] for entry in logs if entry["log_level"] == "error"] == ["HUB_REDIS_URL"]
        with pytest.raises(HubError):
            await it.command("k", "GET", "k")
        await restart(server)
        assert await it.command("k", "GET", "k") is None
        await it.close()


async def test_password_and_database_are_used_by_commands_and_links() -> None:
    subject = topic("secret")
    with running_redis() as server:
        with client(server) as link:
            link.acl_setuser("ann", enabled=True, passwords=["+pa/ss"], keys="*", channels="*", commands=["+@all"])
            link.acl_setuser("default", enabled=True, reset_passwords=True, passwords=["+other"])
        async with world(f"redis://ann:pa%2Fss@127.0.0.1:{server.port}/5") as hub:
            await hub.broker.subscribe([subject])
            await hub.broker.publish(draft(subject))
            await until(lambda: hub.ear.heard(subject))
            assert b"db5:" in await hub.redis.command("", "INFO", "keyspace")
        with capture_logs() as logs:
            wrong = Redis(redis_settings(f"redis://ann:pa-wrong@127.0.0.1:{server.port}"))
            await wrong.start()
            await wrong.close()
        assert "pa-wrong" not in str(logs)
        assert "WRONGPASS" in str(logs) or "invalid username-password" in str(logs)
