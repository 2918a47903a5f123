"""The way back of a request on the hub's own server, behind the interface of ``Line``: straight to the transport.

The front door hands over a connection on which a request for a stream or a poll begins. It gets it back with the first
request for something else, and with any for these paths that is not as clients write them: the application knows them
too. While a poll waits, this object and the transport are all there is of its connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

import structlog

from hub.edge.access_log import log_line
from hub.edge.exchanges import METHODS, POLL_PATH, SSE_PATH, exchange
from hub.edge.gateway import Gateway
from hub.edge.http_line import Answer, Incoming, LineUser, body_is_late, body_too_large
from hub.edge.request_reader import RequestReader
from hub.edge.transports import hold_back

BEGINNINGS: Final = tuple(
    f"{method} {path}{end}".encode() for method in METHODS for path in (SSE_PATH, POLL_PATH) for end in " ?"
)
_MOST_KEPT_BYTES: Final = 65_536
_IDLE_S: Final = 5.0  # for the next request, as long as the server gives others
_EXPOSED: Final = b"access-control-expose-headers: Retry-After, WWW-Authenticate\r\n"

log = structlog.get_logger(__name__)


class Front(Protocol):
    """What is needed of ``FrontDoor``."""

    def connection_made(self, transport: asyncio.Transport) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def take_as_it_is(self, data: bytes) -> None:
        """A request that is not to be handed over."""


class SideDoor(asyncio.Protocol):
    """Implements ``Line``. ``gateway`` is set on the subclass that ``side_door`` makes."""

    __slots__ = (
        "_began",
        "_body",
        "_busy",
        "_cors",
        "_deaf",
        "_front",
        "_keeps_alive",
        "_reader",
        "_request",
        "_rest",
        "_state",
        "_task",
        "_timer",
        "_transport",
        "user",
    )

    gateway: Gateway

    def __init__(self, transport: asyncio.Transport, state: Any, front: Callable[[], Front]) -> None:
        """``state``: uvicorn's of all connections. ``front`` makes the door to which the connection goes back."""
        self._transport = transport
        self._state = state
        self._front = front
        self.user: LineUser | None = None
        self._reader: RequestReader | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rest = b""
        """What came while a request was being answered."""
        self._body: asyncio.Future[bytes] | None = None
        """Whoever waits for the rest of a body."""
        self._busy = self._deaf = False
        """A request is being answered. What comes is dropped: the answer is a stream, or came before all was asked."""
        self._keeps_alive = True
        self._cors = b""
        self._request = ("", "")
        self._began = 0.0
        state.connections.add(self)

    # --- Line

    @property
    def unsent(self) -> int:
        """Bytes in the transport's buffer."""
        return self._transport.get_write_buffer_size()

    @property
    def lost(self) -> bool:
        """Its client has left."""
        return self._transport.is_closing()

    async def body(self, most: int) -> bytes:
        """What the head has announced; it is read from now on."""
        reader = self._reader
        assert reader is not None  # noqa: S101 - asked for once, when there is more to come
        if len(reader.body()) + reader.left > most:
            raise body_too_large(most)
        seconds = self.gateway.settings.http_body_s
        self._body = asyncio.get_running_loop().create_future()
        self._await(seconds, self._body_is_late)
        self._transport.resume_reading()
        try:
            return await self._body
        finally:
            self._body = None
            self._end_timer()

    def answer(self, answer: Answer) -> None:
        """All at once; then the next request."""
        self.user = None
        if not self._busy or self._deaf or self._transport.is_closing():
            return
        self._busy = False
        unasked, self._reader = self._reader is not None, None
        stays = self._keeps_alive and not unasked and not self.gateway.connections.draining
        head = self._head(answer.status, answer.headers)
        end = b"" if stays else b"connection: close\r\n"
        self._transport.write(b"%bcontent-length: %d\r\n%b\r\n%b" % (head, len(answer.body), end, answer.body))
        if unasked:
            # To close at once could lose the answer on its way: the rest is dropped, while the client may notice.
            self._drop_all()
            self._await(self.gateway.settings.http_linger_s, self._transport.close)
        elif not stays:
            self._transport.close()
        else:
            self._await(_IDLE_S, self._transport.close)
            if self._rest:
                asyncio.get_running_loop().call_soon(self._take_rest)

    def begin(self, headers: Sequence[tuple[str, str]]) -> None:
        """It ends when the connection does: there is nothing to be framed."""
        if not self._busy or self._transport.is_closing():
            return
        self._drop_all()
        hold_back(self._transport, self.gateway.settings)
        self._transport.write(self._head(200, headers) + b"connection: close\r\n\r\n")

    def write(self, data: bytes) -> None:
        """A piece."""
        self._transport.write(data)

    def end(self) -> None:
        """After what is unsent."""
        self._transport.close()

    def abort(self) -> None:
        """At once."""
        self._transport.abort()

    # --- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """A request, or a part of one."""
        if self._deaf:
            return
        if self._reader is None and (self._busy or self._rest):
            self._keep(data)
            return
        if self._reader is None:
            self._end_timer()
            if not data.startswith(BEGINNINGS):
                self._leave(data, as_it_is=False)
                return
            settings = self.gateway.settings
            self._reader = RequestReader(settings.http_head_bytes, settings.max_message_bytes)
        self._read(self._reader, data)

    def eof_received(self) -> None:
        """The client sends no more; the transport closes itself."""

    def pause_writing(self) -> None:
        """More than the high mark is unsent."""
        if self.user is not None and self._deaf:
            self.user.pause_writing()

    def resume_writing(self) -> None:
        """Less than the low mark is unsent."""
        if self.user is not None and self._deaf:
            self.user.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self._state.connections.discard(self)
        self._end_timer()
        self._reader = None
        if self._task is not None:
            self._task.cancel()
        user, self.user = self.user, None
        if user is not None:
            user.line_lost(self)

    def shutdown(self) -> None:
        """The server stops; called by it."""
        self._keeps_alive = False
        if not self._busy:
            self._transport.close()

    # --- requests

    def _read(self, reader: RequestReader, data: bytes) -> None:
        rest = reader.feed(data)
        if self._busy:
            if reader.whole:
                self._reader = None
                self._keep(rest)
                if self._body is not None and not self._body.done():
                    self._body.set_result(reader.body())
        elif reader.odd:
            self._leave(b"".join(reader.data), as_it_is=True)
        elif reader.headed:
            self._serve(reader)
        elif self._timer is None:
            # Once for the whole head: who sends it byte by byte gets no more time.
            self._await(self.gateway.settings.http_head_s, self._transport.close)

    def _serve(self, reader: RequestReader) -> None:
        self._end_timer()
        if reader.whole:
            self._reader = None
        else:
            self._transport.pause_reading()  # until it is known who sends it
            reader.data.clear()
        self._busy = True
        self._keeps_alive = self._keeps_alive and reader.keeps_alive
        request = reader.request()
        self._request = (request.method, request.path)
        self._began = time.perf_counter()
        self._cors = self._cors_for(request)
        self._task = asyncio.create_task(exchange(self.gateway, request, self), name="exchange")
        self._task.add_done_callback(self._served)

    def _keep(self, data: bytes) -> None:
        """For when the request that is being answered has its answer."""
        self._rest += data
        if len(self._rest) > _MOST_KEPT_BYTES:
            self._transport.pause_reading()

    def _drop_all(self) -> None:
        """And read on: who does not read does not notice that a client has left."""
        self._deaf = True
        self._rest = b""
        self._transport.resume_reading()

    def _body_is_late(self) -> None:
        if self._body is not None and not self._body.done():
            self._body.set_exception(body_is_late(self.gateway.settings.http_body_s))

    def _served(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("exchange failed", exc_info=error)
            self._transport.abort()

    def _take_rest(self) -> None:
        if self._transport.is_closing():
            return
        data, self._rest = self._rest, b""
        self._transport.resume_reading()
        self.data_received(data)

    def _leave(self, data: bytes, *, as_it_is: bool) -> None:
        """Back to the front door, with what came."""
        self._reader = None
        self._end_timer()
        self._state.connections.discard(self)
        front = self._front()
        front.connection_made(self._transport)
        self._transport.set_protocol(cast(asyncio.BaseProtocol, front))
        if as_it_is:
            front.take_as_it_is(data)
        else:
            front.data_received(data)

    def _await(self, seconds: float, action: Callable[[], None]) -> None:
        self._end_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, action)

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- answers

    def _head(self, status: int, headers: Sequence[tuple[str, str]]) -> bytes:
        log_line(*self._request, status, self._began)
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in headers]
        own = [b"%b: %b\r\n" % (name, value) for name, value in self._state.default_headers]
        return b"".join(["".join(lines).encode("latin-1"), *own, self._cors])

    def _cors_for(self, request: Incoming) -> bytes:
        """As the application has it: who may not read an answer was refused it."""
        origin, allowed = request.header(b"origin"), self.gateway.settings.allowed_origins
        if origin is None or not allowed:
            return b""
        if "*" in allowed:
            return b"access-control-allow-origin: *\r\n" + _EXPOSED
        if origin.lower() not in {one.lower().rstrip("/") for one in allowed}:
            return _EXPOSED
        return b"access-control-allow-origin: %b\r\nvary: Origin\r\n%b" % (origin.encode("latin-1"), _EXPOSED)


def side_door(gateway: Gateway) -> type[SideDoor]:
    """The class to give to ``front_door``."""
    return type("HubSideDoor", (SideDoor,), {"gateway": gateway, "__slots__": ()})
