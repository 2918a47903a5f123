"""Nodes on the shared Redis, and a way to look into it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hub.redis import Redis
from tests.nodes.duty_nodes import DutyNodes
from tests.support.redis_world import redis_settings


@pytest.fixture
async def nodes(redis_url: str) -> AsyncIterator[DutyNodes]:
    nodes = DutyNodes(redis_url)
    yield nodes
    await nodes.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = Redis(redis_settings(redis_url))
    yield redis
    await redis.close()
