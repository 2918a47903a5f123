"""One connection's protocol as a pure state machine: a frame in, an action out. No I/O, no clock of its own.

``hub.edge.connection`` decodes messages, performs the actions in order and tells the session what came of them. The
session knows the state, which topics are subscribed and how many bad frames came; permissions, positions and sockets
are others' concern.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import Enum, auto
from typing import Any, Literal

from msgspec import Raw, Struct

from hub.errors import ErrorCode, HubError, bad_request
from hub.protocol.codec import BadFrame, Encoding, decode_item
from hub.protocol.codes import CloseCode
from hub.protocol.frames import (
    Ack,
    Auth,
    Call,
    Chunk,
    ClientFrame,
    Error,
    ErrorBody,
    Filter,
    FrameId,
    Hello,
    Ping,
    Position,
    Publish,
    ServerFrame,
    Subscribe,
    SubscribeItem,
    Unsubscribe,
    Verdict,
)

BAD_FRAME_WINDOW_S = 10.0  # PROTOCOL section 11: twenty bad frames within ten seconds


class State(Enum):
    """What the connection waits for next."""

    WAITING_FOR_HELLO = auto()
    OPENING = auto()
    """The hello is being performed; the connection holds back further frames until it is answered."""
    OPEN = auto()
    CLOSED = auto()


# State × frame -> next state. An absent pair is a protocol error: before the hello it closes the connection (4400),
# afterwards it is answered by bad_request. docs/protocol.md shows this table; tests render it from here.
TRANSITIONS: dict[tuple[State, type[Any]], State] = {
    (State.WAITING_FOR_HELLO, Hello): State.OPENING,
    (State.OPEN, Subscribe): State.OPEN,
    (State.OPEN, Unsubscribe): State.OPEN,
    (State.OPEN, Publish): State.OPEN,
    (State.OPEN, Call): State.OPEN,
    (State.OPEN, Ack): State.OPEN,
    (State.OPEN, Auth): State.OPEN,
    (State.OPEN, Ping): State.OPEN,
    (State.OPEN, Chunk): State.OPEN,
}


class Wanted(Struct, frozen=True):
    """A well-formed wish to subscribe. ``asked`` None: the session's position if there is one, else live only."""

    topic: str
    asked: Position | Literal["start", "now"] | int | None
    filter: Filter | None
    ack: bool


class Open(Struct, frozen=True):
    """Authenticate, resume, subscribe, answer with ``welcome``."""

    hello: Hello
    topics: Sequence[Wanted | Verdict]


class Join(Struct, frozen=True):
    """Subscribe to what is ``Wanted``; a ``Verdict`` is a refusal that already stands. Answer in this order."""

    id: FrameId
    topics: Sequence[Wanted | Verdict]


class Leave(Struct, frozen=True):
    """Unsubscribe."""

    id: FrameId
    topics: Sequence[str]


class Perform(Struct, frozen=True):
    """Do what the frame says: publish, call, ack, auth."""

    frame: Publish | Call | Ack | Auth


class Take(Struct, frozen=True):
    """Hand the chunk to whoever opened its handle."""

    chunk: Chunk


class Pong(Struct, frozen=True):
    """Answer a ping."""

    id: FrameId | None


class Send(Struct, frozen=True):
    """Send a frame; the connection lives on."""

    frame: ServerFrame


class Close(Struct, frozen=True):
    """Send ``frame``, if there is one, and close."""

    code: CloseCode
    frame: ServerFrame | None = None


class Ignore(Struct, frozen=True):
    """Nothing to do: the connection is closing."""


Action = Open | Join | Leave | Perform | Take | Pong | Send | Close | Ignore


class Offences:
    """Counts what a client should not do. Made for those who do it."""

    __slots__ = ("_most", "_times")

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: list[float] = []

    def too_many(self, now: float) -> bool:
        """Notes one; True: there were ``most`` within ten seconds."""
        times = [time for time in self._times if now - time <= BAD_FRAME_WINDOW_S]
        times.append(now)
        self._times = times
        return len(times) >= self._most


