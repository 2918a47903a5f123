"""One HTTP request that is answered late or piece by piece, and the way back: a ``Line``. Two implementations.

``side_door`` (the hub's own protocol class) and ``asgi_line`` (any server). What goes over it is the sockets' part
(``sse_socket``, ``poll_socket``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from hub.auth.credentials import Headers
from hub.edge.handshake import refuse
from hub.edge.problems import HttpError
from hub.errors import ErrorCode, HubError, bad_request

JSON_HEADERS: Final = (("content-type", "application/json"), ("cache-control", "no-store"))
STREAM_HEADERS: Final = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-store"),
    # A proxy that collects an answer before it passes it on would keep the events.
    ("x-accel-buffering", "no"),
)


class Incoming(Struct, frozen=True):
    """A request."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes | None
    """None: it has not come whole; ``Line.body`` has it."""

    def header(self, name: bytes) -> str | None:
        """The last header of that name (in lower case)."""
        found = [value for key, value in self.headers if key.lower() == name]
        return found[-1].decode("latin-1").strip() if found else None


class Answer(Struct, frozen=True):
    """A whole answer; its length is the line's to say."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


class LineUser(Protocol):
    """What a line tells whoever answers over it."""

    def pause_writing(self) -> None:
        """More is unsent than the high mark."""

    def resume_writing(self) -> None:
        """Less is unsent than the low mark."""

    def server_stops(self) -> None:
        """Nothing but a last word may follow."""

    def line_lost(self, line: Line) -> None:
        """Nothing goes over it any more: it is answered, or its client has left. Not called after ``answer``."""


class Line(Protocol):
    """The way back of one request: one ``answer``, or ``begin`` and then pieces. Neither blocks or raises.

    On a line that is lost they do nothing.
    """

    user: LineUser | None

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken."""

    @property
    def lost(self) -> bool:
        """Its client has left."""

    async def body(self, most: int) -> bytes:
        """The request's body, if it had not come whole; at most once.

        Raises ``HubError`` when it is larger than ``most`` bytes or does not come in time, and ``LeftError``.
        """

    def answer(self, answer: Answer) -> None:
        """All at once. The line is then free for another request, and ``user`` is forgotten."""

    def begin(self, headers: Sequence[tuple[str, str]]) -> None:
        """Status 200 and headers of a stream."""

    def write(self, data: bytes) -> None:
        """A piece of it."""

    def end(self) -> None:
        """The end of it, after what is unsent; then ``line_lost``."""

    def abort(self) -> None:
        """At once."""


class LeftError(Exception):
    """The client has left before it had asked."""


def body_too_large(most: int) -> HubError:
    """Of a request for a stream or a poll."""
    text = f"the body is larger than {most} bytes; ask for less at a time, with the token in the header Authorization"
    return HubError(ErrorCode.TOO_LARGE, text)


def body_is_late(seconds: float) -> HubError:
    """Of a request for a stream or a poll."""
    return HttpError(bad_request(f"the body did not come within {seconds:g} s; send the request again"), 408)


def problem_answer(error: HubError, *, brought: bool = False) -> Answer:
    """A refusal as problem+json. ``brought``: the request had the header Authorization."""
    refused = refuse(error, brought=brought)
    return Answer(refused.status, refused.headers, refused.body)


def frames_answer(cursor: bytes, frames: Sequence[bytes]) -> bytes:
    """The body of a poll's answer; the frames are JSON already."""
    return b'{"cursor":"%b","frames":[%b]}' % (cursor, b",".join(frames))


def json_answer(body: bytes) -> Answer:
    """Status 200."""
    return Answer(200, JSON_HEADERS, body)


def encoded(value: object) -> bytes:
    """As JSON."""
    return msgspec.json.encode(value)
