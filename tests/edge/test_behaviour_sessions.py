"""Sessions, acknowledgements and windows (PROTOCOL sections 2 and 6) over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hub.edge.drain import drain
from hub.edge.session_saver import SessionSaver
from hub.embedded import RedisServer
from hub.orgs import OrgId, session_key
from hub.protocol.frames import Drain, Error, Event, Gap, Welcome
from tests.edge.conftest import HubWith
from tests.edge.conversation import live_marker, older, published
from tests.support.hub_services import SMALL
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.running_hub import SocketKind
from tests.support.servers import client as connected
from tests.support.waiting import until


class Stored:
    def __init__(self, server: RedisServer, org: str) -> None:
        self._server = server
        self._org = OrgId.from_claim(org)

    async def position(self, session: str, topic: str, epoch: str, seq: int) -> None:
        def found() -> bool:
            with connected(self._server) as redis:
                value = str(redis.hget(session_key(self._org, session), topic) or "::").split(":", 2)
            return (value[2], value[0]) == (epoch, str(seq))

        await until(found, what="the position to be stored")

    async def session(self, session: str, *, free: bool = False) -> None:
        def found() -> bool:
            with connected(self._server) as redis:
                owner = redis.hget(session_key(self._org, session), "connection")
            return owner == "" if free else owner is not None

        await until(found, what="the session to be stored")


@pytest.fixture
def stored(redis_server: RedisServer, peers: Peers) -> Stored:
    """Waits until Redis has a position of a session (None: until it has the session)."""
    return Stored(redis_server, peers.org)


async def left(client: RawClient, stored: Stored, session: str) -> None:
    """Closes a connection; returns when its session is stored and belongs to nobody."""
    await client.socket.close()
    await stored.session(session, free=True)


async def resumed(peers: Peers, session: str, user: str = "u1", **hello: object) -> tuple[RawClient, Welcome]:
    client = await peers.join(user, resume={"session": session}, **hello)
    return client, peers.welcome


async def test_acknowledged_positions_are_used_for_what_has_no_since_or_last(peers: Peers, stored: Stored) -> None:
    writer, client = await peers.join("u2"), await peers.join()
    session = peers.welcome.session
    await client.joined("room:a", "room:b", "room:c")
    for topic in ("room:a", "room:b", "room:c"):
        epoch = await published(writer, topic, 4)
        await client.events(4)
        await client.ack(topic, epoch, 2)
    await client.nothing_came()
    await left(client, stored, session)
    client, welcome = await resumed(
        peers,
        session,
        subscribe=[{"topic": "room:a"}, {"topic": "room:b", "since": "now"}, {"topic": "room:c", "last": 1}],
    )
    assert (welcome.resumed, welcome.session) == (True, session)
    assert all(verdict.ok and verdict.recovered for verdict in welcome.topics)
    events = await client.events(3)
    assert sorted((event.topic, event.seq) for event in events) == [("room:a", 3), ("room:a", 4), ("room:c", 4)]
    await live_marker(writer, client, "room:b")


async def test_a_resumed_session_announces_what_is_lost(peers: Peers, stored: Stored) -> None:
    writer, client = await peers.join("u2"), await peers.join(subscribe=[{"topic": "small:a"}])
    session = peers.welcome.session
    epoch = await published(writer, "small:a", 1)
    await client.events(1)
    await client.ack("small:a", epoch, 1)
    await client.nothing_came()
    await left(client, stored, session)
    await published(writer, "small:a", SMALL + 2)
    client, welcome = await resumed(peers, session, subscribe=[{"topic": "small:a"}])
    assert welcome.topics[0].recovered is False
    await client.expect(Gap, reason="expired", from_=2, to=3)
    assert [event.seq for event in await client.events(SMALL)] == [4, 5, 6, 7, 8]


async def test_subscriptions_themselves_are_not_restored(peers: Peers, stored: Stored) -> None:
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    session = peers.welcome.session
    await left(client, stored, session)
    client, welcome = await resumed(peers, session)
    assert welcome.resumed
    assert welcome.topics == []
    await client.publish("room:a")
    await client.joined("room:a")
    await live_marker(client, client, "room:a")


@pytest.mark.parametrize("session", ["s_" + "A" * 24, "", "s_", "x" * 1000, "s_é", "s_" + "A" * 23 + "}"])
async def test_an_unknown_session_gives_a_new_one(peers: Peers, session: str) -> None:
    _, welcome = await resumed(peers, session)
    assert welcome.resumed is False
    assert welcome.session != session


async def test_another_users_session_gives_a_new_one_and_leaves_it_alone(peers: Peers, stored: Stored) -> None:
    mine = await peers.join("u1", subscribe=[{"topic": "room:a"}])
    session = peers.welcome.session
    epoch = await published(mine, "room:a", 2)
    await mine.events(2)
    await mine.ack("room:a", epoch, 1)
    await stored.position(session, "room:a", epoch, 1)
    for org, user in ((peers.org, "u2"), ("other-" + peers.org, "u1")):
        await peers.join(user, org=org, resume={"session": session}, subscribe=[{"topic": "room:a"}])
        assert peers.welcome.resumed is False
        assert peers.welcome.session != session
    await live_marker(mine, mine, "room:a")


async def test_the_newest_connection_of_a_session_wins(peers: Peers, stored: Stored) -> None:
    older = await peers.join()
    session = peers.welcome.session
    await stored.session(session)
    newer, welcome = await resumed(peers, session)
    assert welcome.resumed
    assert await older.close_code() == 4409
    await newer.joined("room:a")
    await live_marker(newer, newer, "room:a")


async def test_the_newest_connection_wins_on_another_node_too(redis_server: RedisServer, hub_with: HubWith) -> None:
    here = await hub_with(node="here")
    stored = Stored(redis_server, here.org)
    there = await hub_with(node="there", org=here.org)
    older = await here.join(subscribe=[{"topic": "room:a"}])
    session = here.welcome.session
    writer = await here.join("u2")
    epoch = await published(writer, "room:a", 3)
    await older.events(3)
    await older.ack("room:a", epoch, 1)
    await stored.position(session, "room:a", epoch, 1)
    newer, welcome = await resumed(there, session, subscribe=[{"topic": "room:a"}])
    assert welcome.resumed
    assert [event.seq for event in await newer.events(2)] == [2, 3]
    assert await older.close_code() == 4409
    # What the older connection still had to store does not overwrite the newer one's.
    await newer.ack("room:a", epoch, 3)
    await stored.position(session, "room:a", epoch, 3)
    await live_marker(writer, newer, "room:a")


async def test_who_is_lost_while_claiming_a_session_gives_it_back(
    redis_server: RedisServer, hub_with: HubWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells the older connection, so it must not find out by a save that takes no effect any more."""
    here = await hub_with(node="here")
    stored = Stored(redis_server, here.org)
    there = await hub_with(node="there", org=here.org)
    older = await here.join(subscribe=[{"topic": "room:a"}])
    session = here.welcome.session
    await stored.session(session)
    sessions, claims, heard = there.hub.gateway.sessions, list[object](), asyncio.Event()
    resume, give_back, given_back = sessions.resume, SessionSaver._give_back, list[object]()

    async def late(*what: Any) -> Any:
        resumed = await resume(*what)
        claims.append(resumed)
        await heard.wait()
        return resumed

    async def noted(*what: Any) -> None:
        await give_back(*what)
        given_back.append(what)

    monkeypatch.setattr(sessions, "resume", late)
    monkeypatch.setattr(SessionSaver, "_give_back", noted)
    newer = await there.open(there.token())
    saying = asyncio.create_task(newer.send({"type": "hello", "id": 1, "resume": {"session": session}}))
    await until(lambda: bool(claims), what="the session to be claimed")
    newer.socket.transport.abort()
    await until(lambda: not list(there.hub.gateway.connections), what="it to be lost")
    await asyncio.gather(saying, return_exceptions=True)
    there.hub.loop.call_soon_threadsafe(heard.set)
    await until(lambda: bool(given_back), what="it to be given back")
    epoch = await published(older, "room:a", 1)
    await older.events(1)
    await older.ack("room:a", epoch, 1)
    await stored.position(session, "room:a", epoch, 1)
    await live_marker(older, older, "room:a")


