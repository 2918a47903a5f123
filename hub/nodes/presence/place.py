"""A topic in which users are present by connections of this node, and what Redis has been told of it.

Data; ``attendance`` changes it, ``registrar`` tells it.
"""

from __future__ import annotations

from typing import NamedTuple

from hub.nodes.presence.table import Change, Status
from hub.topics.topic import Topic


class Person:
    """One user in one topic, by the connections of this node."""

    __slots__ = ("away", "name", "online", "told", "told_name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.online = 0
        """Connections that are online; those in their grace are what they were."""
        self.away = 0
        self.told: Status | None = Status.OFFLINE
        """What Redis has been told; None: perhaps it has, perhaps not."""
        self.told_name = ""

    @property
    def status(self) -> Status:
        """What all connections together make of the user."""
        if self.online:
            return Status.ONLINE
        return Status.AWAY if self.away else Status.OFFLINE

    @property
    def is_told(self) -> bool:
        """Redis knows it like this."""
        return self.told is self.status and (self.told is Status.OFFLINE or self.told_name == self.name)


class Place:
    """A topic in which somebody is present by this node, or was and Redis does not know yet that nobody is."""

    __slots__ = (
        "again",
        "busy",
        "dirty",
        "epoch",
        "holders",
        "instance",
        "people",
        "renewed_at",
        "topic",
        "waiting",
        "whole",
    )

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.holders = 0
        """Connections that are here or in their grace, also those that have said that they are offline."""
        self.people: dict[str, Person] = {}
        self.dirty: dict[str, None] = {}
        """Users of whom Redis must be told something."""
        self.whole = False
        """Redis must be told of everybody: what it has of this node may be wrong."""
        self.again = False
        """Redis wants to be called although nothing has changed."""
        self.waiting = False
        """It will be called so in a moment."""
        self.instance = ""
        """The name under which Redis has noted that this node is present here; "": it has not."""
        self.busy = False
        """Redis is being told."""
        self.epoch = ""
        """Of Redis' count when it was told last."""
        self.renewed_at = 0.0

    @property
    def due(self) -> bool:
        """There is something to tell."""
        return bool(self.dirty) or self.whole or self.again or (bool(self.instance) and self.deserted)

    @property
    def deserted(self) -> bool:
        """Nobody is here, Redis knows it, and nothing is to come."""
        return not (self.holders or self.people or self.dirty or self.whole or self.again or self.waiting)


class Told(NamedTuple):
    """What Redis is told of a place."""

    changes: list[Change]
    whole: bool
    """These are all who are here."""
    again: bool
    """It wanted to be called."""

    def __bool__(self) -> bool:
        return bool(self.changes) or self.whole or self.again
