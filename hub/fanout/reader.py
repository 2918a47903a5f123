"""What this process hears from Redis: the wanted topics, each on the link of its master, and the states they bring.

The set of wanted topics is the truth; links come and go under it. Which link a topic belongs to follows the masters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from msgspec import Struct

from hub.config import Settings
from hub.errors import HubError, unavailable
from hub.fanout.broker import BrokerEvents, TopicState
from hub.fanout.link import Refused, Watch
from hub.fanout.supervisor import Supervisor
from hub.redis import Redis
from hub.topics.topic import Topic

# Layouts are not asked for more often than this, however many topics are found to be elsewhere.
LEAST_FOLLOW_S = 0.1

log = structlog.get_logger(__name__)


class _Waiter(Struct, eq=False):
    """Somebody who waits for a topic's state."""

    future: asyncio.Future[TopicState]
    after: int
    """Only the answer to a later request will do: an earlier one may have been undone since."""


class Reader:
    """All links of this process. ``start`` and ``close`` it; nothing else here waits for Redis but ``subscribe``."""

    def __init__(self, redis: Redis, settings: Settings, events: BrokerEvents) -> None:
        self._redis = redis
        self._settings = settings
        self._events = events
        self._wanted: dict[bytes, Topic] = {}
        self._home: dict[bytes, Supervisor] = {}
        # Channels whose first state has been delivered: from then on, news of them goes to `on_state`.
        self._established: set[bytes] = set()
        self._waiters: dict[bytes, list[_Waiter]] = {}
        self._changed: dict[bytes, Topic] = {}
        self._links: dict[str, Supervisor] = {}
        self._number = 0
        self._layout = -1
        self._misrouted = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._ready = False
        self.messages = 0
        """Messages received since the start."""
        self._retired = {"reconnects": 0, "lost_probes": 0, "writes": 0}

    @property
    def ready(self) -> bool:
        """Every link is up and its last probe came back."""
        return self._ready

    @property
    def reconnects(self) -> int:
        """How often a link was lost or could not be opened."""
        return self._retired["reconnects"] + sum(link.reconnects for link in self._links.values())

    @property
    def lost_probes(self) -> int:
        """How often a probe did not come back in time."""
        return self._retired["lost_probes"] + sum(link.lost_probes for link in self._links.values())

    @property
    def writes(self) -> int:
        """Batches of subscriptions written."""
        return self._retired["writes"] + sum(link.writes for link in self._links.values())

    @property
    def wanted(self) -> int:
        """How many topics this process is subscribed to."""
        return len(self._wanted)

    async def start(self) -> None:
        """Opens the links in the background; ``on_link`` says when they stand."""
        await self._apply_layout()
        if not self._links:
            self._misrouted.set()
        self._follower = asyncio.create_task(self._follow(), name="redis-layout")

    async def close(self) -> None:
        """Closes the links; those who still wait for a state get an error."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        self._ready = False
        links, self._links = self._links, {}
        await asyncio.gather(*(link.close() for link in links.values()))
        for channel in self._waiters:
            self._give_up(channel)

    async def subscribe(self, topics: Sequence[Topic]) -> list[TopicState | HubError]:
        """See ``Broker.subscribe``. Calls of one turn of the event loop share their writes."""
        loop = asyncio.get_running_loop()
        waiting: list[tuple[bytes, _Waiter]] = []
        for topic in topics:
            channel = topic.channel
            waiter = _Waiter(loop.create_future(), self._number)
            waiting.append((channel, waiter))
            self._wanted[channel] = topic
            self._waiters.setdefault(channel, []).append(waiter)
            self._change(channel, topic)
        try:
            if waiting:
                await asyncio.wait([waiter.future for _, waiter in waiting], timeout=self._settings.redis_timeout_s)
            return [_outcome(waiter.future) for _, waiter in waiting]
        finally:
            for channel, waiter in waiting:
                self._forget(channel, waiter)

    def unsubscribe(self, topics: Sequence[Topic]) -> None:
        """See ``Broker.unsubscribe``."""
        for topic in topics:
            channel = topic.channel
            if self._wanted.pop(channel, None) is not None:
                self._established.discard(channel)
                self._change(channel, topic)
                self._give_up(channel)

    # --- called by the supervisors

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """See ``SupervisorEvents``."""
        self.messages += len(batch)
        try:
            self._events.on_messages(batch)
        except Exception:
            log.exception("messages could not be dispatched", messages=len(batch))

    def on_watched(self, watch: Watch, topic: Topic, outcome: TopicState | Refused) -> None:
        """See ``SupervisorEvents``."""
        channel = topic.channel
        if isinstance(outcome, Refused) and outcome.transient:
            return
        taken = self._answer(channel, watch.number, outcome)
        if isinstance(outcome, Refused) or channel not in self._wanted:
            return
        # Somebody who waits takes the state; but what was established before must be compared with it all the same.
        if not taken or (watch.anew and channel in self._established):
            try:
                self._events.on_state(channel, outcome)
            except Exception:
                log.exception("a topic's state could not be taken in")
        self._established.add(channel)

    def on_change(self) -> None:
        """See ``SupervisorEvents``."""
        ready = bool(self._links) and all(link.ready for link in self._links.values())
        if ready != self._ready:
            self._ready = ready
            log.info("links to redis are ready" if ready else "links to redis are not ready", links=len(self._links))
            try:
                self._events.on_link(ready)
            except Exception:
                log.exception("a change of the links could not be taken in")

    def on_misrouted(self) -> None:
        """See ``SupervisorEvents``."""
        self._misrouted.set()

    def next_number(self) -> int:
        """See ``SupervisorEvents``."""
        self._number += 1
        return self._number

    # --- inside

    def _change(self, channel: bytes, topic: Topic) -> None:
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._flush)
        self._changed[channel] = topic

    def _flush(self) -> None:
        """Tells the links what has changed in this turn. What is wanted now counts, not how it came to that."""
        changed, self._changed = self._changed, {}
        watch: dict[Supervisor, list[Topic]] = {}
        unwatch: dict[Supervisor, list[bytes]] = {}
        for channel, topic in changed.items():
            if channel in self._wanted:
                link = self._home.get(channel) or self._settle(channel, topic)
                if link is not None:
                    watch.setdefault(link, []).append(topic)
            elif (link := self._home.pop(channel, None)) is not None:
                link.topics.pop(channel, None)
                unwatch.setdefault(link, []).append(channel)
        for link, channels in unwatch.items():
            link.unwatch(channels)
        for link, topics in watch.items():
            link.watch(topics, anew=False)

    def _settle(self, channel: bytes, topic: Topic) -> Supervisor | None:
        """Gives a topic to the link of its master; None when no master is known for it."""
        link = self._links.get(self._redis.address_of(topic.names.position))
        if link is not None:
            self._home[channel] = link
            link.topics[channel] = topic
        return link

    def _answer(self, channel: bytes, number: int, outcome: TopicState | Refused) -> bool:
        """Gives an outcome to those who wait for it. Whether a state was taken by anybody."""
        taken = False
        for waiter in self._waiters.get(channel, ()):
            if waiter.after < number and not waiter.future.done():
                if isinstance(outcome, Refused):
                    waiter.future.set_exception(outcome)
                else:
                    waiter.future.set_result(outcome)
                    taken = True
        return taken

    def _give_up(self, channel: bytes) -> None:
        """Those who wait for this topic get ``unavailable``."""
        for waiter in self._waiters.get(channel, ()):
            waiter.future.cancel()

    def _forget(self, channel: bytes, waiter: _Waiter) -> None:
        waiters = self._waiters.get(channel, [])
        waiters.remove(waiter)
        if not waiters:
            self._waiters.pop(channel, None)

    async def _follow(self) -> None:
        """Keeps the links in step with the masters."""
        while True:
            try:
                await self._look_again()
                if self._layout != self._redis.layout_version:
                    await self._apply_layout()
            except HubError as error:
                log.warning("could not find out who is master in redis", reason=str(error.__cause__))
                self._misrouted.set()
            except Exception:
                # A fault of ours must not leave the topics where they are for ever.
                log.exception("the masters of redis could not be followed")
            await asyncio.sleep(LEAST_FOLLOW_S)

    async def _look_again(self) -> None:
        """Refreshes the layout when somebody found it wrong; otherwise waits for that a while."""
        try:
            async with asyncio.timeout(self._settings.probe_interval_s):
                await self._misrouted.wait()
        except TimeoutError:
            # The command side may have noticed something by itself; a slot without a master may have one again.
            if len(self._home) == len(self._wanted):
                return
        self._misrouted.clear()
        await self._redis.refresh()

    async def _apply_layout(self) -> None:
        """Opens and closes links so that each master has one, and moves the topics whose master is another now."""
        self._layout = self._redis.layout_version
        masters = self._redis.masters()
        gone = [self._links.pop(address) for address in list(self._links) if address not in masters]
        for address in masters:
            if address not in self._links:
                self._links[address] = Supervisor(address, self._redis, self._settings, self)
        left: dict[Supervisor, list[bytes]] = {}
        moved: dict[Supervisor, list[Topic]] = {}
        for channel, topic in self._wanted.items():
            before = self._home.get(channel)
            if before is not None:
                if self._links.get(self._redis.address_of(topic.names.position)) is before:
                    continue
                del self._home[channel], before.topics[channel]
                left.setdefault(before, []).append(channel)
            after = self._settle(channel, topic)
            if after is not None:
                moved.setdefault(after, []).append(topic)
        for link, channels in left.items():
            link.unwatch(channels)
        for link, topics in moved.items():
            link.watch(topics, anew=True)
        for link in gone:
            await link.close()
            self._retired["reconnects"] += link.reconnects
            self._retired["lost_probes"] += link.lost_probes
            self._retired["writes"] += link.writes
        self.on_change()


def _outcome(future: asyncio.Future[TopicState]) -> TopicState | HubError:
    if future.done() and not future.cancelled():
        refusal = future.exception()
        if refusal is None:
            return future.result()
        error = unavailable("Redis")
        error.__cause__ = refusal
        return error
    return unavailable("Redis")
