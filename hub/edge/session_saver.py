"""Stores the acknowledged positions of sessions, and how their clients are present.

Once a second for those that changed, when a connection ends, and at once for those that wander from node to node.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec
import structlog

from hub.auth.principal import Principal
from hub.config import Settings
from hub.errors import HubError
from hub.fanout.sessions import Resumed, SessionOwner, Sessions, SessionSave
from hub.protocol.codes import CloseCode

if TYPE_CHECKING:
    from hub.edge.connection import Connection

log = structlog.get_logger(__name__)

SAVES_PER_BATCH = 500
MESSAGE_S = 2.0  # for what a newer connection of a session has to say to the older one


class SessionSaver:
    """One task per node. Bounded by the connections there are and those that ended since the last turn."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self._pause_s = settings.session_save_s
        self._max_waiting = settings.max_connections
        self._sessions = sessions
        self._changed: set[Connection] = set()
        self._hurried: set[Connection] = set()
        self._hurry = asyncio.Event()
        self._left: dict[str, SessionSave] = {}
        self._taken: dict[Connection, bool] = {}
        """Somebody else has its session; True: the next save that finds it so closes it."""
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._giving_back: set[asyncio.Task[None]] = set()

    def changed(self, connection: Connection) -> None:
        """The connection has something to store."""
        self._changed.add(connection)

    def hurry(self, connection: Connection) -> None:
        """What it has to store, if anything, cannot wait: soon another node may have the session, and this one's saves
        take no effect."""
        self._hurried.add(connection)
        self._hurry.set()

    async def save_at_once(self, connection: Connection) -> None:
        """So that a client that was answered finds it on other nodes. If it fails, the next turn tries it again."""
        self._changed.add(connection)
        save = SessionSave(connection.session_id, connection.owner, {}, presence=connection.kept_presence)
        await self._sessions.save_many([save])

    def leave(self, connection: Connection) -> None:
        """The connection ended: its session is stored a last time and belongs to nobody."""
        self._changed.discard(connection)
        self._taken.pop(connection, None)
        if connection.principal is None or not connection.session_id or len(self._left) >= self._max_waiting:
            return
        positions, presence = dict(connection.acked or {}), connection.kept_presence
        save = SessionSave(connection.session_id, connection.owner, positions, release=True, presence=presence)
        self._left[connection.id] = save

    def give_back(self, session: str, principal: Principal, claim: asyncio.Future[Resumed | None]) -> None:
        """Who claimed it was lost before its client heard of that: an older connection that is still there keeps it.

        Bounded by the hellos that are under way.
        """
        task = asyncio.create_task(self._give_back(session, principal, claim), name="give back")
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)

    def start(self) -> None:
        """Starts the task; ``close`` must follow."""
        self._task = asyncio.create_task(self._run(), name="session-saver")

    async def close(self) -> None:
        """Stores what is left."""
        async with self._turn:  # what is under way would be lost
            if self._task is not None:
                self._task.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        await self.save()
        await asyncio.gather(*self._giving_back)

    async def save(self) -> None:
        """Stores everything that changed, in batches. What Redis does not take is tried again the next time.

        When this returns, what an earlier call had taken up has been stored too; a later one never overtakes it.
        """
        async with self._turn:
            await self._save()

    async def _save(self) -> None:
        while self._left:
            ids = list(self._left)[:SAVES_PER_BATCH]
            saves = [self._left.pop(name) for name in ids]
            outcomes = await self._sessions.save_many(saves)
            if any(isinstance(outcome, HubError) for outcome in outcomes):
                failed = (isinstance(outcome, HubError) for outcome in outcomes)
                self._left |= {i: s for i, s, bad in zip(ids, saves, failed, strict=True) if bad}
                break
        changed, self._changed = list(self._changed), set()
        await self._save_all(changed)

    async def _give_back(self, session: str, principal: Principal, claim: asyncio.Future[Resumed | None]) -> None:
        try:
            resumed = await claim
            if resumed is None or resumed.previous is None:
                return
            older, number = resumed.previous, resumed.claim + 1  # so that the claim itself is outdated
            owner = SessionOwner(principal.org, principal.user, older.node, older.connection, number)
            await self._sessions.save(session, owner, {})
        except HubError as error:
            log.warning("session not given back", error=error.code)

    async def _save_hurried(self) -> None:
        self._hurry.clear()
        hurried, self._hurried = [one for one in self._hurried if one in self._changed], set()
        self._changed.difference_update(hurried)
        await self._save_all(hurried)

    async def _save_all(self, connections: list[Connection]) -> None:
        for start in range(0, len(connections), SAVES_PER_BATCH):
            await self._save_some(connections[start : start + SAVES_PER_BATCH])

    async def _save_some(self, connections: list[Connection]) -> None:
        saves = []
        for connection in connections:
            positions, connection.acked = connection.acked, None
            presence = connection.kept_presence
            saves.append(SessionSave(connection.session_id, connection.owner, positions or {}, presence=presence))
        for connection, save, outcome in zip(connections, saves, await self._sessions.save_many(saves), strict=True):
            if isinstance(outcome, HubError):
                self._try_again(connection, save)
            elif outcome:
                self._taken.pop(connection, None)
            else:
                self._is_taken(connection, save)

    def _is_taken(self, connection: Connection, save: SessionSave) -> None:
        """Another connection has the session. Its message, which may ask what this one leaves, is under way, or lost;
        or it was lost itself, and gives the session back."""
        if self._taken.get(connection):
            connection.close(CloseCode.TAKEN_OVER)
        elif not connection.gone:
            connection.acked = {**save.positions, **(connection.acked or {})}
            if connection not in self._taken:
                self._taken[connection] = False
                asyncio.get_running_loop().call_later(MESSAGE_S, self._look_again, connection)

    def _look_again(self, connection: Connection) -> None:
        if connection in self._taken:
            self._taken[connection] = True
            self._changed.add(connection)

    def _try_again(self, connection: Connection, save: SessionSave) -> None:
        """Redis did not take these positions; what was acknowledged since stands above them."""
        left = self._left.get(connection.id)
        if left is not None:
            # The connection ended while they were under way: its last save must bear them too.
            both = {**save.positions, **left.positions}
            self._left[connection.id] = msgspec.structs.replace(left, positions=both)
        elif not connection.gone:
            connection.acked = {**save.positions, **(connection.acked or {})}
            self._changed.add(connection)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._pause_s
            try:
                while loop.time() < due:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(due):
                            await self._hurry.wait()
                    await self._save_hurried()
                await self.save()
            except Exception:
                log.exception("sessions not saved")