async def test_positions_are_stored_while_the_connection_lives(peers: Peers, stored: Stored) -> None:
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    session = peers.welcome.session
    epoch = await published(client, "room:a", 3)
    await client.events(3)
    await client.ack("room:a", epoch, 2)
    await stored.position(session, "room:a", epoch, 2)
    await client.ack("room:a", epoch, 3)
    await stored.position(session, "room:a", epoch, 3)


# --- acknowledgements


async def test_wrong_epochs_lower_numbers_and_foreign_topics_are_ignored(peers: Peers, stored: Stored) -> None:
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    session = peers.welcome.session
    epoch = await published(client, "room:a", 3)
    await client.events(3)
    await client.ack("room:a", epoch, 2)
    await client.ack("room:a", epoch, 1)
    await client.ack("room:a", "another", 3)
    await client.ack("room:never", epoch, 3)
    await client.send({"type": "ack", "positions": {}})
    await client.nothing_came()
    await stored.position(session, "room:a", epoch, 2)


async def test_a_number_beyond_what_was_sent_is_a_bad_request_of_that_topic(peers: Peers) -> None:
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    epoch = await published(client, "room:a", 1)
    await client.events(1)
    await client.ack("room:a", epoch, 2)
    await client.expect(Error, code="bad_request", topic="room:a", id=None)
    await live_marker(client, client, "room:a")


