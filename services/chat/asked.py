"""What clients ask for: params of the methods, checked and with their defaults. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from hub.api import bad_request
from services.chat.rules import Role
from services.chat.text import room_id

T = TypeVar("T")

Number = Annotated[int, Meta(ge=1, le=2**53)]
Key = Annotated[str, Meta(min_length=1, max_length=128)]
Names = Annotated[list[str], Meta(max_length=1000)]
Limit = Annotated[int, Meta(ge=1, le=200)]


TagText = Annotated[str, Meta(max_length=256)]
Tags = Annotated[Mapping[TagText, TagText | int | float | bool], Meta(max_length=32)]


class NewMember(Struct, frozen=True):
    """One of ``members`` of ``chat.create``."""

    user: str
    role: Role = Role.MEMBER


class Create(Struct, frozen=True):
    """``chat.create``."""

    name: str
    key: Key | None = None
    public: bool = False
    room: str | None = None
    members: Annotated[list[str | NewMember], Meta(max_length=100)] = []
    tags: Tags = {}


class OneRoom(Struct, frozen=True):
    """``chat.get``, ``join``, ``leave``, ``archive``, ``unarchive``."""

    room: str


class Rename(Struct, frozen=True):
    """``chat.rename``."""

    room: str
    name: str


class ListRooms(Struct, frozen=True):
    """``chat.rooms``; ``after``: the ``next`` of the page before."""

    scope: Literal["mine", "public"] = "mine"
    archived: bool = False
    limit: Limit = 200
    after: Annotated[str, Meta(max_length=200)] | None = None


class ListMembers(Struct, frozen=True):
    """``chat.members``; ``after``: the ``next`` of the page before."""

    room: str
    limit: Limit = 200
    after: Annotated[str, Meta(max_length=256)] | None = None


class Invite(Struct, frozen=True):
    """``chat.invite``."""

    room: str
    user: str
    role: Role = Role.MEMBER


class OneMember(Struct, frozen=True):
    """``chat.remove``."""

    room: str
    user: str


class Mute(Struct, frozen=True):
    """``chat.mute``; 0 ends it."""

    room: str
    user: str
    for_s: Annotated[int, Meta(ge=0, le=10 * 366 * 86_400)]


class Send(Struct, frozen=True):
    """``chat.send``."""

    room: str
    text: str
    key: Key
    format: Literal["text", "markdown"] = "text"
    reply_to: Number | None = None
    mentions: Names = []
    attachments: Names = []


class Edit(Struct, frozen=True):
    """``chat.edit``; without ``format`` it stays."""

    room: str
    message: Number
    text: str
    format: Literal["text", "markdown"] | None = None


class OneMessage(Struct, frozen=True):
    """``chat.delete``, ``read``, ``readers``."""

    room: str
    message: Number


class React(Struct, frozen=True):
    """``chat.react``."""

    room: str
    message: Number
    emoji: str
    on: bool = True


class ReadHistory(Struct, frozen=True):
    """``chat.history``: the newest messages, or those before, after or around one."""

    room: str
    before: Number | None = None
    after: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    around: Number | None = None
    limit: Limit = 50


class Search(Struct, frozen=True):
    """``chat.search``; ``before``: the ``next`` of the page before."""

    query: Annotated[str, Meta(min_length=1, max_length=256)]
    room: str | None = None
    limit: Annotated[int, Meta(ge=1, le=50)] = 20
    before: Annotated[str, Meta(max_length=200)] | None = None


class Typing(Struct, frozen=True):
    """``chat.typing``."""

    room: str
    on: bool = True


class Retention(Struct, frozen=True):
    """``chat.retention``; None: keep for ever."""

    days: Annotated[int, Meta(ge=1, le=36_500)] | None = None


def asked(kind: type[T], params: dict[str, Any], method: str) -> T:
    """``params`` as ``kind``; unknown fields are ignored. Raises ``bad_request`` that names the field."""
    try:
        wanted = msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise bad_request(f"{method}: {error}") from error
    room = getattr(wanted, "room", None)
    if room is not None:
        room_id(room)
    return wanted
