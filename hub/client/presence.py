"""Who is present on a topic, as a client sees it: ``PresenceView`` follows ``presence`` events. Pure: no I/O, no clock.

Whoever feeds it asks ``presence.get`` when the view stays in doubt (``due_in_s``); ``hub.client.Room`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from hub.client.errors import ProtocolViolation

Status = Literal["online", "away", "offline"]


class Present(Struct, frozen=True):
    """Somebody who is there, over all connections: online if any of them is, else away."""

    user: str
    name: str = ""
    status: str = "online"


class _Event(Struct, frozen=True):
    """Every ``presence`` event; what an action does not have keeps its default."""

    epoch: str
    version: int
    action: str = "snapshot"
    online: int = 0
    away: int = 0
    user: str = ""
    name: str = ""
    status: str = "offline"
    listed: bool = True
    members: tuple[Present, ...] = ()


class PresenceView:
    """Who is there. ``apply`` takes the data of every ``presence`` event of one topic, in the order they come.

    While ``doubtful``, something is missing: ``members`` and counts are those of before, and a snapshot is awaited. A
    subscription begins like that. What comes meanwhile is kept (the newest ``max_waiting``) and follows the snapshot.
    """

    def __init__(self, *, max_waiting: int = 256) -> None:
        self.members: dict[str, Present] = {}
        """By user; empty while ``listed`` is false."""
        self.online = 0
        self.away = 0
        self.listed = True
        """False: too many to name them; the counts are right."""
        self.epoch = ""
        self.version = 0
        self._max_waiting = max_waiting
        self._waiting: dict[int, _Event] = {}
        self._waiting_epoch = ""
        self._doubtful_since: float | None = None

    @property
    def doubtful(self) -> bool:
        """Whether a snapshot is awaited."""
        return not self.epoch or bool(self._waiting)

    def due_in_s(self, now: float, patience_s: float) -> float | None:
        """How long until ``presence.get`` should be asked, ``patience_s`` after doubt began; None: there is no doubt.

        ``now``: seconds of the clock that ``apply`` is given.
        """
        if not self.doubtful:
            return None
        if self._doubtful_since is None:
            self._doubtful_since = now
        return max(0.0, self._doubtful_since + patience_s - now)

    def asked(self, now: float) -> None:
        """``presence.get`` was asked just now; if that does not help, it is due again after the same time."""
        self._doubtful_since = now

    def apply(self, data: Mapping[str, Any], now: float = 0.0) -> bool:
        """Takes an event's data. True: something that can be seen has changed. Raises ``ProtocolViolation``."""
        event = _read(data)
        if event.action == "snapshot":
            return self._snapshot(event, now, asked=False)
        if event.action not in ("join", "update", "leave", "count"):
            return False
        if event.epoch == self.epoch and event.version <= self.version:
            return False
        if event.action == "count":
            self._take_counts(event)
            self._settle(event.version, now)
            return True
        self._wait(event)
        changed = self._catch_up()
        self._since(now)
        return changed

    def answer(self, result: Mapping[str, Any], now: float = 0.0) -> bool:
        """Takes the result of ``presence.get``, which may have overtaken events or be overtaken: only in doubt."""
        return self.doubtful and self._snapshot(_read(result), now, asked=True)

    # --- inside

    def _snapshot(self, event: _Event, now: float, *, asked: bool) -> bool:
        if event.epoch == self.epoch and event.version < self.version:
            return False  # of a node that is behind; its events lead to where we are
        before = (self.members, self.online, self.away, self.listed, self.doubtful)
        self.epoch, self.version = event.epoch, event.version
        self.online, self.away, self.listed = event.online, event.away, event.listed
        self.members = {member.user: member for member in event.members} if event.listed else {}
        if self._waiting_epoch != event.epoch and not asked:
            self._waiting.clear()  # an epoch that has ended
        if self._waiting_epoch == event.epoch:
            self._settle(event.version, now)
        self._since(now)
        return before != (self.members, self.online, self.away, self.listed, self.doubtful)

    def _take_counts(self, event: _Event) -> None:
        self.epoch, self.version = event.epoch, event.version
        self.online, self.away = event.online, event.away
        self.listed = False
        self.members = {}

    def _settle(self, version: int, now: float) -> None:
        """What waited and is not beyond ``version`` is dealt with; what follows it is applied."""
        if self._waiting_epoch != self.epoch:
            self._waiting.clear()
        self._waiting = {number: event for number, event in self._waiting.items() if number > version}
        self._catch_up()
        self._since(now)

    def _wait(self, event: _Event) -> None:
        if event.epoch != self._waiting_epoch:
            self._waiting.clear()
            self._waiting_epoch = event.epoch
        self._waiting[event.version] = event
        if len(self._waiting) > self._max_waiting:
            del self._waiting[min(self._waiting)]

    def _catch_up(self) -> bool:
        """Applies what waits and comes next. Who cannot be named is not followed: then only a snapshot helps."""
        changed = False
        while self.listed and self._waiting_epoch == self.epoch and self.version + 1 in self._waiting:
            event = self._waiting.pop(self.version + 1)
            self.version = event.version
            self.online, self.away = event.online, event.away
            if event.action == "leave":
                self.members.pop(event.user, None)
            else:
                self.members[event.user] = Present(event.user, event.name, event.status)
            changed = True
        return changed

    def _since(self, now: float) -> None:
        if not self.doubtful:
            self._doubtful_since = None
        elif self._doubtful_since is None:
            self._doubtful_since = now


def _read(data: Mapping[str, Any]) -> _Event:
    try:
        return msgspec.convert(data, _Event)
    except msgspec.ValidationError as problem:
        raise ProtocolViolation(f"malformed presence: {problem}") from None
