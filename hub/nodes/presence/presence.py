"""The door to presence: what the edge says of its connections and the fan-out of its topics, and who is asked for whom.

``attendance`` knows who is here, ``registrar`` tells Redis, ``mirror`` knows who is there from all nodes.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from hub.auth.principal import Principal
from hub.config import Settings
from hub.errors import HubError
from hub.nodes.presence import registrar, snapshots
from hub.nodes.presence.attendance import Attendant
from hub.nodes.presence.mirror import Mirror
from hub.nodes.presence.registrar import Registrar
from hub.nodes.presence.snapshots import Snapshots
from hub.nodes.presence.table import Snapshot, Status
from hub.telemetry import PresenceMetrics
from hub.topics.subscriptions import LocalTopic, Subscription
from hub.topics.topic import Topic


class Table(registrar.Table, snapshots.Table, Protocol):
    """What is needed of ``PresenceTable``."""


class Presence:
    """Presence on this node."""

    def __init__(self, settings: Settings, table: Table, lease: registrar.Lease, metrics: PresenceMetrics) -> None:
        self.registrar = Registrar(settings, table, lease, metrics)
        self._attendance = self.registrar.attendance
        self._snapshots = Snapshots(table, metrics)
        self.mirror = Mirror(settings, metrics, self._snapshots, self.registrar.resync)

    def start(self) -> None:
        """Begins to tell others who is here; ``close`` must follow."""
        self.registrar.start()

    async def close(self) -> None:
        """Nobody is removed: who comes back on another node within the time of the lease makes no noise."""
        await self.registrar.close()
        await self._snapshots.close()
        await self.mirror.close()

    # --- from the edge

    def enter(self, attendant: Attendant | None, principal: Principal, sub: Subscription) -> Attendant:
        """A connection subscribes to a topic of a kind with presence. What is returned is the connection's to keep."""
        if attendant is None:
            attendant = self.attendant(principal)
        self._attendance.enter(attendant, sub.topic.topic)
        return attendant

    def attendant(self, principal: Principal) -> Attendant:
        """For a connection that is nowhere yet."""
        return self._attendance.attendant(principal.user, principal.name)

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
        """What the client says it is."""
        self._attendance.say(attendant, status)

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

    # --- from the fan-out

    def doubted(self, local: LocalTopic) -> None:
        """What is not kept may have been lost, and with it what Redis knew."""
        self.mirror.doubt(local)
        self.registrar.resync(local.topic)
