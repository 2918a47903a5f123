"""Frames on their way to the hub by ``POST /v1/frames``: in order, bounded, several of one moment together.

A call has a request of its own, which nothing waits for and which outlives the connection: any node answers it. Of
everything else the answer is awaited before more is sent, because requests may overtake one another. A request that
fails is lost to those who are in it; only what the session's connection is made up of has that begun anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection

import msgspec
from msgspec import Raw, Struct

from hub.client.backoff import Backoff
from hub.client.door import Door
from hub.client.errors import ProtocolViolation
from hub.client.options import ClientOptions
from hub.client.refusals import passes
from hub.client.transport import ABNORMAL, CannotConnect, Deliver, Ended, Lost, TransportLost
from hub.client.wire import Wire
from hub.errors import ErrorCode
from hub.protocol.frames import Ack, Position

PATH = "/v1/frames"
WRAPPING_BYTES = 1024
"""Kept free around a frame that is as large as the hub takes."""
_WIRE = Wire("json")

# What the session's connection does, on whichever node it is. Its answers come over that connection, never from here.
_OF_THE_CONNECTION = frozenset(("subscribe", "unsubscribe", "ack", "auth"))
# Nobody would learn of it if these were lost.
_UNWATCHED = frozenset(("unsubscribe", "ack"))
# Without these, the hub has other subscriptions than the client.
_MAKES_IT_UP = frozenset(("subscribe", "unsubscribe"))
# Answered over the session's connection, so at once by the request, and in order with what else is asked of it.
_CALLS_OF_THE_CONNECTION = "presence."
# So many requests in a row that something on the way refuses for good mean that this is no way to the hub.
_MOST_BARRED = 2


class _Frame(Struct):
    type: str
    id: int | str | None = None
    code: str = ""
    method: str = ""

    @property
    def free(self) -> bool:
        """Whether any node answers it, whenever."""
        return self.type == "call" and not self.method.startswith(_CALLS_OF_THE_CONNECTION)


class _Acked(Struct):
    positions: dict[str, Position]


class _Body(Struct):
    session: str
    frames: list[Raw]


class _Answer(Struct):
    frames: list[Raw]


class Poster:
    """The way back of one connection. ``run`` is awaited by its transport."""

    def __init__(
        self, door: Door, options: ClientOptions, token: Callable[[], str | None], on_unreached: Callable[[], None]
    ) -> None:
        """``on_unreached``: the hub has not found the connection for a frame that was posted. Nothing answers that."""
        self._door = door
        self._address = door.address(PATH)
        self._options = options
        self._token = token
        self._on_unreached = on_unreached
        self._waiting: deque[tuple[_Frame, bytes]] = deque()
        self._calls: dict[int | str | None, asyncio.Task[None]] = {}
        self._acks: dict[str, Position] = {}
        """Acknowledged, but that could not be posted; goes with the next ones, or after a pause."""
        self._pause = Backoff(options)
        self._barred = 0
        self._fault: Exception | None = None
        self._held = False
        self._busy = False
        self._stopped: Ended | None = None
        self._news = asyncio.Event()
        self.session = ""
        self.most_bytes = 0
        """Of a request; set when the ``welcome`` has said it."""

    def attach(self, deliver: Deliver, lost: Lost) -> None:
        """Where answers go, and what is said of requests that will have none. Before anything else."""
        self._deliver = deliver
        self._lost = lost

    async def put(self, message: bytes) -> None:
        """Takes a frame; waits while too many wait. Raises ``TransportLost``."""
        head = msgspec.json.decode(message, type=_Frame)
        queue = self._calls if head.free else self._waiting
        await self._until(lambda: self._stopped is not None or len(queue) < self._options.max_waiting_frames)
        if self._stopped is not None:
            raise TransportLost(self._stopped)
        if head.free:
            self._calls[head.id] = self._door.keep(self._call(head, message))
            return
        if head.type == "ack" and self._acks:
            waiting, self._acks = self._acks, {}
            message = _WIRE.encode(Ack(waiting | msgspec.json.decode(message, type=_Acked).positions))
        self._waiting.append((head, message))
        self._news.set()

    async def run(self) -> Ended:
        """Posts until that is no use any more; then says so. What ``deliver`` raises comes through."""
        try:
            while True:
                await self._until(self._may_go_on)
                if self._fault is not None:
                    raise self._fault
                await self._post_next()
        except TransportLost as lost:
            return lost.ended

    def under_way(self) -> Collection[int | str | None]:
        """Calls whose answers come whatever becomes of the connection; of each one hears, if only that it is lost."""
        return self._calls.keys()

    def give_up(self, number: int) -> None:
        """Nobody waits for this call any more."""
        call = self._calls.get(number)
        if call is not None:
            call.cancel()

    async def settle(self) -> None:
        """Returns when nothing is under way that the session's connection is to do; nothing leaves until ``resume``."""
        self._held = True
        await self._until(lambda: not self._busy)

    def resume(self) -> None:
        """What waits may leave."""
        self._held = False
        self._news.set()

    async def released(self) -> None:
        """Returns when nothing is being held back."""
        await self._until(lambda: not self._held)

    async def flushed(self) -> None:
        """Returns when everything has been posted, calls excepted; at once when it is being held back."""
        await self._until(lambda: self._held or self._stopped is not None or not (self._waiting or self._busy))

    def stop(self, ended: Ended) -> None:
        """Takes nothing any more."""
        self._stopped = self._stopped or ended
        self._news.set()

    # --- inside

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    def _may_go_on(self) -> bool:
        return self._fault is not None or (bool(self._waiting) and not self._held)

    def _take(self) -> list[tuple[_Frame, bytes]]:
        """All that waits and fits into one request."""
        taken = [self._waiting.popleft()]
        size = WRAPPING_BYTES + len(taken[0][1])
        while self._waiting and len(taken) < self._options.max_post_frames:
            size += len(self._waiting[0][1]) + 1
            if size > min(self.most_bytes, self._options.max_post_bytes):
                break
            taken.append(self._waiting.popleft())
        self._news.set()
        return taken

    async def _call(self, head: _Frame, message: bytes) -> None:
        reason = "the call was given up"
        try:
            async with self._door.calls:
                await self._post([(head, message)], self._options.longest_call_s)
        except TransportLost as lost:
            reason = lost.ended.reason
            if self._ends_it(lost.ended):
                self._fault = lost
        except Exception as fault:
            self._fault = fault
        finally:
            del self._calls[head.id]
            self._news.set()
            self._lost(head.id, reason)

    async def _post_next(self) -> None:
        self._busy = True
        taken = self._take()
        try:
            await self._post(taken, self._options.request_timeout_s)
            self._pause.reset()
        except TransportLost as lost:
            if self._ends_it(lost.ended) or any(head.type == "auth" for head, _ in taken):
                raise
            if any(head.type in _MAKES_IT_UP for head, _ in taken):
                self._on_unreached()
            self._spare(taken, lost.ended.reason)
        finally:
            self._busy = False
            self._news.set()

    def _spare(self, taken: list[tuple[_Frame, bytes]], reason: str) -> None:
        """The connection goes on without these."""
        for head, message in taken:
            if head.type == "ack":
                self._acks |= msgspec.json.decode(message, type=_Acked).positions
            else:
                self._lost(head.id, reason)
        if self._acks:
            asyncio.get_running_loop().call_later(self._pause.next_s(), self._acknowledge)

    def _acknowledge(self) -> None:
        if self._acks and self._stopped is None:
            waiting, self._acks = self._acks, {}
            self._waiting.append((_Frame("ack"), _WIRE.encode(Ack(waiting))))
            self._news.set()

    def _ends_it(self, ended: Ended) -> bool:
        """Whether what became of a request is about more than who is in it."""
        self._barred = self._barred + 1 if ended.in_the_way else 0
        return self._barred >= _MOST_BARRED or (ended.http_status == 401 and not ended.in_the_way)

    async def _post(self, taken: list[tuple[_Frame, bytes]], timeout_s: float) -> None:
        """Raises ``TransportLost``: whether something took effect is unknown then."""
        body = msgspec.json.encode(_Body(self.session, [Raw(message) for _, message in taken]))
        backoff = Backoff(self._options)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        answer = await self._door.post(self._address, body, self._token())
                        break
                    except CannotConnect as problem:
                        ended = problem.ended
                        if not _did_nothing(ended):
                            raise TransportLost(_lost_by(ended)) from problem
                    await asyncio.sleep(max(backoff.next_s(), ended.retry_after_s))
        except TimeoutError:
            raise TransportLost(Ended(ABNORMAL, f"no answer to a POST for {timeout_s:g} s")) from None
        self._barred = 0
        self._hand_over({head.id: head.type for head, _ in taken}, answer)

    def _hand_over(self, asked: dict[int | str | None, str], answer: bytes) -> None:
        try:
            frames = msgspec.json.decode(answer, type=_Answer).frames
            heads = [msgspec.json.decode(frame, type=_Frame) for frame in frames]
        except msgspec.DecodeError as problem:
            raise ProtocolViolation(f"not an answer to {PATH}: {problem}") from None
        for head, frame in zip(heads, frames, strict=True):
            kind = asked.get(head.id) if head.type == "error" else None
            if kind in _UNWATCHED or (kind in _OF_THE_CONNECTION and head.code == ErrorCode.NOT_FOUND):
                self._on_unreached()
            else:
                self._deliver(bytes(frame))


def _did_nothing(ended: Ended) -> bool:
    """Whether the hub has not even begun, and the same may be sent again."""
    return not ended.in_the_way and ended.http_status in (None, 429, 503)


def _lost_by(ended: Ended) -> Ended:
    """The end of the connection that follows. What only breaks off says nothing about this way to the hub."""
    status = ended.http_status
    if status == 401 and not ended.in_the_way:
        return ended
    barred = ended.in_the_way and status is not None and not passes(status)
    return Ended(ABNORMAL, f"could not post: {ended.reason}", retry_after_s=ended.retry_after_s, in_the_way=barred)
