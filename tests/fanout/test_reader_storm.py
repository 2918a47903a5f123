"""Everything at once: topics come and go while links are killed and events flow; nobody is left behind afterwards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from hub.embedded import RedisServer
from hub.fanout.broker import TopicState
from hub.fanout.envelope import parse_envelope
from hub.topics.topic import Topic
from tests.support.redis_world import Ear, World, draft, page, redis_settings, topic
from tests.support.servers import client
from tests.support.topologies import redis_cluster
from tests.support.waiting import until

TOPICS = 40
STORM_S = 1.5


class Follower(Ear):
    """What a dispatcher must be able to rely on: it always knows, by message or state, how far each topic is."""

    def __init__(self) -> None:
        super().__init__()
        self.reached: dict[bytes, int] = {}

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        for channel, envelope in batch:
            self._reach(channel, parse_envelope(envelope).seq)

    def on_state(self, channel: bytes, state: TopicState) -> None:
        self._reach(channel, state.top)

    def begin(self, subject: Topic, state: TopicState) -> None:
        """What ``subscribe`` answered."""
        self.reached.setdefault(subject.names.channel.encode(), 0)
        self._reach(subject.names.channel.encode(), state.top)

    def _reach(self, channel: bytes, seq: int) -> None:
        self.reached[channel] = max(seq, self.reached.get(channel, 0))


class Storm:
    """The storm, over one world and the servers under it."""

    def __init__(self, url: str, servers: Sequence[RedisServer], seed: int) -> None:
        self.world = World(redis_settings(url))
        self.ear = Follower()
        self.world.ear = self.ear
        self.world.broker.reader._events = self.ear
        self.subjects = [topic(f"storm-{number}") for number in range(TOPICS)]
        self.servers = servers
        self.chance = random.Random(seed)
        self.over = False

    async def run(self) -> None:
        await self.world.redis.start()
        await self.world.broker.start()
        try:
            await self.world.ready()
            jobs = [
                asyncio.create_task(job) for job in (self._publish(), self._kill(), *(self._roam() for _ in range(4)))
            ]
            # A storm has a length.
            await asyncio.sleep(STORM_S)
            self.over = True
            await asyncio.gather(*jobs)
            await self._calm()
        finally:
            await self.world.broker.close()
            await self.world.redis.close()

    async def _publish(self) -> None:
        while not self.over:
            await self.world.broker.publish_many([draft(subject) for subject in self.chance.sample(self.subjects, 10)])
            await asyncio.sleep(0)

    async def _roam(self) -> None:
        while not self.over:
            some = self.chance.sample(self.subjects, 8)
            if self.chance.random() < 0.5:
                self.world.broker.unsubscribe(some)
            await self._subscribe(some[:5])
            for _ in range(self.chance.randrange(4)):
                await asyncio.sleep(0)

    async def _subscribe(self, some: Sequence[Topic]) -> None:
        for subject, state in zip(some, await self.world.broker.subscribe(some), strict=True):
            if isinstance(state, TopicState):
                self.ear.begin(subject, state)

    async def _kill(self) -> None:
        while not self.over:
            await asyncio.sleep(self.chance.uniform(0.05, 0.3))
            with client(self.chance.choice(self.servers)) as link:
                link.client_kill_filter(_type="pubsub")

    async def _calm(self) -> None:
        reader = self.world.broker.reader
        await until(lambda: self.world.broker.ready and len(reader._home) == reader.wanted, 30, "the links to stand")
        wanted = list(reader._wanted.values())
        assert wanted
        for subject in wanted:
            top = (await page(self.world.broker, subject, "top")).state.top
            channel = subject.names.channel.encode()
            await until(lambda c=channel, t=top: self.ear.reached.get(c) == t, 30, f"{subject} to be at its top")
        await self.world.broker.publish_many([draft(subject) for subject in wanted])
        for subject in wanted:
            top = (await page(self.world.broker, subject, "top")).state.top
            channel = subject.names.channel.encode()
            await until(lambda c=channel, t=top: self.ear.reached.get(c) == t, 30, f"{subject} to hear its next event")


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_storm_leaves_nobody_behind(redis_url: str, redis_server: RedisServer, seed: int) -> None:
    await Storm(redis_url, [redis_server], seed).run()


async def test_a_storm_over_a_cluster_whose_slots_move_leaves_nobody_behind() -> None:
    async with redis_cluster() as cluster:
        storm = Storm(cluster.url, cluster.nodes, 3)

        async def move() -> None:
            while not storm.over:
                subject = storm.chance.choice(storm.subjects)
                source = cluster.node_of(subject.names.channel)
                await cluster.move_slot(
                    subject.names.position, next(node for node in cluster.nodes if node is not source)
                )
                await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as group:
            group.create_task(move())
            await storm.run()
