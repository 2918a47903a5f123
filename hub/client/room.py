"""``Room``: a chat room over a ``HubClient``. Fetches what the views need, and asks again what may be repeated."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from msgspec import Struct

from hub.client.backoff import Backoff
from hub.client.chat import RoomView
from hub.client.client import HubClient
from hub.client.errors import ClientError, ConnectionLost, ProtocolViolation, RequestRefused, RequestTimeout
from hub.client.messages import Message
from hub.client.presence import PresenceView
from hub.client.subscription import Subscription
from hub.client.wire import Event, Gap
from hub.errors import ErrorCode

logger = logging.getLogger("hub.client")

TYPING_EVERY_S = 3.0
"""One's own typing is told this often; the hub takes no more."""
_TYPING_LASTS_S = 6.0

_PASSING = frozenset(
    (ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.INTERNAL, ErrorCode.RATE_LIMITED, ErrorCode.QUOTA_EXCEEDED)
)
_PAGE_ATTEMPTS = 5
_MEMBERS_PAGE = 200


class Change(Struct, frozen=True):
    """Something about a room has changed. The views hold it already.

    ``name``: the event's; ``reloaded``: events were lost, and the view began anew with the newest page; ``typing`` and
    ``presence`` without data: somebody's typing has expired, who is there was asked.
    """

    name: str
    data: dict[str, Any] = {}
    by: str | None = None


class _Missed(ClientError):
    """Events are lost."""


