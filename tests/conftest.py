"""Fixtures that every test may use: real servers, started once per session."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from hub.embedded import PostgresServer, RedisServer
from tests.support.hub_database import HubDatabase, empty_database, migrated_database
from tests.support.servers import flush, running_postgres, running_redis

# Others use the machine too, and no test asks how fast it is. Examples are the same in every run, on every machine;
# whoever looks for new ones says so.
EXPLORE = os.environ.get("ORACLE_SEED") == "random"
settings.register_profile(
    "hub", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=not EXPLORE, database=None
)
settings.load_profile("hub")
if not EXPLORE:
    # Constants of whatever modules the tests before have loaded would make other examples.
    NONE = providers._local_constants
    providers._get_local_constants = lambda: NONE


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis on TCP and a unix socket, shared by the session. Do not stop it: start one of your own for that."""
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of the shared Redis, emptied before the test."""
    flush(redis_server)
    return redis_server.url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL with the database ``hub``, shared by the session."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
async def migrated_template(postgres_server: PostgresServer) -> AsyncIterator[HubDatabase]:
    """A migrated database to copy; nobody may stay connected to it."""
    async with migrated_database(postgres_server) as database:
        yield database


@pytest.fixture
async def hub_database(postgres_server: PostgresServer, migrated_template: HubDatabase) -> AsyncIterator[HubDatabase]:
    """A migrated database of the test's own."""
    async with empty_database(postgres_server, migrated_template.name) as database:
        yield database
