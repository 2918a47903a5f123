"""What the official libraries send with, and bounds on what comes back.

They keep an event, or an answer that is no stream, in memory until it is complete; nothing of theirs says how long it
may get. Imported with the first provider that needs it: httpx2 comes with the libraries, which are optional extras.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2

from hub.api import Settings
from services.content.assistant.provider import Fault, ProviderFailure

PLAIN = {"accept-encoding": "identity"}
"""Headers that ask for what can be counted: a few compressed bytes may unpack to gigabytes."""

_EVENT_STREAM = "text/event-stream"
# Where the libraries take an event for complete.
_BLANK_LINE = re.compile(rb"\n\n|\r\n\r\n|\r\r(?!\n)")
_LONGEST_BEGINNING = 3  # of a blank line, at the end of what came


def http_client(settings: Settings) -> httpx2.AsyncClient:
    """Connections for one provider. Their only time-out is that for connecting; the others are the writer's."""
    for library in ("openai", "anthropic", "httpx2", "httpcore2"):
        # Below this they write requests into the log, and so what people say.
        logging.getLogger(library).setLevel(logging.WARNING)
    most = settings.assistant_max_calls
    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(None, connect=settings.assistant_connect_timeout_s),
        limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
        follow_redirects=False,  # the key would go along
        event_hooks={"response": [_bounding(settings.assistant_max_event_bytes)]},
    )


def forget_found_headers(client: Any) -> None:
    """Of a new client of a library: those that it found in the environment. ``PLAIN`` remain."""
    client._custom_headers = PLAIN  # no public way: given headers are merged with those of the environment


def demand_events(response: httpx2.Response) -> None:
    """Raises ``ProviderFailure`` when the answer says that it is something else than a stream of events."""
    if response.headers.get("content-type", "").partition(";")[0].strip().lower() != _EVENT_STREAM:
        raise ProviderFailure(Fault.GARBAGE, "no event stream")


def _bounding(limit: int) -> Callable[[httpx2.Response], Awaitable[None]]:
    async def bound(response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ProviderFailure(Fault.GARBAGE, "compressed, though told not to")
        assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101 - an async client's always is
        events = response.headers.get("content-type", "").startswith(_EVENT_STREAM)
        response.stream = _Bounded(response.stream, limit, events=events)

    return bound


class _Bounded(httpx2.AsyncByteStream):
    """An answer of which no event, or else all of it together, is longer than ``limit``."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: int, *, events: bool) -> None:
        self._stream = stream
        self._limit = limit
        self._events = events

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size, tail = 0, b""
        async for chunk in self._stream:
            size += len(chunk)
            if self._events:
                seen = tail + chunk
                *ended, rest = _BLANK_LINE.split(seen)
                size = len(rest) if ended else size
                tail = seen[-_LONGEST_BEGINNING:]
            if size > self._limit:
                raise ProviderFailure(Fault.GARBAGE, "assistant_max_event_bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
