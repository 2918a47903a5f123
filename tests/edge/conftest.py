"""A node for the tests of the HTTP routes, shared by a module: tests use topics and users of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hub.embedded import PostgresServer, RedisServer
from tests.edge.http_hub import HttpHub, running_hub
from tests.support.hub_database import HubDatabase, empty_database


@pytest.fixture(scope="module")
async def http_hub(
    redis_server: RedisServer, postgres_server: PostgresServer, migrated_template: HubDatabase
) -> AsyncIterator[HttpHub]:
    """A running node."""
    async with empty_database(postgres_server, migrated_template.name) as database:
        settings = database.settings(
            redis_url=redis_server.url,
            database_relay_url="",
            max_publish_batch=50,
            max_publish_bytes=400_000,
            replay_page_events=20,
            allowed_origins=("https://app.example",),
        )
        async with running_hub(settings) as hub:
            yield hub
