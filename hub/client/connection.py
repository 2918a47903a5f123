"""One connection to the hub: reads frames, matches answers to requests, notices silence. Never reconnects.

What came is handed up frame by frame, synchronously and in order; what to do about an end is decided in ``link``, how
frames travel in the ``Transport``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from msgspec.structs import replace

from hub.client.errors import ConnectionLost, ProtocolViolation, RequestRefused
from hub.client.options import ClientOptions
from hub.client.transport import ABNORMAL, CannotConnect, Ended, Transport, TransportLost
from hub.client.wire import Close, Drain, Error, HubFrame, Refusal, Reply, Welcome, fallback_in
from hub.errors import ErrorCode
from hub.protocol.codes import CloseCode
from hub.protocol.frames import Ack, ClientFrame

logger = logging.getLogger("hub.client")

LOST_UNANSWERED = "the connection was lost before the answer came"

Answer = Callable[["Reply | Error | None"], None]
"""Takes the answer to one request, in its place among the other frames. None: the connection died first."""

OnFrame = Callable[["Connection", HubFrame], None]


class Connection:
    """An open connection. ``ended`` resolves exactly once; ``draining`` when the hub announces a move."""

    def __init__(self, transport: Transport, options: ClientOptions, on_frame: OnFrame, numbers: Iterator[int]) -> None:
        loop = asyncio.get_running_loop()
        self.wire = transport.wire
        self._options = options
        self._on_frame = on_frame
        self._answers: dict[int, Answer] = {}
        # Shared by a client's connections: an answer on one must never be taken for one to another's request.
        self._numbers = numbers
        self._silence_s = options.welcome_timeout_s
        self._retry_after_s = 0.0
        self._disabled = False
        self._quiet = asyncio.Event()
        self._loss = LOST_UNANSWERED
        self._fallback: tuple[str, ...] = ()
        self.transport = transport
        self.unsteady = False
        """What was posted was not answered: its hub seems to be another node with each request."""
        self.contested_at: float | None = None
        """When another connection of this client had to do with its session: a 4409 is its own doing then."""
        self.max_message_bytes = 0
        self.opened_at = loop.time()
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self.draining: asyncio.Future[Drain] = loop.create_future()
        self.ended: asyncio.Future[Ended] = loop.create_future()
        self._reader = asyncio.create_task(self._read(), name="hub-client-reader")

    @property
    def waiting(self) -> int:
        """Requests that this connection is to answer, and has not yet."""
        kept = self.transport.under_way()
        return sum(number not in kept for number in self._answers)

    async def finish(self) -> None:
        """Before a planned move: waits for answers that would be lost by it, for as long as the hub bears it."""
        if self.transport.name == "websocket":
            await self.answered(self._options.move_patience_s)

    async def answered(self, timeout_s: float) -> None:
        """Waits until nothing is ``waiting`` any more, the connection has ended or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.waiting and not self.ended.done():
                    self._quiet.clear()
                    await self._quiet.wait()

    async def greeted(self, timeout_s: float) -> None:
        """Waits for ``welcome``. Raises ``CannotConnect``; the connection is then closed."""
        either: list[asyncio.Future[Any]] = [self.welcomed, self.ended]
        try:
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self.abort("given up")
            raise
        if self.welcomed.done():
            return
        self.abort("no welcome in time")
        ended = await self.ended
        # Before the welcome an end that is not the hub's own word may be anybody's between it and us.
        raise CannotConnect(replace(ended, in_the_way=ended.code < CloseCode.BAD_FRAME and not ended.disabled))

    def stay(self) -> None:
        """The hub has taken its ``drain`` back."""
        self.draining = asyncio.get_running_loop().create_future()

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
                future.set_exception(ConnectionLost(self._loss))
            elif isinstance(answer, Reply):
                try:
                    future.set_result(answer.result if read is None else read(answer.result))
                except ProtocolViolation as violation:
                    future.set_exception(violation)
            else:
                future.set_exception(_refused(answer))

        try:
            number = await self.ask(build, answered)
        except BaseException:
            if not future.cancel():
                future.exception()  # what is raised here says it
            raise
        try:
            return await future
        finally:
            if self._answers.pop(number, None) is not None:
                self.transport.give_up(number)
                self._quiet.set()

    async def ask(self, build: Callable[[int], ClientFrame], answer: Answer) -> int:
        """Sends a request; ``answer`` is called exactly once unless this raises. Returns the request's id."""
        number = next(self._numbers)
        message = self.wire.encode(build(number))
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

    async def insist(self, build: Callable[[int], ClientFrame], answer: Answer) -> None:
        """As ``ask``, for what both sides have to agree on: when no answer comes, ``differs`` says so.

        Without a socket, another node may take the connection over while something is on its way to the first one.
        """
        if self.transport.name == "poll" and self.unsteady:
            self.transport.differs.set()
            return
        number = await self.ask(build, answer)
        if self.transport.name != "websocket":
            polls = self.transport.name == "poll"
            within_s = self._options.posted_answer_s if polls else self._options.attempt_timeout_s
            asyncio.get_running_loop().call_later(within_s, self._overdue, number)

    def _overdue(self, number: int) -> None:
        if number in self._answers and not self.ended.done():
            self.unsteady = True
            self.transport.differs.set()

    async def send(self, frame: ClientFrame) -> None:
        """Sends a frame that has no answer. Raises ``ConnectionLost``."""
        if isinstance(frame, Ack) and self.transport.acknowledges:
            return
        await self._send(self.wire.encode(frame))

    async def send_chunk(self, handle: int, offset: int, chunk: memoryview) -> None:
        """Sends the bytes behind the first ``CHUNK_HEAD_BYTES`` of ``chunk``, which are made here. They may be reused.

        Waits until the line takes more; who waits at the same time gets in one after the other. Raises
        ``ConnectionLost``.
        """
        await self._send(self.wire.chunk(handle, offset, chunk), chunk=True)

    def abort(self, reason: str) -> None:
        """Ends the connection now, without a closing handshake."""
        self.abort_with(Ended(ABNORMAL, reason))

    def abort_with(self, ended: Ended) -> None:
        """The same, for a reason that has a code."""
        self._end(ended)
        self._reader.cancel()
        self.transport.abort()

    async def close(self) -> None:
        """Says goodbye and waits for the end, at most ``close_timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.close_timeout_s):
                await self.transport.close()
        self.abort("closed by the client")
        await asyncio.wait({self._reader})

    async def _send(self, message: bytes | memoryview, *, chunk: bool = False) -> None:
        if self.ended.done():
            raise ConnectionLost("the connection was lost")
        try:
            await self.transport.send(message, chunk=chunk)
        except TransportLost as lost:
            # The reader may not have heard of it yet. Whoever sends again must not find this connection in order: he
            # would go on trying without ever letting the reader have its turn.
            self._end(self._told(lost.ended))
            raise ConnectionLost("the connection was lost") from lost

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._silence_s) as watchdog:

                def deliver(message: str | bytes | None) -> None:
                    if self.ended.done() or watchdog.expired():
                        self._take_late(message)
                        return
                    if message is not None:
                        self._take(self.wire.decode(message))
                    watchdog.reschedule(loop.time() + self._silence_s)

                self._end(self._told(await self.transport.run(deliver, self._lost)))
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
            self.transport.abort()

    def _take(self, frame: HubFrame) -> None:
        match frame:
            case Reply(id=int() as number) | Error(id=int() as number) if number in self._answers:
                self._answers.pop(number)(frame)
                self._quiet.set()
                return
            case Reply():
                return  # of a request that has timed out
            case Error(topic=None):
                self._heed(frame)
            case Drain() if not self.draining.done():
                self.draining.set_result(frame)
            case Close():
                self.abort_with(self._told(Ended(frame.code, frame.reason)))
                return
            case Welcome():
                if self.welcomed.done():
                    # A transport without a connection of its own was taken to another node, which could not go on
                    # unnoticed. A new `hello` knows best what is missing.
                    self.abort_with(Ended(CloseCode.DRAINING, "the hub has begun this connection anew"))
                    return
                self._silence_s = self._options.silence_heartbeats * frame.heartbeat_ms / 1000
                self.max_message_bytes = frame.max_message_bytes - self.transport.wrapping_bytes
                self.transport.welcomed(frame.session, frame.max_message_bytes)
        self._on_frame(self, frame)
        if isinstance(frame, Welcome):
            self.welcomed.set_result(None)

    def _take_late(self, message: str | bytes | None) -> None:
        """Of what comes after the end only answers count, to what it does not concern."""
        frame = None if message is None else self.wire.decode(message)
        if isinstance(frame, Reply | Error) and isinstance(frame.id, int) and frame.id in self._answers:
            self._answers.pop(frame.id)(frame)

    def _lost(self, number: int | str | None, reason: str) -> None:
        answer = self._answers.pop(number, None) if isinstance(number, int) else None
        if answer is not None:
            self._loss = reason
            answer(None)
            self._loss = LOST_UNANSWERED
            self._quiet.set()

    def _heed(self, error: Error) -> None:
        """An error about the connection: the close that follows has no room for what it says."""
        self._retry_after_s = (error.retry_after_ms or 0) / 1000
        if error.code == ErrorCode.FEATURE_DISABLED and not self.welcomed.done():
            self._disabled = True
            self._fallback = fallback_in(error.details)

    def _told(self, ended: Ended) -> Ended:
        """With what an error before it has said."""
        wait_s = max(ended.retry_after_s, self._retry_after_s)
        return replace(
            ended,
            retry_after_s=wait_s,
            disabled=ended.disabled or self._disabled,
            fallback=ended.fallback or self._fallback,
        )

    def _end(self, ended: Ended) -> None:
        if self.ended.done():
            return
        self.ended.set_result(ended)
        self._quiet.set()
        kept = self.transport.under_way()
        for number in [number for number in self._answers if number not in kept]:
            self._answers.pop(number)(None)


def _refused(error: Error) -> RequestRefused:
    refusal = Refusal.of(error)
    return RequestRefused(refusal.code, refusal.message, refusal.retry, refusal.retry_after_ms, refusal.details)
