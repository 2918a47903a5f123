"""Sends a stream of server-sent events, and ends it when the client goes.

The framework's own streaming response cancels what it iterates but does not close it: a client that goes while bytes
wait to be sent would leave the provider's call open until the garbage is collected.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

import structlog
from litestar.types import Message, Receive, Scope, Send

from hub.api import break_off

_log = structlog.get_logger(__name__)

_HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    # no-transform: a proxy that compresses would keep what it should pass on.
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


class EventStream:
    """An ASGI application that answers one request with ``body``, which is closed in any case.

    What ``body`` raises before its first bytes is raised, while nothing is sent: it becomes an ordinary problem. A
    client that takes no byte for ``stalled_s`` is given up: the connection is broken off. A stock server does not let
    us; it complains that the answer is not complete, and keeps the connection until the client takes what was sent.
    """

    def __init__(self, body: AsyncGenerator[bytes, None], headers: Mapping[str, str], stalled_s: float) -> None:
        self._body = body
        self._headers = [(name.encode(), value.encode()) for name, value in (_HEADERS | dict(headers)).items()]
        self._stalled_s = stalled_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers. Returns when everything is sent or the client is gone."""
        async with aclosing(self._body):
            first = await anext(self._body)
            sending = asyncio.create_task(self._send(first, send), name="event-stream")
            leaving = asyncio.create_task(_left(receive), name="event-stream-left")
            try:
                await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)
            if not sending.cancelled() and not sending.result():
                _log.info("event_stream_stalled")
                if break_off(scope):
                    await _left(receive)

    async def _send(self, first: bytes, send: Send) -> bool:
        """False: the client takes nothing any more."""

        async def put(message: Message) -> bool:
            try:
                async with asyncio.timeout(self._stalled_s):
                    await send(message)
            except TimeoutError:
                return False
            return True

        taken = await put({"type": "http.response.start", "status": 200, "headers": self._headers})
        news: bytes | None = first
        while taken and news is not None:
            taken = await put({"type": "http.response.body", "body": news, "more_body": True})
            news = await anext(self._body, None) if taken else None
        return taken and await put({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
