"""The WebSocket of any ASGI server behind the interface of ``Socket``: slower than ``direct_socket``, runs everywhere.

ASGI's ``send`` may wait, delivery may not. So packets wait here, counted in bytes, and a task that lives only while
something waits sends them.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from litestar import asgi

from hub.edge.connection import Connection
from hub.edge.gateway import Gateway
from hub.edge.handshake import UPGRADE_REQUIRED, WEBSOCKET_PATH, Refused, shake_hands
from hub.fanout.turnstile import Step
from hub.protocol.codec import Encoding, Packet
from hub.protocol.codes import CloseCode

log = structlog.get_logger(__name__)

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

CLOSING_S = 10.0  # for a client that does not read to take the last bytes and the close frame


class AsgiSocket:
    """Implements ``Socket``."""

    transport: Final = "websocket"

    def __init__(self, receive: Receive, send: Send, *, high_bytes: int, max_message_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._max_message = max_message_bytes
        self._high = high_bytes
        self._low = high_bytes // 4
        self._waiting: deque[tuple[bool, bytes]] = deque()  # bounded by the high mark: see Connection.pause_writing
        self._unsent = 0
        self._congested = False
        self._flusher: asyncio.Task[None] | None = None
        self._closing: tuple[int, str] | None = None
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._ended = asyncio.Event()
        self._connection: Connection | None = None

    @property
    def unsent(self) -> int:
        """Bytes not yet taken by the server."""
        return self._unsent

    def write(self, packet: Packet) -> None:
        """Queues ready payloads; the server frames them."""
        if self._closing is not None:
            return
        text = packet.encoding is Encoding.JSON
        for payload in packet.payloads:
            self._waiting.append((text, payload))
            self._unsent += len(payload)
        self._wake()
        if self._unsent > self._high and not self._congested:
            # After the flusher's first step: only what the server has not taken by then is congestion.
            asyncio.get_running_loop().call_soon(self._judge)

    def _judge(self) -> None:
        if self._unsent > self._high and not self._congested and self._connection is not None:
            self._congested = True
            self._connection.pause_writing()

    def ping(self) -> bool:
        """ASGI has no pings; the server's own, if any, are its business."""
        return False

    def close(self, code: int, reason: str) -> None:
        """Closes after what is unsent."""
        if self._closing is None:
            self._closing = (code, reason)
            self._wake()
            asyncio.get_running_loop().call_later(CLOSING_S, self._ended.set)

    def abort(self) -> None:
        """Ends the ASGI call; the server then drops the connection."""
        self._ended.set()

    def look(self, now: float) -> float:
        """It has no deadlines but the connection's."""
        return math.inf

    def pause_reading(self) -> None:
        """No further message is asked of the server."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Messages are asked for again."""
        self._may_read.set()

    async def run(self, connection: Connection) -> None:
        """Feeds the connection until the socket is closed."""
        self._connection = connection
        code = int(CloseCode.NORMAL)
        reading = asyncio.ensure_future(self._read(connection))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait([reading, ended], return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                code = reading.result()
        finally:
            tasks = [task for task in (reading, ended, self._flusher) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            connection.lost(code)

    async def _read(self, connection: Connection) -> int:
        while True:
            await self._may_read.wait()
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return int(message.get("code") or CloseCode.NORMAL)
            if message["type"] == "websocket.receive":
                text = message.get("text")
                self._take(connection, message["bytes"] if text is None else text)

    def _take(self, connection: Connection, message: str | bytes) -> None:
        size = len(message)
        if isinstance(message, str) and size <= self._max_message < 4 * size:
            size = len(message.encode())
        if size > self._max_message:
            # The server has a limit of its own, which may be another.
            connection.close(CloseCode.TOO_LARGE)
        else:
            connection.receive(message)

    def _wake(self) -> None:
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush(), name="asgi-flush")

    async def _flush(self) -> None:
        try:
            while self._waiting:
                text, payload = self._waiting.popleft()
                await self._send(
                    {"type": "websocket.send", "text": payload.decode()}
                    if text
                    else {"type": "websocket.send", "bytes": payload}
                )
                self._unsent -= len(payload)
                if self._congested and self._unsent <= self._low and self._connection is not None:
                    self._congested = False
                    self._connection.resume_writing()
            if self._closing is not None:
                await self._send({"type": "websocket.close", "code": self._closing[0], "reason": self._closing[1]})
        except Exception as error:  # each server has its own way of saying that the client is gone
            log.debug("send failed", error=type(error).__name__)
            self._ended.set()
        finally:
            self._flusher = None


async def serve_websocket(gateway: Gateway, scope: Any, receive: Receive, send: Send) -> None:
    """One WebSocket of any ASGI server, from upgrade request to end."""
    await receive()  # websocket.connect
    await gateway.turnstile.turn(Step.HANDSHAKE)
    outcome = await shake_hands(gateway, scope["headers"], scope.get("query_string", b""))
    if isinstance(outcome, Refused):
        await _deny(scope, send, outcome)
        return
    await send({"type": "websocket.accept", "subprotocol": outcome.subprotocol})
    settings = gateway.settings
    socket = AsgiSocket(
        receive, send, high_bytes=settings.unsent_high_bytes, max_message_bytes=settings.max_message_bytes
    )
    await socket.run(Connection(gateway, socket, outcome.arrival))


async def upgrade_required(send: Send) -> None:
    """Answers a plain HTTP request for the path of the socket."""
    await _answer(send, "http.response", UPGRADE_REQUIRED)


async def _deny(scope: Any, send: Send, refused: Refused) -> None:
    if "websocket.http.response" in scope.get("extensions", {}):
        await _answer(send, "websocket.http.response", refused)
    else:
        await send({"type": "websocket.close"})  # the server answers 403


async def _answer(send: Send, kind: str, refused: Refused) -> None:
    headers = [(name.encode(), value.encode()) for name, value in refused.headers]
    await send({"type": f"{kind}.start", "status": refused.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": refused.body})


def websocket_route(gateway: Gateway) -> Any:
    @asgi(WEBSOCKET_PATH, copy_scope=True)
    async def websocket(scope: Any, receive: Any, send: Any) -> None:
        """The socket on stock servers; ``serve`` answers this path before the application is asked."""
        if scope["type"] == "websocket":
            await serve_websocket(gateway, scope, receive, send)
        else:
            await upgrade_required(send)

    return websocket
