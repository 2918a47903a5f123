"""Frames on their way to the hub by ``POST /v1/frames``: in order, bounded, several of one moment together.

A call has a request of its own, which nothing waits for: its answer may take long. Of everything else the answer is
awaited before more is sent, because requests may overtake one another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec
from msgspec import Raw, Struct

from hub.client.backoff import Backoff
from hub.client.door import Door
from hub.client.errors import ProtocolViolation
from hub.client.options import ClientOptions
from hub.client.refusals import passes
from hub.client.transport import ABNORMAL, CannotConnect, Deliver, Ended, TransportLost
from hub.errors import ErrorCode

PATH = "/v1/frames"
WRAPPING_BYTES = 1024
"""Kept free around a frame that is as large as the hub takes."""

# What the session's connection does, on whichever node it is. Its answers come over that connection, never from here.
_OF_THE_CONNECTION = frozenset(("subscribe", "unsubscribe", "ack", "auth"))
# Nobody would learn of it if these were lost.
_UNWATCHED = frozenset(("unsubscribe", "ack"))


class _Frame(Struct):
    type: str
    id: int | str | None = None
    code: str = ""


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
        self._calls = asyncio.Semaphore(max(1, options.max_posts - 1))
        self._held = False
        self._busy = False
        self._stopped: Ended | None = None
        self._news = asyncio.Event()
        self.session = ""
        self.most_bytes = 0
        """Of a request; set when the ``welcome`` has said it."""

    async def put(self, message: bytes) -> None:
        """Takes a frame; waits while too many wait. Raises ``TransportLost``."""
        head = msgspec.json.decode(message, type=_Frame)
        await self._until(lambda: self._stopped is not None or len(self._waiting) < self._options.max_waiting_frames)
        if self._stopped is not None:
            raise TransportLost(self._stopped)
        self._waiting.append((head, message))
        self._news.set()

    async def run(self, deliver: Deliver) -> Ended:
        """Posts until a request fails for good; then says so. What ``deliver`` raises comes through."""
        try:
            async with asyncio.TaskGroup() as calls:
                while True:
                    await self._until(lambda: bool(self._waiting) and not self._held)
                    if self._waiting[0][0].type == "call":
                        await self._calls.acquire()
                        calls.create_task(self._call(self._take(), deliver))
                    else:
                        await self._post_next(deliver)
        except BaseExceptionGroup as several:
            first = several.exceptions[0]
            if isinstance(first, TransportLost):
                return first.ended
            raise first from None

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

    def _take(self) -> list[tuple[_Frame, bytes]]:
        """A call, or all that waits before the next one and fits into one request."""
        taken, size = [self._waiting.popleft()], 0
        size = WRAPPING_BYTES + len(taken[0][1])
        while self._waiting and taken[0][0].type != "call" and len(taken) < self._options.max_post_frames:
            head, message = self._waiting[0]
            size += len(message) + 1
            if head.type == "call" or size > min(self.most_bytes, self._options.max_post_bytes):
                break
            taken.append(self._waiting.popleft())
        self._news.set()
        return taken

    async def _call(self, taken: list[tuple[_Frame, bytes]], deliver: Deliver) -> None:
        try:
            await self._post(taken, deliver, self._options.longest_call_s)
        finally:
            self._calls.release()

    async def _post_next(self, deliver: Deliver) -> None:
        self._busy = True
        try:
            await self._post(self._take(), deliver, self._options.request_timeout_s)
        finally:
            self._busy = False
            self._news.set()

    async def _post(self, taken: list[tuple[_Frame, bytes]], deliver: Deliver, timeout_s: float) -> None:
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
        self._hand_over({head.id: head.type for head, _ in taken}, answer, deliver)

    def _hand_over(self, asked: dict[int | str | None, str], answer: bytes, deliver: Deliver) -> None:
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
                deliver(bytes(frame))


def _did_nothing(ended: Ended) -> bool:
    """Whether the hub has not even begun, and the same may be sent again."""
    return not ended.in_the_way and ended.http_status in (None, 429, 503)


def _lost_by(ended: Ended) -> Ended:
    """The end of the connection that follows. What only breaks off says nothing about this way to the hub."""
    status = ended.http_status
    if status == 401:
        return ended
    barred = ended.in_the_way and status is not None and not passes(status)
    return Ended(ABNORMAL, f"could not post: {ended.reason}", retry_after_s=ended.retry_after_s, in_the_way=barred)
