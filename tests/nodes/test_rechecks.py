"""Whether subscribers may stay is asked again: now and then, and when the link to Redis was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from hub.embedded import RedisServer
from hub.errors import unavailable
from hub.fanout.control import Control
from hub.nodes.expulsions import Expulsions
from hub.nodes.rechecks import PAIRS_AT_ONCE, Rechecks
from hub.orgs import OrgId
from hub.protocol.frames import Unsubscribed
from hub.topics.kinds import TopicKind
from hub.topics.topic import Topic
from tests.nodes.club import CLUB, Club
from tests.support.cut_proxy import CutProxy
from tests.support.fan_out import REPLAY, FakeConnection, FanOut, JoinRequest, settings, topic
from tests.support.peers import Peers
from tests.support.running_hub import running_hub
from tests.support.waiting import until


class One:
    """The rechecks of one node, over a broker in memory."""

    def __init__(self, **changes: Any) -> None:
        self.hub = FanOut()
        self.club = Club()
        self.kind = TopicKind(name="club", recheck=self.club.recheck)
        control = Control("me", self.hub.broker, self.hub.dispatcher)
        given = settings(**changes)
        self.expulsions = Expulsions(given, self.hub.topics, control)
        self.rechecks = Rechecks(given, self.hub.topics, self.expulsions, control)

    async def enter(
        self, user: str, key: str = "a", org: str = "acme", kind: TopicKind | None = None
    ) -> FakeConnection:
        connection = FakeConnection(self.hub, user=user)
        kind = kind or self.kind
        await connection.join_all([JoinRequest(Topic(OrgId.from_claim(org), kind.name, key), kind)])
        return connection


@pytest.fixture
async def one() -> AsyncIterator[One]:
    node = One(recheck_subscriptions_s=0.1)
    yield node
    await node.rechecks.close()
    await node.hub.close()


@pytest.fixture
async def patient() -> AsyncIterator[One]:
    """Waits long for an answer."""
    node = One()
    yield node
    await node.hub.close()


async def test_who_may_not_stay_is_told_that_there_is_no_such_topic(one: One) -> None:
    out = [await one.enter("anna"), await one.enter("anna"), await one.enter("bert", "b")]
    stays = [await one.enter("bert"), await one.enter("anna", "b"), await one.enter("anna", "1", kind=REPLAY)]
    one.club.out = {("anna", "a"), ("bert", "b"), ("anna", "1")}
    assert await one.rechecks.look()
    assert [[(frame.topic, frame.code, frame.retry) for frame in connection.frames] for connection in out] == [  # type: ignore[union-attr]
        [("club:a", "not_found", "never")],
        [("club:a", "not_found", "never")],
        [("club:b", "not_found", "never")],
    ]
    assert [connection.frames for connection in stays] == [[], [], []]


async def test_kinds_with_the_same_rule_are_asked_about_apart(one: One) -> None:
    pub = TopicKind(name="pub", recheck=one.club.recheck)
    connections = [await one.enter("anna"), await one.enter("anna", kind=pub)]
    one.club.out = {("anna", "a")}
    assert await one.rechecks.look()
    assert [[frame.topic for frame in connection.frames] for connection in connections] == [["club:a"], ["pub:a"]]  # type: ignore[union-attr]


async def test_an_answer_ends_nothing_that_began_after_the_question(patient: One) -> None:
    one, club = patient, patient.club
    before, stays = await one.enter("anna"), await one.enter("anna")
    club.out, club.gate = {("anna", "a")}, asyncio.Event()
    looking = asyncio.create_task(one.rechecks.look())
    await until(lambda: club.asked)
    # Removed and invited again, while an answer is on its way that says otherwise.
    since = one.expulsions.count
    before.leave(one.kind, "a")
    after = await one.enter("anna")
    await before.join(one.kind, key="a")
    club.gate.set()
    assert await looking
    assert [type(frame) for frame in stays.frames] == [Unsubscribed]
    assert [before.frames, after.frames] == [[], []]
    # Nor is a join refused that is under way.
    assert one.expulsions.refusal(Topic(OrgId.from_claim("acme"), "club", "a"), "anna", since) is None


async def test_who_was_joining_is_asked_about_again_soon(one: One) -> None:
    hub, arrived = one.hub, asyncio.Event()
    hub.broker.arrival = arrived.wait  # type: ignore[assignment]
    connection = FakeConnection(hub, user="anna")
    joining = asyncio.create_task(connection.join(one.kind, key="a"))
    await until(lambda: hub.topics.get(topic(one.kind, "a").channel))
    one.club.out = {("anna", "a")}
    assert not await one.rechecks.look()
    arrived.set()
    assert (await joining).ok
    assert connection.frames == []
    assert await one.rechecks.look()
    assert [type(frame) for frame in connection.frames] == [Unsubscribed]


async def test_each_organisation_is_asked_about_its_own_in_batches(one: One) -> None:
    for number in range(PAIRS_AT_ONCE + 1):
        await one.enter(f"u{number % PAIRS_AT_ONCE}", key=f"k{number // PAIRS_AT_ONCE}")
        if number < 3:
            await one.enter(f"u{number}", key="k0")
    await one.enter("u0", key="k0", org="other")
    assert await one.rechecks.look()
    sizes = [(org, len(pairs), len(set(pairs))) for org, pairs in one.club.asked]
    assert sorted(sizes) == [("acme", 1, 1), ("acme", PAIRS_AT_ONCE, PAIRS_AT_ONCE), ("other", 1, 1)]


async def nobody(_: OrgId, pairs: Any) -> list[bool]:
    return []


async def test_a_rule_that_fails_changes_nothing_and_is_asked_again_soon(one: One) -> None:
    connection = await one.enter("anna")
    one.club.out = {("anna", "a")}
    one.club.failures = [unavailable("PostgreSQL"), RuntimeError("a fault, on purpose"), TimeoutError()]
    with capture_logs() as logs:
        one.rechecks.start()
        await until(lambda: connection.frames)
    assert [type(frame) for frame in connection.frames] == [Unsubscribed]
    assert [line["log_level"] for line in logs[:3]] == ["warning", "error", "warning"]
    assert len(one.club.asked) == 4


async def test_an_answer_that_does_not_fit_changes_nothing(one: One) -> None:
    broken = TopicKind(name="broken", recheck=nobody)
    connection = await one.enter("anna", kind=broken)
    other = await one.enter("anna")
    one.club.out = {("anna", "a")}
    with capture_logs() as logs:
        assert not await one.rechecks.look()
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["subscriptions not rechecked"]
    assert connection.frames == []
    assert [type(frame) for frame in other.frames] == [Unsubscribed]


async def test_a_lost_link_is_a_reason_to_ask(redis_server: RedisServer) -> None:
    club = Club()
    async with CutProxy(redis_server.socket_path) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        async with (
            running_hub("direct", url, factories=[club.factory], reconnect_max_s=0.2) as hub,
            Peers(hub) as peers,
        ):
            out = await peers.join("anna", subscribe=[{"topic": CLUB}])
            stays = await peers.join("bert", subscribe=[{"topic": CLUB}])
            club.out = {("anna", "a")}
            asked = len(club.asked)
            proxy.cut()
            await out.expect(Unsubscribed, topic=CLUB, code="not_found")
            assert len(club.asked) > asked
            await until(lambda: hub.gateway.broker.ready)
            await stays.publish(CLUB, "still here")
            await stays.events(1)
            await out.nothing_came()
