"""Who is typing: told at once and not kept, not too often, and never to the author."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from hub.api import Bucket, ErrorCode, Hub, HubError, OrgId, Principal
from services.chat.asked import Typing
from services.chat.gate import Gate, display_name
from services.chat.kinds import TYPING, room_topic
from services.chat.rules import Action

_MOST_REMEMBERED: Final = 10_000
_NOTICES_PER_S: Final = 2.0  # of one user in all rooms
_NOTICES_BURST: Final = 20

_Notice = tuple[OrgId, str, str, bool]


class TypingNotices:
    """Tells rooms. This node's memory, which costs nothing, is asked first; then buckets of all nodes."""

    def __init__(self, hub: Hub, gate: Gate, clock: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        self._gate = gate
        self._clock = clock
        self._told: OrderedDict[_Notice, float] = OrderedDict()
        """When a notice was last told; the oldest go first."""
        self._under_way: set[_Notice] = set()
        """Bounded by the calls that connections may have under way."""
        pause_s = hub.settings.chat_typing_pause_s
        self._per_room = {
            on: hub.limits.bucket(f"chat-typing-{word}", per_second=1 / pause_s, burst=1, what="notices")
            for on, word in ((True, "on"), (False, "off"))
        }
        # Asked before PostgreSQL is: whoever types in a new room with each frame gets no further.
        self._per_user = hub.limits.bucket(
            "chat-typing", per_second=_NOTICES_PER_S, burst=_NOTICES_BURST, what="notices"
        )

    async def tell(self, principal: Principal, wanted: Typing) -> dict[str, Any]:
        """Tells the others in the room, or, when it was told just before, does nothing."""
        notice = (principal.org, wanted.room, principal.user, wanted.on)
        if notice in self._under_way or self._is_told(notice):
            return {"sent": False}
        self._under_way.add(notice)
        try:
            return {"sent": await self._tell(principal, wanted, notice)}
        finally:
            self._under_way.discard(notice)

    async def _tell(self, principal: Principal, wanted: Typing, notice: _Notice) -> bool:
        if not await _spend(self._per_user, principal, principal.user):
            return False
        async with self._gate.seen(principal, wanted.room, Action.TYPE):
            pass
        if not await _spend(self._per_room[wanted.on], principal, f"{wanted.room}/{principal.user}"):
            return False
        expires_ms = int(self._hub.settings.chat_typing_expires_s * 1000)
        data = {
            "user": principal.user,
            "name": display_name(principal),
            "on": wanted.on,
            "expires_in_ms": expires_ms if wanted.on else 0,
        }
        topic = room_topic(wanted.room)
        await self._hub.publish(principal.org, topic, TYPING, data, ephemeral=True, by=principal.user, echo=False)
        self._told[notice] = self._clock()
        self._told.move_to_end(notice)
        if len(self._told) > _MOST_REMEMBERED:
            self._told.popitem(last=False)
        return True

    def _is_told(self, notice: _Notice) -> bool:
        last = self._told.get(notice)
        return last is not None and self._clock() - last < self._hub.settings.chat_typing_pause_s


async def _spend(bucket: Bucket, principal: Principal, who: str) -> bool:
    """Whether it was not too much."""
    try:
        await bucket.spend(principal.org, who)
    except HubError as error:
        if error.code is not ErrorCode.RATE_LIMITED:
            raise
        return False
    return True
