"""A node's life as the others see it: an instance with a lease, and dead instances, which are taken away.

Who is present by an instance is said by ``hub.nodes.presence``; here it only ends, when the instance is dead.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from hub.config import Settings
from hub.errors import HubError
from hub.nodes.duties import Duties
from hub.nodes.presence.table import PresenceTable
from hub.orgs import CONTROL_ORG, OrgId
from hub.topics.topic import Topic

_TURNS_PER_LEASE: Final = 8

_log = structlog.get_logger(__name__)


class NodeLease:
    """The instance of this node, and the removal of those that are dead.

    An instance is one life of a node: a duty of the hub's own that is renewed while the node lives. Whichever node
    adopts it then takes the instance out of all topics. When the others believed this node dead, or Redis may have lost
    what was said, it goes on as a new instance: ``on_reborn`` is called with it, on the event loop, and whom the node
    has must be said anew (``whole``). What Redis still has by the old name, it takes away a lease later.

    ``duties`` are of a purpose for this alone, with ``hands_over=False``.
    """

    def __init__(
        self, duties: Duties, table: PresenceTable, settings: Settings, on_reborn: Callable[[str], None]
    ) -> None:
        self._duties = duties
        self._table = table
        self._settings = settings
        self._on_reborn = on_reborn
        self.left: Callable[[str], Sequence[Topic]] = lambda _: ()
        """Topics of which the notes of an instance were taken away lately. Their servers may have forgotten that."""
        self._instance = _new_instance()
        self._held = asyncio.Event()
        self._wake = asyncio.Event()
        self._reborn = False
        self._dead: dict[str, None] = {}
        """Adopted, to be taken out of all topics; bounded by max_duties."""
        self._servers: frozenset[str] = frozenset()
        """Those there were before the instance began; what was said in its name was said to them."""
        self._past: dict[str, float] = {}
        """Instances of this node, and when nothing will be said by them any more. One for each time it was lost."""
        self._task: asyncio.Task[None] | None = None
        duties.on_adopt(self._adopt)
        duties.on_lost(self._lost)

    @property
    def instance(self) -> str:
        """The name to say presence with; it has its lease when ``held`` has just returned."""
        return self._instance

    async def held(self) -> None:
        """Returns when the instance has its lease: at once, or when Redis is back."""
        await self._held.wait()

    async def start(self) -> None:
        """Begins to take the lease and to remove the dead. ``close`` must follow, before the duties are closed."""
        self._task = asyncio.create_task(self._keep(), name="node-lease")

    async def close(self) -> None:
        """Stops removing. The lease runs out by itself: who was connected here has this long to come back elsewhere."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        # Nobody comes back as these; another removes what is left of them, and not a lease later.
        for instance in (*self._dead, *self._past):
            self._duties.give_back(CONTROL_ORG, instance)

    def _adopt(self, _: OrgId, instance: str) -> None:
        self._dead[instance] = None
        self._wake.set()

    def _lost(self, _: OrgId, instance: str) -> None:
        self._dead.pop(instance, None)
        if instance != self._instance:
            return
        _log.warning("instance_lost", instance=instance)
        self._instance = _new_instance()
        self._held.clear()
        self._reborn = True
        # What was under way in its name arrives after the others have removed it.
        self._past[instance] = asyncio.get_running_loop().time() + self._settings.presence_lease_s
        self._wake.set()

    async def _keep(self) -> None:
        turn = self._settings.presence_lease_s / _TURNS_PER_LEASE
        away = False
        while True:
            try:
                await self._do_what_is_due()
                away = False
            except HubError as error:
                if not away:
                    away = True
                    _log.warning("presence_not_kept", dead=len(self._dead), reason=str(error))
            except Exception:
                # Without it the dead would stay present for ever.
                _log.exception("presence_not_kept")
            # After an error no earlier than this, whatever is to be done.
            await self._rest(turn, early=not away)

    async def _do_what_is_due(self) -> None:
        instance = self._instance
        if not self._held.is_set():
            await self._take_lease(instance)
        elif not await self._is_known(instance):
            self._lost(CONTROL_ORG, instance)
        while self._dead and self._held.is_set():
            await self._remove(next(iter(self._dead)))
        for past, due in list(self._past.items()):
            # Until then this node's as well: if it dies now, another looks after it.
            mine = await self._duties.take(CONTROL_ORG, past)
            if mine and asyncio.get_running_loop().time() >= due:
                await self._table.note(past, self.left(past))
                await self._remove(past)
                del self._past[past]

    async def _is_known(self, instance: str) -> bool:
        """Whether Redis has everything that was said in its name."""
        # Of a node that hung for long others have finished the removal and forgotten the lease: it is renewed as if
        # nothing had been.
        if not await self._table.lives(instance):
            return False
        # Another server, or the same one started again, may have the state of a moment ago: somebody who has left since
        # is there again, in a topic of which this node knows nothing any more.
        servers = await self._servers_now()
        return servers is None or servers <= self._servers

    async def _servers_now(self) -> frozenset[str] | None:
        try:
            return await self._table.servers()
        except HubError:
            return None  # one of many is away: it holds up nothing, and is looked at when it is back

    async def _take_lease(self, instance: str) -> None:
        if not await self._duties.take(CONTROL_ORG, instance):
            return
        self._servers = await self._servers_now() or self._servers
        await self._table.begin(instance)
        if instance != self._instance:
            return  # lost already
        self._held.set()
        _log.info("instance_begins", instance=instance)
        if self._reborn:
            self._reborn = False
            self._on_reborn(instance)

    async def _remove(self, instance: str) -> None:
        users = await self._table.remove(instance)
        self._dead.pop(instance, None)
        self._duties.release(CONTROL_ORG, instance)
        _log.info("instance_removed", instance=instance, users=users)

    async def _rest(self, longest: float, *, early: bool) -> None:
        if not early:
            await asyncio.sleep(longest)
            return
        try:
            async with asyncio.timeout(longest):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()


def _new_instance() -> str:
    return secrets.token_hex(8)
