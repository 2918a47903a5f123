"""Presence over two hubs and a Redis that is hurt: whatever happens, everybody sees the truth again, and no ghosts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import redis as redis_py

from hub.embedded import RedisServer
from hub.nodes.presence.table import Change
from hub.orgs import OrgId
from hub.protocol.frames import Drain
from hub.redis import Redis
from hub.topics.topic import Topic
from tests.support.cut_proxy import CutProxy
from tests.support.peers import Peers
from tests.support.presence_service import SERVICES
from tests.support.present import Present, View, Watch, sees, watching
from tests.support.raw_client import RawClient, raw_client
from tests.support.redis_world import redis_settings
from tests.support.running_hub import RunningHub, running_hub
from tests.support.servers import flush, running_redis
from tests.support.waiting import until

ROOMS = ("party:a", "lobby:a")
WAIT_S = 30.0
# For those who have to be back before it ends, on a machine that takes its time.
LONG_GRACE: dict[str, Any] = {"presence_grace_s": 3.0}
QUICK: dict[str, Any] = {
    "factories": SERVICES,
    "presence_grace_s": 0.2,
    "presence_flush_ms": 1.0,
    "presence_lease_s": 1.0,
    "probe_interval_s": 0.1,
    "probe_timeout_s": 0.5,
    "reconnect_max_s": 0.1,
    "redis_timeout_s": 3.0,
    "redis_connect_timeout_s": 3.0,
}


class Town:
    """Two hubs; the first reaches Redis through a proxy. In each of them somebody watches each room."""

    def __init__(self, server: RedisServer, proxy: CutProxy, one: Peers, two: Peers, watch: Watch) -> None:
        self.server = server
        self.proxy = proxy
        self.one = one
        self.two = two
        self.watch = watch
        self.watchers: list[Present] = []

    async def settle(self) -> None:
        for peers, name in ((self.one, "w1"), (self.two, "w2")):
            for room in ROOMS:
                client = await peers.join(name, subscribe=[{"topic": room}])
                self.watchers.append(self.watch(client, room))
        await self.all_see()

    async def enter(self, peers: Peers, user: str) -> RawClient:
        return await peers.join(user, subscribe=[{"topic": room} for room in ROOMS])

    async def all_see(self, **others: str) -> None:
        """All watchers: themselves, and the others with their status."""
        view: View = {"w1": "online", "w2": "online", **others}
        for watcher in self.watchers:
            await sees(watcher, view, WAIT_S)

    def heard(self, user: str) -> list[list[str]]:
        """What each watcher was told of a user."""
        return [[told for told in watcher.heard if f" {user} " in told] for watcher in self.watchers]


@pytest.fixture
async def town(request: pytest.FixtureRequest) -> AsyncIterator[Town]:
    changes: dict[str, Any] = getattr(request, "param", {})
    async with AsyncExitStack() as stack:
        server = stack.enter_context(running_redis())
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        proxy = await stack.enter_async_context(CutProxy(("127.0.0.1", port)))
        watch = await stack.enter_async_context(watching())
        hubs: list[RunningHub] = []
        for url in (f"redis://127.0.0.1:{proxy.port}", server.url):
            hub = running_hub("direct", url, node=f"n{len(hubs)}", allowed_errors=["outbox failed"], **QUICK | changes)
            hubs.append(await stack.enter_async_context(hub))
        one = await stack.enter_async_context(Peers(hubs[0]))
        two = await stack.enter_async_context(Peers(hubs[1], org=one.org))
        town = Town(server, proxy, one, two, watch)
        await town.settle()
        yield town


async def test_everybody_sees_the_same_from_every_hub(town: Town) -> None:
    here = await town.enter(town.one, "ann")
    there = await town.enter(town.two, "ann")
    await town.all_see(ann="online")
    for client in (here, there):
        await client.result({"type": "call", "method": "presence.set", "params": {"status": "away"}})
    await town.all_see(ann="away")
    await here.unsubscribe(*ROOMS)
    await there.unsubscribe(*ROOMS)
    await town.all_see()
    first, *others = town.heard("ann")
    assert others == [first] * (len(town.watchers) - 1)
    # Her other hub may say that she is there only after the first has said that she is away.
    late = ["update ann away", "update ann online"]
    assert first in (
        ["join ann online", "update ann away", "leave ann offline"],
        ["join ann online", *late, "update ann away", "leave ann offline"],
    )


@pytest.mark.parametrize("town", [LONG_GRACE], indirect=True)
async def test_who_moves_to_another_hub_makes_no_noise(town: Town) -> None:
    first = await town.enter(town.one, "ann")
    await town.all_see(ann="online")
    first.socket.transport.abort()
    await town.enter(town.two, "ann")
    bob = await town.enter(town.one, "bob")
    await town.all_see(ann="online", bob="online")
    bob.socket.transport.abort()
    await town.all_see(ann="online")  # his grace ended after hers
    assert town.heard("ann") == [["join ann online"]] * len(town.watchers)


@pytest.mark.parametrize("town", [{"drain_window_s": 15.0, "drain_grace_s": 5.0}], indirect=True)
async def test_whoever_a_hub_sends_away_has_more_time_than_the_grace(town: Town) -> None:
    ann = await town.enter(town.one, "ann")
    joe = await town.enter(town.one, "joe")
    bob = await town.enter(town.two, "bob")
    await town.all_see(ann="online", bob="online", joe="online")
    town.one.hub.leave()
    frame = await ann.await_kind(Drain)
    ann.socket.transport.abort()
    bob.socket.transport.abort()
    # His grace ends after hers would.
    await town.all_see(ann="online", joe="online")
    peers = town.two
    client = await peers.enter_async_context(raw_client(f"{peers.hub.url}?ticket={frame.ticket}"))
    await client.hello(subscribe=[{"topic": room} for room in ROOMS])
    # Who says that he leaves does.
    await joe.unsubscribe(*ROOMS)
    await town.all_see(ann="online")
    for heard in town.heard("ann"):
        assert [told for told in heard if not told.startswith("snapshot")] == ["join ann online"]


@pytest.mark.parametrize("town", [LONG_GRACE], indirect=True)
@pytest.mark.parametrize("how", ["idle", "away", "offline"])
async def test_who_is_not_online_and_moves_makes_no_noise(town: Town, how: str) -> None:
    first = await town.enter(town.one, "ann")
    session = town.one.welcome.session
    await town.all_see(ann="online")
    if how == "idle":
        await town.one.hub.within(lambda: _idle_for_long(town.one, "ann"))
    else:
        await first.result({"type": "call", "method": "presence.set", "params": {"status": how}})
    view = {} if how == "offline" else {"ann": "away"}
    await town.all_see(**view)
    first.socket.transport.abort()
    second = await town.two.join("ann", resume={"session": session}, subscribe=[{"topic": room} for room in ROOMS])
    bob = await town.enter(town.one, "bob")
    await town.all_see(**view, bob="online")
    bob.socket.transport.abort()
    await town.all_see(**view)  # his grace ended after hers
    last = "leave ann offline" if how == "offline" else "update ann away"
    assert town.heard("ann") == [["join ann online", last]] * len(town.watchers)
    if how == "idle":
        await second.publish("plain:x", 1)
    else:
        await second.result({"type": "call", "method": "presence.set", "params": {"status": "online"}})
    await town.all_see(ann="online")


async def _idle_for_long(peers: Peers, user: str) -> None:
    for connection in peers.hub.gateway.connections.of_user(peers.org, user):
        attendant = connection.attendance
        assert attendant is not None
        attendant.acted_at -= 10_000
        connection.look_away(time.monotonic())
    await until(lambda: not peers.hub.gateway.saver._changed, what="the session to be stored")


@pytest.mark.parametrize("town", [{"presence_lease_s": 30.0}], indirect=True)
async def test_a_leave_that_was_lost_leaves_no_ghost(town: Town) -> None:
    ann = await town.enter(town.two, "ann")
    await town.all_see(ann="online")
    town.proxy.refuse()
    town.proxy.cut()
    await ann.unsubscribe(*ROOMS)
    for watcher in town.watchers[2:]:
        await sees(watcher, {"w1": "online", "w2": "online"}, WAIT_S)
    await town.proxy.allow()
    await town.all_see()
    assert any(told.startswith("snapshot") for told in town.watchers[0].heard[1:])


async def test_who_leaves_while_redis_cannot_be_reached_leaves_then(town: Town) -> None:
    ann, bob = await town.enter(town.one, "ann"), await town.enter(town.one, "bob")
    await town.all_see(ann="online", bob="online")
    town.proxy.refuse()
    town.proxy.cut()
    await ann.unsubscribe(*ROOMS)
    bob.socket.transport.abort()
    await until(lambda: not _attendants(town.one, "bob"), what="the hub to notice")
    await town.proxy.allow()
    await town.all_see()


def _attendants(peers: Peers, user: str) -> list[object]:
    return [connection for connection in peers.hub.gateway.connections.of_user(peers.org, user) if not connection.gone]


async def test_a_hole_in_the_versions_brings_a_snapshot(town: Town) -> None:
    topic = Topic(OrgId.from_claim(town.one.org), "lobby", "a")
    watcher = next(watcher for watcher in town.watchers if watcher.topic == "lobby:a")
    known = await town.one.hub.within(lambda: town.one.hub.gateway.presence.get(topic))
    person = {"action": "join", "user": "ghost", "name": "", "status": "online"}
    data = {**person, "epoch": known.epoch, "version": known.version + 2, "online": 3, "away": 0}
    body = msgspec.json.encode({"id": "0" * 31, "name": "presence", "data": data})
    redis = Redis(redis_settings(town.server.url))
    await redis.command(topic.names.channel, "PUBLISH", topic.names.channel, b"- 0 1\n" + body)
    await redis.close()
    await until(lambda: watcher.heard[-2:] == ["join ghost online", "snapshot w1 w2"], WAIT_S)
    await town.all_see()


async def test_redis_has_lost_everything_without_anybody_noticing(town: Town) -> None:
    await town.enter(town.one, "ann")
    await town.enter(town.two, "bob")
    await town.all_see(ann="online", bob="online")
    await asyncio.to_thread(flush, town.server)
    # The next change of a topic is of another epoch.
    await town.enter(town.two, "eve")
    await town.all_see(ann="online", bob="online", eve="online")


async def test_redis_is_killed_and_comes_back_empty(town: Town) -> None:
    ann = await town.enter(town.one, "ann")
    await town.enter(town.two, "bob")
    await town.all_see(ann="online", bob="online")
    town.server.kill()
    await ann.unsubscribe(*ROOMS)
    town.server.start()
    await town.all_see(bob="online")


async def test_what_redis_has_lost_of_a_hub_is_said_again_when_the_link_is_back(town: Town) -> None:
    await town.enter(town.one, "ann")
    await town.all_see(ann="online")
    presence = town.one.hub.gateway.presence
    topics = [Topic(OrgId.from_claim(town.one.org), *room.split(":")) for room in ROOMS]
    nobody: list[tuple[Topic, list[Change], bool]] = [(topic, [], True) for topic in topics]
    # As after a failover to a server that had not heard the last of it, only that the epoch is the same.
    table, instance = presence.registrar._table, presence._lease.instance
    await town.one.hub.within(lambda: table.change(instance, nobody))
    for watcher in town.watchers:
        await sees(watcher, {"w2": "online"}, WAIT_S)
    town.proxy.cut()
    await town.all_see(ann="online")


async def test_redis_comes_back_as_it_was_before_somebody_left(town: Town) -> None:
    alone = "party:alone"
    watcher = town.watch(await town.one.join("w1", subscribe=[{"topic": alone}]), alone)
    ann = await town.two.join("ann", subscribe=[{"topic": alone}])
    await town.enter(town.two, "bob")
    await sees(watcher, {"w1": "online", "ann": "online"}, WAIT_S)
    await town.all_see(bob="online")
    await asyncio.to_thread(_save, town.server)
    await ann.unsubscribe(alone)
    await sees(watcher, {"w1": "online"}, WAIT_S)
    # The hub that she was present by knows nothing of the topic any more.
    await until(lambda: not _is_place(town.two, alone), what="the hub to forget the topic")
    town.server.kill()
    town.server.start()
    snapshots = len(_snapshots(watcher))
    await until(lambda: len(_snapshots(watcher)) > snapshots, WAIT_S, "a new epoch")
    await sees(watcher, {"w1": "online"}, WAIT_S)
    await town.all_see(bob="online")
    # Beginning anew makes no noise.
    for heard in town.heard("bob"):
        assert [told for told in heard if not told.startswith("snapshot")] == ["join bob online"]


def _save(server: RedisServer) -> None:
    with contextlib.closing(redis_py.Redis.from_url(server.url)) as client:
        client.save()


def _is_place(peers: Peers, text: str) -> bool:
    return any(place.topic.wire == text for place in peers.hub.gateway.presence.registrar.attendance)


def _snapshots(watcher: Present) -> list[str]:
    return [told for told in watcher.heard if told.startswith("snapshot")]


@pytest.mark.parametrize("town", [{"presence_lease_s": 4.0}], indirect=True)
async def test_a_hub_that_stops_removes_nobody_and_its_lease_does(town: Town) -> None:
    ann, bob = await town.enter(town.one, "ann"), await town.enter(town.one, "bob")
    await town.all_see(ann="online", bob="online")
    watchers = [watcher for watcher in town.watchers if watcher.client.socket.remote_address[1] == town.two.hub.port]
    await town.one.hub.stop()
    del ann, bob
    await town.enter(town.two, "ann")
    # Those of the first hub are gone after its lease; who came back in time was never away.
    for watcher in watchers:
        await sees(watcher, {"w2": "online", "ann": "online"}, WAIT_S)
        words = [told for told in watcher.heard if not told.startswith("snapshot")]
        assert [told for told in words if " ann " in told] == ["join ann online"]
        assert [told for told in words if " bob " in told] == ["join bob online", "leave bob offline"]
