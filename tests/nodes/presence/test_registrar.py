"""The registrar: everything arrives, once Redis takes it; what fails holds up nothing else; nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from hub.config import Settings
from hub.nodes.presence.attendance import Attendant
from hub.nodes.presence.registrar import CHANGES_PER_ROUND, Registrar
from hub.nodes.presence.table import Status
from hub.orgs import OrgId
from hub.telemetry import PresenceMetrics
from hub.topics.topic import Topic
from tests.nodes.presence.fake_table import FakeLease, FakeTable
from tests.support.waiting import until

ORG = OrgId.from_claim("acme")
A, B, C = (Topic(ORG, "party", key) for key in "abc")


class Node:
    """A registrar that tells a fake."""

    def __init__(self, **changes: Any) -> None:
        quick = {"presence_flush_ms": 1, "presence_grace_s": 0, "reconnect_max_s": 0.01}
        self.registry = CollectorRegistry()
        self.table = FakeTable()
        self.lease = FakeLease()
        settings = Settings(redis_url="x", database_url="x", **(quick | changes))
        self.registrar = Registrar(settings, self.table, PresenceMetrics(self.registry))
        self.attendance = self.registrar.attendance
        self.registrar.start(self.lease)

    def enter(self, user: str, *topics: Topic) -> Attendant:
        attendant = self.attendance.attendant(user, "")
        for topic in topics:
            self.attendance.enter(attendant, topic)
        return attendant

    async def settled(self) -> None:
        await until(lambda: not any(place.due or place.busy for place in self.attendance), what="everything to be told")

    @property
    def resyncs(self) -> float:
        return self.registry.get_sample_value("hub_presence_resyncs_total", {"kind": "party"}) or 0


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    yield node
    await node.registrar.close()
    assert node.table.faults == []


async def test_changes_of_a_moment_go_together(node: Node) -> None:
    ann = node.enter("ann", A, B)
    node.enter("bob", A)
    node.attendance.say(ann, Status.AWAY)
    await node.settled()
    assert node.table.calls == [[(A, 2, True), (B, 1, True)]]
    assert node.table.users(A) == {"ann": "away", "bob": "online"}


async def test_what_redis_has_of_an_earlier_stay_is_put_right_when_somebody_comes(node: Node) -> None:
    # Of a topic that this node has forgotten, and Redis has not: it has come back with older data.
    node.table.present[A] = {("n1", "ann"): Status.ONLINE}
    node.enter("bob", A)
    await node.settled()
    assert node.table.users(A) == {"bob": "online"}
    node.enter("eve", A)
    await node.settled()
    assert [call[0][1:] for call in node.table.calls] == [(1, True), (1, False)]
    assert node.resyncs == 0


async def test_when_the_last_has_left_nothing_is_kept(node: Node) -> None:
    ann = node.enter("ann", A)
    await node.settled()
    assert node.table.noted == {("n1", A)}
    node.attendance.leave(ann, A)
    await until(lambda: not node.table.noted)
    assert (len(node.attendance), node.table.users(A)) == (0, {})
    # The server of A may come back with data in which she is still there.
    assert (node.lease.left("n1"), node.lease.left("n2")) == ([A], [])


async def test_who_comes_while_the_last_one_is_forgotten_is_noted_again(node: Node) -> None:
    ann = node.enter("ann", A)
    await node.settled()
    node.attendance.leave(ann, A)
    await until(lambda: len(node.table.calls) == 2)
    node.table.gate.clear()  # the topic is about to be forgotten
    node.enter("bob", A)
    node.table.gate.set()
    await node.settled()
    assert (node.table.noted, node.table.users(A)) == ({("n1", A)}, {"bob": "online"})


async def test_a_topic_that_fails_holds_up_no_other(node: Node) -> None:
    node.table.failing.add(A)
    node.enter("ann", A, B)
    await until(lambda: node.table.users(B) == {"ann": "online"})
    node.enter("bob", A, C)
    await until(lambda: node.table.users(C) == {"bob": "online"})
    assert node.table.users(A) == {}
    node.table.failing.clear()
    await node.settled()
    assert node.table.users(A) == {"ann": "online", "bob": "online"}


async def test_a_topic_that_has_failed_and_hangs_holds_up_no_other(node: Node) -> None:
    node.table.failing.add(A)
    node.enter("ann", A)
    await until(lambda: len(node.table.calls) >= 2)
    node.table.hanging[A] = asyncio.Event()
    await until(lambda: node.table.under_way["n1", A] == 1)
    node.enter("bob", A, B)
    await until(lambda: node.table.users(B) == {"bob": "online"})
    node.table.failing.clear()
    node.table.hanging[A].set()
    await node.settled()
    assert node.table.users(A) == {"ann": "online", "bob": "online"}


async def test_topics_that_cannot_be_noted_hold_up_none_that_are(node: Node) -> None:
    node.enter("ann", A)
    await node.settled()
    node.table.no_notes = True
    node.enter("bob", B, A)
    await until(lambda: node.table.users(A) == {"ann": "online", "bob": "online"})
    assert node.table.users(B) == {}
    node.table.no_notes = False
    await node.settled()
    assert node.table.users(B) == {"bob": "online"}


async def test_while_redis_is_away_state_waits_and_not_changes(node: Node) -> None:
    ann = node.enter("ann", A)
    await node.settled()
    node.table.away = True
    for _ in range(4):
        node.attendance.say(ann, Status.AWAY)
        node.attendance.say(ann, Status.ONLINE)
        node.attendance.lost(node.enter("bob", A))
        await asyncio.sleep(0)
    eve = node.enter("eve", A)
    node.attendance.say(ann, Status.AWAY)
    node.attendance.leave(eve, A)
    node.table.away = False
    await node.settled()
    assert node.table.users(A) == {"ann": "away"}


async def test_nothing_is_told_without_a_lease(node: Node) -> None:
    node.lease.there.clear()
    node.enter("ann", A)
    await until(lambda: any(place.busy for place in node.attendance))
    assert (node.table.calls, node.table.noted) == ([], set())
    node.lease.there.set()
    await node.settled()
    assert node.table.users(A) == {"ann": "online"}


async def test_a_node_that_was_taken_for_dead_tells_everything_by_its_new_name(node: Node) -> None:
    node.enter("ann", A)
    node.enter("bob", B)
    await node.settled()
    node.table.present.clear()
    node.lease.instance = "n2"
    node.registrar.reborn("n2")
    await node.settled()
    assert node.table.present == {A: {("n2", "ann"): "online"}, B: {("n2", "bob"): "online"}}
    assert {("n2", A), ("n2", B)} <= node.table.noted
    assert node.resyncs == 2


async def test_what_was_under_way_by_the_old_name_is_told_by_the_new_one_as_well(node: Node) -> None:
    node.table.gate.clear()
    node.enter("ann", A)
    await until(lambda: any(place.busy for place in node.attendance))
    node.lease.instance = "n2"
    node.registrar.reborn("n2")
    node.table.gate.set()
    await node.settled()
    assert node.table.present[A][("n2", "ann")] == "online"
    assert ("n2", A) in node.table.noted


async def test_another_epoch_means_that_redis_has_lost_the_others(node: Node) -> None:
    node.enter("ann", A)
    await node.settled()
    node.table.present.clear()
    node.table.epoch = "e2"
    node.enter("bob", A)
    await node.settled()
    assert node.table.users(A) == {"ann": "online", "bob": "online"}
    assert node.resyncs == 1


async def test_counts_that_were_held_back_are_called_for(node: Node) -> None:
    node.table.again_ms = 20
    ann = node.enter("ann", A)
    await node.settled()
    node.attendance.leave(ann, A)
    await until(lambda: node.table.users(A) == {})
    node.table.again_ms = 0
    node.table.failing.add(A)
    calls = len(node.table.calls)
    await until(lambda: len(node.table.calls) > calls)
    node.table.failing.clear()
    # Also when nobody is here any more: who is elsewhere waits for the count.
    await until(lambda: len(node.attendance) == 0)
    assert node.table.answered[-1] == (A, 0, False)


async def test_what_is_long_quiet_is_told_again_before_redis_forgets_it() -> None:
    node = Node(presence_keep_s=60)
    node.enter("ann", A)
    await node.settled()
    node.registrar._renew_s = 0.01
    await node.registrar.close()
    node.registrar.start(node.lease)
    await until(lambda: node.resyncs >= 2)
    await node.registrar.close()


async def test_many_changes_go_in_rounds(node: Node) -> None:
    users = [f"u{number}" for number in range(CHANGES_PER_ROUND)]
    for user in users:
        node.enter(user, A)
    for user in users[: CHANGES_PER_ROUND // 2]:
        node.enter(user, B)
    node.enter("ann", C)
    await node.settled()
    assert [[topic for topic, _, _ in call] for call in node.table.calls] == [[A], [B, C]]
    assert len(node.table.users(A)) == CHANGES_PER_ROUND


async def test_at_the_end_what_was_said_is_told_and_nobody_is_removed() -> None:
    node = Node(presence_flush_ms=60_000)
    ann, bob = node.enter("ann", A), node.enter("bob", A)
    await node.registrar.close()
    assert node.table.users(A) == {"ann": "online", "bob": "online"}
    node = Node(presence_flush_ms=1)
    ann, bob = node.enter("ann", A), node.enter("bob", A)
    await node.settled()
    node.attendance.leave(bob, A)
    node.attendance.lost(ann)
    await node.registrar.close()
    assert node.table.users(A) == {"ann": "online"}


@pytest.mark.parametrize("hurt", ["under way", "failed"])
async def test_what_was_being_told_at_the_end_is_told(hurt: str) -> None:
    node = Node()
    ann = node.enter("ann", A)
    await node.settled()
    if hurt == "failed":
        node.table.failing.add(A)
    else:
        node.table.gate.clear()
    calls = len(node.table.calls)
    node.attendance.leave(ann, A)
    await until(lambda: len(node.table.calls) > calls)
    node.table.failing.clear()
    asyncio.get_running_loop().call_soon(node.table.gate.set)
    if hurt == "under way":
        # It is cancelled before Redis has answered.
        for task in node.registrar._tasks:
            task.cancel()
        await asyncio.gather(*node.registrar._tasks, return_exceptions=True)
    await node.registrar.close()
    assert node.table.users(A) == {}
    assert node.table.noted == set()


async def test_whatever_happens_redis_knows_the_truth_at_the_end() -> None:
    random_ = random.Random(5)
    for _ in range(20):
        node = Node(presence_flush_ms=0)
        here: list[tuple[Attendant, set[Topic]]] = []
        for _ in range(200):
            _play(node, here, random_)
            await asyncio.sleep(0)
        node.table.away = False
        node.table.failing.clear()
        node.table.gate.set()
        await node.settled()
        for topic in (A, B, C):
            assert node.table.users(topic) == _truth(here, topic)
        assert node.table.noted <= {(node.lease.instance, topic) for topic in (A, B, C)}
        await node.registrar.close()
        assert node.table.faults == []


def _play(node: Node, here: list[tuple[Attendant, set[Topic]]], random_: random.Random) -> None:
    what = random_.random()
    topic = random_.choice((A, B, C))
    if what < 0.3 or not here:
        here.append((node.enter(random_.choice(("ann", "bob", "eve")), topic), {topic}))
        return
    attendant, topics = random_.choice(here)
    if what < 0.5 and topics:
        topic = random_.choice(sorted(topics, key=repr))
        topics.discard(topic)
        node.attendance.leave(attendant, topic)
    elif what < 0.6 and topic not in topics:
        topics.add(topic)
        node.attendance.enter(attendant, topic)
    elif what < 0.7:
        attendant.credit = 1.0
        node.attendance.say(attendant, random_.choice(list(Status)))
    elif what < 0.75:
        node.attendance.resync(topic)
    elif what < 0.8:
        node.table.away = not node.table.away
    elif what < 0.85:
        node.table.failing ^= {topic}
    elif what < 0.95:
        (node.table.gate.clear if node.table.gate.is_set() else node.table.gate.set)()


def _truth(here: list[tuple[Attendant, set[Topic]]], topic: Topic) -> dict[str, str]:
    found: dict[str, str] = {}
    for attendant, topics in here:
        if topic in topics and attendant.status is not Status.OFFLINE and found.get(attendant.user) != "online":
            found[attendant.user] = str(attendant.status)
    return found
