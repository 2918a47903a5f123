"""A client that polls behind the interface of ``Socket``: what is written waits here until a request takes it along.

The connection stays between two requests. An answer is kept until the client shows, by its cursor, that it has it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec
from msgspec import Struct

from hub.edge.gateway import Gateway
from hub.edge.http_line import Line, frames_answer, json_answer, problem_answer
from hub.edge.http_socket import CLIENT_GONE, CLOSING_S, HttpSocket
from hub.edge.positions import cursor_of, digest_of_flags, standings_of
from hub.edge.requests import acknowledge
from hub.errors import ErrorCode, HubError
from hub.protocol.codec import Packet
from hub.protocol.codes import CloseCode
from hub.protocol.cursor import Cursor, Standing
from hub.protocol.frames import Position, Welcome

_ANOTHER_NODE: Final = "another poll of this session came, to another node; only the newest is answered"
_SNAPSHOT: Final = b'"action":"snapshot"'
_welcome: Final = msgspec.json.Decoder(Welcome)


class _Kept(Struct):
    frames: list[msgspec.Raw]


_kept: Final = msgspec.json.Decoder(_Kept)


class _Snapshot(Struct):
    epoch: str
    version: int
    action: str


class _SnapshotEvent(Struct):
    topic: str
    data: _Snapshot


_snapshot: Final = msgspec.json.Decoder(_SnapshotEvent)


class PollSocket(HttpSocket):
    """Implements ``Socket`` and ``LineUser``."""

    __slots__ = (
        "_asked",
        "_bytes",
        "_congested",
        "_due",
        "_frames",
        "_insists",
        "_kept",
        "_known",
        "_left_at",
        "_number",
        "_until",
    )

    transport: Final = "poll"

    def __init__(self, gateway: Gateway, line: Line, wait_s: float, asked: int, moved: Cursor | None = None) -> None:
        """``moved``: it goes on for a connection of another node, or one that has ended. Its client is told of that
        only what it has to know."""
        super().__init__(gateway, line)
        self._asked = asked
        self._frames: list[bytes] = []  # bounded by unsent_high_bytes: see Connection.pause_writing
        self._bytes = 0
        self._congested = self._insists = False
        self._number = 1  # 0 stands in the cursors of streams
        self._kept: bytes | None = None
        self._known = None if moved is None else _Known(moved)
        self._left_at = time.monotonic()
        self._until = self._left_at + wait_s
        self._due = 0.0

    @property
    def unsent(self) -> int:
        """Bytes that no request has taken along."""
        return self._bytes

    def look(self, now: float) -> float:
        """Ends the wait of a request, and the connection of a client that does not come back."""
        if not self._opened or self._closing:
            return now + 1.0
        if self._line is not None and now >= self._until:
            self._answer()
        if self._line is not None:
            self._due = self._until
        else:
            self._due = self._left_at + self._gateway.settings.poll_linger_s
            if now >= self._due:
                self._closing = True
                self._lose(CLIENT_GONE)
        return self._due

    def abort(self) -> None:
        """At once."""
        self._closing = True
        line, self._line = self._line, None
        if line is not None:
            line.abort()
        self._lose(CLIENT_GONE)

    def line_lost(self, line: Line) -> None:
        """Its client gave up waiting; it may come back."""
        if line is not self._line:
            return
        self._line = None
        self._left_at = time.monotonic()
        if not self._opened and not self._takes_over:
            # Nobody has a cursor to come back with. At once, or it would still take a session over.
            self._closing = True
            self._connection.lost(CLIENT_GONE)

    # --- requests

    def go_on(self, line: Line, cursor: Cursor, wait_s: float) -> bool:
        """The next request. False: this connection cannot serve it; the client's positions are good for another."""
        if self._closing or self._connection.gone:
            return False
        if self._kept is not None and cursor.number == self._number - 1:
            self._left_at = time.monotonic()  # it was lost on its way
            line.answer(json_answer(self._kept))
            return True
        if cursor.number != self._number:
            return False
        self._kept = None
        self._displace(line)
        self._until = time.monotonic() + wait_s
        positions = {one.topic: Position(one.epoch, one.seq) for one in cursor.topics if one.epoch}
        acknowledge(self._gateway, self._connection, positions, strict=False)
        self._connection.heard()
        if self._frames:
            self._flush_soon()
        elif self._until < self._due:
            self._gateway.keeper.watch(self._connection)
        return True

    @property
    def _takes_over(self) -> bool:
        """It may have the session already, and what the older connection left: its client asks again for that."""
        return self._known is not None and self._connection.principal is not None

    def insist(self) -> None:
        """Somebody else takes the session over: a client that asks once more is told to give it up."""
        self._insists = True

    def standings(self) -> tuple[Standing, ...]:
        """Where it stands in its topics; everything up to there has been written."""
        return standings_of(self._gateway, self._connection)

    def untold(self, connection: str, number: int) -> list[bytes]:
        """Frames that a client with a cursor of that connection, of that number, has not got; oldest first."""
        if self._kept is None or (connection, number) == (self._connection.id, self._number):
            return list(self._frames)
        return [*map(bytes, _kept.decode(self._kept).frames), *self._frames]

    def _displace(self, line: Line) -> None:
        older, self._line = self._line, line
        line.user = self
        if older is not None:
            text = "another poll of this connection came; only the newest is answered"
            older.answer(problem_answer(HubError(ErrorCode.CONFLICT, text)))

    # --- Socket

    def _open(self, welcome: Packet) -> None:
        if self._known is not None and self._known.has(welcome, digest_of_flags(self._connection.flags)):
            return
        self._send(welcome)

    def _send(self, packet: Packet) -> None:
        if self._known is not None and self._known.snapshots and self._known.snapshot(packet):
            return
        self._frames += packet.payloads
        self._bytes += sum(map(len, packet.payloads))
        if self._line is not None and len(self._frames) == len(packet.payloads):
            self._flush_soon()
        if self._bytes > self._gateway.settings.unsent_high_bytes and not self._congested:
            # After the answer, if somebody waits for it: only what is left then is too much.
            asyncio.get_running_loop().call_soon(self._judge)

    def _judge(self) -> None:
        if self._bytes > self._gateway.settings.unsent_high_bytes and not self._congested:
            self._congested = True
            self._connection.pause_writing()

    def _flush_soon(self) -> None:
        # Everything that comes in this turn of the event loop goes together.
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        if self._line is not None and self._frames and not self._closing:
            self._answer()

    def _answer(self) -> None:
        body = self._body()
        line, self._line = self._line, None
        if line is not None:
            line.answer(json_answer(body))
        self._left_at = time.monotonic()
        if self._congested:
            self._congested = False
            self._connection.resume_writing()

    def _body(self, *last: bytes) -> bytes:
        """Takes everything along."""
        number = self._number + 1
        cursor = self._cursor(number)
        frames, self._frames = [*self._frames, *last], []  # after the cursor, which may bring some
        self._bytes = 0
        if not frames:
            # Nothing that could be lost, and no other answer than the one before.
            return frames_answer(self._cursor(self._number), ())
        self._number = number
        self._kept = frames_answer(cursor, frames)
        return self._kept

    def _cursor(self, number: int) -> bytes:
        known = self._known.snapshots if self._known is not None else None
        return cursor_of(self._gateway, self._connection, number, self._asked, known)

    def _end(self, close_frame: bytes) -> None:
        line, self._line = self._line, None
        if self._connection.close_code == CloseCode.TAKEN_OVER and not self._insists:
            # By its own client, who comes back if the answer of the newer connection was lost, or has done so already.
            if line is not None:
                line.answer(problem_answer(HubError(ErrorCode.CONFLICT, _ANOTHER_NODE)))
        else:
            after, body = self._number, self._body(close_frame)
            if line is not None:
                line.answer(json_answer(body))
            else:
                self._gateway.connections.leave_word(self._connection, after, body, CLOSING_S)
        self._lose(self._connection.close_code)


class _Known:
    """What a client knows that comes from another connection."""

    __slots__ = ("_flags", "snapshots")

    def __init__(self, cursor: Cursor) -> None:
        self._flags = cursor.flags
        self.snapshots: dict[str, tuple[str, int]] = {one.topic: one.presence for one in cursor.topics if one.presence}
        """By topic; each is told once."""

    def has(self, packet: Packet, flags: int) -> bool:
        """Whether this welcome says nothing new: all is as it was, and nothing was lost."""
        welcome = _welcome.decode(packet.payloads[0])
        return (
            welcome.resumed
            and flags == self._flags
            and all(verdict.ok and verdict.recovered is True for verdict in welcome.topics)
        )

    def snapshot(self, packet: Packet) -> bool:
        """Whether this is who is present in a topic, as the client knows it."""
        payload = packet.payloads[0]
        if len(packet.payloads) > 1 or _SNAPSHOT not in payload:
            return False
        try:
            event = _snapshot.decode(payload)
        except msgspec.DecodeError:
            return False
        return bool(self.snapshots.pop(event.topic, None) == (event.data.epoch, event.data.version))
