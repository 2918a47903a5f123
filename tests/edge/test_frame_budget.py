"""Frames per second over all nodes, against a real Redis."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from hub.config import Settings
from hub.edge.frame_budget import AskingBudget
from hub.errors import ErrorCode, HubError
from hub.orgs import limit_key
from hub.redis import Redis
from tests.edge.admission_nodes import ACME, Nodes, who
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


async def test_ordinary_clients_ask_redis_once_per_slice(nodes: Nodes) -> None:
    budget = nodes.add(messages_per_second=100, messages_burst=500).frame_budget(who())
    for _ in range(3):
        assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
        assert await budget.refill() == 0
    assert budget.take()


async def test_the_bucket_is_shared_by_the_nodes(nodes: Nodes) -> None:
    several = [nodes.add(messages_per_second=1, messages_burst=40) for _ in range(2)]
    budgets = [node.frame_budget(who()) for node in several]
    slices = [budget._left for budget in budgets]
    spent = 0
    waits = []
    began = time.monotonic()
    while len(waits) < 2:
        budget = budgets[spent % 2] if not waits else budgets[0]
        if budget.take():
            spent += 1
        elif (wait := await budget.refill()) > 0:
            waits.append(wait)
    # One frame a second comes back meanwhile.
    assert 40 <= spent <= 40 + sum(slices) + time.monotonic() - began + 1
    assert all(0 < wait <= 1000 * (1 + sum(slices)) for wait in waits)
    assert several[0].frame_budget(who("u2")).take()


async def test_the_smallest_bucket_counts_exactly(nodes: Nodes) -> None:
    node = nodes.add(messages_per_second=1, messages_burst=1)
    budget = node.frame_budget(who())
    assert budget.take()
    assert not budget.take()
    assert 0 < await budget.refill() <= 2000
    assert not budget.take()


async def test_what_was_owed_is_paid_before_anything_else(nodes: Nodes) -> None:
    began = time.monotonic()
    node = nodes.add(messages_per_second=1, messages_burst=40)
    budget = node.frame_budget(who())
    await budget.wait(0)
    for _ in range(21):
        budget.owe()
    assert not budget.take()
    await budget.wait(0)
    await budget.wait(1)
    other = node.frame_budget(who())
    count = 0
    while other.take() or (await other.refill() == 0 and other.take()):
        count += 1
    assert 18 <= count <= 18 + 2 + time.monotonic() - began, "of 40, 22 were gone; one a second came back meanwhile"


async def test_frames_come_back_with_time(nodes: Nodes, redis: Redis) -> None:
    node = nodes.add(messages_per_second=50, messages_burst=50)
    budget = node.frame_budget(who())
    while budget.take() or await budget.refill() == 0:
        pass

    async def refilled() -> bool:
        return await budget.refill() == 0 and budget.take()

    await until(refilled)


async def test_a_full_bucket_takes_no_place_in_redis(nodes: Nodes, redis: Redis) -> None:
    budget = nodes.add(messages_per_second=1, messages_burst=60).frame_budget(who())
    for _ in range(30):
        assert budget.take() or (await budget.refill() == 0 and budget.take())
    key = limit_key(ACME, "frames", "u1")
    assert 0 < await redis.command(key, "PTTL", key) <= 32_000, "when it will be full, and a second"


async def test_redis_is_asked_about_frames_again_after_a_pause() -> None:
    clock = Clock()
    with running_redis(tcp=False) as server:
        nodes = Nodes(server.url)
        node = nodes.add(clock, messages_per_second=1, messages_burst=1, limits_retry_s=1.0)
        budget = node.frame_budget(who())
        assert budget.take()
        server.stop()
        assert await budget.refill() == 0
        assert budget.take()
        server.start()
        assert await budget.refill() == 0, "within the pause it is not asked"
        assert budget.take()
        clock.now += 1
        assert await budget.refill() == 0, "the first frame that is counted"
        assert budget.take()

        async def limited() -> bool:
            # One comes back in a second, which a slow machine may need for a question.
            return await budget.refill() > 0 or not budget.take()

        await until(limited)
        await nodes.close()


async def test_http_publications_have_a_budget_of_their_own(nodes: Nodes) -> None:
    node = nodes.add(http_events_per_second=10, http_events_burst=1000, max_publish_batch=1000)
    await node.publications.spend(who(), 900)
    with pytest.raises(HubError) as caught:
        await node.publications.spend(who(), 500)
    assert caught.value.code is ErrorCode.RATE_LIMITED
    assert 10_000 < (caught.value.retry_after_ms or 0) <= 60_000
    # What was leased in vain is not lost, and other users are not concerned.
    await node.publications.spend(who(), 90)
    await node.publications.spend(who("u2"), 1000)


def test_requests_for_polls_wait_a_little_when_there_are_too_many_and_then_are_refused() -> None:
    clock = Clock(1024.0)
    budget = AskingBudget(per_second=8, burst=16, most_users=3, clock=clock)
    assert [budget.spend(who()) for _ in range(16)] == [0.0] * 16
    # One after the other, as a client does that is only quick: it never waits for long.
    for _ in range(50):
        assert budget.spend(who()) == 0.125
        clock.now += 0.125
    # All at once.
    assert [budget.spend(who()) for _ in range(8)] == [0.125 * n for n in range(1, 9)]
    for _ in range(2):
        with pytest.raises(HubError) as refused:
            budget.spend(who())
        assert refused.value.code is ErrorCode.RATE_LIMITED
        assert refused.value.retry_after_ms == 1125
    assert budget.spend(who("u2")) == 0
    clock.now += 1
    assert budget.spend(who()) <= 1


def test_nobody_who_asks_no_more_is_kept() -> None:
    clock = Clock()
    budget = AskingBudget(per_second=10, burst=20, most_users=3, clock=clock)
    for number in range(100):
        budget.spend(who(f"u{number}"))
        assert len(budget._spent_until) <= 3
    clock.now += 10
    budget.spend(who("last"))
    budget.spend(who("last"))
    assert len(budget._spent_until) <= 2
