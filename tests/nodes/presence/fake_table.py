"""A table without Redis: knows what it was told, fails and waits as a test wants."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from hub.errors import HubError, unavailable
from hub.nodes.presence.table import Change, Changed, Member, Snapshot, Status
from hub.topics.topic import Topic


class FakeTable:
    """Versions count what was told; who is present by which instance is in ``present``."""

    def __init__(self) -> None:
        self.present: dict[Topic, dict[tuple[str, str], Status]] = {}
        self.noted: set[tuple[str, Topic]] = set()
        self.calls: list[list[tuple[Topic, int, bool]]] = []
        """Of each call of ``change``: topic, how many changes, whole."""
        self.answered: list[tuple[Topic, int, bool]] = []
        """The same of those that did not fail."""
        self.reads: list[list[Topic]] = []
        self.failing: set[Topic] = set()
        self.away = False
        self.no_notes = False
        self.again_ms = 0
        self.epoch = "e1"
        self.gate = asyncio.Event()
        """While it is not set, nothing is answered."""
        self.gate.set()
        self.hanging: dict[Topic, asyncio.Event] = {}
        """Topics that are answered when their event is set."""
        self.faults: list[str] = []
        """What nobody may ask for; raised here it would only be tried again."""
        self.under_way: Counter[tuple[str, Topic]] = Counter()
        self.versions: Counter[Topic] = Counter()

    def users(self, topic: Topic) -> dict[str, str]:
        return {user: str(status) for (_, user), status in self.present.get(topic, {}).items()}

    async def change(
        self, instance: str, items: Sequence[tuple[Topic, Sequence[Change], bool]]
    ) -> list[Changed | HubError]:
        self.calls.append([(topic, len(changes), whole) for topic, changes, whole in items])
        return [await self._change(instance, *item) for item in items]

    async def _change(self, instance: str, topic: Topic, changes: Sequence[Change], whole: bool) -> Changed | HubError:
        place = (instance, topic)
        if place not in self.noted:
            self.faults.append(f"told of {topic} before it was noted")
        if self.under_way[place]:
            self.faults.append(f"told of {topic} twice at a time")
        self.under_way[place] += 1
        try:
            await self.gate.wait()
            if topic in self.hanging:
                await self.hanging[topic].wait()
        finally:
            self.under_way[place] -= 1
        if self.away or topic in self.failing:
            return unavailable("Redis")
        self.answered.append((topic, len(changes), whole))
        there = self.present.setdefault(topic, {})
        if whole:
            for key in [key for key in there if key[0] == instance]:
                del there[key]
        for user, _, status in changes:
            there.pop((instance, user), None)
            if status is not Status.OFFLINE:
                there[instance, user] = status
            self.versions[topic] += 1
        return Changed(self.epoch, self.versions[topic], self.again_ms)

    async def snapshots(self, topics: Sequence[Topic]) -> list[Snapshot | HubError]:
        self.reads.append(list(topics))
        await self.gate.wait()
        if self.away:
            raise unavailable("Redis")
        return [unavailable("Redis") if topic in self.failing else self.snapshot(topic) for topic in topics]

    def snapshot(self, topic: Topic) -> Snapshot:
        users = self.users(topic)
        members = tuple(Member(user, "", Status(status)) for user, status in users.items())
        counts = Counter(users.values())
        return Snapshot(self.epoch, self.versions[topic], counts["online"], counts["away"], members)

    async def note(self, instance: str, topics: Sequence[Topic]) -> None:
        await self.gate.wait()
        if self.away or self.no_notes:
            raise unavailable("Redis")
        self.noted.update((instance, topic) for topic in topics)

    async def unnote(self, instance: str, topics: Sequence[Topic]) -> None:
        await self.gate.wait()
        if self.away:
            raise unavailable("Redis")
        self.noted.difference_update((instance, topic) for topic in topics)


class FakeLease:
    """An instance that has its lease from the start."""

    def __init__(self) -> None:
        self.instance = "n1"
        self.left: Callable[[str], Sequence[Topic]] = lambda _: ()
        self.there = asyncio.Event()
        self.there.set()

    async def held(self) -> None:
        await self.there.wait()
