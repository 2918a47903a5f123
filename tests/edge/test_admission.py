"""Limits and revocations over all nodes, against a real Redis, and what happens without it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from hub.auth.principal import Principal
from hub.config import Settings
from hub.edge.admission import Admission, _cutoff_key, _lease_keys
from hub.errors import ErrorCode, HubError
from hub.nodes.limits import SharedLimits
from hub.orgs import org_key
from hub.redis import Arg, Redis, Script
from hub.redis.masters import slot_of
from tests.edge.admission_nodes import ACME, OTHER, Nodes, who
from tests.support.clock import Clock
from tests.support.servers import running_redis
from tests.support.waiting import until


@pytest.fixture
async def nodes(redis_url: str) -> AsyncIterator[Nodes]:
    nodes = Nodes(redis_url)
    yield nodes
    await nodes.close()
    nodes.assert_redis_was_asked()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = Redis(Settings(redis_url=redis_url, database_url="x"))
    yield redis
    await redis.close()


async def refusal(admission: Admission, principal: Principal, connection: str) -> HubError:
    with pytest.raises(HubError) as caught:
        await admission.admit(principal, connection)
    return caught.value


async def leases(redis: Redis, *names: str) -> set[str]:
    key = org_key(ACME, *names)
    return {member.decode() for member in await redis.command(key, "ZRANGE", key, 0, -1)}


async def expire(redis: Redis, connection: str, *names: str) -> None:
    key = org_key(ACME, *names)
    await redis.command(key, "ZADD", key, "XX", 1, connection)


# --- connections -----------------------------------------------------------------------------------------------------


async def test_a_user_has_so_many_connections_over_all_nodes(nodes: Nodes) -> None:
    first, second = (nodes.add(max_connections_per_user=2, connection_lease_s=60) for _ in range(2))
    await first.admit(who(), "c1")
    await second.admit(who(), "c2")
    error = await refusal(first, who(), "c3")
    assert error.code is ErrorCode.QUOTA_EXCEEDED
    assert error.retry == "later"
    assert error.retry_after_ms is not None
    assert 1000 <= error.retry_after_ms <= 60_000
    assert "user" in error.message
    await first.admit(who("u2"), "c4")
    await first.admit(who(org=OTHER), "c5")


async def test_an_organisation_has_so_many_connections(nodes: Nodes) -> None:
    node = nodes.add(max_connections_per_org=2)
    await node.admit(who("u1"), "c1")
    await node.admit(who("u2"), "c2")
    assert "organisation" in (await refusal(node, who("u3"), "c3")).message
    await node.admit(who(org=OTHER), "c4")


async def test_a_refused_connection_leaves_no_trace(nodes: Nodes, redis: Redis) -> None:
    node = nodes.add(max_connections_per_org=1)
    await node.admit(who("u1"), "c1")
    await refusal(node, who("u2"), "c2")
    assert node.held == 1
    assert await leases(redis, "connections") == {"c1"}
    assert await leases(redis, "user-connections", "u2") == set()


async def test_concurrent_connections_do_not_slip_past_the_limit(nodes: Nodes) -> None:
    several = [nodes.add(max_connections_per_user=5) for _ in range(2)]
    outcomes = await asyncio.gather(
        *(several[number % 2].admit(who(), f"c{number}") for number in range(20)), return_exceptions=True
    )
    assert sum(outcome is None for outcome in outcomes) == 5


async def test_the_same_connection_is_counted_once(nodes: Nodes) -> None:
    node = nodes.add(max_connections_per_user=1)
    await node.admit(who(), "c1")
    await node.admit(who(), "c1")
    assert node.held == 1


async def test_what_is_released_is_free_again(nodes: Nodes, redis: Redis) -> None:
    node = nodes.add(max_connections_per_user=1)
    node.start()
    await node.admit(who(), "c1")
    node.release("c1")
    node.release("c1")
    node.release("never admitted")

    async def admitted() -> bool:
        await node.admit(who(), "c2")
        return True

    async def free() -> bool:
        return await leases(redis, "user-connections", "u1") == set()

    await until(free)
    assert await admitted()
    assert await leases(redis, "connections") == {"c2"}


async def test_what_a_dead_node_held_is_free_after_its_lease(nodes: Nodes, redis: Redis) -> None:
    dead, alive = nodes.add(max_connections_per_user=1), nodes.add(max_connections_per_user=1)
    await dead.admit(who(), "c1")
    await expire(redis, "c1", "user-connections", "u1")
    await expire(redis, "c1", "connections")
    await alive.admit(who(), "c2")
    assert await leases(redis, "connections") == {"c2"}
    dead._held.clear()


async def test_leases_are_renewed_and_come_back_after_a_loss(nodes: Nodes, redis: Redis) -> None:
    node = nodes.add(max_connections_per_user=1000)
    connections = {f"c{number}": who(f"u{number % 7}", OTHER if number % 5 == 0 else ACME) for number in range(1500)}
    await asyncio.gather(*(node.admit(principal, name) for name, principal in connections.items()))
    for key in (org_key(ACME, "connections"), org_key(ACME, "user-connections", "u1")):
        await redis.command(key, "DEL", key)
    await node.renew_all()
    assert await leases(redis, "connections") == {name for name, one in connections.items() if one.org is ACME}
    mine = {name for name, one in connections.items() if one.org is ACME and one.user == "u1"}
    assert await leases(redis, "user-connections", "u1") == mine


async def test_a_renewal_moves_the_end_of_the_lease(nodes: Nodes, redis: Redis) -> None:
    node = nodes.add(connection_lease_s=60)
    await node.admit(who(), "c1")
    await expire(redis, "c1", "connections")
    await node.renew_all()
    key = org_key(ACME, "connections")
    assert float(await redis.command(key, "ZSCORE", key, "c1")) > (time.time() + 50) * 1000
    assert 50_000 < await redis.command(key, "PTTL", key) <= 60_000


async def test_the_keeper_renews_by_itself(nodes: Nodes, redis: Redis) -> None:
    node = nodes.add(connection_lease_s=5)
    node.start()
    await node.admit(who(), "c1")
    await expire(redis, "c1", "connections")
    key = org_key(ACME, "connections")

    async def renewed() -> bool:
        return float(await redis.command(key, "ZSCORE", key, "c1") or 0) > 1

    await until(renewed, timeout=30)


async def test_closing_gives_everything_back(nodes: Nodes, redis: Redis) -> None:
    node = nodes.add()
    node.start()
    for number in range(3):
        await node.admit(who(), f"c{number}")
    node.release("c0")
    await node.close()
    assert await leases(redis, "connections") == set()
    assert await leases(redis, "user-connections", "u1") == set()


async def test_a_user_with_a_strange_name_is_a_user_like_any_other(nodes: Nodes) -> None:
    node = nodes.add(max_connections_per_user=1)
    names = ["{a}", "}{", "u:1", "", "ü", "connections", "x" * 256]
    for number, name in enumerate(names):
        await node.admit(who(name), f"c{number}")
        assert (await refusal(node, who(name), f"d{number}")).code is ErrorCode.QUOTA_EXCEEDED


class StuckAfterAnswer(Redis):
    """Answers of scripts arrive, but nobody learns of them."""

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        await super().run(script, keys, args)
        await asyncio.Event().wait()


async def test_a_client_that_leaves_while_it_is_admitted_keeps_no_lease(redis_url: str, redis: Redis) -> None:
    settings = Settings(redis_url=redis_url, database_url="x")
    stuck = StuckAfterAnswer(settings)
    node = Admission(stuck, settings, SharedLimits(stuck, settings))
    node.start()
    joining = asyncio.create_task(node.admit(who(), "c1"))

    async def taken() -> bool:
        return await leases(redis, "connections") == {"c1"}

    async def free() -> bool:
        return await leases(redis, "connections") == set()

    await until(taken)
    joining.cancel()
    await until(free)
    assert node.held == 0
    await node.close()
    await stuck.close()


def test_the_keys_of_one_script_lie_in_one_slot_of_a_cluster() -> None:
    for user in ("u1", "{x}", "}{"):
        slots = {slot_of(key) for key in (*_lease_keys(who(user)), _cutoff_key(ACME, user))}
        assert len(slots) == 1


# --- revocation ------------------------------------------------------------------------------------------------------


async def refused_everywhere(node: Admission, principal: Principal) -> bool:
    outcomes = await asyncio.gather(node.admit(principal, "c"), node.check_revoked(principal), return_exceptions=True)
    node.release("c")
    codes = {outcome.code if isinstance(outcome, HubError) else outcome for outcome in outcomes}
    assert codes in ({None}, {ErrorCode.UNAUTHENTICATED})
    return codes == {ErrorCode.UNAUTHENTICATED}


async def test_kick_refuses_older_tokens_and_lets_newer_ones_in(nodes: Nodes) -> None:
    node = nodes.add()
    cutoff = await nodes.add().revoke(ACME, "u1", 3600)
    assert cutoff == pytest.approx(time.time(), abs=60)
    assert await refused_everywhere(node, who(issued_at=cutoff - 0.001))
    assert await refused_everywhere(node, who(issued_at=cutoff))
    assert await refused_everywhere(node, who(issued_at=0.0))
    assert not await refused_everywhere(node, who(issued_at=cutoff + 0.001))
    assert not await refused_everywhere(node, who("u2", issued_at=1.0))
    assert not await refused_everywhere(node, who(org=OTHER, issued_at=1.0))


async def test_without_a_cutoff_a_token_need_not_say_when_it_was_issued(nodes: Nodes) -> None:
    assert not await refused_everywhere(nodes.add(), who(issued_at=0.0))


async def test_a_cutoff_stands_for_its_time(nodes: Nodes, redis: Redis) -> None:
    await nodes.add().revoke(ACME, "u1", 100)
    key = org_key(ACME, "cutoff", "u1")
    assert 90_000 < await redis.command(key, "PTTL", key) <= 100_000


# --- without Redis ---------------------------------------------------------------------------------------------------


async def test_without_redis_valid_tokens_come_in_and_are_counted_later() -> None:
    clock = Clock()
    with running_redis(tcp=False) as server:
        nodes = Nodes(server.url)
        node = nodes.add(clock, max_connections_per_user=1)
        await node.admit(who(), "c1")
        server.stop()

        await node.admit(who(), "c2")
        await node.admit(who(issued_at=0.0), "c3")
        await node.check_revoked(who())
        await node.renew_all()
        assert node.held == 3
        assert node.fail_open.count >= 4

        budget = node.frame_budget(who())
        for _ in range(100):
            assert budget.take() or await budget.refill() == 0

        with pytest.raises(HubError) as caught:
            await node.revoke(ACME, "u1", 60)
        assert caught.value.code is ErrorCode.UNAVAILABLE

        server.start()
        await node.renew_all()
        await node.admit(who(), "c4")  # not worth asking yet
        clock.now += 2
        await node.renew_all()
        assert (await refusal(node, who(), "c5")).code is ErrorCode.QUOTA_EXCEEDED
        await nodes.close()


async def test_failing_open_is_logged_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    nodes = Nodes("unix:///nowhere")
    node = nodes.add(clock)

    async def lines() -> int:
        for _ in range(3):
            await node.admit(who(), "c1")
        return capsys.readouterr().out.count("limits_not_checked")

    assert await lines() == 1
    clock.now += 59
    assert await lines() == 0
    clock.now += 1
    assert await lines() == 1
    assert node.fail_open.count == 9
    await nodes.close()
