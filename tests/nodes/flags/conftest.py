"""Nodes with flags of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hub.embedded import RedisServer
from tests.nodes.flags.nodes import World, world
from tests.support.hub_database import HubDatabase


@pytest.fixture
async def flag_world(redis_server: RedisServer, hub_database: HubDatabase, tmp_path: Path) -> AsyncIterator[World]:
    """Starts nodes."""
    async with world(redis_server, hub_database, tmp_path) as made:
        yield made
