"""How bytes of uploads go over a connection: a ``Lane`` per handle, with its credit, and the loop that sends.

A lane lives as long as its handle. What follows its end is decided in ``upload``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from hub.client.connection import Connection
from hub.client.errors import ProtocolViolation
from hub.client.options import ClientOptions
from hub.client.upload_source import Source
from hub.client.wire import CHUNK_HEAD_BYTES, Credit, Error, Refusal
from hub.errors import ErrorCode

_MOST_REWINDS = 5
"""So often the hub may ask for another offset without acknowledging anything; then the handle is opened anew."""
_REWINDING = frozenset((ErrorCode.OFFSET_MISMATCH, ErrorCode.RATE_LIMITED))


class Grant(Struct, frozen=True):
    """What ``upload.create`` and ``upload.resume`` answer: from where, and how much at once."""

    upload: str
    handle: int
    offset: int
    chunk_bytes: int
    window: int
    size: int | None = None
    paced: bool = True
    """Whether chunks are as large as goes out in ``upload_chunk_s``, because other frames wait behind them."""


class Carrier(Protocol):
    """What chunks go over: a connection, or requests."""

    async def send_chunk(self, handle: int, offset: int, chunk: memoryview) -> None:
        """Sends what is behind the first ``CHUNK_HEAD_BYTES`` of ``chunk``. Raises ``ConnectionLost``."""


class LaneLost(Exception):
    """The connection of the handle is gone."""


class LaneRefused(Exception):
    """The hub closed the handle and says why, or says nothing any more (``timeout``)."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.code}: {refusal.message}")
        self.refusal = refusal


class Lane:
    """One handle on one connection. ``acknowledged``: safe in the hub, whatever happens; ``sent``: what goes next."""

    def __init__(self, connection: Carrier, grant: Grant) -> None:
        self.connection = connection
        self.grant = grant
        self.acknowledged = grant.offset
        self.sent = grant.offset
        self.on_acknowledged: Callable[[int], None] = lambda _: None
        self._window = grant.window
        self._rewinds = 0
        self._end: LaneLost | LaneRefused | None = None
        self._news = asyncio.Event()

    def room(self, wanted: int) -> int:
        """How many of ``wanted`` bytes may go now; 0: wait, also when it would be a splinter. Raises the lane's end."""
        if self._end is not None:
            raise self._end
        room = self.acknowledged + self._window - self.sent
        return min(wanted, room) if room >= min(wanted, self._window // 2) else 0

    async def news(self, timeout_s: float) -> None:
        """Until something comes for this lane. Raises ``LaneRefused`` (``timeout``) when nothing does."""
        self._news.clear()
        if self._end is not None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            raise LaneRefused(Refusal("timeout", f"nothing heard of the upload for {timeout_s:g} s", "later")) from None

    def credit(self, offset: int, window: int) -> None:
        """Everything below ``offset`` is safe, and ``window`` bytes more may be under way."""
        self._window = window
        if offset > self.acknowledged:
            self.acknowledged = offset
            self._rewinds = 0
            self.on_acknowledged(offset)
        self._news.set()

    def refused(self, refusal: Refusal) -> None:
        """A chunk was not taken: go where the hub says; everything else ends the lane."""
        expected = (refusal.details or {}).get("offset")
        if refusal.code in _REWINDING and isinstance(expected, int) and expected >= self.acknowledged:
            self._rewinds += 1
            if self._rewinds <= _MOST_REWINDS:
                self.sent = expected
                if refusal.code == ErrorCode.RATE_LIMITED:
                    self._window = expected - self.acknowledged  # not before the next credit
                self._news.set()
                return
        self.end(LaneRefused(refusal))

    def end(self, reason: LaneLost | LaneRefused) -> None:
        """Nothing more goes this way. The first reason counts."""
        self._end = self._end or reason
        self._news.set()


class Lanes:
    """The lanes of the current connection, by handle. Called synchronously, in the order of the frames."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._lanes: dict[int, Lane] = {}

    def opened(self, connection: Connection, result: Any) -> Lane:
        """The lane that the hub has granted. Raises ``ProtocolViolation``."""
        try:
            grant = msgspec.convert(result, Grant)
        except msgspec.ValidationError as problem:
            raise ProtocolViolation(f"malformed answer to an upload: {problem}") from None
        if grant.chunk_bytes < 1:
            raise ProtocolViolation("an upload whose chunks have no bytes")
        lane = Lane(connection, grant)
        if connection is self._connection:
            self._lanes[grant.handle] = lane
        else:
            lane.end(LaneLost("moved to another connection"))
        return lane

    def close(self, lane: Lane) -> None:
        """Nobody sends on it any more."""
        if self._lanes.get(lane.grant.handle) is lane:
            del self._lanes[lane.grant.handle]

    def moved(self, connection: Connection | None) -> None:
        """Another connection is the current one, or there is none: handles belong to the one before."""
        self._connection = connection
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            lane.end(LaneLost("the connection is gone"))

    def credit(self, frame: Credit) -> None:
        """Hands credit to its lane."""
        lane = self._lanes.get(frame.handle)
        if lane is not None:
            lane.credit(frame.offset, frame.window)

    def refused(self, frame: Error) -> bool:
        """Hands a refused chunk to its lane. False: this error is about something else."""
        handle = (frame.details or {}).get("handle")
        if not isinstance(handle, int):
            return False
        lane = self._lanes.get(handle)
        if lane is not None:
            lane.refused(Refusal.of(frame))
        return True


class Pace:
    """How large a chunk is: what goes out in about ``upload_chunk_s``, so that on a slow line others get in between."""

    def __init__(self, most: int, options: ClientOptions) -> None:
        self._most = most
        self._least = min(most, options.upload_least_chunk_bytes)
        self._target_s = options.upload_chunk_s
        self.bytes = min(most, 4 * self._least)

    def took(self, sent: int, seconds: float) -> None:
        """A chunk of ``sent`` bytes has gone out."""
        if seconds > 2 * self._target_s:
            self.bytes = max(self._least, self.bytes // 2)
        elif seconds < self._target_s / 2 and sent >= self.bytes:
            self.bytes = min(self._most, self.bytes * 2)


async def send_all(lane: Lane, source: Source, options: ClientOptions) -> None:
    """Sends what is left of ``source``, and returns when the hub has acknowledged all of it.

    Raises ``LaneLost``, ``LaneRefused``, ``ConnectionLost`` and ``SourceProblem``.
    """
    loop = asyncio.get_running_loop()
    pace = Pace(lane.grant.chunk_bytes, options)
    buffer = memoryview(bytearray(CHUNK_HEAD_BYTES + lane.grant.chunk_bytes))
    while lane.acknowledged < source.size:
        at = lane.sent
        most = pace.bytes if lane.grant.paced else lane.grant.chunk_bytes
        count = lane.room(min(most, source.size - at))
        if count <= 0:
            await lane.news(options.upload_stall_s)
            continue
        chunk = buffer[: CHUNK_HEAD_BYTES + count]
        await source.read(at, chunk[CHUNK_HEAD_BYTES:])
        if at + count == source.size:
            await source.check()  # the hub must not get the end of something that was mixed
        if lane.sent != at:
            continue  # sent elsewhere meanwhile
        lane.sent = at + count
        began = loop.time()
        await lane.connection.send_chunk(lane.grant.handle, at, chunk)
        pace.took(count, loop.time() - began)
