"""The broker on Redis: ``Broker`` put together from scripts, pipelined calls and the reader's links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hub.config import Settings
from hub.errors import HubError
from hub.fanout.broker import (
    BrokerEvents,
    ConditionFailed,
    Draft,
    HistoryPage,
    HistoryRequest,
    Published,
    TopicState,
)
from hub.fanout.reader import Reader
from hub.fanout.scripts import (
    IDENTITY,
    PUBLISH,
    READ,
    REDACT,
    page_of,
    publish_call,
    published,
    read_call,
    redact_call,
)
from hub.redis import Redis
from hub.topics.topic import Topic


class RedisBroker:
    """See ``hub.fanout.broker.Broker``. The owner starts ``redis`` before and closes it after this."""

    def __init__(self, redis: Redis, settings: Settings, events: BrokerEvents) -> None:
        redis.register(PUBLISH, READ, REDACT)
        self._redis = redis
        self._settings = settings
        self.reader = Reader(redis, settings, events)

    async def start(self) -> None:
        """Starts listening; returns at once, whether Redis is there or not."""
        await self.reader.start()

    async def close(self) -> None:
        """Stops listening."""
        await self.reader.close()

    @property
    def ready(self) -> bool:
        """See ``Broker.ready``."""
        return self.reader.ready

    async def publish(self, draft: Draft) -> Published:
        """See ``Broker.publish``."""
        (outcome,) = await self.publish_many((draft,))
        if isinstance(outcome, Published):
            return outcome
        raise outcome

    async def publish_many(self, drafts: Sequence[Draft]) -> list[Published | HubError | ConditionFailed]:
        """See ``Broker.publish_many``."""
        sharded = self._redis.cluster
        calls = [publish_call(draft, self._settings, sharded=sharded) for draft in drafts]
        return [reply if isinstance(reply, HubError) else published(reply) for reply in await self._redis.batch(calls)]

    async def read(self, requests: Sequence[HistoryRequest]) -> list[HistoryPage | HubError]:
        """See ``Broker.read``."""
        calls = [read_call(request, self._settings) for request in requests]
        return [reply if isinstance(reply, HubError) else page_of(reply) for reply in await self._redis.batch(calls)]

    async def redact(self, topic: Topic, epoch: str, bodies: Mapping[int, bytes]) -> int:
        """See ``Broker.redact``."""
        (reply,) = await self._redis.batch((redact_call(topic, epoch, bodies),))
        if isinstance(reply, HubError):
            raise reply
        return int(reply)

    async def subscribe(self, topics: Sequence[Topic]) -> list[TopicState | HubError]:
        """See ``Broker.subscribe``."""
        return await self.reader.subscribe(topics)

    def unsubscribe(self, topics: Sequence[Topic]) -> None:
        """See ``Broker.unsubscribe``."""
        self.reader.unsubscribe(topics)

    async def servers(self) -> dict[str, str]:
        """See ``Broker.servers``."""
        return await self._redis.servers()

    async def server_of(self, topic: Topic) -> str:
        """See ``Broker.server_of``."""
        run_id: bytes = await self._redis.run(IDENTITY, (topic.names.position,), ())
        return run_id.decode()
