"""Presence over real sockets: who comes, changes and goes, and what those who watch make of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from hub.auth.tokens import mint_token
from hub.edge.connection import Connection
from hub.embedded import RedisServer
from hub.errors import ErrorCode, HubError
from hub.orgs import OrgId
from hub.protocol.codec import Encoding
from hub.protocol.frames import Event, Pong
from hub.topics.topic import Topic
from tests.edge.conftest import HubWith
from tests.support.peers import Peers
from tests.support.presence_service import SERVICES
from tests.support.present import Present, View, Watch, sees, watching
from tests.support.raw_client import RawClient
from tests.support.running_hub import RunningHub, SocketKind, running_hub
from tests.support.waiting import until

QUICK: dict[str, Any] = {"factories": SERVICES, "presence_grace_s": 0.2, "presence_flush_ms": 1}
PATIENT: dict[str, Any] = QUICK | {"presence_grace_s": 30.0}


@pytest.fixture(params=["party:a", "lobby:a"])
def room(request: pytest.FixtureRequest) -> str:
    """A topic with history, and one without."""
    name: str = request.param
    return name


async def set_status(client: RawClient, status: str) -> None:
    result = await client.result({"type": "call", "method": "presence.set", "params": {"status": status}})
    assert result == {"status": status}


async def got(client: RawClient, topic: str) -> Any:
    return await client.result({"type": "call", "method": "presence.get", "params": {"topic": topic}})


@pytest.fixture(scope="module")
async def party_hub(redis_server: RedisServer, socket_kind: SocketKind) -> AsyncIterator[RunningHub]:
    async with running_hub(socket_kind, redis_server.url, **QUICK) as hub:
        yield hub


@pytest.fixture
async def party(party_hub: RunningHub) -> AsyncIterator[Peers]:
    """Clients of a shared node, in an organisation of the test's own."""
    async with Peers(party_hub) as peers:
        yield peers
    peers.check_logs()


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    async with watching() as watch:
        yield watch


async def only_presence_came(client: RawClient) -> None:
    """Everything that has come and was not looked at is about presence."""
    await client.send({"type": "ping", "id": "end"})
    while not isinstance(frame := await client.receive(), Pong):
        assert isinstance(frame, Event), frame
        assert frame.name == "presence", frame


async def test_join_update_and_leave_are_distinct(
    hub_with: HubWith, watch: Watch, room: str, encoding: Encoding
) -> None:
    peers = await hub_with(encoding, **QUICK)
    ann = watch(await peers.join("ann", subscribe=[{"topic": room}]), room)
    await sees(ann, {"ann": "online"})
    bob = await peers.join("bob", subscribe=[{"topic": room}])
    await sees(ann, {"ann": "online", "bob": "online"})
    await set_status(bob, "away")
    await sees(ann, {"ann": "online", "bob": "away"})
    await bob.unsubscribe(room)
    await sees(ann, {"ann": "online"})
    # Whether the snapshot has herself already is left open.
    assert "join ann online" in ann.told
    assert sum(told.startswith("snapshot") for told in ann.told) == 1
    assert [told for told in ann.told if " bob" in told] == ["join bob online", "update bob away", "leave bob offline"]


async def test_a_snapshot_follows_the_verdict_and_what_was_missed(hub_with: HubWith, encoding: Encoding) -> None:
    peers = await hub_with(encoding, **QUICK)
    ann = await peers.join("ann", subscribe=[{"topic": "party:a"}])
    await until(lambda: _members(ann, "party:a", _online("ann")))
    await ann.publish("party:a", 1)
    bob = await peers.join("bob", subscribe=[{"topic": "party:a", "since": "start"}])
    await bob.expect(Event, topic="party:a", data=1, seq=1)
    snapshot = await bob.expect(Event, topic="party:a", name="presence", seq=None)
    assert snapshot.data["members"] == [{"user": "ann", "name": "", "status": "online"}]
    assert {**snapshot.data, "members": []} == {
        **{"action": "snapshot", "epoch": snapshot.data["epoch"], "version": 1, "online": 1, "away": 0},
        **{"listed": True, "members": []},
    }
    joined = await bob.expect(Event, topic="party:a", name="presence")
    counts = {"epoch": snapshot.data["epoch"], "version": 2, "online": 2, "away": 0}
    assert joined.data == {"action": "join", "user": "bob", "name": "", "status": "online", **counts}


