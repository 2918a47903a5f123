"""What the hub says about rooms, as structs: messages, members, pages. Fields that are not known are ignored."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from hub.client.errors import ProtocolViolation
from hub.protocol.frames import Position

Read = TypeVar("Read")


class Message(Struct, frozen=True):
    """A message, or the tombstone of one (``deleted``, no text). Named by ``number``; times are ms since 1970."""

    number: int
    author: str
    name: str = ""
    text: str = ""
    format: str = "text"
    html: str = ""
    created_at: int = 0
    edited_at: int | None = None
    reply_to: int | None = None
    mentions: tuple[str, ...] = ()
    attachments: tuple[Any, ...] = ()
    reactions: dict[str, tuple[str, ...]] = {}
    deleted: bool = False
    deleted_at: int | None = None
    reason: str | None = None
    superseded: bool = False
    """It was edited since; this event's text is gone, and a later event brings the present one."""

    @classmethod
    def of(cls, data: Any) -> Message:
        """A message as it comes from the hub. Raises ``ProtocolViolation``."""
        return read_as(data, cls)


class Member(Struct, frozen=True):
    """A member of a room."""

    user: str
    name: str = ""
    role: str = "member"
    muted_until: int | None = None


class Page(Struct, frozen=True):
    """What ``chat.history`` answers. ``as_of``: every event with a number up to this is in it."""

    messages: tuple[Message, ...]
    as_of: int
    position: Position
    more_before: bool
    more_after: bool
    reads: dict[str, int] = {}


def read_as(value: Any, kind: type[Read]) -> Read:
    """``value`` as ``kind``. Raises ``ProtocolViolation``."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as problem:
        raise ProtocolViolation(f"malformed {kind.__name__.lower()} of a room: {problem}") from None


def field_of(data: Any, name: str, kind: type[Read]) -> Read:
    """A field of an event's data. Raises ``ProtocolViolation``."""
    try:
        return msgspec.convert(data[name], kind)
    except (msgspec.ValidationError, KeyError, TypeError) as problem:
        raise ProtocolViolation(f"malformed {name!r} in an event of a room: {problem}") from None
