"""The methods of chat, by name. Each checks its params and hands them to whoever does it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from hub.api import Method, Principal
from services.chat import asked as ask
from services.chat.history import HistoryPages
from services.chat.messages import Messages
from services.chat.receipts import Receipts
from services.chat.retention import Janitor
from services.chat.rooms import Rooms
from services.chat.typing_notices import TypingNotices

T = TypeVar("T")


def chat_methods(
    rooms: Rooms, messages: Messages, pages: HistoryPages, receipts: Receipts, typing: TypingNotices, janitor: Janitor
) -> Mapping[str, Method]:
    """All of them."""

    def paid(do: Callable[[Principal, T], Awaitable[dict[str, Any]]]) -> Callable[[Principal, T], Any]:
        async def pay_and_do(principal: Principal, wanted: T) -> dict[str, Any]:
            await pages.reads.spend(principal.org, principal.user)
            return await do(principal, wanted)

        return pay_and_do

    return dict(
        (
            _method("chat.create", ask.Create, rooms.create),
            _method("chat.get", ask.OneRoom, paid(lambda who, it: rooms.get(who, it.room))),
            _method("chat.rooms", ask.ListRooms, paid(rooms.list)),
            _method("chat.rename", ask.Rename, lambda who, it: rooms.rename(who, it.room, it.name)),
            _method("chat.archive", ask.OneRoom, lambda who, it: rooms.archive(who, it.room, True)),
            _method("chat.unarchive", ask.OneRoom, lambda who, it: rooms.archive(who, it.room, False)),
            _method("chat.members", ask.ListMembers, paid(rooms.members)),
            _method("chat.join", ask.OneRoom, lambda who, it: rooms.join(who, it.room)),
            _method("chat.invite", ask.Invite, rooms.invite),
            _method("chat.remove", ask.OneMember, lambda who, it: rooms.remove(who, it.room, it.user)),
            _method("chat.leave", ask.OneRoom, lambda who, it: rooms.leave(who, it.room)),
            _method("chat.mute", ask.Mute, lambda who, it: rooms.mute(who, it.room, it.user, it.for_s)),
            _method("chat.send", ask.Send, messages.send),
            _method("chat.edit", ask.Edit, messages.edit),
            _method("chat.delete", ask.OneMessage, lambda who, it: messages.delete(who, it.room, it.message)),
            _method("chat.react", ask.React, messages.react),
            _method("chat.history", ask.ReadHistory, paid(pages.page)),
            _method("chat.search", ask.Search, pages.search),
            _method("chat.read", ask.OneMessage, receipts.read),
            _method("chat.readers", ask.OneMessage, paid(receipts.readers)),
            _method("chat.typing", ask.Typing, typing.tell),
            _method("chat.retention", ask.Retention, janitor.choose),
        )
    )


def _method(name: str, kind: type[T], do: Callable[[Principal, T], Awaitable[dict[str, Any]]]) -> tuple[str, Method]:
    async def method(principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        return await do(principal, ask.asked(kind, params, name))

    return name, method
