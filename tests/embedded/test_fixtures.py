"""The shared servers answer, and Redis is empty at the start of every test."""

from __future__ import annotations

import asyncpg
import pytest
import redis.asyncio

from hub.embedded import PostgresServer


@pytest.mark.parametrize("turn", [1, 2])
async def test_redis_is_empty_at_the_start_of_a_test(redis_url: str, turn: int) -> None:
    async with redis.asyncio.from_url(redis_url, protocol=3) as link:
        assert await link.dbsize() == 0
        await link.set("left behind", turn)


async def test_the_owner_of_the_database_is_no_superuser(postgres_server: PostgresServer) -> None:
    link = await asyncpg.connect(postgres_server.url())
    try:
        row = await link.fetchrow("SELECT rolname, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = current_user")
        assert tuple(row) == ("hub_owner", False, True)
        owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
        assert await link.fetchval(owner) == "hub_owner"
    finally:
        await link.close()
