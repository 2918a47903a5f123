"""The way back of a request on any ASGI server, behind the interface of ``Line``; and the routes that use it.

ASGI's ``send`` may wait, delivery may not. So what is to be sent waits here, counted in bytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog
from litestar import asgi

from hub.auth.credentials import Headers
from hub.config import Settings
from hub.edge.authenticate import PUBLIC
from hub.edge.exchanges import METHODS, POLL_PATH, SSE_PATH, exchange, not_allowed
from hub.edge.gateway import Gateway
from hub.edge.http_line import Answer, Incoming, LeftError, LineUser, body_is_late, body_too_large

log = structlog.get_logger(__name__)

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_LOW: Final = 4  # a quarter of the high mark
_GOODBYE_S: Final = 1.0  # for the last words of a server that stops


class AsgiLine:
    """Implements ``Line``."""

    def __init__(self, scope: Any, receive: Receive, send: Send, settings: Settings) -> None:
        self.user: LineUser | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._settings = settings
        self._high = settings.unsent_high_bytes
        self._waiting: deque[Any] = deque()  # bounded by the high mark: see LineUser.pause_writing
        self._unsent = 0
        self._congested = self._ended = self._lost = False
        self._wake = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    @property
    def unsent(self) -> int:
        """Bytes not yet taken by the server."""
        return self._unsent

    @property
    def lost(self) -> bool:
        """Its client has left."""
        return self._lost

    async def body(self, most: int) -> bytes:
        """All of it. One that is announced as too large is not read."""
        seconds = self._settings.http_body_s
        announced = dict(self._scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > most:
            raise body_too_large(most)
        try:
            async with asyncio.timeout(seconds):
                return await _body(self._receive, most)
        except TimeoutError:
            raise body_is_late(seconds) from None

    def answer(self, answer: Answer) -> None:
        """All at once."""
        self.user = None
        self._start(answer.status, [*answer.headers, ("content-length", str(len(answer.body)))])
        self._put({"type": "http.response.body", "body": answer.body})
        self._ended = True

    def begin(self, headers: Sequence[tuple[str, str]]) -> None:
        """Status 200."""
        self._start(200, headers)

    def write(self, data: bytes) -> None:
        """A piece."""
        if self._ended or self._lost:
            return
        self._unsent += len(data)
        self._put({"type": "http.response.body", "body": data, "more_body": True})
        if self._unsent > self._high and not self._congested:
            # After the pump's first step: only what the server has not taken by then is congestion.
            asyncio.get_running_loop().call_soon(self._judge)

    def end(self) -> None:
        """After what is unsent."""
        self._put({"type": "http.response.body", "body": b""})
        self._ended = True

    def abort(self) -> None:
        """Ends the ASGI call; the server then drops the connection."""
        self._ended = True
        if self._pump is not None:
            self._pump.cancel()
        self._wake.set()

    async def run(self) -> None:
        """Sends until the end, or until the client has left."""
        self._pump = asyncio.ensure_future(self._send_all())
        leaving = asyncio.ensure_future(_disconnected(self._receive))
        try:
            await asyncio.wait([self._pump, leaving], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # The server stops, and has waited long enough. Its client is told, and nobody of a fault.
            if self.user is not None:
                self.user.server_stops()
            await asyncio.wait([self._pump], timeout=_GOODBYE_S)
        finally:
            self._lost = True
            for task in (self._pump, leaving):
                task.cancel()
            await asyncio.gather(self._pump, leaving, return_exceptions=True)
            if self.user is not None:
                self.user.line_lost(self)

    def _start(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        self._put({"type": "http.response.start", "status": status, "headers": encoded})

    def _put(self, message: Any) -> None:
        if not self._ended and not self._lost:
            self._waiting.append(message)
            self._wake.set()

    def _judge(self) -> None:
        if self._unsent > self._high and not self._congested and self.user is not None:
            self._congested = True
            self.user.pause_writing()

    async def _send_all(self) -> None:
        try:
            while not self._ended or self._waiting:
                while self._waiting:
                    await self._send_one(self._waiting.popleft())
                self._wake.clear()
                if not self._ended:
                    await self._wake.wait()
        except Exception as error:  # each server has its own way of saying that the client is gone
            log.debug("send failed", error=type(error).__name__)

    async def _send_one(self, message: Any) -> None:
        await self._send(message)
        if message.get("more_body"):
            self._unsent -= len(message["body"])
            if self._congested and self._unsent <= self._high // _LOW and self.user is not None:
                self._congested = False
                self.user.resume_writing()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def serve_exchange(gateway: Gateway, scope: Any, receive: Receive, send: Send) -> None:
    """One request for a stream or a poll, on any ASGI server."""
    line = AsgiLine(scope, receive, send, gateway.settings)
    method = scope["method"]
    if method not in METHODS:
        line.answer(not_allowed())
    else:
        query, headers = scope.get("query_string", b""), scope["headers"]
        body = None if method == "POST" and _has_body(headers) else b""
        await exchange(gateway, Incoming(method, scope["path"], query, headers, body), line)
    await line.run()


def _has_body(headers: Headers) -> bool:
    given = dict(headers)
    return b"transfer-encoding" in given or given.get(b"content-length", b"0") != b"0"


async def _body(receive: Receive, most: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise LeftError
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > most:
            raise body_too_large(most)
        if not message.get("more_body", False):
            return b"".join(pieces)


def exchange_routes(gateway: Gateway) -> list[Any]:
    """The two paths as routes. ``serve`` answers most requests for them before the application is asked."""

    @asgi([SSE_PATH, POLL_PATH], copy_scope=True, opt={PUBLIC: True})
    async def exchanges(scope: Any, receive: Any, send: Any) -> None:
        """They look at their tokens themselves: a browser's stream can only bring a ticket."""
        await serve_exchange(gateway, scope, receive, send)

    return [exchanges]
