"""The frames of PROTOCOL.md as tagged structs: strict in what the hub sends, tolerant in what it receives.

Client frames ignore unknown fields. Server frames omit what is unset. On the hub's hot path ``event`` has no struct:
``hub.protocol.codec`` puts its bytes together; ``Event`` here is for clients and documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from hub.errors import Retry

FrameId = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(max_length=128)]
TagValue = str | int | float | bool
Tags = dict[str, TagValue]
# A tag's wanted value, or a list of which any will do.
Filter = dict[str, TagValue | list[TagValue]]

# `$` alone would let a trailing newline through, and `\Z` is not known to readers of the JSON Schema.
EventName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$(?!\n)")]
IdempotencyKey = Annotated[str, Meta(min_length=1, max_length=256)]
# Each item gets a verdict, also from a hello that is not authenticated yet: without a bound, one message of 1 MB would
# keep the node busy for seconds and be answered by 60 MB.
MAX_TOPICS_PER_FRAME = 10_000

SeqNumber = Annotated[int, Meta(ge=0, le=2**53)]


class Position(Struct, frozen=True):
    """Where somebody is in a topic: ``seq`` counts 1, 2, 3 … within one ``epoch``. Never a time."""

    epoch: Annotated[str, Meta(max_length=64)]
    seq: SeqNumber


Since = Position | Literal["start", "now"]


class SubscribeItem(Struct):
    """One topic of a ``subscribe`` or ``hello``."""

    topic: str
    since: Since | None = None
    last: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    filter: Filter | None = None
    ack: bool = False


class ResumeItem(Struct):
    """Which session a ``hello`` goes on with."""

    session: str


# --- from the client -------------------------------------------------------------------------------------------------


class Hello(Struct, tag="hello"):
    """Authenticates, resumes and subscribes in one exchange; the first frame, once."""

    id: FrameId | None = None
    token: str | None = None
    resume: ResumeItem | None = None
    services: Annotated[list[str], Meta(max_length=MAX_TOPICS_PER_FRAME)] = []
    # Items stay raw here: one malformed item gets its own verdict and does not spoil the others.
    subscribe: Annotated[list[msgspec.Raw], Meta(max_length=MAX_TOPICS_PER_FRAME)] = []


class Subscribe(Struct, tag="subscribe"):
    """Adds subscriptions; every topic gets its own verdict."""

    id: FrameId
    topics: Annotated[list[msgspec.Raw], Meta(max_length=MAX_TOPICS_PER_FRAME)]


class Unsubscribe(Struct, tag="unsubscribe"):
    """Ends subscriptions; also succeeds for topics that are not subscribed."""

    id: FrameId
    topics: Annotated[list[str], Meta(max_length=MAX_TOPICS_PER_FRAME)]


class Publish(Struct, tag="publish"):
    """Publishes one event."""

    id: FrameId
    topic: str
    name: EventName
    data: Any
    key: IdempotencyKey | None = None
    tags: Tags | None = None
    ephemeral: bool = False


class Call(Struct, tag="call"):
    """Calls a method of a service."""

    id: FrameId
    method: str
    params: dict[str, Any] = {}


class Ack(Struct, tag="ack"):
    """Acknowledges everything up to a position, per topic; never answered unless it is wrong."""

    positions: dict[str, Position]


class Auth(Struct, tag="auth"):
    """Brings a fresh token for the same user and organisation."""

    id: FrameId
    token: str


class Ping(Struct, tag="ping"):
    """Asks for a ``pong``."""

    id: FrameId | None = None


class Chunk(Struct, tag="chunk"):
    """Bytes for a handle, beginning at ``offset``. With JSON it is a binary message: handle, offset, bytes."""

    handle: Annotated[int, Meta(ge=0)]
    offset: Annotated[int, Meta(ge=0)]
    data: Annotated[memoryview, Meta(min_length=1)]
    """Of the message that it came in; nothing is copied."""


# What both encodings write as a map.
MapFrame = Hello | Subscribe | Unsubscribe | Publish | Call | Ack | Auth | Ping
ClientFrame = MapFrame | Chunk


# --- from the hub ----------------------------------------------------------------------------------------------------


class ErrorBody(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """An error inside a verdict."""

    code: str
    message: str
    retry: Retry
    retry_after_ms: int | None = None
    details: dict[str, Any] | None = None


class Verdict(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """The answer to one topic of a ``subscribe`` or ``unsubscribe``."""

    topic: str
    ok: bool
    epoch: str | UnsetType = UNSET
    seq: int | UnsetType = UNSET
    recovered: bool | UnsetType = UNSET
    error: ErrorBody | UnsetType = UNSET


class Welcome(Struct, tag="welcome", forbid_unknown_fields=True):
    """Answers ``hello``."""

    session: str
    resumed: bool
    user: str
    org: str
    expires_in_ms: int
    heartbeat_ms: int
    max_message_bytes: int
    flags: Mapping[str, bool]
    topics: list[Verdict]
    id: FrameId | UnsetType = UNSET


class Reply(Struct, tag="reply", forbid_unknown_fields=True):
    """Answers a request."""

    id: FrameId
    result: Any


class Error(Struct, tag="error", omit_defaults=True, forbid_unknown_fields=True):
    """What went wrong: with ``id`` a request, with ``topic`` alone a subscription, else the connection."""

    code: str
    message: str
    retry: Retry
    id: FrameId | None = None
    topic: str | None = None
    retry_after_ms: int | None = None
    details: dict[str, Any] | None = None


class Event(Struct, tag="event", omit_defaults=True):
    """What happened on a topic. Without ``seq`` it is ephemeral."""

    topic: str
    id: str
    name: str
    ts: int
    data: Any
    seq: int | None = None
    tags: Tags | None = None
    by: str | None = None


GapReason = Literal["expired", "epoch_changed", "overflow", "not_permitted"]


class Gap(Struct, tag="gap", omit_defaults=True, rename={"from_": "from"}, forbid_unknown_fields=True):
    """Events that will not come. Without a range: start over from a snapshot."""

    topic: str
    epoch: str
    reason: GapReason
    from_: int | None = None
    to: int | None = None


class PositionFrame(Struct, tag="position", forbid_unknown_fields=True):
    """Everything up to here was delivered or did not match the filter."""

    topic: str
    epoch: str
    seq: int


class Unsubscribed(Struct, tag="unsubscribed", forbid_unknown_fields=True):
    """A subscription was ended by the hub."""

    topic: str
    code: str
    message: str
    retry: Retry
    fallback: list[str] | UnsetType = UNSET
    """Transports (``sse``, ``poll``) over which the topic can still be had; the code is ``feature_disabled`` then."""


class Flags(Struct, tag="flags", forbid_unknown_fields=True):
    """Flags whose value changed for this user."""

    flags: dict[str, bool]


class Expiring(Struct, tag="expiring", forbid_unknown_fields=True):
    """The token is about to expire; answer with ``auth``."""

    expires_in_ms: int


class Drain(Struct, tag="drain", forbid_unknown_fields=True):
    """Reconnect after ``after_ms``, with ``?ticket=``; with ``fallback`` over one of these transports instead."""

    after_ms: int
    ticket: str
    fallback: list[str] | UnsetType = UNSET


class CloseFrame(Struct, tag="close", forbid_unknown_fields=True):
    """The last frame of a connection that is no WebSocket: why the hub ends it, by the codes of PROTOCOL section 11."""

    code: int
    reason: str


class Credit(Struct, tag="credit", forbid_unknown_fields=True):
    """Everything of a handle below ``offset`` is safe; at most ``window`` bytes more may be under way."""

    handle: int
    offset: int
    window: int


class Heartbeat(Struct, tag="heartbeat", forbid_unknown_fields=True):
    """Sent when nothing else was for ``heartbeat_ms``."""

    ts: int


class Pong(Struct, tag="pong", omit_defaults=True, forbid_unknown_fields=True):
    """Answers ``ping``."""

    ts: int
    id: FrameId | None = None


ServerFrame = (
    Welcome
    | Reply
    | Error
    | Event
    | Gap
    | PositionFrame
    | Unsubscribed
    | Flags
    | Expiring
    | Drain
    | CloseFrame
    | Credit
    | Heartbeat
    | Pong
)
