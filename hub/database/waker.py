"""Tells the relays of all nodes that this one has committed something to publish.

Not in the transaction that publishes: PostgreSQL has one lock for all of NOTIFY and holds it until the commit is on
disk, so that such commits could not share a write. A transaction that only notifies waits for no disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import asyncpg
import structlog

from hub.config import Settings
from hub.database.failures import LOST

CHANNEL: Final = "hub_outbox"
"""Named in ``hub.outbox_append`` too, for who publishes by SQL."""

_log = structlog.get_logger(__name__)

_NOTIFY = f"NOTIFY {CHANNEL}"
_CLOSE_TIMEOUT_S = 1.0


class Waker:
    """One connection of its own, so that it waits behind no transaction; made when first needed. ``close`` must follow.

    A wake-up that fails is nobody's error: it is made up for after ``reconnect_max_s``, and the relays look every
    ``outbox_poll_s`` anyway.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._link: Any = None
        self._task: asyncio.Task[None] | None = None
        self._due = False
        self._closed = False

    def wake(self) -> None:
        """The relays will look for what was committed until now. Does not wait; one NOTIFY is under way at a time."""
        if self._closed:
            return
        # The one under way may have been seen before this commit was, so it does not count.
        self._due = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="outbox waker")

    async def close(self) -> None:
        """Ends at once: what is due is left to the next look of the relays."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._link is not None:
            with contextlib.suppress(*LOST):
                await self._link.close(timeout=_CLOSE_TIMEOUT_S)

    async def _run(self) -> None:
        while self._due:
            self._due = False
            try:
                if self._link is None or self._link.is_closed():
                    self._link = await self._connect()
                await self._link.execute(_NOTIFY)
            except LOST as error:
                self._due = True
                _log.warning("relays were not woken; they look by themselves", cause=repr(error))
                if self._link is not None:
                    # Whatever state it is in.
                    self._link.terminate()
                await asyncio.sleep(self._settings.reconnect_max_s)

    async def _connect(self) -> Any:
        timeout_s = self._settings.database_timeout_s
        return await asyncpg.connect(
            self._settings.database_url,
            timeout=timeout_s,
            command_timeout=timeout_s,
            server_settings={"application_name": "hub waker", "synchronous_commit": "off"},
        )