async def test_several_connections_are_one_user(hub_with: HubWith, watch: Watch, room: str) -> None:
    peers = await hub_with(**QUICK)
    watcher = watch(await peers.join("watcher", subscribe=[{"topic": room}]), room)
    await sees(watcher, {"watcher": "online"})
    phone = await peers.join("ann", subscribe=[{"topic": room}])
    laptop = await peers.join("ann", subscribe=[{"topic": room}])
    await sees(watcher, {"watcher": "online", "ann": "online"})
    await set_status(phone, "away")
    await set_status(laptop, "away")
    await sees(watcher, {"watcher": "online", "ann": "away"})
    await set_status(phone, "online")
    await sees(watcher, {"watcher": "online", "ann": "online"})
    await phone.unsubscribe(room)
    await sees(watcher, {"watcher": "online", "ann": "away"})
    await laptop.unsubscribe(room)
    await sees(watcher, {"watcher": "online"})
    about_ann = [told for told in watcher.told if " ann " in told]
    words = ["join", "update", "update", "update", "leave"]
    statuses = ["online", "away", "online", "away", "offline"]
    assert about_ann == [f"{word} ann {status}" for word, status in zip(words, statuses, strict=True)]


async def test_who_leaves_one_topic_stays_in_the_others(hub_with: HubWith, watch: Watch) -> None:
    peers = await hub_with(**QUICK)
    rooms = ("party:a", "party:b", "lobby:a")
    watchers = {room: watch(await peers.join("watcher", subscribe=[{"topic": room}]), room) for room in rooms}
    ann = await peers.join("ann", subscribe=[{"topic": room} for room in rooms])
    await set_status(ann, "away")
    await ann.unsubscribe("party:b")
    for room, watcher in watchers.items():
        here = {} if room == "party:b" else {"ann": "away"}
        await sees(watcher, {"watcher": "online", **here})


async def test_who_comes_back_within_the_grace_makes_no_noise(hub_with: HubWith, watch: Watch, room: str) -> None:
    peers = await hub_with(**PATIENT)
    watcher = watch(await peers.join("watcher", subscribe=[{"topic": room}]), room)
    await sees(watcher, {"watcher": "online"})
    first = await peers.join("ann", subscribe=[{"topic": room}])
    session = peers.welcome.session
    await sees(watcher, {"watcher": "online", "ann": "online"})
    first.socket.transport.abort()
    second = await peers.join("ann", resume={"session": session}, subscribe=[{"topic": room}])
    bob = await peers.join("bob", subscribe=[{"topic": room}])
    await sees(watcher, {"watcher": "online", "ann": "online", "bob": "online"})
    bob.socket.transport.abort()
    connections = peers.hub.gateway.connections
    await until(lambda: not connections.of_user(peers.org, "bob") and len(connections.of_user(peers.org, "ann")) == 1)
    await every_grace_ends(peers)
    # Bob was lost later, and his grace is over.
    await until(lambda: watcher.view == {"watcher": "online", "ann": "online"} and "leave bob offline" in watcher.told)
    assert [told for told in watcher.told if " ann " in told] == ["join ann online"]
    await only_presence_came(second)


async def every_grace_ends(peers: Peers) -> None:
    """For the hub's attendance it is later than it was."""
    attendance = peers.hub.gateway.presence.registrar.attendance

    async def end() -> None:
        attendance.clock = lambda: time.monotonic() + 31.0
        attendance._end_graces()

    await peers.hub.within(end)