class Session:
    """The protocol state of one connection. ``topics``: what is subscribed, as the client writes it; its owner's."""

    __slots__ = ("_bad_frames", "_encoding", "_max_bad_frames", "_max_topics", "_topics", "state")

    def __init__(self, encoding: Encoding, topics: Collection[str], *, max_topics: int, max_bad_frames: int) -> None:
        self.state = State.WAITING_FOR_HELLO
        self._topics = topics
        self._encoding = encoding
        self._max_topics = max_topics
        self._max_bad_frames = max_bad_frames
        self._bad_frames: Offences | None = None

    def receive(self, frame: ClientFrame, now: float) -> Action:
        """What to do about ``frame``. ``now``: a monotonic clock in seconds."""
        following = TRANSITIONS.get((self.state, type(frame)))
        if following is None:
            return self._out_of_place(frame, now)
        self.state = following
        return _REACTIONS[type(frame)](self, frame)

    def bad_frame(self, error: BadFrame, now: float) -> Action:
        """What to do about a message that is not a well-formed frame."""
        if self.state is State.CLOSED:
            return Ignore()
        if self.state is State.WAITING_FOR_HELLO and error.frame_type not in (None, "hello"):
            return self._before_hello()
        return self._complain(error_frame(error, frame_id=error.frame_id), now)

    def opened(self) -> None:
        """The hello was performed and answered."""
        if self.state is State.OPENING:
            self.state = State.OPEN

    def closed(self) -> None:
        """Nothing is answered any more."""
        self.state = State.CLOSED

    # --- reactions

    def _open(self, frame: Hello) -> Action:
        services: list[SubscribeItem | Raw] = [SubscribeItem(topic=f"events:{name}") for name in frame.services]
        return Open(frame, self._sift([*services, *frame.subscribe]))

    def _join(self, frame: Subscribe) -> Action:
        return Join(frame.id, self._sift(frame.topics))

    def _leave(self, frame: Unsubscribe) -> Action:
        return Leave(frame.id, frame.topics)

    def _perform(self, frame: Publish | Call | Ack | Auth) -> Action:
        return Perform(frame)

    def _pong(self, frame: Ping) -> Action:
        return Pong(frame.id)

    def _hand_over(self, frame: Chunk) -> Action:
        return Take(frame)

    def _sift(self, items: Sequence[SubscribeItem | Raw]) -> list[Wanted | Verdict]:
        """Each item as a wish, or refused with its own verdict: one bad topic does not spoil the others."""
        taken = set(self._topics)
        sifted: list[Wanted | Verdict] = []
        for item in items:
            result = self._sift_one(item, taken)
            if isinstance(result, Wanted):
                taken.add(result.topic)
            sifted.append(result)
        return sifted

    def _sift_one(self, item: SubscribeItem | Raw, taken: set[str]) -> Wanted | Verdict:
        decoded = item if isinstance(item, SubscribeItem) else decode_item(item, self._encoding)
        if isinstance(decoded, tuple):
            return refusal(*decoded)
        topic = decoded.topic
        if topic in taken:
            return refusal(topic, HubError(ErrorCode.ALREADY_SUBSCRIBED, "already subscribed on this connection"))
        if len(taken) >= self._max_topics:
            text = f"a connection may have {self._max_topics} topics; unsubscribe some or open another connection"
            return refusal(topic, HubError(ErrorCode.TOO_MANY_TOPICS, text))
        if decoded.since is not None and decoded.last is not None:
            return refusal(topic, bad_request("give 'since' or 'last', not both"))
        asked = decoded.since if decoded.since is not None else decoded.last
        return Wanted(topic, asked, decoded.filter, decoded.ack)

    # --- faults

    def _out_of_place(self, frame: ClientFrame, now: float) -> Action:
        if self.state is State.CLOSED:
            return Ignore()
        if self.state is State.WAITING_FOR_HELLO:
            return self._before_hello()
        error = bad_request("'hello' comes once, as the first frame; to bring a fresh token send 'auth'")
        return self._complain(error_frame(error, frame_id=getattr(frame, "id", None)), now)

    def _before_hello(self) -> Action:
        self.state = State.CLOSED
        return Close(CloseCode.BAD_FRAME, error_frame(bad_request("the first frame must be 'hello'")))

    def _complain(self, frame: Error, now: float) -> Action:
        if self._bad_frames is None:
            self._bad_frames = Offences(self._max_bad_frames)
        if self._bad_frames.too_many(now):
            self.state = State.CLOSED
            return Close(CloseCode.BAD_FRAME, frame)
        return Send(frame)


_REACTIONS: dict[type[Any], Callable[[Session, Any], Action]] = {
    Hello: Session._open,
    Subscribe: Session._join,
    Unsubscribe: Session._leave,
    Publish: Session._perform,
    Call: Session._perform,
    Ack: Session._perform,
    Auth: Session._perform,
    Ping: Session._pong,
    Chunk: Session._hand_over,
}


def error_body(error: HubError) -> ErrorBody:
    """An error as it stands inside a verdict."""
    return ErrorBody(error.code, error.message, error.retry, error.retry_after_ms, error.details)


def error_frame(error: HubError, *, frame_id: FrameId | None = None, topic: str | None = None) -> Error:
    """An error as a frame: with ``frame_id`` for that request, with ``topic`` alone for that subscription."""
    return Error(error.code, error.message, error.retry, frame_id, topic, error.retry_after_ms, error.details)


def refusal(topic: str, error: HubError) -> Verdict:
    """The verdict on a topic that was not subscribed. A topic too long to be one is cut, so answers stay small."""
    return Verdict(topic[:200], ok=False, error=error_body(error))