@pytest.mark.parametrize("positions", [[], {"room:a": 5}, {"room:a": {"epoch": 1, "seq": 1}}, None])
async def test_a_malformed_ack_is_a_bad_request(peers: Peers, positions: object) -> None:
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    await client.send({"type": "ack", "positions": positions})
    await client.expect(Error, code="bad_request")


# --- windows


async def test_delivery_pauses_when_the_window_is_full_and_goes_on_by_acks(hub_with: HubWith) -> None:
    peers = await hub_with(ack_window=3)
    writer, client = await peers.join("u2"), await peers.join()
    await client.joined({"topic": "room:a", "ack": True}, "room:b")
    epoch = await published(writer, "room:a", 10)
    assert [event.seq for event in await client.events(3)] == [1, 2, 3]
    await live_marker(writer, client, "room:b")
    await client.ack("room:a", epoch, 2)
    assert [event.seq for event in await client.events(2)] == [4, 5]
    await client.ack("room:a", epoch, 5)
    assert [event.seq for event in await client.events(3)] == [6, 7, 8]
    await client.ack("room:a", epoch, 8)
    assert [event.seq for event in await client.events(2)] == [9, 10]
    await live_marker(writer, client, "room:a")


async def test_the_window_holds_for_a_replay_too(hub_with: HubWith) -> None:
    peers = await hub_with(ack_window=4)
    writer = await peers.join("u2")
    epoch = await published(writer, "room:a", 10)
    client = await peers.join(subscribe=[{"topic": "room:a", "since": "start", "ack": True}])
    assert [event.seq for event in await client.events(4)] == [1, 2, 3, 4]
    await client.nothing_came()
    for upto in (4, 8):
        await client.ack("room:a", epoch, upto)
        count = min(4, 10 - upto)
        assert [event.seq for event in await client.events(count)] == list(range(upto + 1, upto + 1 + count))
    await live_marker(writer, client, "room:a")


async def test_what_history_loses_while_the_window_is_full_is_a_gap(hub_with: HubWith) -> None:
    peers = await hub_with(ack_window=2)
    writer, client = await peers.join("u2"), await peers.join()
    await client.joined({"topic": "small:a", "ack": True}, "room:b")
    epoch = await published(writer, "small:a", 2 + SMALL + 3)
    assert [event.seq for event in await client.events(2)] == [1, 2]
    await live_marker(writer, client, "room:b")
    await client.ack("small:a", epoch, 2)
    await client.expect(Gap, topic="small:a", epoch=epoch, reason="expired", from_=3, to=5)
    assert [event.seq for event in await client.events(2)] == [6, 7]
    await client.ack("small:a", epoch, 7)
    assert [event.seq for event in await client.events(2)] == [8, 9]
    await client.ack("small:a", epoch, 9)
    assert [event.seq for event in await client.events(1)] == [10]
    await live_marker(writer, client, "small:a")


