"""A service for tests of nodes that die: whoever has the duty ``n`` appends to the topic ``count:n``."""

from __future__ import annotations

import asyncio

from hub.api import History, Hub, HubError, OrgId, Service, TopicKind

ORG = OrgId.from_operator("acme")
PURPOSE = "counting"
COUNTS = 10
KIND = TopicKind(name="count", history=History(count=100_000))
_PAUSE_S = 0.05


class Counting:
    """Event k of every topic is (k, who wrote it)."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._duties = hub.duties.of(PURPOSE)
        self._duties.on_adopt(self._begin)
        self._duties.on_lost(lambda _, name: self._end(name))
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """The first node has them all."""
        for number in range(COUNTS):
            if await self._duties.take(ORG, str(number)):
                self._begin(ORG, str(number))

    async def stop(self) -> None:
        """Ends the work; the hub hands the duties over."""
        for name in list(self._tasks):
            self._end(name)

    def _begin(self, org: OrgId, name: str) -> None:
        self._tasks[name] = asyncio.create_task(self._count(org, f"count:{name}"))

    def _end(self, name: str) -> None:
        self._tasks.pop(name).cancel()

    async def _count(self, org: OrgId, topic: str) -> None:
        top: int | None = None
        while True:
            try:
                if top is None:
                    top = (await self._hub.read(org, topic, last=1)).top
                event = ("count", [top + 1, self._hub.settings.node])
                top = await self._hub.append(org, topic, [event], after=top)
            except HubError:
                top = None
            await asyncio.sleep(_PAUSE_S)


def counting(hub: Hub) -> Service:
    """What the hub is given."""
    service = Counting(hub)
    return Service(name=PURPOSE, kinds=[KIND], start=service.start, stop=service.stop)


SERVICES = (counting,)
