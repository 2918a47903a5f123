"""A node with the upload service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.services.uploads.depot import Depot, depot
from tests.support.hub_database import HubDatabase


@pytest.fixture
async def house(redis_url: str, hub_database: HubDatabase, tmp_path: Path) -> AsyncIterator[Depot]:
    async with depot(redis_url, hub_database, tmp_path / "store") as running:
        yield running
