"""Feeds slow and returning subscriptions from history, page by page, until they are live again.

One task per connection that lags, and only while it lags. A page goes out when the connection takes bytes; nothing
waits in memory for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

import structlog

from hub.config import Settings
from hub.errors import HubError
from hub.fanout.conflate import Newest, conflated
from hub.fanout.delivery import Delivery, enter
from hub.fanout.history import History, SharedPage
from hub.fanout.run import Run
from hub.fanout.turnstile import Step, Turnstile
from hub.protocol.frames import Position
from hub.topics.kinds import SlowPolicy
from hub.topics.publication import Publication
from hub.topics.splice import plan_recovery
from hub.topics.subscriptions import Subscriber, Subscription, SubState

log = structlog.get_logger(__name__)

TOPICS_PER_TURN = 4  # pages written to one connection at a time: 4 × replay_page_bytes at most


class CatchUp:
    """Owns the catch-up tasks."""

    def __init__(self, settings: Settings, history: History, delivery: Delivery, turnstile: Turnstile) -> None:
        self._settings = settings
        self._history = history
        self._delivery = delivery
        self._turnstile = turnstile
        self._lagging: dict[Subscriber, set[Subscription]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._conflating: dict[Subscription, Newest] = {}

    def start(self, sub: Subscription) -> None:
        """Feeds ``sub`` from its position until it is live."""
        sub.state = SubState.CATCHING_UP
        lagging = self._lagging.get(sub.subscriber)
        if lagging is None:
            lagging = self._lagging[sub.subscriber] = set()
            task = asyncio.create_task(self._run(sub.subscriber, lagging), name="catch-up")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        lagging.add(sub)

    def resume(self, subscriptions: Iterable[Subscription]) -> None:
        """Their connection takes bytes again: each goes on by the slow policy of its kind."""
        for sub in subscriptions:
            if sub.state is not SubState.PAUSED:
                continue
            policy = sub.topic.kind.slow
            if policy is SlowPolicy.GAP:
                self._delivery.skip_to_live(sub)
                continue
            if policy is SlowPolicy.LATEST:
                self._conflating[sub] = {}
            self.start(sub)

    async def close(self) -> None:
        """Ends what is under way."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, subscriber: Subscriber, lagging: set[Subscription]) -> None:
        pause = 0.05
        try:
            while lagging and not subscriber.gone:
                await subscriber.writable()
                turn = [lagging.pop() for _ in range(min(len(lagging), TOPICS_PER_TURN))]
                failed = await self._feed(turn)
                if failed:
                    lagging.update(failed)
                    pause = min(pause * 2, self._settings.reconnect_max_s)
                    await asyncio.sleep(pause * random.uniform(0.5, 1))
        finally:
            del self._lagging[subscriber]
            for sub in lagging:
                self._conflating.pop(sub, None)

    async def _feed(self, turn: list[Subscription]) -> list[Subscription]:
        """Delivers a page to each; returns those whose page could not be read."""
        # Live events that come while a page is read are kept, or a subscription to a busy topic would never meet it.
        for sub in turn:
            sub.topic.keep_tail()
        try:
            pages = await self._history.read([(sub.topic.topic, sub.asked) for sub in turn])
            # Many may have waited for the same page.
            await self._turnstile.turn(Step.LAG)
            return [sub for sub, page in zip(turn, pages, strict=True) if not self._take(sub, page)]
        finally:
            for sub in turn:
                sub.topic.release_tail()

    def _take(self, sub: Subscription, page: SharedPage | HubError) -> bool:
        """Delivers a page. False: try again, it could not be read."""
        if sub.state is not SubState.CATCHING_UP:  # it ended meanwhile
            self._conflating.pop(sub, None)
            return True
        if isinstance(page, HubError):
            return False
        try:
            if sub in self._conflating:
                self._conflate(sub, page)
            else:
                self._delivery.replay(sub, page)
        except Exception:
            # Giving up would leave the subscription silent for ever; whatever it was, it is in the log.
            log.exception("catch-up failed", kind=sub.topic.topic.kind)
            return sub.state is not SubState.CATCHING_UP
        return True

    def _conflate(self, sub: Subscription, page: SharedPage) -> None:
        """Collects the newest per tag value over all pages, then delivers them and announces the rest."""
        plan = plan_recovery(sub.asked, page.state, sub.first_permitted)
        newest = self._conflating[sub]
        tag = sub.topic.kind.latest_tag or ""
        if plan.holes:
            # What was collected stands before the hole, and so does what it leaves out.
            if isinstance(sub.asked, Position):
                self._deliver_newest(sub, newest, sub.asked.seq)
            if sub.window_room <= 0:
                del self._conflating[sub]
                self._delivery.settle(sub)
                return
            for hole in plan.holes:
                self._delivery.announce(sub, page.state.epoch, hole)
            newest.clear()
            enter(sub, page.state.epoch, plan.after)
        for index, publication in enumerate(page.run.publications):
            if publication.seq > plan.after:
                newest[page.run.tags(index).get(tag)] = publication
        if page.more:
            sub.asked = Position(page.state.epoch, max(plan.after, page.run.publications[-1].seq))
            self.start(sub)
            return
        del self._conflating[sub]
        self._deliver_newest(sub, newest, page.state.top)
        self._delivery.settle(sub)

    def _deliver_newest(self, sub: Subscription, newest: Newest, top: int) -> None:
        """Delivers what was collected since the subscription's position; ``top`` is how far that went."""
        for item in conflated(newest, sub.seq, top):
            if sub.window_room <= 0:
                break  # the rest comes when acknowledgements do
            if isinstance(item, Publication):
                self._delivery.write(sub, Run(sub.topic.topic.wire, [item]))
            else:
                self._delivery.announce(sub, sub.epoch, item)
                sub.seq = item.to
