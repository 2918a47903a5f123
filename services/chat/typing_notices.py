"""Who is typing: told at once and not kept, not too often, and never to the author."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from hub.api import ErrorCode, Hub, HubError, OrgId, Principal
from services.chat.asked import Typing
from services.chat.gate import Gate, display_name
from services.chat.kinds import TYPING, room_topic
from services.chat.rules import Action

_MOST_REMEMBERED: Final = 10_000


class TypingNotices:
    """Tells rooms. Two guards: this node's memory, which costs nothing, and a bucket of all nodes."""

    def __init__(self, hub: Hub, gate: Gate, clock: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        self._gate = gate
        self._clock = clock
        self._told: OrderedDict[tuple[OrgId, str, str, bool], float] = OrderedDict()
        """When a user was last let through; the oldest go first."""
        pause_s = hub.settings.chat_typing_pause_s
        self._buckets = {
            on: hub.limits.bucket(f"chat-typing-{word}", per_second=1 / pause_s, burst=1, what="notices")
            for on, word in ((True, "on"), (False, "off"))
        }

    async def tell(self, principal: Principal, wanted: Typing) -> dict[str, Any]:
        """Tells the others in the room, or, when it was told just before, does nothing."""
        if not self._let_through((principal.org, wanted.room, principal.user, wanted.on)):
            return {"sent": False}
        async with self._gate.seen(principal, wanted.room, Action.TYPE):
            pass
        try:
            await self._buckets[wanted.on].spend(principal.org, f"{wanted.room}/{principal.user}")
        except HubError as error:
            if error.code is not ErrorCode.RATE_LIMITED:
                raise
            return {"sent": False}
        expires_ms = int(self._hub.settings.chat_typing_expires_s * 1000)
        data = {
            "user": principal.user,
            "name": display_name(principal),
            "on": wanted.on,
            "expires_in_ms": expires_ms if wanted.on else 0,
        }
        topic = room_topic(wanted.room)
        await self._hub.publish(principal.org, topic, TYPING, data, ephemeral=True, by=principal.user, echo=False)
        return {"sent": True}

    def _let_through(self, what: tuple[OrgId, str, str, bool]) -> bool:
        now = self._clock()
        last = self._told.get(what)
        if last is not None and now - last < self._hub.settings.chat_typing_pause_s:
            return False
        self._told[what] = now
        self._told.move_to_end(what)
        if len(self._told) > _MOST_REMEMBERED:
            self._told.popitem(last=False)
        return True
