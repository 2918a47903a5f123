"""The bound on what comes back: for one event, whatever ends its lines and wherever its bytes are cut."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from services.content.assistant.provider import ProviderFailure
from services.content.assistant.wire import http_client
from tests.services.assistant.conftest import assistant_settings

LIMIT = 4096


class Bytes(httpx2.AsyncByteStream):
    """Comes in pieces of ``size``."""

    def __init__(self, whole: bytes, size: int) -> None:
        self._whole = whole
        self._size = size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._whole), self._size):
            yield self._whole[at : at + self._size]


async def read(whole: bytes, size: int) -> bytes:
    """All of it, through the hooks of the client. Raises ``ProviderFailure`` when an event is too long."""
    response = httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Bytes(whole, size))
    async with http_client(assistant_settings(max_event_bytes=LIMIT)) as client:
        for hook in client.event_hooks["response"]:
            await hook(response)
        return b"".join([piece async for piece in response.aiter_raw()])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 100_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
async def test_events_within_the_bound_pass_and_a_longer_one_does_not(end: bytes, size: int) -> None:
    line = b"data: " + b"x" * 500 + end
    events = (line * 7 + end) * 10
    assert await read(events, size) == events
    with pytest.raises(ProviderFailure, match="assistant_max_event_bytes"):
        await read(events + line * 20, size)
