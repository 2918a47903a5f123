"""The subscriptions of one client: asks for them, hands them their frames, takes care that none is forgotten. What is
about uploads goes on to ``upload_lane``.

Reading never stops for a slow consumer, because answers come over the same socket. A subscription whose buffer is full
is left instead (``State.BEHIND``) and joined again from its position, with ``ack: true``, when its consumer has made
room: from then on the hub's window keeps it from overflowing, and its history holds what waits.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from hub.client.acks import Acks
from hub.client.connection import Connection
from hub.client.errors import ClientError, ConnectionLost, ProtocolViolation, SubscriptionEnded
from hub.client.link import Link
from hub.client.options import ClientOptions
from hub.client.progress import Outcome
from hub.client.subscription import OnGap, State, Subscription
from hub.client.switched_off import SwitchedOff
from hub.client.upload_lane import Lanes
from hub.client.wire import (
    Credit,
    Error,
    ErrorBody,
    Flags,
    Gap,
    HubFrame,
    PositionFrame,
    Refusal,
    Reply,
    Unknown,
    Unsubscribed,
    Verdict,
    Verdicts,
    Welcome,
)
from hub.errors import ErrorCode
from hub.protocol.frames import Ack, Event, Position, Subscribe, SubscribeItem, Unsubscribe

logger = logging.getLogger("hub.client")

OnState = Callable[[Literal["up", "down"], str], None]
"""Told of every change of the connection: ``up``, or ``down`` with the reason and when the next attempt comes."""

# Refusals that pass by themselves. Anything else is the consumer's to know: it may have to look for another way.
_PASSING = frozenset(
    (
        ErrorCode.UNAVAILABLE,
        ErrorCode.TIMEOUT,
        ErrorCode.RATE_LIMITED,
        ErrorCode.QUOTA_EXCEEDED,
        ErrorCode.INTERNAL,
        ErrorCode.FEATURE_DISABLED,  # for a subscription that was live: flags come back
    )
)


class Counters(Struct):
    """What a client has seen, for metrics and tests."""

    connections: int = 0
    events: int = 0
    repeats: int = 0
    gaps: int = 0
    violations: int = 0
    unknown_frames: int = 0
    overflows: int = 0


class Registry:
    """Implements ``LinkOwner`` towards the link and ``SubscriptionOwner`` towards the subscriptions."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._subscriptions: dict[str, Subscription] = {}
        self._asked: dict[str, tuple[Subscription, Position | None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._off = SwitchedOff()
        self._failure: ClientError | None = None
        self.link: Link
        self.acks = Acks(options, self._flush)
        self.lanes = Lanes()
        self.counters = Counters()
        self.welcome: Welcome | None = None
        self.on_gap: OnGap | None = None
        self.on_state: OnState | None = None
        self.observer: Callable[[HubFrame], None] | None = None

    # --- SubscriptionOwner

    async def enter(self, subscription: Subscription) -> None:
        """Starts a subscription and waits for its first verdict."""
        if self._failure is not None:
            raise self._failure
        if subscription.topic in self._subscriptions:
            raise ValueError(
                f"this client is subscribed to {subscription.topic} already; share that subscription's events"
            )
        if len(self._subscriptions) >= self._options.max_subscriptions:
            raise ValueError(f"more than max_subscriptions={self._options.max_subscriptions} on one client")
        subscription.first_verdict = asyncio.get_running_loop().create_future()
        self._subscriptions[subscription.topic] = subscription
        async with asyncio.timeout(self._options.request_timeout_s):
            self._join(subscription)
            await subscription.first_verdict
        subscription.raise_if_ended()

    async def leave(self, subscription: Subscription) -> None:
        """Acknowledges, unsubscribes, forgets."""
        if self._subscriptions.get(subscription.topic) is not subscription:
            subscription.end(StopAsyncIteration())
            return
        del self._subscriptions[subscription.topic]
        self._off.discard(subscription)
        self._stop_timer(subscription.topic)
        position = self.acks.take(subscription.topic)
        subscribed = subscription.state in (State.LIVE, State.JOINING)
        acknowledge = position is not None and _may_ack(subscription, position)
        subscription.end(StopAsyncIteration())
        connection = self.link.current
        if connection is None or not subscribed:
            return
        try:
            async with asyncio.timeout(self._options.close_timeout_s):
                if position is not None and acknowledge:
                    await connection.send(Ack({subscription.topic: position}))
                await self._unsubscribe(connection, subscription.topic)
        except (ConnectionLost, TimeoutError):
            logger.info("left %s without a word: the connection is down", subscription.topic)

    def processed(self, subscription: Subscription, position: Position) -> None:
        """To be acknowledged soon."""
        if self._subscriptions.get(subscription.topic) is subscription:
            self.acks.add(subscription.topic, position)

    def rejoin(self, subscription: Subscription) -> None:
        """Joins again what was left because its buffer was full."""
        if self._subscriptions.get(subscription.topic) is subscription:
            subscription.state = State.OUT
            self._join(subscription)

    def gap_callback(self) -> OnGap | None:
        """The client's own callback."""
        return self.on_gap

    # --- LinkOwner

    def hello_items(self) -> list[SubscribeItem]:
        """Everything but what is waiting for its consumer."""
        wanted = [one for one in self._subscriptions.values() if one.state not in (State.BEHIND, State.ENDED)]
        self._asked = {one.topic: (one, one.progress.position) for one in wanted}
        return [one.item() for one in wanted]

    def on_welcome(self, connection: Connection, welcome: Welcome) -> None:
        """Takes the verdicts; what has changed since the ``hello`` is put right."""
        self.counters.connections += 1
        self.lanes.moved(connection)
        self.welcome = welcome
        self._off.on_again(welcome.flags)  # the verdicts say the rest
        asked, self._asked = self._asked, {}
        for verdict in (one for one in welcome.topics if one.topic in asked):
            subscription, since = asked[verdict.topic]
            wanted = self._subscriptions.get(verdict.topic) is subscription and subscription.state is not State.BEHIND
            if wanted and verdict.ok and subscription.progress.has_left(since):
                del asked[verdict.topic]  # below it is asked for from where it is now
                wanted = False
            if wanted:
                subscription.asked = since
                self._verdict(subscription, verdict)
            elif verdict.ok:
                self.link.spawn(self._unsubscribe(connection, verdict.topic))
        for subscription in list(self._subscriptions.values()):
            if subscription.topic not in asked and subscription.state is not State.BEHIND:
                subscription.state = State.OUT
                self._join(subscription)
        if self.on_state is not None:
            self.on_state("up", "")

    def on_frame(self, frame: HubFrame) -> None:
        """Hands a frame to its subscription. Raises ``ProtocolViolation``."""
        match frame:
            case Event(topic=topic) | Gap(topic=topic) | PositionFrame(topic=topic):
                subscription = self._subscriptions.get(topic)
                # After leaving, until the next verdict, frames that were under way are not for us any more.
                if subscription is not None and subscription.state is State.LIVE:
                    self._topic_frame(subscription, frame)
            case Unsubscribed(topic=topic):
                subscription = self._subscriptions.get(topic)
                if subscription is not None and subscription.state is State.LIVE:
                    self._refused(subscription, Refusal.of_end(frame))
            case Flags() if any(frame.flags.values()):
                self._join_switched_on()
            case Credit():
                self.lanes.credit(frame)
            case Error() if not self.lanes.refused(frame):
                logger.warning(
                    "the hub says %s about %s: %s", frame.code, frame.topic or "the connection", frame.message
                )
            case Unknown():
                self.counters.unknown_frames += 1
        if self.observer is not None:
            self.observer(frame)

    def on_down(self, reason: str, retry_in_s: float) -> None:
        """The subscriptions wait for the next ``hello``."""
        logger.info("the connection is down (%s); next attempt in %.2f s", reason, retry_in_s)
        self.lanes.moved(None)
        for subscription in self._subscriptions.values():
            if subscription.state is not State.BEHIND:
                subscription.state = State.OUT
        if self.on_state is not None:
            self.on_state("down", f"{reason}; next attempt in {retry_in_s:.1f} s")

    def elsewhere(self, transport: str) -> Sequence[str]:
        """Where what flags keep from ``transport`` is to be had."""
        return self._off.elsewhere(transport)

    def kept_from(self, transport: str) -> bool:
        """Whether a subscription is known not to be had over it."""
        return self._off.keeps_from(transport, self.link.flags)

    def on_stuck(self, transport: str) -> None:
        """What has a fallback that does not work is refused as if it had none."""
        for subscription, refusal in self._off.missing(transport):
            self._refused_here(subscription, refusal)

    def fail(self, failure: ClientError) -> None:
        """No connection will come any more: every consumer is told."""
        self._failure = failure
        self._end_all(failure)

    def close(self) -> None:
        """The client is leaving: the iterations end."""
        self._failure = ConnectionLost("the client was closed")
        self._end_all(StopAsyncIteration())

    # --- inside

    def _topic_frame(self, subscription: Subscription, frame: Event | Gap | PositionFrame) -> None:
        try:
            if isinstance(frame, PositionFrame):
                subscription.adopt(frame.epoch, frame.seq)
                return
            outcome = subscription.event(frame) if isinstance(frame, Event) else subscription.gap(frame)
        except ProtocolViolation:
            self.counters.violations += 1
            raise
        if outcome is None:
            self._fell_behind(subscription)
        elif outcome is Outcome.REPEAT:
            self.counters.repeats += 1
        elif isinstance(frame, Gap):
            self.counters.gaps += 1
        else:
            self.counters.events += 1

    def _fell_behind(self, subscription: Subscription) -> None:
        self.counters.overflows += 1
        subscription.state = State.BEHIND
        subscription.windowed = True
        if self.link.current is not None:
            self.link.spawn(self._unsubscribe(self.link.current, subscription.topic))

    def _join(self, subscription: Subscription) -> None:
        """Asks for it on the current connection; without one, the next ``hello`` will."""
        self._stop_timer(subscription.topic)
        connection = self.link.current
        if connection is None or connection.ended.done() or subscription.state is not State.OUT:
            return
        subscription.state = State.JOINING
        item = connection.wire.raw(subscription.item())

        def answered(answer: Reply | Error | None) -> None:
            # Of a connection that is no longer the current one, the next welcome's verdict counts.
            if connection is not self.link.current or self._subscriptions.get(subscription.topic) is not subscription:
                return
            if answer is None or subscription.state is not State.JOINING:
                return
            verdict = _verdict_in(answer, subscription.topic)
            if _is_there_already(verdict):
                # What was posted before, to leave it, got lost on its way; or it was posted during a move to here.
                connection.transport.differs.set()
            else:
                self._verdict(subscription, verdict)

        self.link.spawn(connection.insist(lambda number: Subscribe(id=number, topics=[item]), answered))

    def _verdict(self, subscription: Subscription, verdict: Verdict) -> None:
        self._stop_timer(subscription.topic)
        if verdict.ok:
            subscription.joined(verdict)
            if self.link.current is not None:
                self._off.joined(subscription, self.link.current.transport.name)
            return
        error = verdict.error if isinstance(verdict.error, ErrorBody) else None
        if error is None:
            raise ProtocolViolation(f"the verdict for {subscription.topic} says no without an error")
        self._refused(subscription, Refusal.of(error))

    def _refused(self, subscription: Subscription, refusal: Refusal) -> None:
        """Moves to where it is to be had, if it is."""
        if refusal.code == ErrorCode.FEATURE_DISABLED:
            self._off.add(subscription, refusal, self.link.flags)
            if self.link.fall_back(refusal.fallback):
                subscription.state = State.OUT  # the `hello` there asks for it
                return
        self._refused_here(subscription, refusal)

    def _refused_here(self, subscription: Subscription, refusal: Refusal) -> None:
        """Tries again later what passes by itself; everything else ends it."""
        disabled = refusal.code == ErrorCode.FEATURE_DISABLED
        passes = subscription.verdict is not None if disabled else refusal.retry != "never"
        if not passes or refusal.code not in _PASSING:
            self._subscriptions.pop(subscription.topic, None)
            self._off.discard(subscription)
            self.acks.take(subscription.topic)
            details = (refusal.retry_after_ms, refusal.details)
            subscription.end(SubscriptionEnded(refusal.code, refusal.message, refusal.retry, *details))
            return
        self._join_later(subscription, max(subscription.backoff.next_s(), (refusal.retry_after_ms or 0) / 1000))

    def _join_switched_on(self) -> None:
        """Something was switched on: perhaps what these wait for."""
        for subscription in self._off.on_again(self.link.flags):
            if subscription.state is State.OUT and self._subscriptions.get(subscription.topic) is subscription:
                subscription.backoff.reset()
                self._join_later(subscription, random.uniform(0, self._options.now_jitter_s))

    def _join_later(self, subscription: Subscription, delay_s: float) -> None:
        subscription.state = State.OUT
        self._stop_timer(subscription.topic)
        loop = asyncio.get_running_loop()
        self._timers[subscription.topic] = loop.call_later(delay_s, self._join, subscription)

    def _stop_timer(self, topic: str) -> None:
        timer = self._timers.pop(topic, None)
        if timer is not None:
            timer.cancel()

    async def _unsubscribe(self, connection: Connection, topic: str) -> None:
        await connection.insist(lambda number: Unsubscribe(id=number, topics=[topic]), lambda _: None)

    async def _flush(self, waiting: dict[str, Position]) -> dict[str, Position]:
        """Sends what this connection's hub can know of; returns the rest, for later."""
        wanted = {
            topic: (self._subscriptions[topic], at) for topic, at in waiting.items() if topic in self._subscriptions
        }
        sendable = {topic: at for topic, (one, at) in wanted.items() if _may_ack(one, at)}
        later = {
            topic: at for topic, (one, at) in wanted.items() if topic not in sendable and at.epoch == one.progress.epoch
        }
        connection = self.link.current
        if connection is None:
            return {**sendable, **later}
        if sendable:
            try:
                await connection.send(Ack(sendable))
            except ConnectionLost:
                return {**sendable, **later}
        return later

    def _end_all(self, reason: BaseException) -> None:
        self.lanes.moved(None)
        for topic in list(self._timers):
            self._stop_timer(topic)
        subscriptions, self._subscriptions = self._subscriptions, {}
        for subscription in subscriptions.values():
            subscription.end(reason)


def _may_ack(subscription: Subscription, position: Position) -> bool:
    """Whether the hub has sent this on the current connection; acknowledging more would be ``bad_request``."""
    progress = subscription.progress
    return subscription.state is State.LIVE and position.epoch == progress.epoch and position.seq <= progress.received


def _is_there_already(verdict: Verdict) -> bool:
    return isinstance(verdict.error, ErrorBody) and verdict.error.code == ErrorCode.ALREADY_SUBSCRIBED


def _verdict_in(answer: Reply | Error, topic: str) -> Verdict:
    if isinstance(answer, Error):
        body = ErrorBody(answer.code, answer.message, answer.retry, answer.retry_after_ms, answer.details)
        return Verdict(topic=topic, ok=False, error=body)
    try:
        verdicts = msgspec.convert(answer.result, Verdicts).topics
    except msgspec.ValidationError as problem:
        raise ProtocolViolation(f"malformed verdict: {problem}") from None
    if len(verdicts) != 1 or verdicts[0].topic != topic:
        raise ProtocolViolation("the verdicts are not those that were asked for")
    return verdicts[0]