@pytest.mark.parametrize("how", ["unsubscribe", "offline"])
async def test_who_says_that_he_leaves_has_no_grace(hub_with: HubWith, watch: Watch, room: str, how: str) -> None:
    peers = await hub_with(**PATIENT)
    watcher = watch(await peers.join("watcher", subscribe=[{"topic": room}]), room)
    ann = await peers.join("ann", subscribe=[{"topic": room}])
    await sees(watcher, {"watcher": "online", "ann": "online"})
    if how == "unsubscribe":
        await ann.unsubscribe(room)
    else:
        await set_status(ann, "offline")
    await sees(watcher, {"watcher": "online"})


async def test_a_subscription_that_the_hub_ends_has_no_grace(hub_with: HubWith, watch: Watch) -> None:
    peers = await hub_with(**PATIENT)
    watcher = watch(await peers.join("watcher", subscribe=[{"topic": "party:a"}]), "party:a")
    ann = await peers.join("ann", subscribe=[{"topic": "party:a"}])
    await sees(watcher, {"watcher": "online", "ann": "online"})
    await ann.result({"type": "auth", "token": peers.token("ann", scope="subscribe:plain:*")})
    await sees(watcher, {"watcher": "online"})


@pytest.mark.parametrize("how", ["expelled", "kicked", "kicked later"])
async def test_who_may_not_stay_has_no_grace(hub_with: HubWith, watch: Watch, how: str) -> None:
    peers = await hub_with(**PATIENT)
    watcher = watch(await peers.join("watcher", subscribe=[{"topic": "party:a"}]), "party:a")
    ann = await peers.join("ann", subscribe=[{"topic": "party:a"}])
    await sees(watcher, {"watcher": "online", "ann": "online"})
    gateway = peers.hub.gateway
    if how != "kicked":
        ann.socket.transport.abort()
        await until(lambda: not gateway.connections.of_user(peers.org, "ann"))
    if how == "expelled":
        topic = Topic(OrgId.from_claim(peers.org), "party", "a")
        error = HubError(ErrorCode.NOT_FOUND, "no such party")
        await peers.hub.within(lambda: gateway.expulsions.announce(topic, ["ann"], error))
    else:
        token = peers.token("boss", scope="admin")
        async with httpx.AsyncClient(base_url=peers.hub.http_url, timeout=30) as http:
            headers = {"Authorization": f"Bearer {token}"}
            assert (await http.post("/v1/admin/kick", json={"user": "ann"}, headers=headers)).status_code == 200
    await sees(watcher, {"watcher": "online"})


async def test_a_fresh_token_may_bear_another_name(hub_with: HubWith, watch: Watch, room: str) -> None:
    peers = await hub_with(**QUICK)
    client = await peers.join("watcher", subscribe=[{"topic": room}])
    ann = await peers.join("ann", subscribe=[{"topic": room}])
    await until(lambda: _members(ann, room, _online("watcher", "ann")))
    await ann.result({"type": "auth", "token": mint_token(peers.hub.settings, peers.org, "ann", name="Ann Other")})
    watcher = watch(client, room)

    def names() -> list[str]:
        events = [frame.data for frame in client.came if isinstance(frame, Event) and frame.name == "presence"]
        return [data["name"] for data in events if data["action"] == "update"]

    await until(lambda: names() == ["Ann Other"])
    await sees(watcher, {"watcher": "online", "ann": "online"})


async def test_who_is_offline_still_sees_the_others_and_comes_back(hub_with: HubWith, watch: Watch, room: str) -> None:
    peers = await hub_with(**QUICK)
    hidden = await peers.join("ann")
    await set_status(hidden, "offline")
    await hidden.joined(room)
    ann = watch(hidden, room)
    await sees(ann, {})
    bob = await peers.join("bob", subscribe=[{"topic": room}])
    await sees(ann, {"bob": "online"})
    await hidden.send({"type": "call", "id": "on", "method": "presence.set", "params": {"status": "online"}})
    await sees(ann, {"ann": "online", "bob": "online"})
    await bob.unsubscribe(room)
    await sees(ann, {"ann": "online"})


