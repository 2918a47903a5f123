"""A client's view of who is present in a topic, by the rule that the protocol gives to clients."""

from __future__ import annotations

from typing import Any

from hub.protocol.frames import Event, ServerFrame
from tests.support.raw_client import RawClient

View = dict[str, str]


class Present:
    """Follows one topic on one connection. It never asks: what it needs has to come by itself."""

    def __init__(self, client: RawClient, topic: str) -> None:
        self.client = client
        self.topic = topic
        self.told: list[str] = []
        """What came, in words: ``join ann online``, ``snapshot ann bob``, ``count 3 1``."""
        self.waiting = True
        """For a snapshot: it has none, or has missed something."""
        self.members: View | None = None
        self.online = self.away = 0
        self._epoch = ""
        self._version = -1
        self._seen = 0

    @property
    def view(self) -> View | None:
        """Who is present, as far as the client has read; None: it does not know, or they are too many."""
        self._catch_up()
        return None if self.waiting or self.members is None else dict(self.members)

    def _catch_up(self) -> None:
        frames, self._seen = self.client.came[self._seen :], len(self.client.came)
        for frame in frames:
            self._take(frame)

    def _take(self, frame: ServerFrame) -> None:
        if not isinstance(frame, Event) or frame.topic != self.topic or frame.name != "presence":
            return
        assert frame.seq is None
        data: dict[str, Any] = frame.data
        if data["action"] == "snapshot":
            self._start_over(data)
            return
        if data["action"] == "count":
            self.told.append(f"count {data['online']} {data['away']}")
        else:
            self.told.append(f"{data['action']} {data['user']} {data['status']}")
        self._apply(data)

    def _start_over(self, data: dict[str, Any]) -> None:
        self.told.append(" ".join(["snapshot", *sorted(member["user"] for member in data["members"])]))
        self._epoch, self._version = data["epoch"], data["version"]
        self.online, self.away = data["online"], data["away"]
        self.members = {member["user"]: member["status"] for member in data["members"]} if data["listed"] else None
        self.waiting = False
        if self.members is not None:
            self._check()

    def _apply(self, data: dict[str, Any]) -> None:
        if self.waiting or (data["epoch"] == self._epoch and data["version"] <= self._version):
            return
        counted = data["action"] == "count"
        if data["epoch"] != self._epoch or (not counted and data["version"] != self._version + 1):
            self.waiting = True
            return
        self._version, self.online, self.away = data["version"], data["online"], data["away"]
        if counted:
            self.members = None
            return
        if self.members is None:
            self.waiting = True
            return
        known = data["user"] in self.members
        assert known is (data["action"] != "join"), data
        if data["action"] == "leave":
            del self.members[data["user"]]
        else:
            self.members[data["user"]] = data["status"]
        self._check()

    def _check(self) -> None:
        statuses = list((self.members or {}).values())
        assert (self.online, self.away) == (statuses.count("online"), statuses.count("away"))
