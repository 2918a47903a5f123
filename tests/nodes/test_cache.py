"""The cache that nodes share, on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hub.config import Settings
from hub.nodes.cache import Cache
from hub.orgs import OrgId, cache_key
from hub.redis import Redis
from tests.support.clock import Clock
from tests.support.log_catcher import caught_logs
from tests.support.redis_world import redis_settings
from tests.support.servers import running_redis
from tests.support.waiting import until

ACME, OTHER = OrgId.from_claim("acme"), OrgId.from_claim("other")


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = Redis(Settings(redis_url=redis_url, database_url="x"))
    yield redis
    await redis.close()


@pytest.fixture
def cache(redis: Redis, redis_url: str) -> Cache:
    return Cache(redis, redis_settings(redis_url, cache_max_bytes=1000))


@pytest.mark.parametrize("name", ["plain", "with/slash", "with}brace{", "", "ümlaut"])
async def test_what_one_node_keeps_another_finds(cache: Cache, redis: Redis, redis_url: str, name: str) -> None:
    another = Cache(redis, redis_settings(redis_url))
    assert await another.get(ACME, "plans", name) is None
    await cache.put(ACME, "plans", name, b"\x00\xff value", ttl_s=60)
    assert await another.get(ACME, "plans", name) == b"\x00\xff value"
    await another.put(ACME, "plans", name, b"newer", ttl_s=60)
    assert await cache.get(ACME, "plans", name) == b"newer"


async def test_organisations_purposes_and_names_are_apart(cache: Cache) -> None:
    await cache.put(ACME, "plans", "a", b"1", ttl_s=60)
    assert await cache.get(OTHER, "plans", "a") is None
    assert await cache.get(ACME, "pages", "a") is None
    assert await cache.get(ACME, "plans", "b") is None
    with pytest.raises(ValueError, match="no purpose"):
        await cache.get(ACME, "plans/a", "")


async def test_what_is_kept_is_forgotten_in_time(cache: Cache, redis: Redis) -> None:
    key = cache_key(ACME, "plans", "a")
    await cache.put(ACME, "plans", "a", b"1", ttl_s=60)
    assert 50_000 < await redis.command(key, "PTTL", key) <= 60_000
    await cache.put(ACME, "plans", "a", b"1", ttl_s=0.01)

    async def gone() -> bool:
        return await cache.get(ACME, "plans", "a") is None

    await until(gone)


async def test_what_is_too_large_is_not_kept(cache: Cache) -> None:
    await cache.put(ACME, "plans", "a", b"x" * 1001, ttl_s=60)
    assert await cache.get(ACME, "plans", "a") is None
    await cache.put(ACME, "plans", "a", b"x" * 1000, ttl_s=60)
    assert await cache.get(ACME, "plans", "a") == b"x" * 1000


async def test_without_redis_nothing_is_found_and_nobody_is_troubled() -> None:
    clock = Clock()
    with running_redis(tcp=False) as server, caught_logs() as logs:
        settings = redis_settings(server.url, limits_retry_s=1.0)
        redis = Redis(settings)
        cache = Cache(redis, settings, clock)
        await cache.put(ACME, "plans", "a", b"1", ttl_s=60)
        server.stop()
        for _ in range(3):
            assert await cache.get(ACME, "plans", "a") is None
            await cache.put(ACME, "plans", "a", b"2", ttl_s=60)
            clock.now += 1
        assert await cache.get(ACME, "plans", "a") is None
        server.start()
        await Cache(redis, settings).put(ACME, "plans", "a", b"3", ttl_s=60)
        assert await cache.get(ACME, "plans", "a") is None, "within the pause it is not asked"
        await cache.put(ACME, "plans", "a", b"4", ttl_s=60)
        clock.now += 1
        assert await cache.get(ACME, "plans", "a") == b"3"
        await cache.put(ACME, "plans", "a", b"5", ttl_s=60)
        assert await cache.get(ACME, "plans", "a") == b"5"
        assert [entry["event"] for entry in logs.entries].count("cache_not_reached") == 1
        await redis.close()
