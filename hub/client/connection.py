"""One WebSocket to the hub: opens it, reads frames, matches answers to requests, notices silence. Never reconnects.

What came is handed up frame by frame, synchronously and in order; what to do about an end is decided in ``link``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket as kernel
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from hub.client.errors import ConnectionLost, ProtocolViolation, RequestRefused
from hub.client.options import ClientOptions
from hub.client.wire import Drain, Error, HubFrame, Refusal, Reply, Welcome, Wire
from hub.protocol.frames import ClientFrame, Hello

logger = logging.getLogger("hub.client")

ABNORMAL = 1006
"""What RFC 6455 calls an end without a closing handshake; also used for silence and protocol violations."""

Answer = Callable[["Reply | Error | None"], None]
"""Takes the answer to one request, in its place among the other frames. None: the connection died first."""

OnFrame = Callable[["Connection", HubFrame], None]


class Ended(Struct, frozen=True):
    """How a connection ended, or why it could not be opened."""

    code: int
    reason: str
    http_status: int | None = None
    retry_after_s: float = 0.0


class CannotConnect(Exception):
    """The connection could not be opened; ``ended`` says why."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.reason)
        self.ended = ended


async def open_socket(url: str, token: str | None, wire: Wire, options: ClientOptions) -> ClientConnection:
    """An open WebSocket. Raises ``CannotConnect``, whatever went wrong."""
    try:
        socket = await connect(
            url,
            subprotocols=[Subprotocol(wire.subprotocol)],
            additional_headers={"Authorization": f"Bearer {token}"} if token is not None else None,
            compression="deflate" if options.compression else None,
            open_timeout=options.open_timeout_s,
            # The hub's heartbeat tells both sides what a ping would.
            ping_interval=None,
            close_timeout=options.close_timeout_s,
            max_size=options.max_frame_bytes,
            proxy=True if options.use_system_proxy else None,
        )
    except InvalidStatus as refused:
        status = refused.response.status_code
        retry_after = refused.response.headers.get("Retry-After", "")
        wait_s = float(retry_after) if retry_after.isdigit() else 0.0
        raise CannotConnect(Ended(ABNORMAL, f"HTTP {status} at the handshake", status, wait_s)) from refused
    except (OSError, WebSocketException) as problem:
        raise CannotConnect(Ended(ABNORMAL, f"cannot connect: {problem}")) from problem
    _keep_queue_short(socket, options.unsent_bytes)
    return socket


def _keep_queue_short(socket: ClientConnection, most_bytes: int) -> None:
    """While an upload fills the line, what else is sent waits behind what the kernel has taken; let it take little."""
    raw = socket.transport.get_extra_info("socket")
    option = getattr(kernel, "TCP_NOTSENT_LOWAT", None)  # Linux and macOS have it
    if raw is not None and option is not None:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            raw.setsockopt(kernel.IPPROTO_TCP, option, most_bytes)


