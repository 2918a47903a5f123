"""The topic kind of rooms, and the names of what is told in them and in users' inboxes."""

from __future__ import annotations

from typing import Final

from hub.api import History, Principal, Settings, SlowPolicy, TopicKind
from services.chat.readers import Readers

CHAT: Final = "chat"

CREATED: Final = "message.created"
EDITED: Final = "message.edited"
DELETED: Final = "message.deleted"
REACTION: Final = "reaction"
READ: Final = "read"
JOINED: Final = "member.joined"
CHANGED: Final = "member.changed"
LEFT: Final = "member.left"
ROOM_CHANGED: Final = "room.changed"
TYPING: Final = "typing"

MENTIONED: Final = "chat.mention"
INVITED: Final = "chat.invited"
REMOVED: Final = "chat.removed"
OWN_READ: Final = "chat.read"

_HISTORY_BYTES: Final = 4 * 1024 * 1024  # a thousand messages of four kilobytes


def chat_kind(settings: Settings, readers: Readers) -> TopicKind:
    """``chat:<room>``: members read it, everybody of the organisation a public one; only this service writes to it."""
    return TopicKind(
        name=CHAT,
        history=History(count=settings.chat_history_count, bytes=_HISTORY_BYTES, age_s=settings.chat_history_s),
        slow=SlowPolicy.REPLAY,
        presence=True,
        may_subscribe=readers.may_subscribe,
        may_publish=_nobody,
        recheck=readers.recheck,
    )


def room_topic(room: str) -> str:
    """Where a room is watched."""
    return f"{CHAT}:{room}"


async def _nobody(_: Principal, __: str) -> bool:
    return False