class Room:
    """One room: its views, kept up to date by iterating, and what one can do in it.

    Entering loads the newest page and subscribes where it ends, so that nothing is missing or double. Raises what
    ``HubClient.call`` raises: ``RequestRefused`` with ``not_found`` for a room that one may not see.

    ``async for change in room`` drives the views; nothing happens to them otherwise. It outlives lost connections, and
    loads anew what the hub cannot replay. ``SubscriptionEnded``: the hub has taken the room away.

    Requests that may be repeated are, until they are answered or ``options.insist_s`` is over.
    """

    def __init__(
        self,
        client: HubClient,
        room: str,
        *,
        page: int = 50,
        window: int = 500,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = room
        self.topic = f"chat:{room}"
        self.view = RoomView(limit=window)
        self.presence = PresenceView()
        self._client = client
        self._page = page
        self._clock = clock
        self._subscription: Subscription | None = None
        self._stale = False
        self._presence_wanted = True
        self._typed_at = -math.inf

    async def __aenter__(self) -> Room:
        self.view.me = self._client.welcome.user if self._client.welcome is not None else ""
        position = await self._reload()
        self._subscription = self._client.subscribe(self.topic, since=position, on_gap=self._missed)
        await self._subscription.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._subscription is not None:
            await self._subscription.leave()

    def __aiter__(self) -> Room:
        return self

    async def __anext__(self) -> Change:
        if self._subscription is None:
            raise RuntimeError("enter the room first: async with Room(client, …) as room")
        while True:
            if self._stale:
                await self._reload()
                return Change("reloaded")
            try:
                async with asyncio.timeout(self._wake_in_s()):
                    event = await self._subscription.__anext__()
            except TimeoutError:
                change = await self._time_passed()
            except _Missed:
                self._stale = True
                continue
            else:
                change = self._take(event)
            if change is not None:
                return change

    # --- messages

    async def send(
        self,
        text: str,
        *,
        key: str | None = None,
        format: str = "text",
        reply_to: int | None = None,
        mentions: Sequence[str] = (),
        attachments: Sequence[str] = (),
    ) -> Message:
        """Sends a message and returns it. It gets into the view by its event, in the order that all see.

        It happens once, however often it had to be asked for; with the same ``key``, also over several calls.
        """
        params: dict[str, Any] = {"text": text, "key": key or uuid.uuid4().hex, "format": format}
        if reply_to is not None:
            params["reply_to"] = reply_to
        if mentions:
            params["mentions"] = list(mentions)
        if attachments:
            params["attachments"] = list(attachments)
        self._typed_at = -math.inf
        return Message.of((await self._ask("chat.send", params))["message"])

    async def edit(self, number: int, text: str) -> Message:
        """Changes one's own message."""
        return Message.of((await self._ask("chat.edit", {"message": number, "text": text}))["message"])

    async def delete(self, number: int) -> None:
        """Deletes one's own message, or as the room's owner anybody's. A tombstone stays."""
        await self._ask("chat.delete", {"message": number})

    async def react(self, number: int, emoji: str, on: bool = True) -> None:
        """Adds a reaction, or takes it back."""
        await self._ask("chat.react", {"message": number, "emoji": emoji, "on": on})

    async def read(self, number: int | None = None) -> int:
        """Everything up to there (None: all of the window) is read. Returns how many messages are not."""
        number = self.view.newest if number is None else number
        if number is None or number <= self.view.read:
            return self.view.unread
        answer = await self._ask("chat.read", {"message": number})
        self.view.own_read(answer["read"])
        return int(answer["unread"])

    def who_types(self) -> dict[str, str]:
        """Names of those who type, by user."""
        return self.view.typing(self._clock())

    async def typing(self, on: bool = True) -> None:
        """Tells others that one types; call it at every key. It is told every 3 s at most, and lost without a word."""
        now = self._clock()
        if on == (now - self._typed_at < (TYPING_EVERY_S if on else _TYPING_LASTS_S)):
            return  # told already, or nothing to take back
        self._typed_at = now if on else -math.inf
        try:
            params = {"room": self.id, "on": on}
            await self._client.call("chat.typing", params, timeout_s=self._client.options.attempt_timeout_s)
        except (ConnectionLost, RequestTimeout, RequestRefused) as problem:
            logger.info("typing was not told: %s", problem)

    # --- pages

    async def older(self, limit: int | None = None) -> list[Message]:
        """Loads the page before the window; returns it, empty when there is none."""
        return await self._further("before", limit)

    async def newer(self, limit: int | None = None) -> list[Message]:
        """Loads the page after the window, where it does not follow the room (``view.more_after``)."""
        return await self._further("after", limit)

    async def around(self, number: int, limit: int | None = None) -> None:
        """Makes the messages around one the window, if it is not in it."""
        if self.view.get(number) is None:
            await self._load({"around": number, "limit": limit or self._page})

    async def newest(self) -> None:
        """Goes to the end: from there on the window follows the room."""
        if self.view.more_after:
            await self._load({"limit": self._page})

    async def load_members(self) -> None:
        """Loads all members into ``view.members``, where they are kept up to date from then on."""
        asked_at = self.view.number
        members: list[Any] = []
        after: Any = None
        while True:
            params = {"limit": _MEMBERS_PAGE} | ({} if after is None else {"after": after})
            answer = await self._ask("chat.members", params)
            members += answer["members"]
            after = answer["next"]
            if after is None or not answer["members"]:
                break
        self.view.load_members(members, asked_at)

    async def _further(self, side: str, limit: int | None) -> list[Message]:
        view = self.view
        for _ in range(_PAGE_ATTEMPTS):
            more, edge = (view.more_before, view.oldest) if side == "before" else (view.more_after, view.newest)
            if not more or edge is None:
                return []
            page = await self._ask("chat.history", {side: edge, "limit": limit or self._page})
            if view.load(page, **{side: edge}):
                return [Message.of(message) for message in page["messages"]]
        raise ClientError(f"{self.topic} moves on faster than its pages come; try again")

    async def _load(self, params: dict[str, Any]) -> None:
        for _ in range(_PAGE_ATTEMPTS):
            if self.view.load(await self._ask("chat.history", params)):
                return
        raise ClientError(f"{self.topic} moves on faster than its pages come; try again")

    # --- inside

    async def _reload(self) -> Any:
        """Begins anew with the newest page; returns where the topic stood when it was read."""
        wants_members = self.view.members_loaded
        # The page first: the room may be newer than it, for it is brought up to date by every event the page is not.
        newest = await self._ask("chat.history", {"limit": self._page})
        page = self.view.start(newest, (await self._ask("chat.get", {}))["room"])
        if wants_members:
            await self.load_members()
        self._stale = False
        return page.position

    def _missed(self, gap: Gap) -> None:
        logger.info("%s: events are lost (%s); loading the newest page", self.topic, gap.reason)
        raise _Missed(gap.reason)

    def _take(self, event: Event) -> Change | None:
        now = self._clock()
        try:
            is_presence = event.name == "presence"
            changed = self.presence.apply(event.data, now) if is_presence else self.view.apply(event, now)
        except ProtocolViolation as problem:
            # What an event could not tell, the page knows.
            logger.error("%s: %s", self.topic, problem)
            self._stale = event.seq is not None
            return None
        return Change(event.name, event.data, event.by) if changed else None

    def _wake_in_s(self) -> float | None:
        """How long to wait for an event before something is due anyway."""
        now = self._clock()
        typing = self.view.typing_ends_in_s(now)
        patience_s = self._client.options.presence_patience_s
        presence = self.presence.due_in_s(now, patience_s) if self._presence_wanted else None
        return min((due for due in (typing, presence) if due is not None), default=None)

    async def _time_passed(self) -> Change | None:
        now = self._clock()
        typing = self.view.typing_ends_in_s(now)
        if typing is not None and typing <= 0:
            self.view.typing(now)
            return Change("typing")
        if self._presence_wanted and self.presence.due_in_s(now, self._client.options.presence_patience_s) == 0:
            return await self._ask_who_is_there()
        return None

    async def _ask_who_is_there(self) -> Change | None:
        timeout_s = self._client.options.attempt_timeout_s
        try:
            answer = await self._client.call("presence.get", {"topic": self.topic}, timeout_s=timeout_s)
        except RequestRefused as refused:
            self._presence_wanted = refused.code in _PASSING
            answer = None
        except (ConnectionLost, RequestTimeout):
            answer = None
        now = self._clock()
        self.presence.asked(now)
        return Change("presence") if answer is not None and self.presence.answer(answer, now) else None

    async def _ask(self, method: str, params: dict[str, Any]) -> Any:
        """Asks until there is an answer. Raises ``RequestRefused``, ``HubClosed`` and at last ``RequestTimeout``."""
        options = self._client.options
        loop = asyncio.get_running_loop()
        deadline = loop.time() + options.insist_s
        backoff = Backoff(options)
        while True:
            left_s = deadline - loop.time()
            timeout_s = min(options.attempt_timeout_s, left_s)
            try:
                return await self._client.call(method, {"room": self.id, **params}, retry=True, timeout_s=timeout_s)
            except RequestTimeout:
                if loop.time() >= deadline:
                    raise RequestTimeout(f"{method}: no answer within {options.insist_s:g} s") from None
            except RequestRefused as refused:
                wait_s = max(backoff.next_s(), (refused.retry_after_ms or 0) / 1000)
                if refused.code not in _PASSING or refused.retry == "never" or loop.time() + wait_s >= deadline:
                    raise
                await asyncio.sleep(wait_s)
