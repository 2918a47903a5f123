"""One subscription as its consumer sees it: an async iterator over events, with a bounded buffer before it.

What goes over the wire for it, and when, is the ``Registry``'s.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from enum import Enum
from types import TracebackType
from typing import Protocol

from hub.client.backoff import Backoff
from hub.client.errors import GapError, ProtocolViolation, RequestTimeout
from hub.client.options import ClientOptions
from hub.client.progress import Outcome, Progress
from hub.client.wire import Event, Gap, Verdict
from hub.protocol import frames
from hub.protocol.frames import Position, SubscribeItem

OnGap = Callable[[Gap], "Awaitable[None] | None"]


class State(Enum):
    """Where a subscription stands towards the hub."""

    OUT = "out"
    """Wanted, but not subscribed on this connection: down, or refused for a moment."""
    JOINING = "joining"
    """Asked for; no verdict yet."""
    LIVE = "live"
    BEHIND = "behind"
    """Its buffer was full. It was left, and is joined again from its position when the consumer has made room."""
    ENDED = "ended"


class SubscriptionOwner(Protocol):
    """What a subscription needs from the registry."""

    async def enter(self, subscription: Subscription) -> None:
        """Starts it and waits for the first verdict."""

    async def leave(self, subscription: Subscription) -> None:
        """Acknowledges, unsubscribes, forgets. Also succeeds when it was left before."""

    def processed(self, subscription: Subscription, position: Position) -> None:
        """The consumer is done with everything up to ``position``."""

    def rejoin(self, subscription: Subscription) -> None:
        """There is room in the buffer again."""

    def gap_callback(self) -> OnGap | None:
        """The client's callback for gaps."""


