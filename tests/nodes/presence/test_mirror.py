"""The mirror: who gets which snapshot when, and how many reads that costs.

At the end, whatever was lost, delayed or read late: every client that follows the protocol's rule sees the truth.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from hub.config import Settings
from hub.errors import HubError
from hub.fanout.bodies import encode_body
from hub.nodes.presence.mirror import MOST_KEPT, STEP_WRITES, Mirror
from hub.nodes.presence.snapshots import READS_AT_ONCE, TOPICS_PER_READ, Snapshots
from hub.nodes.presence.table import Member, Snapshot, Status
from hub.orgs import OrgId
from hub.protocol.codec import Encoding, Packet, packet
from hub.protocol.frames import Event
from hub.telemetry import PresenceMetrics
from hub.topics.filters import TagFilter
from hub.topics.kinds import SlowPolicy, TopicKind
from hub.topics.publication import Publication
from hub.topics.subscriptions import LocalTopic, Subscriber, Subscription, SubState
from hub.topics.topic import Topic
from hub.topics.walk import Walk
from tests.nodes.presence.fake_table import FakeTable
from tests.support.present import Rule
from tests.support.waiting import until

ORG = OrgId.from_claim("acme")
KIND = TopicKind(name="party", history=None, slow=SlowPolicy.GAP, presence=True)


def topic(key: str = "a") -> Topic:
    return Topic(ORG, "party", key)


class Client(Rule):
    """A subscriber that follows the rule."""

    def __init__(self, encoding: Encoding = Encoding.JSON) -> None:
        super().__init__()
        self.encoding = encoding
        self.packets: list[Packet] = []

    def deliver(self, packet: Packet) -> None:
        self.packets.append(packet)
        decode = msgspec.json.decode if self.encoding is Encoding.JSON else msgspec.msgpack.decode
        for payload in packet.payloads:
            event = decode(payload, type=Event)
            assert event.name == "presence"
            self.take(event.data)


class Node:
    """A mirror with local topics; what the fan-out does is done by hand."""

    def __init__(self, table: Any, **changes: Any) -> None:
        settings = Settings(redis_url="x", database_url="x", **({"reconnect_max_s": 0.01} | changes))
        self.registry = CollectorRegistry()
        metrics = PresenceMetrics(self.registry)
        self.lost: list[Topic] = []
        self.snapshots = Snapshots(table, metrics)
        self.mirror = Mirror(settings, metrics, self.snapshots, self.lost.append)
        self.locals: dict[Topic, LocalTopic] = {}

    def join(self, client: Client, at: Topic, **filter: Any) -> Subscription:
        local = self.locals.setdefault(at, LocalTopic(at, KIND))
        sub = Subscription(local, cast(Subscriber, client), "now")
        sub.filter = TagFilter(filter) if filter else None
        self.live(sub)
        return sub

    def live(self, sub: Subscription) -> None:
        sub.topic.add_live(sub)
        self.mirror.live(sub)

    def leave(self, sub: Subscription, state: SubState = SubState.ENDED) -> None:
        sub.topic.leave_live(sub, state)
        if state is SubState.ENDED:
            self.mirror.left(sub.topic)

    def hear(self, at: Topic, data: dict[str, Any], name: str = "presence") -> None:
        """An ephemeral event: the mirror first, then whoever is live."""
        local = self.locals[at]
        self.mirror.ephemeral(local, Publication("", 0, 1, encode_body("0" * 31, name, data, None, None)))
        for sub in local.live_subscriptions():
            client = sub.subscriber
            if isinstance(client, Client) and name == "presence" and sub.filter is None:
                client.take(data)

    async def close(self) -> None:
        await self.snapshots.close()
        await self.mirror.close()


def join_of(user: str, version: int, online: int, epoch: str = "e1") -> dict[str, Any]:
    """The data of an event."""
    person = {"action": "join", "user": user, "name": "", "status": "online"}
    return {**person, "epoch": epoch, "version": version, "online": online, "away": 0}


@pytest.fixture
def table() -> FakeTable:
    table = FakeTable()
    table.present[topic()] = {("n", "ann"): Status.ONLINE}
    table.versions[topic()] = 1
    return table


async def settled(*clients: Client) -> None:
    await until(lambda: not any(client.waiting for client in clients), what="everybody to have a snapshot")


async def first_step(clients: list[Client]) -> None:
    """Returns in the turn of the event loop in which the first ones get a snapshot."""
    async with asyncio.timeout(15):
        while all(client.waiting for client in clients):  # noqa: ASYNC110 - turn by turn
            await asyncio.sleep(0)


async def test_all_who_arrive_share_one_read_and_one_packet(table: FakeTable) -> None:
    node = Node(table)
    table.gate.clear()
    first = [Client(encoding) for encoding in (Encoding.JSON, Encoding.MSGPACK) for _ in range(100)]
    for client in first:
        node.join(client, topic())
    await asyncio.sleep(0)
    table.gate.set()
    await settled(*first)
    later = Client()
    node.join(later, topic())
    assert later.members == {"ann": "online"}
    assert len(table.reads) == 1
    assert len({id(client.packets[0]) for client in [*first, later]}) == 2
    assert all(len(client.packets) == 1 for client in first)
    await node.close()


async def test_ten_thousand_who_return_at_once_cost_few_reads() -> None:
    table = FakeTable()
    node = Node(table)
    topics = [topic(str(number)) for number in range(3 * TOPICS_PER_READ)]
    clients = [Client() for _ in range(2000)]
    for number, client in enumerate(clients):
        for step in range(5):
            node.join(client, topics[(number + step) % len(topics)])
    await settled(*clients)
    assert len(table.reads) <= 4
    await node.close()


async def test_at_most_so_many_reads_are_under_way() -> None:
    table = FakeTable()
    node = Node(table)
    table.gate.clear()
    clients = [Client() for _ in range(TOPICS_PER_READ * (READS_AT_ONCE + 3))]
    for number, client in enumerate(clients):
        node.join(client, topic(str(number)))
    await until(lambda: len(table.reads) == READS_AT_ONCE)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(table.reads) == READS_AT_ONCE
    table.gate.set()
    await settled(*clients)
    await node.close()


async def test_events_are_followed_and_the_next_who_comes_has_them(table: FakeTable) -> None:
    node = Node(table)
    ann = Client()
    node.join(ann, topic())
    await settled(ann)
    node.hear(topic(), join_of("bob", 2, 2))
    bob = Client()
    node.join(bob, topic())
    assert bob.members == ann.members == {"ann": "online", "bob": "online"}
    assert ann.told == ["snapshot ann", "join bob online"]
    assert len(table.reads) == 1
    await node.close()


async def test_a_snapshot_is_not_older_than_what_a_client_has_got(table: FakeTable) -> None:
    node = Node(table)
    ann = Client()
    node.join(ann, topic())
    # Read before bob came, answered after that was told.
    node.hear(topic(), join_of("bob", 2, 2))
    await settled(ann)
    assert ann.told == ["join bob online", "snapshot ann bob"]
    await node.close()


async def test_a_hole_brings_everybody_one_snapshot(table: FakeTable) -> None:
    node = Node(table)
    clients = [Client() for _ in range(5)]
    for client in clients:
        node.join(client, topic())
    await settled(*clients)
    table.present[topic()] = {("n", user): Status.ONLINE for user in ("bob", "eve")}
    table.versions[topic()] = 4
    node.hear(topic(), join_of("eve", 4, 2))
    node.hear(topic(), join_of("eve", 4, 2))
    assert all(client.waiting for client in clients)
    await settled(*clients)
    assert all(client.members == {"bob": "online", "eve": "online"} for client in clients)
    assert len(table.reads) == 2
    await node.close()


async def test_another_epoch_is_a_reason_to_tell_redis_who_is_here(table: FakeTable) -> None:
    node = Node(table)
    ann = Client()
    node.join(ann, topic())
    await settled(ann)
    table.epoch, table.versions[topic()] = "e2", 1
    node.hear(topic(), join_of("bob", 1, 1, epoch="e2"))
    await settled(ann)
    assert node.lost == [topic()]
    await node.close()


async def test_doubt_while_a_read_is_under_way_is_a_read_more(table: FakeTable) -> None:
    node = Node(table)
    table.gate.clear()
    ann = Client()
    sub = node.join(ann, topic())
    await until(lambda: len(table.reads) == 1)
    node.mirror.doubt(sub.topic)
    table.gate.set()
    await settled(ann)
    assert len(table.reads) == 2
    assert len(ann.packets) == 1
    await node.close()


async def test_too_much_while_a_read_is_under_way_is_a_read_more(table: FakeTable) -> None:
    node = Node(table)
    table.gate.clear()
    ann = Client()
    node.join(ann, topic())
    await until(lambda: len(table.reads) == 1)
    for number in range(MOST_KEPT + 1):
        node.hear(topic(), join_of(f"u{number}", number + 2, number + 2))
    table.versions[topic()] = MOST_KEPT + 2
    table.gate.set()
    await settled(ann)
    assert len(table.reads) == 2
    await node.close()


async def test_what_cannot_be_read_is_tried_again(table: FakeTable) -> None:
    node = Node(table)
    table.away = True
    ann = Client()
    node.join(ann, topic())
    await until(lambda: len(table.reads) >= 3)
    assert node.mirror.known(topic()) is None
    table.away = False
    await settled(ann)
    await node.close()


async def test_who_nobody_listens_to_is_forgotten_also_while_it_is_read(table: FakeTable) -> None:
    node = Node(table)
    ann, bob = Client(), Client()
    first, second = node.join(ann, topic()), node.join(bob, topic())
    await settled(ann, bob)
    node.leave(first, SubState.PAUSED)
    node.leave(second)
    assert len(node.mirror) == 0
    node.live(first)
    node.leave(first)
    assert len(node.mirror) == 0
    table.away = True
    third = node.join(ann, topic())
    await until(lambda: len(table.reads) >= 2)
    node.leave(third)
    reads = len(table.reads)
    await asyncio.sleep(0.1)  # much longer than any pause between two tries
    assert len(node.mirror) == 0
    assert len(table.reads) <= reads + 1, "no more than what was under way"
    await node.close()


async def test_who_filters_is_told_nothing(table: FakeTable) -> None:
    node = Node(table)
    ann = Client()
    node.join(ann, topic(), n=1)
    bob = Client()
    node.join(bob, topic())
    await settled(bob)
    assert ann.packets == []
    await node.close()


async def test_other_ephemeral_events_are_none_of_its_business(table: FakeTable) -> None:
    node = Node(table)
    ann = Client()
    node.join(ann, topic())
    await settled(ann)
    node.hear(topic(), {"version": 77, "on": True}, name="typing")
    assert node.mirror.known(topic()) is not None
    await node.close()


async def test_what_cannot_be_read_as_presence_is_doubt(table: FakeTable) -> None:
    node = Node(table)
    ann = Client()
    node.join(ann, topic())
    await settled(ann)
    local = node.locals[topic()]
    node.mirror.ephemeral(local, Publication("", 0, 1, b'{"name":"presence","data":{"action":5}}'))
    await until(lambda: len(ann.packets) == 2)
    await node.close()


async def test_many_get_theirs_in_steps_and_nobody_an_old_one(table: FakeTable) -> None:
    node = Node(table)
    clients = [Client() for _ in range(4 * STEP_WRITES)]
    for client in clients:
        node.join(client, topic())
    await first_step(clients)
    assert sum(not client.waiting for client in clients) == STEP_WRITES
    node.hear(topic(), join_of("bob", 2, 2))
    await settled(*clients)
    assert all(client.members == {"ann": "online", "bob": "online"} for client in clients)
    assert len(table.reads) == 1
    await node.close()


async def test_a_new_snapshot_for_everybody_ends_the_one_before(table: FakeTable) -> None:
    node = Node(table)
    clients = [Client() for _ in range(4 * STEP_WRITES)]
    subs = [node.join(client, topic()) for client in clients]
    await first_step(clients)
    node.mirror.doubt(subs[0].topic)
    await settled(*clients)
    assert sum(len(client.packets) for client in clients) == len(clients) + STEP_WRITES
    await node.close()


async def test_what_is_still_on_its_way_to_some_comes_before_the_snapshot(table: FakeTable) -> None:
    node = Node(table)
    ann = Client()
    sub = node.join(ann, topic())
    await settled(ann)
    data = join_of("bob", 7, 2, epoch="e0")
    frame = Event("party:a", "0" * 31, "presence", 1, data)
    sub.topic.walk = Walk([(packet(frame, Encoding.JSON), (sub,))])
    node.mirror.doubt(sub.topic)
    await until(lambda: len(ann.packets) == 3)
    assert ann.told == ["snapshot ann", "join bob online", "snapshot ann"]
    assert not ann.waiting
    await node.close()


async def test_too_many_to_list_are_counted(table: FakeTable) -> None:
    node = Node(table)
    ann = Client()
    node.join(ann, topic())
    await settled(ann)
    node.hear(topic(), {"action": "count", "epoch": "e1", "version": 300, "online": 250, "away": 3})
    late = Client()
    node.join(late, topic())
    assert (late.members, late.online, late.away, late.waiting) == (None, 250, 3, False)
    assert (ann.members, ann.online) == (None, 250)
    # Few enough again: the members have to be read.
    table.versions[topic()] = 400
    node.hear(topic(), join_of("eve", 400, 1))
    await settled(ann, late)
    assert ann.members == late.members == {"ann": "online"}
    assert len(table.reads) == 2
    await node.close()


async def test_who_asks_at_the_very_end_starts_nothing(table: FakeTable) -> None:
    node = Node(table)
    table.gate.clear()
    first = node.snapshots.ask(topic("first"))
    await until(lambda: len(table.reads) == 1)
    late = node.snapshots.ask(topic("late"))  # to be read in a moment
    await node.close()
    node.join(Client(), topic())
    for _ in range(10):
        await asyncio.sleep(0)
    assert [isinstance(answer.result(), HubError) for answer in (first, late)] == [True, True]
    assert (len(table.reads), node.snapshots._tasks) == (1, set())


# --- at random


class World:
    """Presence in Redis, an unreliable way to this node, and reads that take their time."""

    def __init__(self, random_: random.Random) -> None:
        self.random = random_
        self.at = topic()
        self.epoch, self.version, self.listed = "e1", 0, True
        self.users: dict[str, str] = {}
        self.untold = False
        self.on_the_way: list[dict[str, Any]] = []
        self.node = Node(self)
        self.subs: list[Subscription] = []

    async def snapshots(self, topics: Any) -> Any:
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)
        members = tuple(Member(user, "", Status(status)) for user, status in self.users.items())
        found = Snapshot(self.epoch, self.version, *self._counts(), members if self.listed else None)
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)
        return [found for _ in topics]

    def _counts(self) -> tuple[int, int]:
        statuses = list(self.users.values())
        return statuses.count("online"), statuses.count("away")

    def change(self) -> None:
        user = self.random.choice("abcdefgh")
        before, after = self.users.get(user), self.random.choice(["online", "away", "offline"])
        if (before or "offline") == after:
            return
        if after == "offline":
            del self.users[user]
        else:
            self.users[user] = after
        self.version += 1
        self.listed = len(self.users) <= (5 if self.listed else 3)
        online, away = self._counts()
        action = "join" if before is None else "leave" if after == "offline" else "update"
        counts = {"epoch": self.epoch, "version": self.version, "online": online, "away": away}
        self.untold = not self.listed
        if self.listed:
            self.on_the_way.append({"action": action, "user": user, "name": "", "status": after, **counts})

    def tell_count(self) -> None:
        if self.untold:
            self.untold = False
            online, away = self._counts()
            counts = {"epoch": self.epoch, "version": self.version, "online": online, "away": away}
            self.on_the_way.append({"action": "count", **counts})

    def lose_everything(self) -> None:
        self.epoch = f"e{self.random.getrandbits(32)}"
        self.version, self.listed, self.untold = 0, True, False
        self.users.clear()

    def arrive(self) -> None:
        if self.on_the_way and self.at in self.node.locals:
            self.node.hear(self.at, self.on_the_way.pop(0))

    def lose_the_link(self) -> None:
        """What is on the way is gone, and everybody knows."""
        self.on_the_way.clear()
        if self.at in self.node.locals:
            self.node.mirror.doubt(self.node.locals[self.at])

    def come_and_go(self) -> None:
        if self.subs and self.random.random() < 0.4:
            sub = self.random.choice(self.subs)
            if sub.state is SubState.PAUSED:
                self.node.live(sub)
            elif self.random.random() < 0.5:
                self.node.leave(sub, SubState.PAUSED)
            else:
                self.subs.remove(sub)
                self.node.leave(sub)
        else:
            self.subs.append(self.node.join(Client(self.random.choice(list(Encoding))), self.at))

    async def settle(self) -> None:
        """Everything arrives; a last change shows whoever has missed something."""
        for sub in self.subs:
            if sub.state is SubState.PAUSED:
                self.node.live(sub)
        before = self.version
        while self.version == before:
            self.change()
        self.tell_count()
        while self.on_the_way:
            self.arrive()
        for _ in range(60):
            await asyncio.sleep(0)


@pytest.mark.parametrize("at_once", [STEP_WRITES, 1])
async def test_whatever_happens_every_client_sees_the_truth_at_the_end(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.nodes.presence.mirror.STEP_WRITES", at_once)
    for seed in range(300):
        random_ = random.Random(seed)
        world = World(random_)
        world.come_and_go()
        moves = [world.change] * 4 + [world.arrive] * 4 + [world.tell_count, world.come_and_go]
        for _ in range(random_.randrange(150)):
            random_.choice(moves)()
            what = random_.random()
            if what < 0.02:
                world.lose_everything()
            elif what < 0.04:
                world.lose_the_link()
            elif what < 0.06 and world.on_the_way:
                del world.on_the_way[random_.randrange(len(world.on_the_way))]
            if random_.random() < 0.4:
                await asyncio.sleep(0)
        await world.settle()
        for sub in world.subs:
            client = cast(Client, sub.subscriber)
            assert not client.waiting, f"seed {seed}: {client.told}"
            assert client.members == (world.users if world.listed else None), f"seed {seed}: {client.told}"
            assert (client.online, client.away) == world._counts()
        await world.node.close()
