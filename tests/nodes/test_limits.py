"""Buckets and quotas that nodes share, on a real Redis. Time passes by turning back what Redis has noted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hub.config import Settings
from hub.errors import ErrorCode, HubError
from hub.nodes.limits import Bucket, Quota, SharedLimits
from hub.orgs import OrgId, limit_key
from hub.redis import Redis
from tests.support.clock import Clock
from tests.support.redis_world import redis_settings
from tests.support.servers import running_redis
from tests.support.waiting import until

ACME, OTHER = OrgId.from_claim("acme"), OrgId.from_claim("other")
NEVER = 1e-6  # a second: nothing comes back during a test


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = Redis(Settings(redis_url=redis_url, database_url="x"))
    yield redis
    await redis.close()


@pytest.fixture
def nodes(redis: Redis, redis_url: str) -> list[SharedLimits]:
    """Two nodes that share their limits."""
    return [SharedLimits(redis, redis_settings(redis_url)) for _ in range(2)]


async def refusal(limit: Bucket | Quota, who: str = "u1") -> HubError:
    with pytest.raises(HubError) as caught:
        await limit.spend(ACME, who)
    assert caught.value.code is ErrorCode.RATE_LIMITED
    return caught.value


async def refused_at_last(bucket: Bucket) -> int:
    """Spends until it is refused, however much comes back between two questions; the wait that it is told."""
    for _ in range(10_000):
        try:
            await bucket.spend(ACME, "u1")
        except HubError as error:
            return error.retry_after_ms or 0
    raise AssertionError("never refused")


async def passes(redis: Redis, ms: int, purpose: str = "test", field: str = "at") -> None:
    """As if what the script noted as a time had been ``ms`` earlier."""
    key = limit_key(ACME, purpose, "u1")
    await redis.command(key, "HINCRBY", key, field, -ms)


# --- buckets


async def test_a_bucket_is_exact_and_shared_by_the_nodes(nodes: list[SharedLimits]) -> None:
    one, two = (node.bucket("test", per_second=NEVER, burst=3) for node in nodes)
    another = nodes[0].bucket("another", per_second=NEVER, burst=3)
    for bucket in (one, two, one):
        await bucket.spend(ACME, "u1")
    await refusal(one)
    await refusal(two)
    await one.spend(ACME, "u2")
    await one.spend(OTHER, "u1")
    await another.spend(ACME, "u1")
    assert all(node.fail_open.count == 0 for node in nodes)


async def test_a_bucket_gives_all_or_nothing(nodes: list[SharedLimits]) -> None:
    bucket = nodes[0].bucket("test", per_second=NEVER, burst=5, what="bytes")
    await bucket.spend(ACME, "u1", 3)
    with pytest.raises(HubError, match="at most"):
        await bucket.spend(ACME, "u1", 3)
    await bucket.spend(ACME, "u1", 2)
    with pytest.raises(HubError, match="at most 5 bytes at once") as caught:
        await bucket.spend(ACME, "u2", 6)
    assert caught.value.code is ErrorCode.TOO_LARGE


@pytest.mark.parametrize("per_second", [20 / 60, 1 / 3, 7 / 60, 0.01, 1.7, 250])
async def test_who_waits_as_long_as_told_is_let_through(
    nodes: list[SharedLimits], redis: Redis, per_second: float
) -> None:
    bucket = nodes[0].bucket("test", per_second=per_second, burst=1)
    await bucket.spend(ACME, "u1")
    wait_ms = await refused_at_last(bucket)
    assert 0 < wait_ms <= 1000 / per_second + 1
    await passes(redis, wait_ms)
    await bucket.spend(ACME, "u1")


async def test_a_rounding_error_refuses_nobody(nodes: list[SharedLimits], redis: Redis) -> None:
    bucket = nodes[0].bucket("test", per_second=NEVER, burst=1)
    key = limit_key(ACME, "test", "u1")
    await bucket.spend(ACME, "u1")
    await redis.command(key, "HSET", key, "tokens", "0.9999995")
    await bucket.spend(ACME, "u1")


async def test_a_slow_bucket_fills_however_often_it_is_asked(nodes: list[SharedLimits], redis: Redis) -> None:
    # Slow enough that it is not full before all have asked, on a machine that takes its time.
    bucket = nodes[0].bucket("test", per_second=0.01, burst=1)
    await bucket.spend(ACME, "u1")
    for _ in range(400):
        await refusal(bucket)
        await passes(redis, 1)
    await refusal(bucket)
    key = limit_key(ACME, "test", "u1")
    assert float(await redis.command(key, "HGET", key, "tokens")) >= 0.01 * 0.399


@pytest.mark.parametrize(
    ("per_second", "allows"),
    [
        (1_000_000, "1000000 drafts a second"),
        (1.5, "1.5 drafts a second"),
        (20 / 60, "20 drafts a minute"),
        (5 / 3600, "5 drafts an hour"),
        (1 / 7200, "0.5 drafts an hour"),
    ],
)
async def test_a_refusal_says_what_is_allowed(nodes: list[SharedLimits], per_second: float, allows: str) -> None:
    assert nodes[0].bucket("test", per_second=per_second, burst=1, what="drafts").allows == allows


async def test_a_refusal_says_when_to_try_again(nodes: list[SharedLimits]) -> None:
    seconds = nodes[0].bucket("seconds", per_second=1 / 30, burst=1)
    minutes = nodes[0].bucket("minutes", per_second=1 / 600, burst=1)
    for bucket in (seconds, minutes):
        await bucket.spend(ACME, "u1")
    soon = await refusal(seconds)
    wait_s = round((soon.retry_after_ms or 0) / 1000)
    assert 20 < wait_s <= 30
    assert soon.message == f"at most 2 requests a minute; try again in {wait_s} s"
    assert (await refusal(minutes)).message == "at most 6 requests an hour; try again in 10 min"


# --- quotas


async def test_a_session_has_so_many_uses_over_all_nodes(nodes: list[SharedLimits]) -> None:
    one, two = (node.quota("test", most=3, life_s=3600, idle_s=300) for node in nodes)
    for quota in (one, two, one):
        await quota.spend(ACME, "u1")
    error = await refusal(two)
    assert error.message == "at most 3 requests in a session; wait 5 min for a new one"
    assert error.details == {"limit": 3}
    assert 290_000 < (error.retry_after_ms or 0) <= 300_001
    await two.spend(ACME, "u2")
    await two.spend(OTHER, "u1")
    assert all(node.fail_open.count == 0 for node in nodes)


async def test_a_use_prolongs_a_session_and_a_refused_one_does_not(nodes: list[SharedLimits], redis: Redis) -> None:
    quota = nodes[0].quota("test", most=2, life_s=3600, idle_s=300)
    key = limit_key(ACME, "test", "u1")
    await quota.spend(ACME, "u1")
    await redis.command(key, "PEXPIRE", key, 60_000)
    await quota.spend(ACME, "u1")
    assert 290_000 < await redis.command(key, "PTTL", key) <= 300_000
    await redis.command(key, "PEXPIRE", key, 60_000)
    for _ in range(3):
        assert (await refusal(quota)).retry_after_ms in range(1, 60_002)
    assert 0 < await redis.command(key, "PTTL", key) <= 60_000


async def test_a_session_that_was_idle_is_over(nodes: list[SharedLimits], redis: Redis) -> None:
    quota = nodes[0].quota("test", most=1, life_s=3600, idle_s=60)
    key = limit_key(ACME, "test", "u1")
    await quota.spend(ACME, "u1")
    assert (await refusal(quota)).retry_after_ms in range(1, 60_002)
    # As if it had been idle for all but a moment of that.
    await redis.command(key, "PEXPIRE", key, await redis.command(key, "PTTL", key) - 59_900)

    async def begun_anew() -> bool:
        try:
            await quota.spend(ACME, "u1")
        except HubError:
            return False
        return True

    await until(begun_anew)


async def test_a_session_ends_after_its_life_however_busy(nodes: list[SharedLimits], redis: Redis) -> None:
    quota = nodes[0].quota("test", most=3, life_s=3600, idle_s=300)
    key = limit_key(ACME, "test", "u1")
    await quota.spend(ACME, "u1")
    await passes(redis, 3_590_000, field="ends")
    await quota.spend(ACME, "u1")
    assert 0 < await redis.command(key, "PTTL", key) <= 10_000


# --- both


async def test_limits_let_everybody_through_while_redis_is_away() -> None:
    clock = Clock()
    with running_redis(tcp=False) as server:
        settings = redis_settings(server.url, limits_retry_s=1.0)
        redis = Redis(settings)
        limits = SharedLimits(redis, settings, clock)
        bucket = limits.bucket("bucket", per_second=NEVER, burst=1)
        quota = limits.quota("quota", most=1, life_s=60, idle_s=60)
        server.stop()
        for _ in range(3):
            await bucket.spend(ACME, "u1")
            await quota.spend(ACME, "u1")
        assert limits.fail_open.count == 6
        server.start()
        clock.now += 1
        for limit in (bucket, quota):
            await limit.spend(ACME, "u1")
            await refusal(limit)
        assert limits.fail_open.count == 6
        await redis.close()


async def test_one_limit_that_redis_refuses_does_not_switch_off_the_others(
    nodes: list[SharedLimits], redis: Redis
) -> None:
    limits = nodes[0]
    broken, sound = (limits.bucket(purpose, per_second=NEVER, burst=1) for purpose in ("broken", "sound"))
    key = limit_key(ACME, "broken", "u1")
    await redis.command(key, "SET", key, "no hash")
    await broken.spend(ACME, "u1")
    assert limits.fail_open.count == 1
    await sound.spend(ACME, "u1")
    await refusal(sound)


def test_a_limit_is_declared_once_and_with_sense(nodes: list[SharedLimits]) -> None:
    limits = nodes[0]
    limits.bucket("test", per_second=1, burst=1)
    with pytest.raises(ValueError, match="declared twice"):
        limits.quota("test", most=1, life_s=1, idle_s=1)
    for per_second, burst in ((0, 1), (-1, 1), (1, 0)):
        with pytest.raises(ValueError, match="positive"):
            limits.bucket("other", per_second=per_second, burst=burst)
    for most, life_s, idle_s in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            limits.quota("other", most=most, life_s=life_s, idle_s=idle_s)
    with pytest.raises(ValueError, match="no purpose"):
        limits.bucket("a/b", per_second=1, burst=1)


def test_whose_name_it_is_cannot_be_read_as_something_else() -> None:
    keys = {
        limit_key(ACME, "a", "b/c"),
        limit_key(ACME, "a", "b"),
        limit_key(OTHER, "a", "b"),
        limit_key(ACME, "b", ""),
    }
    assert len(keys) == 4