def _is_idle(connection: Connection) -> bool:
    return connection.attendance is not None and connection.attendance.idle


async def does_nothing(peers: Peers, user: str) -> None:
    """As if he had done nothing for very long."""
    (connection,) = peers.hub.gateway.connections.of_user(peers.org, user)

    async def age() -> None:
        connection.attending().acted_at -= 3600
        peers.hub.gateway.keeper.watch(connection)

    await peers.hub.within(age)


@pytest.mark.parametrize("act", ["publish", "call", "subscribe", "unsubscribe"])
async def test_who_does_nothing_is_away_until_he_does_something(hub_with: HubWith, watch: Watch, act: str) -> None:
    peers = await hub_with(**(QUICK | {"presence_away_s": 0.3}))
    watcher = await peers.join("watcher", subscribe=[{"topic": "party:a"}])
    seen = watch(watcher, "party:a")
    ann = await peers.join("ann", subscribe=[{"topic": "party:a"}])
    await until(lambda: seen.view == {"watcher": "away", "ann": "away"})
    # From now on nobody is away before it was told that he is not.
    peers.hub.gateway.presence.registrar.attendance._away_s = 600.0
    # What a client sends by itself is no sign of its user.
    await ann.ack("party:a", "nope", 1)
    await ann.send({"type": "ping", "id": "p"})
    await ann.result({"type": "auth", "token": peers.token("ann")})
    # Neither is what was refused, nor to look who is there.
    await ann.refusal({"type": "call", "method": "party.wave", "params": {}}, "bad_request")
    await ann.refusal({"type": "call", "method": "party.nothing", "params": {}}, "unknown_method")
    await ann.refusal({"type": "publish", "topic": "nope:a", "name": "n", "data": 1}, "not_found")
    (verdict,) = await ann.subscribe({"topic": "party:private-bob"})
    assert not verdict.ok
    await got(ann, "party:a")
    assert not [connection for connection in peers.hub.gateway.connections if not _is_idle(connection)]
    frames: dict[str, dict[str, Any]] = {
        "publish": {"topic": "plain:a", "name": "n", "data": 1},
        "call": {"method": "party.wave", "params": {"hand": "left"}},
        "unsubscribe": {"topics": ["plain:b"]},
    }
    for key in "ab":
        frames["subscribe"] = {"topics": [{"topic": f"plain:{key}"}]}  # twice the same is refused
        await ann.request({"type": act, **frames[act]})
        await until(lambda: "update ann online" in seen.heard)
        await does_nothing(peers, "ann")
        await until(lambda: seen.view == {"watcher": "away", "ann": "away"})
        seen.told.clear()


async def test_what_a_client_says_holds_whatever_it_does(hub_with: HubWith, watch: Watch) -> None:
    peers = await hub_with(**QUICK)
    watcher = watch(await peers.join("watcher", subscribe=[{"topic": "party:a"}]), "party:a")
    ann = await peers.join("ann", subscribe=[{"topic": "party:a"}])
    await set_status(ann, "away")
    await ann.publish("party:a", 1)
    await ann.joined("party:b")
    assert (await got(ann, "party:b"))["members"] in ([], [{"user": "ann", "name": "", "status": "away"}])
    await sees(watcher, {"watcher": "online", "ann": "away"})
    assert "update ann online" not in watcher.told


async def test_presence_get(hub_with: HubWith, encoding: Encoding) -> None:
    peers = await hub_with(encoding, **QUICK)
    ann = await peers.join("ann")
    empty = await got(ann, "lobby:a")
    assert empty == {"epoch": empty["epoch"], "version": 0, "online": 0, "away": 0, "listed": True, "members": []}
    await ann.joined("lobby:a")
    bob = await peers.join("bob", org=f"{peers.org}-other", subscribe=[{"topic": "lobby:a"}])
    one = {"user": "ann", "name": "", "status": "online"}
    await until(lambda: _members(ann, "lobby:a", [one]))
    await until(lambda: _members(bob, "lobby:a", [{"user": "bob", "name": "", "status": "online"}]))
    # Also who is not subscribed, and so has no part in it.
    eve = await peers.join("eve")
    assert (await got(eve, "lobby:a"))["members"] == [one]


