"""A service whose topics have members, and nodes it runs on: for tests of who may stay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hub.api import ErrorCode, Hub, OrgId, Principal, Service, TopicKind
from tests.support.peers import Peers

CLUB = "club:a"


class Club:
    """Whoever is in ``out`` (user, key) may not be there. The rules answer what is so when they are asked."""

    def __init__(self) -> None:
        self.hub: Hub
        self.out: set[tuple[str, str]] = set()
        self.gate: asyncio.Event | None = None
        """While it is there, a rule has its answer and waits for it to be set."""
        self.permitted: list[str] = []
        """Who was let through, before they waited."""
        self.asked: list[tuple[str, list[tuple[str, str]]]] = []
        """What was rechecked: organisation and pairs."""
        self.failures: list[Exception] = []
        """What the next rechecks fail with."""

    def factory(self, hub: Hub) -> Service:
        """What the hub is given."""
        self.hub = hub
        kind = TopicKind(name="club", may_subscribe=self._may_subscribe, recheck=self.recheck)
        return Service(name="club", kinds=[kind, TopicKind(name="open")])

    async def _may_subscribe(self, principal: Principal, key: str) -> bool:
        allowed = (principal.user, key) not in self.out
        self.permitted.append(principal.user)
        if self.gate is not None:
            await self.gate.wait()
        return allowed

    async def recheck(self, org: OrgId, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """A rule of the kind."""
        self.asked.append((org, list(pairs)))
        if self.failures:
            raise self.failures.pop(0)
        answer = [pair not in self.out for pair in pairs]
        if self.gate is not None:
            await self.gate.wait()
        return answer


async def expel(peers: Peers, club: Club, users: list[str] | None, topic: str = CLUB) -> None:
    """As a service on that node does it, in the organisation of ``peers``."""
    org = OrgId.from_claim(peers.org)
    await peers.hub.within(
        lambda: club.hub.end_subscriptions(org, topic, users, ErrorCode.FORBIDDEN, "the club has closed")
    )