class Subscription:
    """Events of one topic, each once, in order, across reconnects. Made by ``HubClient.subscribe``.

    ``async for`` over it directly unsubscribes when the loop is left; inside ``async with`` it stays subscribed until
    the block ends, and a loop may be left and begun again. An event counts as processed, and is acknowledged, when the
    next one is asked for or ``ack()`` is called: a crash in between brings it again to whoever resumes the session.

    Iterating raises ``GapError`` where events are missing and no callback was given, ``SubscriptionEnded`` when the hub
    takes the topic away, ``HubClosed`` when the connection is over for good; what came before is delivered first.
    """

    def __init__(
        self, owner: SubscriptionOwner, item: SubscribeItem, options: ClientOptions, on_gap: OnGap | None
    ) -> None:
        self._owner = owner
        self._item = item
        self._options = options
        self._on_gap = on_gap
        self._buffer: deque[Event | Gap | Position] = deque()
        self._wake = asyncio.Event()
        self._end: BaseException | None = None
        self._in_hand: Event | None = None
        self._entered = False
        self._started = False
        self._taking = False
        self.topic = item.topic
        self.state = State.OUT
        self.progress = Progress(filtered=bool(item.filter))
        if isinstance(item.since, Position):
            self.progress.position = item.since
        self.asked: Position | None = None
        self.backoff = Backoff(options)
        self.windowed = item.ack
        """Whether the hub waits for acknowledgements. Begins as ``ack``; a subscription that fell behind goes on so."""
        self.verdict: Verdict | None = None
        """The latest answer of the hub."""
        self.position: Position | None = item.since if isinstance(item.since, Position) else None
        """Of the newest event that the consumer was given: what to store when that one is dealt with."""
        self.dropped = 0
        """Ephemeral events that came while the buffer was full. They are never replayed."""
        self.first_verdict: asyncio.Future[None] | None = None

    # --- for the consumer

    async def __aenter__(self) -> Subscription:
        self._entered = True
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.leave()

    def __aiter__(self) -> AsyncGenerator[Event, None]:
        return self._events()

    async def __anext__(self) -> Event:
        if self._taking:
            raise RuntimeError(
                f"another task is already iterating over {self.topic}; one subscription has one consumer"
            )
        self._taking = True
        try:
            return await self._next()
        finally:
            self._taking = False

    def ack(self) -> None:
        """The event in hand is dealt with; for a consumer that will not ask for another one."""
        event, self._in_hand = self._in_hand, None
        if event is not None and event.seq is not None:
            self._owner.processed(self, Position(event.epoch, event.seq))

    async def leave(self) -> None:
        """Unsubscribes; what is still buffered is dropped. Leaving twice is fine."""
        self._in_hand = None
        self._buffer.clear()
        await self._owner.leave(self)

    async def _events(self) -> AsyncGenerator[Event, None]:
        try:
            while True:
                try:
                    event = await self.__anext__()
                except StopAsyncIteration:
                    return
                yield event
        finally:
            if not self._entered:
                await self.leave()

    async def _start(self) -> None:
        if self._started:
            return
        self._started = True
        try:
            await self._owner.enter(self)
        except TimeoutError:
            await self.leave()
            raise RequestTimeout(f"no verdict for {self.topic} in time") from None
        except BaseException:
            await self.leave()
            raise

    async def _next(self) -> Event:
        self.ack()
        await self._start()
        while True:
            item = await self._take()
            if isinstance(item, Event):
                self._in_hand = item
                if item.seq is not None:
                    self.position = Position(item.epoch, item.seq)
                return item
            if isinstance(item, Position):
                self.position = item
                self._owner.processed(self, item)
            else:
                await self._tell(item)

    async def _take(self) -> Event | Gap | Position:
        while not self._buffer:
            if self._end is not None:
                raise self._end
            self._wake.clear()
            await self._wake.wait()
        item = self._buffer.popleft()
        if self.state is State.BEHIND and len(self._buffer) <= self._options.buffer_events // 2:
            self._owner.rejoin(self)
        return item

    async def _tell(self, gap: Gap) -> None:
        callback = self._on_gap or self._owner.gap_callback()
        if callback is None:
            raise GapError(gap.topic, gap.reason, gap.from_, gap.to)
        result = callback(gap)
        if inspect.isawaitable(result):
            await result

    # --- for the registry

    def item(self) -> SubscribeItem:
        """What to ask the hub for now; remembers it for the verdict."""
        self.asked = self.progress.position
        first = self._item
        since, last = (first.since, first.last) if self.asked is None else (self.asked, None)
        return SubscribeItem(topic=self.topic, since=since, last=last, filter=first.filter, ack=self.windowed)

    def joined(self, verdict: Verdict) -> None:
        """The hub has said yes. Raises ``ProtocolViolation`` when the verdict is incomplete."""
        if not isinstance(verdict.epoch, str) or not isinstance(verdict.seq, int):
            raise ProtocolViolation(f"the verdict for {self.topic} has no position")
        self.verdict = verdict
        self.state = State.LIVE
        self.backoff.reset()
        live_only = self._item.since == "now" or self._item.last == 0
        self.progress.joined(
            self.asked,
            epoch=verdict.epoch,
            top=verdict.seq,
            recovered=verdict.recovered is not False,
            live_only=live_only,
        )
        if self.first_verdict is not None and not self.first_verdict.done():
            self.first_verdict.set_result(None)

    def event(self, frame: frames.Event) -> Outcome | None:
        """Takes an event in. None: the buffer is full, and nothing was taken."""
        if frame.seq is None:
            self._ephemeral(frame)
            return Outcome.NEW
        if len(self._buffer) >= self._options.buffer_events:
            return None
        outcome = self.progress.event(frame.seq)
        if outcome is Outcome.NEW:
            self._put(self._public(frame))
        return outcome

    def gap(self, frame: Gap) -> Outcome | None:
        """Takes a gap in. None: the buffer is full, and nothing was taken."""
        if len(self._buffer) >= self._options.buffer_events:
            return None
        outcome = self.progress.gap(frame.epoch, frame.from_, frame.to)
        if outcome is Outcome.NEW:
            self._put(frame)
        return outcome

    def adopt(self, epoch: str, seq: int) -> None:
        """Takes a ``position`` in. It waits its turn behind the events before it, and replaces one that is waiting."""
        if self.progress.adopt(epoch, seq) is Outcome.NEW:
            if self._buffer and isinstance(self._buffer[-1], Position):
                self._buffer.pop()
            if len(self._buffer) < self._options.buffer_events:
                self._put(Position(epoch, seq))

    def end(self, reason: BaseException) -> None:
        """Nothing more will come: ``reason`` is raised to the consumer after what is buffered."""
        self.state = State.ENDED
        if self._end is None:
            self._end = reason
        if self.first_verdict is not None and not self.first_verdict.done():
            self.first_verdict.set_result(None)
        self._wake.set()

    def raise_if_ended(self) -> None:
        """Raises why the subscription ended, if the hub or the connection ended it."""
        if self._end is not None and not isinstance(self._end, StopAsyncIteration):
            raise self._end

    def _ephemeral(self, frame: frames.Event) -> None:
        if len(self._buffer) < self._options.buffer_events:
            self._put(self._public(frame))
            return
        self.dropped += 1
        # A topic with history loses nothing that counts (typing, progress); one without has no other way to say so.
        if not self.progress.epoch and not isinstance(self._buffer[-1], Gap):
            self._put(Gap(topic=self.topic, epoch="", reason="overflow"))

    def _public(self, frame: frames.Event) -> Event:
        return Event(
            topic=frame.topic,
            epoch=self.progress.epoch if frame.seq is not None else "",
            seq=frame.seq,
            id=frame.id,
            name=frame.name,
            ts=frame.ts,
            data=frame.data,
            tags=frame.tags,
            by=frame.by,
        )

    def _put(self, item: Event | Gap | Position) -> None:
        self._buffer.append(item)
        self._wake.set()