async def _members(client: RawClient, topic: str, members: list[dict[str, Any]]) -> bool:
    found: list[dict[str, Any]] = (await got(client, topic))["members"]
    return sorted(found, key=str) == sorted(members, key=str)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("presence.get", {}, "bad_request"),
        ("presence.get", {"topic": 5}, "bad_request"),
        ("presence.get", {"topic": "plain:a"}, "bad_request"),
        ("presence.get", {"topic": "user:me"}, "bad_request"),
        ("presence.get", {"topic": "party:private-bob"}, "not_found"),
        ("presence.get", {"topic": "nope:a"}, "not_found"),
        ("presence.get", {"topic": "party:ä"}, "not_found"),
        ("presence.set", {}, "bad_request"),
        ("presence.set", {"status": "busy"}, "bad_request"),
        ("presence.set", {"status": None}, "bad_request"),
        ("presence.set", {"status": ["away"]}, "bad_request"),
        ("presence.set", {"status": {}}, "bad_request"),
        ("presence.go", {}, "unknown_method"),
    ],
)
async def test_what_is_refused(party: Peers, method: str, params: dict[str, Any], code: str) -> None:
    ann = await party.join("ann")
    await ann.refusal({"type": "call", "method": method, "params": params}, code)


async def test_the_scope_decides(party: Peers) -> None:
    ann = await party.join("ann", scope="subscribe:party:* call:presence.get")
    await ann.refusal({"type": "call", "method": "presence.set", "params": {"status": "away"}}, "forbidden")
    await ann.refusal({"type": "call", "method": "presence.get", "params": {"topic": "lobby:a"}}, "not_found")
    assert (await got(ann, "party:a"))["listed"] is True
    bob = await party.join("bob", scope="subscribe:* call:presence.*")
    await set_status(bob, "online")


async def test_nobody_else_tells_presence(party: Peers) -> None:
    ann = await party.join("ann")
    forged = {"action": "leave", "user": "bob", "epoch": "e", "version": 1, "online": 0, "away": 0}
    event = {"type": "publish", "name": "presence", "data": forged, "ephemeral": True}
    await ann.refusal({**event, "topic": "party:a"}, "bad_request")
    await ann.refusal({**event, "topic": "lobby:a"}, "bad_request")
    await ann.result({**event, "topic": "plain:a"})
    async with httpx.AsyncClient(base_url=party.hub.http_url, timeout=30) as http:
        headers = {"Authorization": f"Bearer {party.token('ann')}"}
        body = {"topic": "lobby:a", "name": "presence", "data": forged}
        assert (await http.post("/v1/publish", json=body, headers=headers)).status_code == 400
        assert (await http.post("/v1/publish", json={**body, "name": "typing"}, headers=headers)).status_code == 200


async def test_a_subscription_with_a_filter_is_present_and_is_told_what_it_asked_for(
    hub_with: HubWith, watch: Watch
) -> None:
    peers = await hub_with(**QUICK)
    watcher = watch(await peers.join("watcher", subscribe=[{"topic": "party:a"}]), "party:a")
    ann = await peers.join("ann", subscribe=[{"topic": "party:a", "filter": {"n": 1}}])
    await sees(watcher, {"watcher": "online", "ann": "online"})
    await ann.nothing_came()


async def test_who_could_not_be_told_for_a_while_gets_a_snapshot(hub_with: HubWith) -> None:
    peers = await hub_with(**(QUICK | {"ack_window": 2}))
    bob = await peers.join("bob", subscribe=[{"topic": "party:a", "ack": True}])
    seen = Present(bob, "party:a")
    for number in range(3):
        await bob.publish("party:a", number)
    ann = await peers.join("ann", subscribe=[{"topic": "party:a"}])
    await until(lambda: _members(ann, "party:a", [*_online("bob", "ann")]))
    assert "join ann online" not in seen.heard
    epoch = (await ann.publish("party:a", 3))["epoch"]
    await bob.ack("party:a", epoch, 2)
    await until(lambda: _has_read(bob, [1, 2, 3, 4]))
    await bob.ack("party:a", epoch, 4)
    await until(lambda: _sees_when_it_reads(seen, {"ann": "online", "bob": "online"}))
    assert seen.told[-1] == "snapshot ann bob"


