"""Joining and leaving topics: the first local subscriber subscribes in Redis, the last one leaves after a delay.

Joining reads history at the same time as it subscribes: one concurrent batch for any number of topics. Registry entries
change only between awaits, and the link to Redis takes commands in order, so a join and a leave at the same moment
cannot deafen a topic.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog
from msgspec import Struct

from hub.config import Settings
from hub.errors import ErrorCode, HubError
from hub.fanout.attentive import Attentive
from hub.fanout.broker import Broker
from hub.fanout.delivery import Delivery
from hub.fanout.healer import Healer
from hub.fanout.history import History, SharedPage
from hub.fanout.turnstile import Step, Turnstile
from hub.topics.filters import TagFilter
from hub.topics.kinds import TopicKind
from hub.topics.publication import TopicState
from hub.topics.splice import Asked, plan_recovery
from hub.topics.subscriptions import LocalTopic, LocalTopics, Phase, Subscriber, Subscription, SubState
from hub.topics.topic import Topic

log = structlog.get_logger(__name__)


class JoinRequest(Struct, frozen=True):
    """One topic that a subscriber may and wants to join."""

    topic: Topic
    kind: TopicKind
    asked: Asked = "now"
    filter: TagFilter | None = None
    ack: bool = False
    first_permitted: int = 1


class Joined(Struct, frozen=True):
    """What goes into the verdict. ``Membership.activate`` must follow, after the verdict was sent, without an await."""

    subscription: Subscription
    epoch: str
    seq: int
    recovered: bool
    page: SharedPage | None


class Membership:
    """Owns the registry of local topics and its agreement with Redis."""

    def __init__(  # noqa: PLR0913 - everything about joining meets here
        self,
        settings: Settings,
        topics: LocalTopics,
        broker: Broker,
        history: History,
        healer: Healer,
        delivery: Delivery,
        turnstile: Turnstile,
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._broker = broker
        self._history = history
        self._healer = healer
        self._delivery = delivery
        self._turnstile = turnstile
        self._tasks: set[asyncio.Task[None]] = set()
        self.attentive: Final = Attentive(settings.attentive_s)

    async def join(self, subscriber: Subscriber, requests: Sequence[JoinRequest]) -> list[Joined | HubError]:
        """Joins all; one outcome each, in order. Nothing is delivered before ``activate``."""
        subs = self._hold(subscriber, requests)
        # Taken now: when somebody waits for them, they may have been answered and forgotten.
        openings = [sub.topic.subscribed for sub in subs]
        try:
            reading = [sub for sub in subs if self._needs_history(sub)]
            read, opened = await asyncio.gather(
                self._history.read([(sub.topic.topic, sub.asked) for sub in reading]),
                self._opened(openings),
            )
            # Many may have waited for the same answer.
            await self._turnstile.turn(Step.CATCH_UP)
        except BaseException:
            for sub in subs:
                self.leave(sub)
            raise
        pages = dict(zip(reading, read, strict=True))
        outcomes: list[Joined | HubError] = []
        for sub, failure in zip(subs, opened, strict=True):
            page = pages.get(sub)
            error = failure or (page if isinstance(page, HubError) else None)
            if error is not None:
                self.leave(sub)
                outcomes.append(error)
            else:
                outcomes.append(_verdict(sub, page if isinstance(page, SharedPage) else None))
        return outcomes

    def activate(self, joined: Joined) -> None:
        """Announces gaps, replays, goes live. Called once, right after the verdict was sent."""
        sub = joined.subscription
        if sub.state is not SubState.JOINING:
            return
        local = sub.topic
        if joined.page is not None:
            self._delivery.replay(sub, joined.page)
        else:
            sub.epoch, sub.seq = local.epoch, local.top
            self._delivery.settle(sub)
        local.release_tail()

    def leave(self, sub: Subscription) -> None:
        """Ends a subscription in whatever state. Nothing of it is delivered any more."""
        if sub.state is SubState.ENDED:
            return
        if sub.state is SubState.JOINING:
            sub.topic.release_tail()
        sub.topic.leave_live(sub, SubState.ENDED)
        self.attentive.discard(sub)
        sub.topic.discard(sub)
        sub.topic.holders -= 1
        if sub.topic.holders == 0:
            asyncio.get_running_loop().call_later(self._settings.unsubscribe_delay_s, self._give_up, sub.topic)

    async def close(self) -> None:
        """Ends what is under way."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- joining

    def _hold(self, subscriber: Subscriber, requests: Sequence[JoinRequest]) -> list[Subscription]:
        subs: list[Subscription] = []
        fresh: list[LocalTopic] = []
        for request in requests:
            local, new = self._topics.hold(request.topic, request.kind)
            if new or (local.phase is Phase.SUBSCRIBING and local.subscribed is None):
                local.subscribed = asyncio.get_running_loop().create_future()
                fresh.append(local)
            local.keep_tail()
            sub = _subscription(local, subscriber, request, self._settings.ack_window)
            local.add(sub)
            self.attentive.add(sub)
            subs.append(sub)
        if fresh:
            # A task of its own: others may wait for the same topics, whatever becomes of this subscriber.
            task = asyncio.create_task(self._open(fresh), name="subscribe")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return subs

    async def _open(self, fresh: list[LocalTopic]) -> None:
        outcome: HubError | None = None
        states: Sequence[TopicState | HubError | None] = [None] * len(fresh)
        try:
            states = await self._broker.subscribe([local.topic for local in fresh])
        except HubError as error:
            outcome = error
        finally:
            for local, state in zip(fresh, states, strict=True):
                self._settle_opening(local, outcome or state)

    def _settle_opening(self, local: LocalTopic, outcome: TopicState | HubError | None) -> None:
        future, local.subscribed = local.subscribed, None
        if future is None or future.done():
            return
        if isinstance(outcome, HubError):
            future.set_result(outcome)
        elif outcome is None:
            future.set_result(HubError(ErrorCode.UNAVAILABLE, "the hub is stopping"))
        else:
            self._healer.open(local, outcome)
            future.set_result(None)

    async def _opened(self, openings: Sequence[asyncio.Future[HubError | None] | None]) -> list[HubError | None]:
        return [None if opening is None else await asyncio.shield(opening) for opening in openings]

    def _needs_history(self, sub: Subscription) -> bool:
        if sub.topic.kind.history is None:
            return False
        # Live only, on a topic that is heard of already: its position is known here.
        return sub.asked != "now" or sub.topic.phase is Phase.HEALING

    # --- leaving

    def _give_up(self, local: LocalTopic) -> None:
        if local.holders == 0 and self._topics.get(local.channel) is local:
            self._topics.remove(local)
            self._broker.unsubscribe([local.topic])


def _subscription(local: LocalTopic, subscriber: Subscriber, request: JoinRequest, window: int) -> Subscription:
    sub = Subscription(local, subscriber, request.asked)
    if request.filter is not None:
        sub.filter = request.filter
        sub.position_sent_at = time.monotonic()
    sub.first_permitted = request.first_permitted
    if request.ack and local.kind.history is not None:
        sub.window = window
        sub.unacked = deque()
    return sub


def _verdict(sub: Subscription, page: SharedPage | None) -> Joined:
    local = sub.topic
    if local.kind.history is None:
        return Joined(sub, "", 0, True, None)
    if page is None:
        return Joined(sub, local.epoch, local.top, True, None)
    plan = plan_recovery(sub.asked, page.state, sub.first_permitted)
    return Joined(sub, page.state.epoch, page.state.top, plan.recovered, page)