class Connection:
    """An open connection. ``ended`` resolves exactly once; ``draining`` when the hub announces a move."""

    def __init__(self, socket: ClientConnection, wire: Wire, options: ClientOptions, on_frame: OnFrame) -> None:
        loop = asyncio.get_running_loop()
        self._socket = socket
        self._wire = wire
        self._options = options
        self._on_frame = on_frame
        self._answers: dict[int, Answer] = {}
        self._last_id = 0
        self._silence_s = options.welcome_timeout_s
        self._retry_after_s = 0.0
        self.max_message_bytes = 0
        self.opened_at = loop.time()
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self.draining: asyncio.Future[Drain] = loop.create_future()
        self.ended: asyncio.Future[Ended] = loop.create_future()
        self._reader = asyncio.create_task(self._read(), name="hub-client-reader")

    @property
    def waiting(self) -> int:
        """Requests that have no answer yet."""
        return len(self._answers)

    async def greet(self, hello: Hello) -> None:
        """Sends ``hello`` and waits for ``welcome``. Raises ``CannotConnect``; the connection is then closed."""
        try:
            async with asyncio.timeout(self._options.welcome_timeout_s):
                with contextlib.suppress(ConnectionLost):
                    await self._send(self._wire.encode(hello))
                either: list[asyncio.Future[Any]] = [self.welcomed, self.ended]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            self.abort("no welcome in time")
        except BaseException:
            self.abort("given up")
            raise
        if not self.welcomed.done():
            raise CannotConnect(await self.ended)

    async def request(self, build: Callable[[int], ClientFrame], read: Callable[[Any], Any] | None = None) -> Any:
        """Sends a request and returns its ``result``. Raises ``RequestRefused`` or ``ConnectionLost``.

        ``build`` makes the frame for the id that the request gets. ``read`` makes something of the result in its place
        among the frames, before the next one is looked at; its ``ProtocolViolation`` is raised here.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(answer: Reply | Error | None) -> None:
            if future.done():
                return
            if answer is None:
                future.set_exception(ConnectionLost("the connection was lost before the answer came"))
            elif isinstance(answer, Reply):
                try:
                    future.set_result(answer.result if read is None else read(answer.result))
                except ProtocolViolation as violation:
                    future.set_exception(violation)
            else:
                future.set_exception(_refused(answer))

        number = await self.ask(build, answered)
        try:
            return await future
        finally:
            self._answers.pop(number, None)

    async def ask(self, build: Callable[[int], ClientFrame], answer: Answer) -> int:
        """Sends a request; ``answer`` is called exactly once unless this raises. Returns the request's id."""
        self._last_id += 1
        number = self._last_id
        message = self._wire.encode(build(number))
        if self.max_message_bytes and len(message) > self.max_message_bytes:
            raise RequestRefused(
                "too_large", f"the frame has {len(message)} bytes; the hub takes {self.max_message_bytes}", "never"
            )
        self._answers[number] = answer
        try:
            await self._send(message)
        except BaseException:
            self._answers.pop(number, None)
            raise
        return number

    async def send(self, frame: ClientFrame) -> None:
        """Sends a frame that has no answer. Raises ``ConnectionLost``."""
        await self._send(self._wire.encode(frame))

    async def send_chunk(self, handle: int, offset: int, chunk: memoryview) -> None:
        """Sends the bytes behind the first ``CHUNK_HEAD_BYTES`` of ``chunk``, which are made here. They may be reused.

        Waits until the line takes more; who waits at the same time gets in one after the other. Raises
        ``ConnectionLost``.
        """
        await self._send(self._wire.chunk(handle, offset, chunk), text=False)

    def abort(self, reason: str) -> None:
        """Ends the connection now, without a closing handshake."""
        self._end(Ended(ABNORMAL, reason))
        self._reader.cancel()
        self._socket.transport.abort()

    async def close(self) -> None:
        """Says goodbye and waits for the end, at most ``close_timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.close_timeout_s):
                await self._socket.close(1000, "bye")
        self.abort("closed by the client")
        await asyncio.wait({self._reader})

    async def _send(self, message: bytes | memoryview, text: bool | None = None) -> None:
        if self.ended.done():
            raise ConnectionLost("the connection was lost")
        try:
            await self._socket.send(message, text=self._wire.text if text is None else text)
        except ConnectionClosed as closed:
            # The reader may not have heard of it yet. Whoever sends again must not find this connection in order: he
            # would go on trying without ever letting the reader have its turn.
            self._end(self._ended_by(closed))
            raise ConnectionLost("the connection was lost") from closed

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._silence_s) as watchdog:
                while True:
                    message = await self._socket.recv()
                    self._take(self._wire.decode(message))
                    watchdog.reschedule(loop.time() + self._silence_s)
        except ConnectionClosed as closed:
            self._end(self._ended_by(closed))
        except TimeoutError:
            self._end(Ended(ABNORMAL, f"nothing heard for {self._silence_s:g} s"))
        except ProtocolViolation as violation:
            logger.error("the hub broke the protocol: %s", violation)
            self._end(Ended(ABNORMAL, f"protocol violation: {violation}"))
        except Exception:
            # A fault of this client must not leave it deaf: it shows in the log, and the link reconnects.
            logger.exception("the client failed on a frame")
            self._end(Ended(ABNORMAL, "internal error of the client"))
        finally:
            self._end(Ended(ABNORMAL, "the reader was stopped"))
            self._socket.transport.abort()

    def _take(self, frame: HubFrame) -> None:
        match frame:
            case Reply(id=int() as number) | Error(id=int() as number) if number in self._answers:
                self._answers.pop(number)(frame)
                return
            case Reply():
                return  # of a request that has timed out
            case Error(topic=None):
                self._retry_after_s = (frame.retry_after_ms or 0) / 1000
            case Drain() if not self.draining.done():
                self.draining.set_result(frame)
            case Welcome():
                self._silence_s = self._options.silence_heartbeats * frame.heartbeat_ms / 1000
                self.max_message_bytes = frame.max_message_bytes
        self._on_frame(self, frame)
        if isinstance(frame, Welcome) and not self.welcomed.done():
            self.welcomed.set_result(None)

    def _ended_by(self, closed: ConnectionClosed) -> Ended:
        frame = closed.rcvd
        code, reason = (frame.code, frame.reason) if frame is not None else (ABNORMAL, "the connection was lost")
        return Ended(code, reason, retry_after_s=self._retry_after_s)

    def _end(self, ended: Ended) -> None:
        if self.ended.done():
            return
        self.ended.set_result(ended)
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer(None)


def _refused(error: Error) -> RequestRefused:
    refusal = Refusal.of(error)
    return RequestRefused(refusal.code, refusal.message, refusal.retry, refusal.retry_after_ms, refusal.details)
