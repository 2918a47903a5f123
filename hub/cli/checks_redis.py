"""``hub doctor`` on Redis: every master of ``HUB_REDIS_URL``."""

from __future__ import annotations

from typing import Any

from redis.exceptions import RedisError, ResponseError

from hub.cli.checks import Verdict, bad, clock, now, ok, warn
from hub.cli.environment import is_unset
from hub.config import Settings
from hub.errors import ConfigError
from hub.redis.masters import Masters

OLDEST = (7, 2)
# A burst that a node cannot read at once waits in its output buffer; Redis drops the subscriber when that is full.
PUBSUB_BUFFER_BYTES = 128 * 1024 * 1024
_BUFFER_REMEDY = "CONFIG SET client-output-buffer-limit 'pubsub 268435456 67108864 60' (and in redis.conf)"


async def check_redis(settings: Settings) -> list[Verdict]:
    """All rows about Redis."""
    if is_unset(settings.redis_url):
        return [bad("Redis", "HUB_REDIS_URL is not set", "set HUB_REDIS_URL, for example redis://host:6379/0")]
    try:
        masters = Masters(settings)
        layout = await masters.discover(())
    except ConfigError as error:
        return [bad("Redis", str(error), "correct HUB_REDIS_URL")]
    except (RedisError, OSError) as error:
        return [bad("Redis reachable", str(error), "start it, or correct HUB_REDIS_URL")]
    rows = []
    for address in layout.masters:
        rows += await _check_server(masters, address)
    if layout.slots is not None:
        missing = layout.slots.count("")
        rows.append(
            bad("Redis cluster", f"{missing} slots without a master", "redis-cli --cluster fix")
            if missing
            else ok("Redis cluster", f"{len(layout.masters)} masters, every slot served")
        )
    return rows


async def _check_server(masters: Masters, address: str) -> list[Verdict]:
    connection = masters.connection_class()(**masters.connection_options(address))

    async def ask(*command: str) -> Any:
        await connection.send_command(*command)
        return await connection.read_response()

    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        text = await ask("INFO")
        info = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
        rows = [ok(f"Redis reachable {address}", "yes"), _version(info), _eviction(info), _mode(masters, info)]
        try:
            rows.append(_buffer(await ask("CONFIG", "GET", "client-output-buffer-limit")))
        except ResponseError:
            rows.append(warn("Redis pub/sub buffer", "CONFIG is not allowed here", "make sure of: " + _BUFFER_REMEDY))
        asked_at = now()
        seconds, micros = await ask("TIME")
        rows.append(clock("clock of Redis", int(seconds) + int(micros) / 1e6, asked_at, now()))
    except (RedisError, OSError) as error:
        return [bad(f"Redis reachable {address}", str(error), "start it, or correct HUB_REDIS_URL")]
    else:
        return [row for row in rows if row is not None]
    finally:
        await connection.disconnect(nowait=True)


def _version(info: dict[str, str]) -> Verdict:
    version = info.get("redis_version", "0.0")
    found = f"Valkey {info['valkey_version']} (as Redis {version})" if "valkey_version" in info else version
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        return bad("Redis version", found, "upgrade to Redis 7.2 or Valkey 7.2, or newer")
    return ok("Redis version", found)


def _eviction(info: dict[str, str]) -> Verdict:
    policy = info.get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        return bad("Redis eviction", policy, "CONFIG SET maxmemory-policy noeviction (and in redis.conf)")
    return ok("Redis eviction", policy)


def _mode(masters: Masters, info: dict[str, str]) -> Verdict | None:
    if info.get("cluster_enabled") == "1" and masters.mode != "cluster":
        return bad("Redis cluster", "the server is a cluster node", "write HUB_REDIS_URL as redis+cluster://…")
    return None


def _buffer(answer: Any) -> Verdict:
    """``normal 0 0 0 slave … pubsub <hard> <soft> <seconds>``; 0 is no limit."""
    pairs = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
    words = pairs.get(b"client-output-buffer-limit", b"").decode().split()
    hard = int(words[words.index("pubsub") + 1]) if "pubsub" in words else 0
    found = f"{hard // 1024 // 1024} MB" if hard else "no limit"
    if hard and hard < PUBSUB_BUFFER_BYTES:
        return warn("Redis pub/sub buffer", found, _BUFFER_REMEDY)
    return ok("Redis pub/sub buffer", found)
