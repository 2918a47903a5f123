"""A scripted hub, and options that keep every wait short."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hub.client import ClientOptions
from tests.client.scripted_hub import ScriptedHub, scripted_hub


@pytest.fixture
async def hub() -> AsyncIterator[ScriptedHub]:
    async with scripted_hub() as running:
        yield running


@pytest.fixture
def options() -> ClientOptions:
    return ClientOptions(
        transports=("websocket",),
        backoff_base_s=0.02,
        backoff_max_s=0.05,
        backoff_floor_s=0.005,
        now_jitter_s=0.01,
        close_timeout_s=0.5,
        request_timeout_s=30.0,
        first_connect_timeout_s=30.0,
        ack_interval_s=0.05,
        use_system_proxy=False,
    )
