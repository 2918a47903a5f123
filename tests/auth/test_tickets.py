"""Tickets against a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hub.auth.principal import Principal
from hub.auth.tickets import TicketRequest, Tickets
from hub.config import Settings
from hub.errors import ErrorCode, HubError
from hub.orgs import OrgId, ticket_key
from hub.redis import Redis
from tests.support.clock import Clock
from tests.support.servers import running_redis


def principal(**changes: Any) -> Principal:
    given = {
        "user": "ü\n{u}",
        "org": OrgId.from_claim("acme"),
        "scope": ("subscribe:*", "admin"),
        "expires_at": time.time() + 3600,
        "issued_at": time.time() - 1.25,
        "name": "Someone",
    }
    return Principal(**{**given, **changes})


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = Redis(Settings(redis_url=redis_url, database_url="x"))
    yield redis
    await redis.close()


async def refusal(tickets: Tickets, ticket: str) -> HubError:
    with pytest.raises(HubError) as caught:
        await tickets.redeem(ticket)
    assert caught.value.code is ErrorCode.UNAUTHENTICATED
    assert len(ticket) < 8 or ticket not in caught.value.message
    return caught.value


async def test_a_ticket_stands_for_its_principal_and_session(redis: Redis) -> None:
    tickets, who = Tickets(redis), principal()
    ticket = await tickets.issue(who, "s_1", ttl_s=30)
    found, session = await tickets.redeem(ticket)
    assert (found, session) == (who, "s_1")
    assert isinstance(found.org, OrgId)
    assert found.allows("admin")


async def test_a_ticket_without_a_session(redis: Redis) -> None:
    tickets = Tickets(redis)
    assert (await tickets.redeem(await tickets.issue(principal(), ttl_s=30)))[1] is None


async def test_it_works_once_also_for_many_at_the_same_time(redis: Redis) -> None:
    tickets = Tickets(redis)
    ticket = await tickets.issue(principal(), ttl_s=30)
    outcomes = await asyncio.gather(*(tickets.redeem(ticket) for _ in range(10)), return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, HubError) for outcome in outcomes) == 9


async def test_unknown_used_and_expired_ones_get_the_same_answer(redis: Redis) -> None:
    clock = Clock(time.time())
    tickets = Tickets(redis, clock)
    used = await tickets.issue(principal(), ttl_s=30)
    await tickets.redeem(used)
    of_an_ended_token = await tickets.issue(principal(expires_at=clock.now + 20), ttl_s=30)
    clock.now += 21
    texts = {
        (await refusal(tickets, ticket)).message
        for ticket in (used, of_an_ended_token, "A" * 43, "", "x", "A" * 100_000, "A" * 42 + "\n", "é" * 43)
    }
    assert len(texts) == 1


async def test_it_lives_for_its_time_but_never_longer_than_the_token(redis: Redis) -> None:
    tickets = Tickets(redis)
    long = ticket_key(await tickets.issue(principal(), ttl_s=300))
    assert 200_000 < await redis.command(long, "PTTL", long) <= 300_000
    short = ticket_key(await tickets.issue(principal(expires_at=time.time() + 100), ttl_s=300))
    assert 40_000 < await redis.command(short, "PTTL", short) <= 100_000


async def test_many_at_once_each_with_its_own_outcome(redis: Redis) -> None:
    tickets = Tickets(redis)
    requests = [TicketRequest(principal(user=f"u{number}"), f"s_{number}", 30) for number in range(50)]
    requests[7] = TicketRequest(principal(expires_at=time.time() - 1), None, 30)
    issued = await tickets.issue_many(requests)
    for number, ticket in enumerate(issued):
        if number == 7:
            assert isinstance(ticket, HubError)
            assert ticket.code is ErrorCode.TOKEN_EXPIRED
        else:
            assert isinstance(ticket, str)
            found, session = await tickets.redeem(ticket)
            assert (found.user, session) == (f"u{number}", f"s_{number}")
    assert await tickets.issue_many([]) == []


@pytest.mark.parametrize("value", [b"", b"\xff", b"\x90", b"{}"])
async def test_a_record_that_cannot_be_read_is_refused(redis: Redis, value: bytes) -> None:
    key = ticket_key("B" * 43)
    await redis.command(key, "SET", key, value)
    await refusal(Tickets(redis), "B" * 43)


async def test_without_redis_nobody_comes_in_by_ticket() -> None:
    with running_redis(tcp=False) as server:
        redis = Redis(Settings(redis_url=server.url, database_url="x"))
        tickets = Tickets(redis)
        ticket = await tickets.issue(principal(), ttl_s=30)
        server.stop()
        for asked in (tickets.redeem(ticket), tickets.issue(principal(), ttl_s=30)):
            with pytest.raises(HubError) as caught:
                await asked
            assert caught.value.code is ErrorCode.UNAVAILABLE
        await redis.close()