async def _has_read(client: RawClient, numbers: list[int]) -> bool:
    await client.request({"type": "unsubscribe", "topics": ["plain:none"]})
    return [frame.seq for frame in client.came if isinstance(frame, Event) and frame.seq] == numbers


async def _sees_when_it_reads(present: Present, view: View) -> bool:
    await present.client.request({"type": "unsubscribe", "topics": ["plain:none"]})
    return present.view == view


def _online(*users: str) -> list[dict[str, str]]:
    return [{"user": user, "name": "", "status": "online"} for user in users]


async def test_too_many_to_list_are_counted_until_they_are_fewer(hub_with: HubWith, watch: Watch, room: str) -> None:
    peers = await hub_with(**(QUICK | {"presence_max_listed": 3, "presence_count_s": 0.05}))
    watcher = watch(await peers.join("u1", subscribe=[{"topic": room}]), room)
    others = [await peers.join(f"u{number}", subscribe=[{"topic": room}]) for number in range(2, 8)]
    await until(lambda: watcher.counts == (7, 0))
    assert watcher.members is None
    late = watch(await peers.join("u8", subscribe=[{"topic": room}]), room)
    await until(lambda: watcher.counts == late.counts == (8, 0))
    assert (late.members, late.told[0]) == (None, "snapshot")
    await set_status(others[0], "away")
    await until(lambda: watcher.counts == late.counts == (7, 1))
    for other in others[1:]:
        await other.unsubscribe(room)
    await until(lambda: watcher.counts == late.counts == (2, 1))
    await others[0].unsubscribe(room)
    for present in (watcher, late):
        await sees(present, {"u1": "online", "u8": "online"})


async def test_metrics(hub_with: HubWith) -> None:
    peers = await hub_with(**QUICK)
    ann = await peers.join("ann", subscribe=[{"topic": "party:a"}, {"topic": "lobby:a"}, {"topic": "plain:a"}])
    await ann.await_kind(Event)
    await peers.join("ann", subscribe=[{"topic": "party:a"}])

    async def shown() -> str:
        async with httpx.AsyncClient(base_url=peers.hub.http_url, timeout=30) as http:
            return (await http.get("/metrics")).text

    await until(lambda: _shows(shown, 'hub_presence_members{kind="party"} 1.0'))
    await until(lambda: _shows(shown, 'hub_presence_snapshots_total{kind="party"} 2.0'))
    await until(lambda: _shows(shown, 'hub_presence_reads_total{kind="lobby"} 1.0'))


async def _shows(shown: Callable[[], Awaitable[str]], line: str) -> bool:
    return line in (await shown()).splitlines()


async def test_when_everybody_has_left_nothing_is_kept(hub_with: HubWith, room: str) -> None:
    peers = await hub_with(**QUICK)
    ann, bob = [await peers.join(user, subscribe=[{"topic": room}]) for user in ("ann", "bob")]
    await until(lambda: _members(ann, room, _online("ann", "bob")))
    presence = peers.hub.gateway.presence
    assert (len(presence.mirror), len(presence.registrar.attendance)) == (1, 1)
    await ann.unsubscribe(room)
    bob.socket.transport.abort()
    await until(lambda: (len(presence.mirror), len(presence.registrar.attendance)) == (0, 0))


async def test_connections_without_presence_keep_nothing(hub_with: HubWith) -> None:
    peers = await hub_with(**QUICK)
    ann = await peers.join("ann", subscribe=[{"topic": "plain:a"}])
    await ann.publish("plain:a", 1)
    (connection,) = peers.hub.gateway.connections
    assert connection.attendance is None
