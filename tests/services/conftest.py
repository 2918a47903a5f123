"""A fake language model over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hub.fake_llm import FakeLlmServer, fake_llm_server
from tests.support.waiting import until


@pytest.fixture(scope="session")
async def fake_server() -> AsyncIterator[FakeLlmServer]:
    async with fake_llm_server() as server:
        yield server


@pytest.fixture
async def fake(fake_server: FakeLlmServer) -> AsyncIterator[FakeLlmServer]:
    """A fake that remembers nothing of the tests before. No test leaves a call open: somebody pays for it."""
    fake_server.llm.forget()
    yield fake_server
    await until(lambda: fake_server.llm.open == 0, what="every call to be ended")
