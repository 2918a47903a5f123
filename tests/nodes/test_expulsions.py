"""Who may not stay in a topic any more: ended on all nodes, in whatever state, and on the way in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from hub.embedded import RedisServer
from hub.errors import ErrorCode, HubError, not_found
from hub.fanout.control import Control
from hub.nodes.expulsions import STEP, USERS_AT_ONCE, Expulsions
from hub.protocol.frames import Unsubscribed
from hub.topics.subscriptions import SubState
from tests.nodes.club import CLUB, Club, expel
from tests.support.fan_out import REPLAY, FakeConnection, FanOut, settings, topic
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.running_hub import running_hub
from tests.support.waiting import until

GONE = HubError(ErrorCode.FORBIDDEN, "the club has closed")


class Nodes(NamedTuple):
    """Two nodes with clients of one organisation."""

    here: Peers
    there: Peers
    club: Club
    """The service of ``here``."""
    away: Club


@pytest.fixture
async def nodes(redis_server: RedisServer) -> AsyncIterator[Nodes]:
    async with contextlib.AsyncExitStack() as stack:
        clubs = [Club(), Club()]
        hubs = [
            await stack.enter_async_context(running_hub("direct", redis_server.url, factories=[club.factory]))
            for club in clubs
        ]
        here = await stack.enter_async_context(Peers(hubs[0]))
        there = await stack.enter_async_context(Peers(hubs[1], org=here.org))
        yield Nodes(here, there, *clubs)


async def ended(client: RawClient) -> None:
    await client.expect(Unsubscribed, topic=CLUB, code="forbidden", message="the club has closed", retry="never")


async def goes_on(*clients: RawClient) -> None:
    for client in clients:
        await client.publish(CLUB, "still here")
    for client in clients:
        assert [event.data for event in await client.events(len(clients))] == ["still here"] * len(clients)


async def test_users_are_out_on_every_node_and_nobody_else_is(nodes: Nodes) -> None:
    here, there = nodes.here, nodes.there
    out = [await peers.join("anna", subscribe=[{"topic": CLUB}]) for peers in (here, here, there)]
    out.append(await there.join("bert", subscribe=[{"topic": CLUB}, {"topic": "club:b"}]))
    others = [await peers.join("carl", subscribe=[{"topic": CLUB}]) for peers in (here, there)]
    stranger = await there.join("anna", org="other-" + here.org, subscribe=[{"topic": CLUB}])
    await expel(here, nodes.club, ["anna", "bert", "nobody"])
    for client in out:
        await ended(client)
    await goes_on(*others)
    await goes_on(stranger)
    for client in out:
        await client.nothing_came()
    # Who may come back comes back, and what else one has stays.
    await out[0].joined(CLUB)
    await out[3].publish("club:b", 1)
    await out[3].events(1)


async def test_everybody_is_out(nodes: Nodes) -> None:
    clients = [await peers.join(user, subscribe=[{"topic": CLUB}]) for peers in nodes[:2] for user in ("a", "b")]
    await expel(nodes.there, nodes.away, None)
    for client in clients:
        await ended(client)


async def test_an_inbox_is_called_as_its_user_calls_it(nodes: Nodes) -> None:
    client = await nodes.there.join("anna@example", subscribe=[{"topic": "user:me"}])
    assert nodes.club.hub.user_topic("anna") == "user:anna"
    await expel(nodes.here, nodes.club, ["anna@example"], nodes.club.hub.user_topic("anna@example"))
    await client.expect(Unsubscribed, topic="user:me")


async def test_a_join_that_was_permitted_before_is_refused(nodes: Nodes) -> None:
    nodes.away.gate = asyncio.Event()
    late = await nodes.there.open(nodes.there.token("anna"))
    await late.send({"type": "hello", "id": 1, "subscribe": [{"topic": CLUB}]})
    other = await nodes.there.open(nodes.there.token("bert"))
    await other.send({"type": "hello", "id": 1, "subscribe": [{"topic": CLUB}]})
    await until(lambda: len(nodes.away.permitted) == 2)
    expulsions = nodes.there.hub.gateway.expulsions
    before = expulsions.count
    await expel(nodes.here, nodes.club, ["anna"])
    await until(lambda: expulsions.count > before)
    nodes.there.hub.loop.call_soon_threadsafe(nodes.away.gate.set)
    (refused,) = (await late.answer_to(1)).topics  # type: ignore[union-attr]
    assert (refused.ok, refused.error.code, refused.error.message) == (False, "forbidden", "the club has closed")
    (taken,) = (await other.answer_to(1)).topics  # type: ignore[union-attr]
    assert taken.ok
    await goes_on(other)
    await late.nothing_came()
    # Nothing is left of it: asked again it is a new question.
    await late.joined(CLUB)


async def test_a_topic_that_cannot_be_is_refused(nodes: Nodes) -> None:
    with pytest.raises(HubError) as caught:
        await expel(nodes.here, nodes.club, None, "no topic")
    assert caught.value.code is ErrorCode.NOT_FOUND


# --- one node


class One:
    """Expulsions over a broker in memory."""

    def __init__(self, max_expulsions: int = 100) -> None:
        self.hub = FanOut(replay_page_events=5, ack_window=4)
        self.control = Control("me", self.hub.broker, self.hub.dispatcher)
        self.expulsions = Expulsions(settings(max_expulsions=max_expulsions), self.hub.topics, self.control)

    def end(self, *users: str) -> None:
        self.expulsions.end(topic(REPLAY).channel, users or None, GONE)

    def refusal(self, user: str, since: int) -> str | None:
        error = self.expulsions.refusal(topic(REPLAY), user, since)
        return None if error is None else f"{error.code}: {error.message}"


@pytest.fixture
async def one() -> AsyncIterator[One]:
    node = One()
    node.control.start()
    await until(lambda: len(node.hub.broker.wanted) == 2)
    yield node
    await node.control.close()
    await node.hub.close()
    assert node.hub.violations == []


async def test_in_whatever_state(one: One) -> None:
    hub = one.hub
    live, paused, full, lagging, ahead = (FakeConnection(hub, user=name) for name in ("a", "b", "c", "d", "e"))
    for connection in (live, paused, lagging, ahead):
        await connection.join(REPLAY)
    await full.join(REPLAY, ack=True)
    paused.congest()
    hub.publish(REPLAY, 4)
    hub.broker.pump()
    lagging.congest()
    hub.publish(REPLAY)
    hub.broker.pump()
    hub.broker.refuse_read = lambda _: True
    lagging.drain()
    hub.local(REPLAY).leave_live(ahead.subscriptions[topic(REPLAY).wire], SubState.AHEAD)
    hub.local(REPLAY).add_ahead(ahead.subscriptions[topic(REPLAY).wire])
    everybody = (live, paused, full, lagging, ahead)
    states = [SubState.LIVE, SubState.PAUSED, SubState.WINDOW_FULL, SubState.CATCHING_UP, SubState.AHEAD]
    assert [connection.state(REPLAY) for connection in everybody] == states
    one.end("a", "b", "c", "d", "e")
    assert {type(connection.frames[-1]) for connection in everybody} == {Unsubscribed}
    assert hub.local(REPLAY).subscriptions == ()
    assert hub.local(REPLAY).holders == 0


async def test_who_is_still_joining_has_nothing_to_end(one: One) -> None:
    hub, answer = one.hub, asyncio.Event()
    hub.broker.arrival = answer.wait  # type: ignore[assignment]
    connection = FakeConnection(hub, user="a")
    joining = asyncio.create_task(connection.join(REPLAY))
    await until(lambda: hub.topics.get(topic(REPLAY).channel) and hub.local(REPLAY).subscriptions)
    since = one.expulsions.count
    one.end("a")
    answer.set()
    await joining
    assert connection.frames == []
    assert one.refusal("a", since) is not None  # the edge asks, and leaves again


async def test_a_crowd_is_ended_in_steps(one: One) -> None:
    crowd = [FakeConnection(one.hub, user=f"u{number}") for number in range(STEP + 2)]
    for connection in crowd:
        await connection.join(REPLAY)
    one.end()
    left = [connection for connection in crowd if connection.subscriptions]
    assert len(left) == 2
    left[0].lose()
    await until(lambda: not any(connection.subscriptions for connection in crowd))
    assert left[0].frames == []
    assert [type(frame) for frame in left[1].frames] == [Unsubscribed]


async def test_many_users_travel_in_several_messages(one: One) -> None:
    connection = FakeConnection(one.hub, user="last")
    await connection.join(REPLAY)
    one.hub.broker.drafts.clear()
    users = [*(f"u{number}" for number in range(USERS_AT_ONCE)), "last"]
    await one.expulsions.announce(topic(REPLAY), users, not_found())
    assert len(one.hub.broker.drafts) == 2
    one.hub.broker.pump()
    assert [frame.code for frame in connection.frames if isinstance(frame, Unsubscribed)] == ["not_found"]


async def test_only_what_came_after_a_permission_was_asked_for_refuses_a_join(one: One) -> None:
    one.end("a")
    since = one.expulsions.count
    assert one.refusal("a", since) is None
    one.end("b")
    assert [one.refusal(user, since) for user in ("a", "b")] == [None, "forbidden: the club has closed"]
    assert one.expulsions.refusal(topic(REPLAY, "2"), "b", since) is None
    one.end()
    assert one.refusal("a", since) == "forbidden: the club has closed"


async def test_what_is_forgotten_refuses_everybody_who_has_waited_so_long() -> None:
    one = One(max_expulsions=2)
    one.end("a")
    since = one.expulsions.count
    for user in ("b", "c", "b"):
        one.end(user)
    assert one.refusal("z", since) is None
    one.end("d")
    assert one.refusal("z", since) == "unavailable: it took too long to subscribe; try again"
    assert one.refusal("b", since) == "forbidden: the club has closed"
    assert one.refusal("z", one.expulsions.count - 2) is None
    await one.hub.close()