async def test_a_window_and_a_filter_together(hub_with: HubWith) -> None:
    peers = await hub_with(ack_window=2)
    writer, client = await peers.join("u2"), await peers.join()
    await client.joined({"topic": "room:a", "ack": True, "filter": {"n": 1}}, "room:b")
    epoch = ""
    for number in range(1, 11):
        epoch = (await writer.publish("room:a", number, tags={"n": number % 2}))["epoch"]
    assert [event.seq for event in await client.events(2)] == [1, 3]
    await live_marker(writer, client, "room:b")
    await client.ack("room:a", epoch, 3)
    assert [event.seq for event in await client.events(2)] == [5, 7]
    await client.ack("room:a", epoch, 7)
    assert [event.seq for event in await client.events(1)] == [9]
    await writer.publish("room:a", "end", tags={"n": 1})
    await client.expect(Event, data="end")


async def test_a_window_that_is_full_ends_with_the_subscription(hub_with: HubWith) -> None:
    peers = await hub_with(ack_window=1)
    client = await peers.join()
    await client.joined({"topic": "room:a", "ack": True})
    await published(client, "room:a", 3)
    await client.events(1)
    await client.unsubscribe("room:a")
    await client.joined("room:a")
    await live_marker(client, client, "room:a")


# --- leaving


async def test_drain_gives_a_slot_and_a_ticket_that_resumes_once(hub_with: HubWith) -> None:
    leaving = await hub_with(drain_window_s=0.5, drain_grace_s=60.0, node="leaving")
    there = await hub_with(org=leaving.org)
    writer = await leaving.join("bert")
    client = await leaving.join("anna", subscribe=[{"topic": "room:a"}])
    session = leaving.welcome.session
    epoch = await published(writer, "room:a", 2)
    await client.events(2)
    await client.ack("room:a", epoch, 1)
    await client.nothing_came()
    gateway = leaving.hub.gateway
    draining = asyncio.create_task(leaving.hub.within(lambda: drain(gateway)))
    frame = await client.expect(Drain)
    assert 0 <= frame.after_ms <= 500
    # Delivery goes on until the client leaves.
    await writer.publish("room:a", "while draining")
    await client.expect(Event, data="while draining")
    newcomer = await leaving.open(leaving.token("carl"))
    assert await newcomer.close_code() == 4503

    moved = await there.open(query=f"?ticket={frame.ticket}")
    welcome = await moved.hello(subscribe=[{"topic": "room:a"}])
    assert (welcome.resumed, welcome.session, welcome.user) == (True, session, "anna")
    assert [event.seq for event in await moved.events(2)] == [2, 3]
    assert await client.close_code() == 4409
    again = await there.open(query=f"?ticket={frame.ticket}")
    await again.expect(Error, code="unauthenticated")
    assert await again.close_code() == 4401
    # Who does not leave is closed a while after the slot.
    await older(leaving, "bert", drain_at=61.0)
    assert await writer.close_code() == 4504
    await draining


async def test_a_drain_ticket_is_bound_to_scope_and_organisation(hub_with: HubWith) -> None:
    leaving = await hub_with(drain_window_s=0.0, drain_grace_s=60.0)
    client = await leaving.join("anna", scope="subscribe:room:*")
    gateway = leaving.hub.gateway
    draining = asyncio.create_task(leaving.hub.within(lambda: drain(gateway)))
    frame = await client.expect(Drain, after_ms=0)
    there = await hub_with()
    moved = await there.open(query=f"?ticket={frame.ticket}")
    welcome = await moved.hello(subscribe=[{"topic": "room:a"}, {"topic": "big:a"}])
    assert welcome.org == leaving.org
    assert [verdict.ok for verdict in welcome.topics] == [True, False]
    assert welcome.expires_in_ms <= 3_600_000
    await client.socket.close()
    await draining


async def test_a_node_that_stops_drains_first(hub_with: HubWith, socket_kind: SocketKind) -> None:
    if socket_kind == "asgi":
        pytest.skip("a stock server closes its sockets by itself")
    peers = await hub_with(drain_window_s=0.1, drain_grace_s=0.1)
    client = await peers.join()
    waiting = await peers.open()
    peers.hub.leave()
    assert await waiting.close_code() == 4504
    await client.expect(Drain)
    assert await client.close_code() == 4504


async def test_a_stock_server_that_stops_says_1012(hub_with: HubWith, socket_kind: SocketKind) -> None:
    if socket_kind == "direct":
        pytest.skip("the hub's own server drains")
    peers = await hub_with()
    client = await peers.join()
    peers.hub.leave()
    assert await client.close_code() == 1012
