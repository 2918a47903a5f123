"""How far the readers of a topic are behind, over all nodes, for services that write at a pace.

Each node looks at its own subscriptions (``hub.fanout.attentive``) and tells the others while somebody lags.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from hub.config import Settings
from hub.errors import HubError
from hub.fanout.attentive import Attentive
from hub.fanout.control import Control, Lags
from hub.orgs import OrgId

LOOK_S: Final = 0.25
FORGET_S: Final = 1.0  # a node that says nothing for so long has nobody who lags, or is gone

log = structlog.get_logger(__name__)


class _Report(NamedTuple):
    """What one node said last."""

    at: float
    lags: dict[tuple[str, str], int]


class Attention:
    """Knows by how much who reads a topic is behind, as far as its kind is paced."""

    def __init__(
        self,
        settings: Settings,
        node: str,
        attentive: Attentive,
        control: Control,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._node = node
        self._attentive = attentive
        self._control = control
        self._clock = clock
        self._reports: dict[str, _Report] = {}  # by node; old ones go whenever one comes
        self._told = False
        """The others believe that somebody lags here."""
        self._task: asyncio.Task[None] | None = None
        control.on(Lags, self._take)

    def start(self) -> None:
        """Starts looking; ``close`` must follow."""
        self._task = asyncio.create_task(self._run(), name="attention")

    async def close(self) -> None:
        """Ends it. The others forget what this node said last."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def lag(self, org: OrgId, topic: str) -> int:
        """How many kept events the slowest attentive subscriber of any node is behind. 0: none lags, or there is none.

        Attentive: ``ack:true``, and not silent for ``attentive_s`` although there is something to acknowledge. Of kinds
        that are ``paced`` only; less than ``attention_least`` counts as nothing. It is a quarter of a second old.
        """
        if not self._reports:
            return 0  # as a rule, and before every chunk of a stream
        now = self._clock()
        reports = [report for report in self._reports.values() if now - report.at <= FORGET_S]
        return max((report.lags.get((org, topic), 0) for report in reports), default=0)

    async def look(self) -> None:
        """One look. Tells the others who lags, and once when nobody does any more. Raises ``unavailable``."""
        lags = self._attentive.lags(self._clock(), self._settings.attention_least)
        if not lags and not self._told:
            return
        worst = heapq.nlargest(self._settings.attention_reports, lags.items(), key=lambda item: item[1])
        said = tuple((str(local.topic.org), local.topic.text, behind) for local, behind in worst)
        await self._control.send(Lags(self._node, said))
        self._told = bool(said)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except HubError:
                # Redis is away, and with it everything that could be paced; the next look says it again.
                pass
            except Exception:
                log.exception("attention_failed")

    def _take(self, message: Lags) -> None:
        now = self._clock()
        lags = {(org, topic): behind for org, topic, behind in message.lags}
        known = self._reports | {message.node: _Report(now, lags)}
        self._reports = {node: report for node, report in known.items() if report.lags and now - report.at <= FORGET_S}
