"""The door to presence: what the edge says of its connections and the fan-out of its topics, and who is asked for whom.

``attendance`` knows who is here, ``registrar`` tells Redis, ``mirror`` knows who is there from all nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from hub.auth.principal import Principal
from hub.config import Settings
from hub.errors import HubError
from hub.fanout.errands import Errands
from hub.nodes.duties import DutyBook
from hub.nodes.presence.attendance import Attendant
from hub.nodes.presence.lease import NodeLease
from hub.nodes.presence.mirror import Mirror
from hub.nodes.presence.registrar import Registrar
from hub.nodes.presence.snapshots import Snapshots
from hub.nodes.presence.table import PresenceTable, Snapshot, Status
from hub.redis import Redis
from hub.telemetry import PresenceMetrics
from hub.topics.subscriptions import LocalTopic, Subscription
from hub.topics.topic import Topic


class Presence:
    """Presence on this node."""

    def __init__(self, settings: Settings, redis: Redis, duties: DutyBook, metrics: PresenceMetrics) -> None:
        table = PresenceTable(redis, settings)
        self.registrar = Registrar(settings, table, metrics)
        self._attendance = self.registrar.attendance
        self._snapshots = Snapshots(table, metrics)
        self.mirror = Mirror(settings, metrics, self._snapshots, self.registrar.resync)
        # Not given back at the end: who was here has the time of the lease to come back elsewhere without noise.
        leases = duties.of("presence", lease_s=settings.presence_lease_s, hands_over=False)
        self._lease = NodeLease(leases, table, settings, self.registrar.reborn)

    def watch(self, errands: Errands) -> None:
        """Hears of what the fan-out delivers in topics of kinds with presence."""
        errands.watched_by(live=self.mirror.live, ephemeral=self.mirror.ephemeral, doubted=self._doubted)

    async def start(self) -> None:
        """Begins to tell others who is here; ``close`` must follow, before the duties are closed."""
        await self._lease.start()
        self.registrar.start(self._lease)

    async def close(self) -> None:
        """Nobody is removed."""
        await self.registrar.close()
        await self._lease.close()
        await self._snapshots.close()
        await self.mirror.close()

    # --- from the edge

    def hold(self) -> None:
        """The node leaves: its clients have until the end of its lease to come back elsewhere."""
        self._attendance.hold()

    def attendant(self, principal: Principal, kept: str = "") -> Attendant:
        """For a connection that is nowhere yet, to keep. ``kept``: of the one that it follows (``Attendant.kept``)."""
        attendant = self._attendance.attendant(principal.user, principal.name, kept)
        attendant.issued_at = principal.issued_at
        return attendant

    def refreshed(self, attendant: Attendant, principal: Principal) -> None:
        """It has a fresh token."""
        attendant.issued_at = principal.issued_at
        if attendant.name != principal.name:
            self._attendance.rename(attendant, principal.name)

    def expel(self, channel: bytes, users: Collection[str] | None) -> None:
        """Users (None: all) may not be in a topic any more: they have no grace there."""
        self._attendance.expel(channel, users)

    def dismiss(self, org: str, user: str, issued_before: float) -> None:
        """Tokens of a user are not accepted any more: connections by them that were lost have no grace."""
        self._attendance.dismiss(org, user, issued_before)

    def leave_all(self, attendant: Attendant) -> None:
        """The connection is about to be closed for good: no grace."""
        self._attendance.leave_all(attendant)

    def enter(self, attendant: Attendant, sub: Subscription) -> None:
        """It subscribes to a topic of a kind with presence."""
        self._attendance.enter(attendant, sub.topic.topic)

    def leave(self, attendant: Attendant, sub: Subscription) -> None:
        """A subscription was ended, by the client or the hub: its user leaves at once, if nothing else keeps him."""
        self._attendance.leave(attendant, sub.topic.topic)

    def lost(self, attendant: Attendant) -> None:
        """The connection has ended; its user stays for the grace."""
        self._attendance.lost(attendant)

    def forget(self, sub: Subscription) -> None:
        """A subscription is over, in whatever way."""
        self.mirror.left(sub.topic)

    def say(self, attendant: Attendant, status: Status) -> None:
        """What the client says it is. Raises ``rate_limited``."""
        self._attendance.say(attendant, status)

    def told(self, local: LocalTopic) -> tuple[str, int] | None:
        """Which version everybody in the live set without a filter has been told; None: not all of them the same."""
        return self.mirror.told(local)

    async def get(self, topic: Topic) -> Snapshot:
        """Who is present, over all nodes. Raises ``unavailable``."""
        known = self.mirror.known(topic)
        if known is not None:
            return known
        outcome = await asyncio.shield(self._snapshots.ask(topic))
        # Clients here may have got newer events meanwhile.
        known = self.mirror.known(topic)
        if known is not None:
            return known
        if isinstance(outcome, HubError):
            raise outcome
        return outcome

    def _doubted(self, local: LocalTopic) -> None:
        # Of what is not kept something may have been lost; perhaps Redis has lost who is here as well.
        self.mirror.doubt(local)
        self.registrar.resync(local.topic)
