"""Ends subscriptions whose users may not stay, on all nodes, and those that were permitted before and come after.

Who may not stay is for services to say (``Hub.end_subscriptions``) or for the rules of kinds (``rechecks``). Joins ask
here before their verdict (``hub.edge.joining``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

from hub.config import Settings
from hub.errors import ErrorCode, HubError
from hub.fanout.control import Control, Expel
from hub.topics.subscriptions import LocalTopics, Subscription, SubState
from hub.topics.topic import Topic

USERS_AT_ONCE: Final = 500  # in one message
STEP: Final = 100  # subscriptions ended in one turn of the event loop: about a millisecond


class Expulsions:
    """Those of one node. The latest are remembered: some joins that were permitted earlier have no verdict yet."""

    def __init__(self, settings: Settings, topics: LocalTopics, control: Control) -> None:
        self._most = settings.max_expulsions
        self._topics = topics
        self._control = control
        self._latest: dict[tuple[bytes, str | None], tuple[int, HubError]] = {}
        """By channel and user (None: everybody), the oldest first, with their numbers.

        Bounded by number, not by age: each stays until ``max_expulsions`` others have come, on a quiet node for ever.
        That refuses nobody who asks later, because ``refusal`` compares numbers; it takes some MB at most.
        """
        self._forgotten = 0
        """The number of the newest that is not remembered any more."""
        self.count = 0
        """How many there have been: what a join takes down before its permission is asked for."""
        self.on_end: Callable[[bytes, Collection[str] | None], None] = lambda _channel, _users: None
        """Also told what was ended: of whom there is more than subscriptions."""
        control.on(Expel, self._receive)

    async def announce(
        self, topic: Topic, users: Sequence[str] | None, error: HubError, but: str | None = None
    ) -> None:
        """Ends subscriptions on all nodes; ``but``: who stays, of everybody. Raises ``unavailable``."""
        groups: list[tuple[str, ...] | None] = [None]
        if users is not None:
            groups = [tuple(users[start : start + USERS_AT_ONCE]) for start in range(0, len(users), USERS_AT_ONCE)]
        for group in groups:
            await self._control.send(Expel(topic.channel.decode(), group, error.code, error.message, but))

    def end(self, channel: bytes, users: Collection[str] | None, error: HubError, but: str | None = None) -> None:
        """Ends subscriptions on this node, and refuses the joins that are under way: all of them, without ``but``."""
        for user in (None,) if users is None else users:
            self._remember(channel, user, error)
        self.on_end(channel, users)
        local = self._topics.get(channel)
        if local is None:
            return
        of = [sub for sub in local.subscriptions if users is None or sub.subscriber.user in users]
        self.end_these([sub for sub in of if but is None or sub.subscriber.user != but], error)

    def end_these(self, subs: Sequence[Subscription], error: HubError) -> bool:
        """Ends these subscriptions and refuses nobody. False: some are still joining and go on."""
        # What is still joining belongs to no connection yet.
        ending = [sub for sub in subs if sub.state is not SubState.JOINING]
        self._end(ending, error)
        return len(ending) == len(subs)

    def refusal(self, topic: Topic, user: str, since: int) -> HubError | None:
        """Why a join may not succeed whose permission was asked for when ``count`` was ``since``."""
        if since == self.count:
            return None  # as a rule
        for who in (user, None):
            number, error = self._latest.get((topic.channel, who), (0, None))
            if number > since:
                return error
        if since < self._forgotten:
            return HubError(ErrorCode.UNAVAILABLE, "it took too long to subscribe; try again", retry="now")
        return None

    def _receive(self, message: Expel) -> None:
        users = None if message.users is None else frozenset(message.users)
        self.end(message.channel.encode(), users, HubError(message.code, message.message), message.but)

    def _remember(self, channel: bytes, user: str | None, error: HubError) -> None:
        self.count += 1
        self._latest.pop((channel, user), None)
        self._latest[channel, user] = (self.count, error)
        if len(self._latest) > self._most:
            self._forgotten, _ = self._latest.pop(next(iter(self._latest)))

    def _end(self, ending: list[Subscription], error: HubError) -> None:
        for sub in ending[:STEP]:
            # In an earlier step its connection may have been lost.
            if sub.state is not SubState.ENDED:
                sub.subscriber.end_subscription(sub.topic.topic.wire, error)
        if len(ending) > STEP:
            asyncio.get_running_loop().call_soon(self._end, ending[STEP:], error)
