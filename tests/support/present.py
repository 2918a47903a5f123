"""A client's view of who is present in a topic, by the rule that the protocol gives to clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from hub.protocol.frames import Event
from tests.support.raw_client import ClosedByHub, RawClient
from tests.support.waiting import until

View = dict[str, str]


class Rule:
    """What a client makes of the data that come to it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        """What came, in words: ``join ann online``, ``snapshot ann bob``, ``count 3 1``."""
        self.waiting = True
        """For a snapshot: it has none, or has missed something."""
        self.members: View | None = None
        """None: they are too many to list."""
        self.online = self.away = 0
        self._epoch = ""
        self._version = -1

    def take(self, data: dict[str, Any]) -> None:
        """The data of one event."""
        if data["action"] == "snapshot":
            self._start_over(data)
            return
        counted = data["action"] == "count"
        word = f"{data['online']} {data['away']}" if counted else f"{data['user']} {data['status']}"
        self.told.append(f"{data['action']} {word}")
        if self.waiting or (data["epoch"] == self._epoch and data["version"] <= self._version):
            return
        if data["epoch"] != self._epoch or (not counted and data["version"] != self._version + 1):
            self.waiting = True
            return
        self._version, self.online, self.away = data["version"], data["online"], data["away"]
        if counted:
            self.members = None
        elif self.members is None:
            self.waiting = True
        else:
            self._apply(self.members, data)
            self._check()

    def _start_over(self, data: dict[str, Any]) -> None:
        self.told.append(" ".join(["snapshot", *sorted(member["user"] for member in data["members"])]))
        self._epoch, self._version = data["epoch"], data["version"]
        self.online, self.away = data["online"], data["away"]
        self.members = {member["user"]: member["status"] for member in data["members"]} if data["listed"] else None
        self.waiting = False
        self._check()

    def _apply(self, members: View, data: dict[str, Any]) -> None:
        known = data["user"] in members
        assert known is (data["action"] != "join"), data
        if data["action"] == "leave":
            del members[data["user"]]
        else:
            members[data["user"]] = data["status"]

    def _check(self) -> None:
        if self.members is not None:
            statuses = list(self.members.values())
            assert (self.online, self.away) == (statuses.count("online"), statuses.count("away"))


class Present(Rule):
    """Follows one topic on one connection. It never asks: what it needs has to come by itself."""

    def __init__(self, client: RawClient, topic: str) -> None:
        super().__init__()
        self.client = client
        self.topic = topic
        self._seen = 0

    @property
    def view(self) -> View | None:
        """Who is present, as far as the client has read; None: it does not know, or they are too many."""
        self.catch_up()
        return None if self.waiting or self.members is None else dict(self.members)

    @property
    def counts(self) -> tuple[int, int] | None:
        """How many are online and away; None: it does not know."""
        self.catch_up()
        return None if self.waiting else (self.online, self.away)

    @property
    def heard(self) -> list[str]:
        """What came, as far as the client has read."""
        self.catch_up()
        return self.told

    def catch_up(self) -> None:
        """Takes what the client has read."""
        frames, self._seen = self.client.came[self._seen :], len(self.client.came)
        for frame in frames:
            if isinstance(frame, Event) and frame.topic == self.topic and frame.name == "presence":
                assert frame.seq is None
                self.take(frame.data)


Watch = Callable[[RawClient, str], Present]


@contextlib.asynccontextmanager
async def watching() -> AsyncIterator[Watch]:
    """Follows topics on connections, and reads whatever comes to these: they cannot wait for answers any more."""
    tasks: list[asyncio.Task[None]] = []

    def begin(client: RawClient, topic: str) -> Present:
        tasks.append(asyncio.create_task(_read(client)))
        return Present(client, topic)

    try:
        yield begin
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(client: RawClient) -> None:
    with contextlib.suppress(ClosedByHub):
        while True:
            await client.receive(3600)


async def sees(present: Present, view: View | None, timeout: float = 30.0) -> None:
    """Returns when it does."""
    await until(lambda: present.view == view, timeout, f"{view} to be seen; told: {present.told}")
