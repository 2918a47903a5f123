"""Closes holes: reads what a topic's live set has missed, delivers it in order, or announces what is gone.

One task per topic in doubt, as many at a time as the settings allow. While a topic is HEALING its live events are kept
back, so nobody sees them before what is missing.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from hub.config import Settings
from hub.errors import HubError
from hub.fanout.delivery import Delivery, enter, gap_frame
from hub.fanout.dispatcher import Dispatcher
from hub.fanout.errands import Errands
from hub.fanout.history import History, SharedPage
from hub.protocol.codec import Encoding, Packet, packet
from hub.telemetry import Metrics
from hub.topics.publication import TopicState
from hub.topics.splice import Hole, plan_recovery, splice
from hub.topics.subscriptions import LocalTopic, LocalTopics, Phase

FIRST_PAUSE_S = 0.05

log = structlog.get_logger(__name__)


class Healer:
    """Owns the healing tasks."""

    def __init__(  # noqa: PLR0913 - wiring
        self,
        settings: Settings,
        metrics: Metrics,
        topics: LocalTopics,
        history: History,
        dispatcher: Dispatcher,
        delivery: Delivery,
        errands: Errands,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._topics = topics
        self._history = history
        self._dispatcher = dispatcher
        self._delivery = delivery
        self._errands = errands
        self._slots = asyncio.Semaphore(settings.heal_concurrency)
        self._tasks: dict[LocalTopic, asyncio.Task[None]] = {}

    def heal(self, local: LocalTopic) -> None:
        """Starts healing, unless it is under way. From now on the topic's live events are kept back."""
        if local in self._tasks:
            return
        local.phase = Phase.HEALING
        self._tasks[local] = asyncio.create_task(self._run(local), name=f"heal-{local.topic.kind}")

    def open(self, local: LocalTopic, state: TopicState) -> None:
        """The first subscription took effect: the topic's position is ``state``, and what was kept back follows."""
        if local.kind.history is not None:
            local.epoch, local.top = state.epoch, state.top
        local.phase = Phase.LIVE
        if not self._release(local) or local.doubted:
            self.heal(local)

    async def close(self) -> None:
        """Ends what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, local: LocalTopic) -> None:
        pause = FIRST_PAUSE_S
        try:
            async with self._slots:
                while self._topics.get(local.channel) is local and not await self._attempt(local):
                    pause = min(pause * 2, self._settings.reconnect_max_s)
                    await asyncio.sleep(pause * random.uniform(0.5, 1))
        finally:
            del self._tasks[local]
        self._metrics.healed(local.kind.name)
        if local.kind.presence:
            self._errands.doubted(local)
        self._settle_ahead(local)

    async def _attempt(self, local: LocalTopic) -> bool:
        """Reads on until there is no hole any more. False: history could not be read; try again."""
        try:
            while self._topics.get(local.channel) is local:
                local.doubted = False
                # Not shared with a read that began before the doubt.
                (page,) = await self._history.read([(local.topic, local.position)], fresh=True)
                if isinstance(page, HubError):
                    return False
                if self._apply(local, page):
                    return True
        except Exception:
            # Giving up would leave the topic deaf for ever; whatever it was, it is in the log.
            log.exception("healing failed", kind=local.topic.kind)
            return False
        return True

    def _apply(self, local: LocalTopic, page: SharedPage) -> bool:
        """Delivers one page, then what was kept back. True when the topic has no hole any more."""
        with self._dispatcher.turn():
            local.finish_walk()
            return self._apply_in_turn(local, page)

    def _apply_in_turn(self, local: LocalTopic, page: SharedPage) -> bool:
        plan = plan_recovery(local.position, page.state)
        for hole in plan.holes:
            self._announce(local, page.state.epoch, hole)
        if plan.holes:
            self._rebase(local, page.state.epoch, plan.after)
        self._dispatcher.accept_run(local, [item for item in page.run.publications if item.seq > local.top])
        if page.more or not self._release(local) or local.doubted:
            return False
        local.phase = Phase.LIVE
        return True

    def _release(self, local: LocalTopic) -> bool:
        """Delivers what was kept back, as far as it has no hole. What is left over is in history."""
        run, complete = splice(local.position, local.backlog or ())
        local.backlog = None
        local.backlog_bytes = 0
        if run:
            self._dispatcher.accept_run(local, run)
        return complete

    def _rebase(self, local: LocalTopic, epoch: str, after: int) -> None:
        local.epoch, local.top = epoch, after
        local.drop_tail()
        for sub in local.picky:
            enter(sub, epoch, after)
        for sub in tuple(local.ahead):
            if sub.epoch == epoch and sub.seq < after:
                # The hole goes further than its history went: it needs a gap of its own.
                local.leave_ahead(sub)
                self._delivery.read_again(sub)

    def _announce(self, local: LocalTopic, epoch: str, hole: Hole) -> None:
        frame = gap_frame(local, epoch, hole)
        packets: dict[Encoding, Packet] = {encoding: packet(frame, encoding) for encoding in Encoding}
        count = 0
        for sub in local.live_subscriptions():
            sub.subscriber.deliver(packets[sub.subscriber.encoding])
            self._errands.gapped(sub)
            count += 1
        self._metrics.gap(local.kind.name, hole.reason, count)
        log.info("gap", kind=local.topic.kind, org=local.topic.org, reason=hole.reason, subscribers=count)

    def _settle_ahead(self, local: LocalTopic) -> None:
        """Those whose history was of another epoch than the topic read again; the others go live or wait on."""
        for sub in tuple(local.ahead):
            local.leave_ahead(sub)
            if sub.epoch != local.epoch:
                self._delivery.read_again(sub)
            else:
                self._delivery.settle(sub)
