"""A fan-out over a broker in memory; what its connections get must never break the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.fan_out import FanOut


@pytest.fixture
async def hub() -> AsyncIterator[FanOut]:
    """Pages of five events, a window of four, and no delays."""
    fan_out = FanOut(replay_page_events=5, ack_window=4, position_skip_events=3, unsubscribe_delay_s=0.01)
    yield fan_out
    await fan_out.close()
    assert fan_out.violations == []
