"""Bytes to frames and back, as a client needs it: tolerant of fields, reasons and frame types that it does not know.

The structs of ``hub.protocol.frames`` describe what the hub may send and refuse everything else; a client that did so
would break with the next version of the hub.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from hub.client.errors import ProtocolViolation
from hub.errors import Retry
from hub.protocol import frames

Encoding = Literal["json", "msgpack"]

CHUNK_HEAD_BYTES = 12
"""Before the bytes of a chunk with JSON: the handle in 4 bytes and the offset in 8, big-endian."""

SUBPROTOCOLS: dict[Encoding, str] = {"json": "hub.v1.json", "msgpack": "hub.v1.msgpack"}


class ErrorBody(frames.ErrorBody, forbid_unknown_fields=False):
    """An error inside a verdict."""


class Verdict(frames.Verdict, kw_only=True, forbid_unknown_fields=False):
    """The hub's answer for one topic."""

    error: ErrorBody | UnsetType = UNSET


class Verdicts(Struct):
    """The result of a ``subscribe``."""

    topics: list[Verdict]


class Welcome(frames.Welcome, tag="welcome", kw_only=True, forbid_unknown_fields=False):
    """Answers ``hello``."""

    topics: list[Verdict]  # type: ignore[assignment]  # a list of a subclass; it is only read


class Reply(frames.Reply, tag="reply", forbid_unknown_fields=False):
    """Answers a request."""


class Error(frames.Error, tag="error", forbid_unknown_fields=False):
    """A refusal."""


class Gap(frames.Gap, tag="gap", kw_only=True, forbid_unknown_fields=False):
    """Events that will not come."""

    reason: str  # type: ignore[assignment]  # a newer hub may know more reasons


class PositionFrame(frames.PositionFrame, tag="position", forbid_unknown_fields=False):
    """Everything up to here was delivered or did not match."""


class Unsubscribed(frames.Unsubscribed, tag="unsubscribed", forbid_unknown_fields=False):
    """The hub ended a subscription."""


class Flags(frames.Flags, tag="flags", forbid_unknown_fields=False):
    """Flags that changed."""


class Expiring(frames.Expiring, tag="expiring", forbid_unknown_fields=False):
    """The token is about to end."""


class Drain(frames.Drain, tag="drain", forbid_unknown_fields=False):
    """Move to another connection after a delay."""


class Close(frames.CloseFrame, tag="close", forbid_unknown_fields=False):
    """The end of a connection that is no WebSocket."""


class Credit(frames.Credit, tag="credit", forbid_unknown_fields=False):
    """How far a handle's bytes are safe, and how many more may be under way."""


class Heartbeat(Struct, tag="heartbeat"):
    """A sign of life."""


class Pong(Struct, tag="pong"):
    """Answers ``ping``."""


class Unknown(Struct):
    """A frame of a type that this client does not know; to be ignored."""

    type: str


Known = (
    Welcome
    | Reply
    | Error
    | frames.Event
    | Gap
    | PositionFrame
    | Unsubscribed
    | Flags
    | Expiring
    | Drain
    | Close
    | Credit
    | Heartbeat
    | Pong
)
HubFrame = Known | Unknown

_TYPES = frozenset(
    (
        "welcome",
        "reply",
        "error",
        "event",
        "gap",
        "position",
        "unsubscribed",
        "flags",
        "expiring",
        "drain",
        "close",
        "credit",
        "heartbeat",
        "pong",
    )
)


class Wire:
    """One encoding."""

    def __init__(self, encoding: Encoding) -> None:
        module: Any = msgspec.json if encoding == "json" else msgspec.msgpack
        self.subprotocol = SUBPROTOCOLS[encoding]
        self.text = encoding == "json"
        self._encoder = module.Encoder()
        self._known = module.Decoder(Known)
        self._unknown = module.Decoder(Unknown)

    def encode(self, frame: Struct) -> bytes:
        """The bytes of a frame. Raises ``TypeError`` for values that are not of the JSON model."""
        encoded: bytes = self._encoder.encode(frame)
        return encoded

    def chunk(self, handle: int, offset: int, chunk: memoryview) -> bytes | memoryview:
        """The message with the bytes of ``chunk`` behind its first ``CHUNK_HEAD_BYTES``, which may be overwritten."""
        if self.text:
            struct.pack_into(">IQ", chunk, 0, handle, offset)
            return chunk
        data = chunk[CHUNK_HEAD_BYTES:]
        packed: bytes = self._encoder.encode({"type": "chunk", "handle": handle, "offset": offset, "data": data})
        return packed

    def raw(self, item: Struct) -> Raw:
        """A part of a frame, encoded beforehand."""
        return Raw(self.encode(item))

    def decode(self, message: str | bytes) -> HubFrame:
        """The frame in a message. Raises ``ProtocolViolation`` when it is none, without showing its contents."""
        try:
            known: HubFrame = self._known.decode(message)
        except msgspec.DecodeError as problem:
            return self._other(message, problem)
        return known

    def _other(self, message: str | bytes, problem: msgspec.DecodeError) -> Unknown:
        try:
            unknown: Unknown = self._unknown.decode(message)
        except msgspec.DecodeError:
            raise ProtocolViolation(f"not a frame: {problem}") from None
        if unknown.type in _TYPES:
            raise ProtocolViolation(f"malformed {unknown.type!r}: {problem}") from None
        return unknown


class Event(Struct, frozen=True, kw_only=True):
    """What happened on a topic. ``seq`` None: ephemeral, never replayed. ``ts``: milliseconds since 1970."""

    topic: str
    epoch: str
    seq: int | None
    id: str
    name: str
    ts: int
    data: Any
    tags: frames.Tags | None = None
    by: str | None = None


class Published(Struct, frozen=True):
    """Where a published event stands. Ephemeral: epoch "" and seq 0.

    ``duplicate``: an event with this key stood there already — perhaps from an earlier attempt of the same call.
    """

    epoch: str
    seq: int
    duplicate: bool = False


class Refusal(Struct, frozen=True):
    """An ``error`` in whichever place the protocol has it."""

    code: str
    message: str
    retry: Retry
    retry_after_ms: int | None = None
    details: dict[str, Any] | None = None

    @classmethod
    def of(cls, error: frames.Error | frames.ErrorBody) -> Refusal:
        """The same, whether it came as a frame or in a verdict."""
        return cls(error.code, error.message, error.retry, error.retry_after_ms, error.details)

    @classmethod
    def of_end(cls, ended: frames.Unsubscribed) -> Refusal:
        """The same for a subscription that was live."""
        details = {"fallback": ended.fallback} if isinstance(ended.fallback, list) else None
        return cls(ended.code, ended.message, ended.retry, None, details)

    @property
    def fallback(self) -> tuple[str, ...]:
        """Transports over which the same is still to be had."""
        return fallback_in(self.details)


def fallback_in(details: dict[str, Any] | None) -> tuple[str, ...]:
    """The transports that the details of a ``feature_disabled`` name."""
    named = (details or {}).get("fallback")
    return tuple(name for name in named if isinstance(name, str)) if isinstance(named, list) else ()
