"""Keeps one link to one Redis master alive, subscribed and proven by probes, for as long as that server is a master.

It knows the topics that belong to this master; which those are is the reader's decision.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import structlog

from hub.config import Settings
from hub.errors import HubError
from hub.fanout.broker import Draft, TopicState
from hub.fanout.link import Link, LinkLost, Refused, Watch
from hub.fanout.scripts import publish_call, published
from hub.orgs import CONTROL_ORG
from hub.redis import Redis
from hub.topics.topic import Topic

FIRST_BACKOFF_S = 0.05
# A probe must travel over the very master it tests, so its name is tried until its slot lies there. A master with a
# hundredth of the slots needs about a hundred tries.
MOST_PROBE_NAMES = 20_000

log = structlog.get_logger(__name__)


_T = TypeVar("_T")


class SupervisorEvents(Protocol):
    """What the reader wants to know."""

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """(channel, envelope) pairs of one read."""

    def on_watched(self, watch: Watch, topic: Topic, outcome: TopicState | Refused) -> None:
        """A topic is subscribed, or was refused; a refused one is tried again by and by."""

    def on_change(self) -> None:
        """``ready`` may have changed."""

    def on_misrouted(self) -> None:
        """Redis says that a topic is elsewhere, or this master cannot be reached: look again who is master."""

    def next_number(self) -> int:
        """The number of the next watch."""


class Supervisor:
    """The keeper of the link to ``address``."""

    def __init__(self, address: str, redis: Redis, settings: Settings, events: SupervisorEvents) -> None:
        self.address = address
        self.topics: dict[bytes, Topic] = {}
        """By channel: what should be subscribed here."""
        self.ready = False
        """The link is up, subscribed, and its last probe came back."""
        self.reconnects = 0
        self.lost_probes = 0
        self.writes = 0
        self._redis = redis
        self._settings = settings
        self._events = events
        self._link: Link | None = None
        self._probe = _probe_topic(redis, address)
        self._probe_sent = b""
        self._probe_back: asyncio.Future[None] | None = None
        self._again: dict[bytes, Topic] = {}
        self._task = asyncio.create_task(self._keep(), name=f"redis-link {address}")

    async def close(self) -> None:
        """Ends the link for good."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def watch(self, topics: Iterable[Topic], *, anew: bool) -> None:
        """Subscribes now if the link is up; otherwise that happens with all the others as soon as it is."""
        if self._link is not None:
            for batch in _batches(list(topics), self._settings.subscribe_batch):
                self._send(self._link, batch, anew=anew)

    def unwatch(self, channels: Sequence[bytes]) -> None:
        """Ends subscriptions, if there are any."""
        for channel in channels:
            self._again.pop(channel, None)
        if self._link is not None and channels:
            self._link.unwatch(channels)

    # --- called by the link

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """See ``LinkHandler``."""
        self._events.on_messages(batch)

    def on_probe(self, envelope: bytes) -> None:
        """See ``LinkHandler``."""
        if self._probe_back is not None and not self._probe_back.done() and envelope.endswith(self._probe_sent):
            self._probe_back.set_result(None)

    def on_watched(self, watch: Watch, topic: Topic, outcome: TopicState | Refused) -> None:
        """See ``LinkHandler``."""
        if isinstance(outcome, Refused):
            self._refused(topic, outcome)
        self._events.on_watched(watch, topic, outcome)

    def on_dropped(self, channel: bytes) -> None:
        """See ``LinkHandler``."""
        topic = self.topics.get(channel)
        if topic is not None:
            self._again[channel] = topic
            self._events.on_misrouted()

    # --- the life of the link

    async def _keep(self) -> None:
        failures = 0
        while True:
            try:
                await self._live()
            except (LinkLost, OSError, TimeoutError, HubError) as error:
                log.warning("link to redis lost", server=self.address, reason=str(error) or type(error).__name__)
            except Exception:
                # A fault of ours must neither end delivery nor hide.
                log.exception("link to redis failed", server=self.address)
            failures = 0 if self.ready else failures + 1
            self.reconnects += 1
            self.ready = False
            self._events.on_change()
            self._events.on_misrouted()
            longest = min(FIRST_BACKOFF_S * 2 ** min(failures, 16), self._settings.reconnect_max_s)
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))

    async def _live(self) -> None:
        # A new one each time: the slot of the last may lie elsewhere by now.
        self._probe = _probe_topic(self._redis, self.address)
        link = Link(self, self._settings, sharded=self._redis.cluster, probe_channel=self._probe.channel)
        try:
            await self._redis.open_link(self.address, link)
            await link.greet(self._redis.login)
            self._link = link
            await self._resubscribe(link)
            await self._watch_over(link)
        finally:
            self._link = None
            self._again.clear()
            link.drop("dropped by the hub")

    async def _resubscribe(self, link: Link) -> None:
        for batch in _batches(list(self.topics), self._settings.subscribe_batch):
            # Some may have been given up meanwhile.
            topics = [self.topics[channel] for channel in batch if channel in self.topics]
            if topics:
                done = self._send(link, topics, anew=True)
                await link.finish(done, self._settings.redis_timeout_s, "answer to a subscription")

    async def _watch_over(self, link: Link) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await self._prove(link)
            if not self.ready:
                self.ready = True
                self._events.on_change()
            while (quiet := now() - link.heard_at) < self._settings.probe_interval_s:
                await link.pause(self._settings.probe_interval_s - quiet)
                again, self._again = list(self._again.values()), {}
                self.watch(again, anew=True)

    async def _prove(self, link: Link) -> None:
        """Sends a probe the way every event goes and waits for it. Raises ``LinkLost`` when it does not come back."""
        self._probe_sent = b"probe %016x" % random.getrandbits(64)
        self._probe_back = asyncio.get_running_loop().create_future()
        sending = asyncio.create_task(self._send_probe(link, self._probe_sent, self._probe_back))
        try:
            await link.finish(self._probe_back, self._settings.probe_timeout_s, "probe came back")
            # Its own answer is about to come; giving it up would cost the connection it comes on.
            await link.finish(sending, self._settings.redis_timeout_s, "answer to a probe")
        except LinkLost:
            self.lost_probes += 1
            raise
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send_probe(self, link: Link, body: bytes, back: asyncio.Future[None]) -> None:
        # As often as it takes: whether the way is too slow is for the time limit of the probe to say.
        while not back.done():
            call = publish_call(Draft(self._probe, None, body), self._settings, sharded=self._redis.cluster)
            (reply,) = await self._redis.batch((call,))
            # A master that was demoted to a replica still passes on what is published: it must not go unnoticed.
            if not isinstance(reply, HubError) and published(reply).server != link.server:
                link.drop("events are published on another server")
            await asyncio.wait((back,), timeout=self._settings.probe_timeout_s / 4)

    def _send(self, link: Link, topics: Sequence[Topic], *, anew: bool) -> asyncio.Future[None]:
        self.writes += 1
        return link.watch(Watch(topics, self._events.next_number(), anew))

    def _refused(self, topic: Topic, error: Refused) -> None:
        channel = topic.channel
        if channel in self.topics:
            self._again[channel] = topic
        if error.code in ("NOSCRIPT", "READONLY") and self._link is not None:
            # A flushed script is loaded by a new link; a server that cannot write is no master any more.
            self._link.drop(str(error))
        elif error.code in ("MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN"):
            self._events.on_misrouted()


def _probe_topic(redis: Redis, address: str) -> Topic:
    process = f"{random.getrandbits(64):016x}"
    topic = Topic(CONTROL_ORG, "probe", process)
    if redis.cluster:
        for number in range(MOST_PROBE_NAMES):
            topic = Topic(CONTROL_ORG, "probe", f"{process}.{number}")
            if redis.address_of(topic.names.position) == address:
                break
    return topic


def _batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
