"""What is done now and then: checks that nobody has begun, uploads that nobody goes on with, what is left in the store.

Nodes may do the same at the same time: whoever is second finds nothing, or removes what is removed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

import structlog

from hub.api import ErrorCode, Hub, HubError, OrgId
from services.uploads.endings import Endings
from services.uploads.metrics import UploadMetrics
from services.uploads.records import Records
from services.uploads.shapes import GONE, State
from services.uploads.store import Store

_PER_ROUND: Final = 100

_log = structlog.get_logger(__name__)


class Janitor:
    """One task per node. ``check``: begins the check of an upload, if this node has room for it."""

    def __init__(
        self,
        hub: Hub,
        records: Records,
        endings: Endings,
        store: Store,
        check: Callable[[OrgId, str], None],
        metrics: UploadMetrics,
    ) -> None:
        self._settings = hub.settings
        self._records = records
        self._endings = endings
        self._store = store
        self._check = check
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """``close`` must follow."""
        self._task = asyncio.create_task(self._run(), name="upload-janitor")

    async def close(self) -> None:
        """In the middle; another node goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            # Not all nodes at the same moment.
            await asyncio.sleep(self._settings.uploads_janitor_s * random.uniform(0.8, 1.2))
            try:
                await self.look_after()
            except HubError as error:
                _log.info("uploads_looked_after_later", reason=error.message)
            except Exception:
                _log.exception("uploads_not_looked_after")

    async def look_after(self) -> int:
        """One round; returns how many there were."""
        due = await self._endings.due(_PER_ROUND)
        for org, upload, state in due:
            try:
                await self._do(org, upload, state)
            except HubError as error:
                if error.code is not ErrorCode.UNAVAILABLE:
                    raise
                # The store, perhaps; the others may have another.
                _log.info("upload_looked_after_later", reason=error.message)
        return len(due)

    async def _do(self, org: OrgId, upload: str, state: State) -> None:
        if state is State.RECEIVING:
            await self._expire(org, upload)
        elif state in (State.RECEIVED, State.CHECKING):
            if await self._endings.expire(org, upload) is None:
                self._check(org, upload)
        elif state is State.AVAILABLE:
            await self._store.clear(org, upload)
            if not await self._endings.cleared(org, upload, state):
                await self._endings.remove_old(org, upload)
        elif state in GONE and not await self._records.needed(org, upload):
            await self._store.remove(org, upload)
            await self._endings.cleared(org, upload, state)
            await self._endings.forget(org, upload)

    async def _expire(self, org: OrgId, upload: str) -> None:
        if await self._endings.expire(org, upload) is not None:
            self._metrics.ended(State.EXPIRED)
            await self._store.remove(org, upload)
