"""What is done now and then: checks that nobody has begun, uploads that nobody goes on with, what is left in the store.

Nodes share the work: whoever looks at an upload holds it for a while. Nothing can stand in the way of others: what
cannot be done now is at the end of the line then, whatever the reason.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog

from hub.api import Hub, HubError, OrgId
from services.uploads.checker import Checker
from services.uploads.endings import Endings
from services.uploads.metrics import UploadMetrics
from services.uploads.records import Records
from services.uploads.shapes import GONE, State
from services.uploads.store import Store

_PER_ROUND: Final = 100
_CHECKED: Final = (State.RECEIVED, State.CHECKING)

_log = structlog.get_logger(__name__)


class Janitor:
    """One task per node."""

    def __init__(
        self, hub: Hub, records: Records, endings: Endings, store: Store, checker: Checker, metrics: UploadMetrics
    ) -> None:
        self._settings = hub.settings
        self._records = records
        self._endings = endings
        self._store = store
        self._checker = checker
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
                while await self.look_after() == _PER_ROUND:
                    pass
            except HubError as error:
                _log.info("uploads_looked_after_later", reason=error.message)
            except Exception:
                _log.exception("uploads_not_looked_after")

    async def look_after(self) -> int:
        """One round; returns for how many there was something to do beside a check."""
        due = await self._endings.due(min(_PER_ROUND, self._checker.room()), _PER_ROUND)
        others = 0
        for org, upload, state in due:
            others += state not in _CHECKED
            if await self._endings.hold(org, upload, state):
                await self._try(org, upload, state)
        return others

    async def _try(self, org: OrgId, upload: str, state: State) -> None:
        try:
            await self._do(org, upload, state)
        except HubError as error:
            # The store, perhaps; the others may have another.
            _log.info("upload_looked_after_later", upload=upload, code=error.code, reason=error.message)
        except Exception:
            _log.exception("upload_not_looked_after", upload=upload, state=state)

    async def _do(self, org: OrgId, upload: str, state: State) -> None:
        if state is State.RECEIVING:
            await self._expire(org, upload)
        elif state in _CHECKED:
            if await self._endings.expire(org, upload) is None:
                self._checker.begin(org, upload)
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
