"""A node with the chat service."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.services.rooms.parlour import Parlour, parlour
from tests.support.hub_database import HubDatabase


@pytest.fixture
async def house(redis_url: str, hub_database: HubDatabase) -> AsyncIterator[Parlour]:
    async with parlour(redis_url, hub_database) as running:
        yield running
