"""Flags on open connections: who loses or gets what when one is flipped, and what those are told who come later."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from hub.edge import flag_watch
from hub.flags import FixedFlags, Subject
from hub.protocol.frames import Drain, Error, Event, Flags, Unsubscribed, Welcome
from tests.edge.conftest import HubWith
from tests.edge.conversation import code_of, live_marker
from tests.edge.http_hub import assert_problem
from tests.support.peers import Peers
from tests.support.presence_service import SERVICES
from tests.support.present import sees, watching
from tests.support.waiting import until

FALLBACK = ["sse", "poll"]


class UserFlags(FixedFlags):
    """Some flags are off for some users."""

    def __init__(self, values: dict[str, bool]) -> None:
        super().__init__(values)
        self.off_for: set[tuple[str, str]] = set()

    def on(self, flag: str, subject: Subject) -> bool:
        return super().on(flag, subject) and (flag, subject.user) not in self.off_for

    def values(self, subject: Subject) -> dict[str, bool]:
        return {flag: self.on(flag, subject) for flag in super().values(subject)}


def held_up(owner: Any, name: str) -> tuple[asyncio.Event, asyncio.Event]:
    """A method of the hub's that does its work and returns when the second event is set. The first: it was called."""
    loop = asyncio.get_running_loop()
    reached, go_on = asyncio.Event(), asyncio.Event()
    work = getattr(owner, name)

    async def slow(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(reached.set)
        outcome = await work(*arguments)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(go_on.wait(), loop))
        return outcome

    setattr(owner, name, slow)
    return reached, go_on


async def start(hub_with: HubWith, **values: bool) -> Peers:
    return await hub_with(flags=FixedFlags({"rooms": True, "finance_realtime_v2": True, **values}))


def echo() -> dict[str, Any]:
    return {"type": "call", "method": "test.echo", "params": {}}


async def test_welcome_says_which_flags_are_on(hub_with: HubWith) -> None:
    peers = await start(hub_with, chat=False)
    await peers.join()
    assert peers.welcome.flags == {"rooms": True, "finance_realtime_v2": True, "chat": False}


async def test_a_topic_that_goes_off_ends_for_those_who_have_it(hub_with: HubWith) -> None:
    peers = await start(hub_with)
    client, other = await peers.join(services=["finance", "guest"]), await peers.join("u2")
    await client.joined("room:a")
    peers.hub.flip(finance_realtime_v2=False)
    await client.expect(Flags, flags={"finance_realtime_v2": False})
    await client.expect(Unsubscribed, topic="events:finance", code="feature_disabled", retry="later", fallback=FALLBACK)
    await other.expect(Flags, flags={"finance_realtime_v2": False})
    await other.publish("events:finance", "not for the socket")
    await other.publish("events:guest", "still there")
    await client.expect(Event, topic="events:guest", data="still there")


async def test_a_feature_that_goes_off_has_no_fallback(hub_with: HubWith) -> None:
    peers = await start(hub_with)
    client = await peers.join(subscribe=[{"topic": "room:a"}, {"topic": "big:a"}])
    peers.hub.flip(rooms=False)
    await client.expect(Flags, flags={"rooms": False})
    ended = await client.expect(Unsubscribed, topic="room:a", code="feature_disabled")
    assert not ended.fallback
    await live_marker(client, client, "big:a")
    await client.refusal(echo(), "feature_disabled")
    refused = await client.refusal({"type": "publish", "topic": "room:a", "name": "n", "data": 1}, "feature_disabled")
    assert refused.details == {"flag": "rooms"}
    (verdict,) = await client.subscribe("room:b")
    assert code_of(verdict) == "feature_disabled"


async def test_on_again_is_told_and_has_effect_at_once(hub_with: HubWith) -> None:
    peers = await start(hub_with, rooms=False)
    client = await peers.join()
    (verdict,) = await client.subscribe("room:a")
    assert code_of(verdict) == "feature_disabled"
    peers.hub.flip(rooms=True)
    await client.expect(Flags, flags={"rooms": True})
    await client.joined("room:a")
    await client.result(echo())


async def test_a_topic_that_is_off_is_refused_in_hello_with_the_way_around(hub_with: HubWith) -> None:
    peers = await start(hub_with, finance_realtime_v2=False)
    await peers.join(services=["finance", "guest"])
    finance, guest = peers.welcome.topics
    assert code_of(finance) == "feature_disabled"
    assert finance.error
    assert finance.error.details == {"flag": "finance_realtime_v2", "fallback": FALLBACK}
    assert guest.ok


async def test_only_those_whose_value_changed_are_told(hub_with: HubWith) -> None:
    flags = UserFlags({"rooms": True})
    peers = await hub_with(flags=flags)
    clients = [await peers.join(user, subscribe=[{"topic": "room:a"}]) for user in ("u1", "u2")]
    flags.off_for.add(("rooms", "u2"))
    peers.hub.flip(rooms=True)
    await clients[1].expect(Flags, flags={"rooms": False})
    await clients[1].expect(Unsubscribed, topic="room:a")
    await live_marker(clients[0], clients[0], "room:a")


async def test_a_topic_joined_while_it_is_switched_off_is_not_kept(hub_with: HubWith) -> None:
    """The permission was given before, and the verdict comes after."""
    peers = await start(hub_with)
    client = await peers.join()
    reached, go_on = held_up(peers.hub.gateway.membership, "join")
    await client.send({"type": "subscribe", "id": "s", "topics": [{"topic": "room:a"}]})
    await reached.wait()
    peers.hub.flip(rooms=False)
    await client.expect(Flags, flags={"rooms": False})
    go_on.set()
    answer = await client.answer_to("s")
    assert answer.result["topics"][0]["error"]["code"] == "feature_disabled"  # type: ignore[union-attr]
    assert not peers.hub.gateway.connections.of_user(peers.org, "u1")[0].subscriptions


async def test_handles_of_a_method_that_goes_off_end(hub_with: HubWith) -> None:
    peers = await start(hub_with)
    client = await peers.join()
    handle = (await client.result({"type": "call", "method": "test.intake", "params": {"name": "x"}}))["handle"]
    peers.hub.flip(rooms=False)
    await client.expect(Flags)
    await client.expect(Error, code="feature_disabled", details={"handle": handle, "flag": "rooms"})
    await client.nothing_came()
    assert peers.hub.service.intakes.of(peers.org, "x").losses == 1


# --- the socket itself


async def test_without_realtime_nobody_gets_a_socket(hub_with: HubWith) -> None:
    peers = await start(hub_with, realtime_v2=False)
    client = await peers.open(peers.token())
    await client.send({"type": "hello", "id": 7})
    refused = await client.expect(Error, id=7, code="feature_disabled")
    assert refused.details == {"flag": "realtime_v2", "fallback": FALLBACK}
    assert await client.close_code() == 4403
    peers.hub.flip(realtime_v2=True)
    await until(lambda: peers.hub.gateway.flags.on("realtime_v2", Subject()), what="the flag to be on")
    await peers.join()


@pytest.mark.parametrize("step", ["admit", "join"])
async def test_who_is_let_in_while_the_socket_goes_off_is_refused_in_the_end(hub_with: HubWith, step: str) -> None:
    peers = await start(hub_with, realtime_v2=True)
    gateway = peers.hub.gateway
    reached, go_on = held_up(gateway.admission if step == "admit" else gateway.membership, step)
    client = await peers.open(peers.token())
    await client.send({"type": "hello", "id": 7, "subscribe": [{"topic": "big:a"}]})
    await reached.wait()
    peers.hub.flip(realtime_v2=False)
    await until(lambda: not gateway.flags.on("realtime_v2", Subject()), what="the flag to be off")
    go_on.set()
    refused = await client.expect(Error, id=7, code="feature_disabled")
    assert refused.details == {"flag": "realtime_v2", "fallback": FALLBACK}
    assert await client.close_code() == 4403


async def test_those_who_move_keep_no_other_flag_waiting(hub_with: HubWith) -> None:
    peers = await start(hub_with, realtime_v2=True)
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    reached, go_on = held_up(peers.hub.gateway.tickets, "issue_many")
    peers.hub.flip(realtime_v2=False)
    await client.expect(Flags, flags={"realtime_v2": False})
    await reached.wait()
    peers.hub.flip(rooms=False)
    await client.expect(Flags, flags={"rooms": False})
    await client.expect(Unsubscribed, topic="room:a")
    go_on.set()
    await client.expect(Drain)


async def test_when_the_socket_goes_off_its_clients_are_told_to_move(
    hub_with: HubWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flag_watch, "TURN_S", 60.0)  # all in one turn, so that the slots are those of all
    peers = await hub_with(flags=FixedFlags({"realtime_v2": True}), flags_drain_window_s=0.2, drain_grace_s=0.1)
    clients = [await peers.join(f"u{number}", subscribe=[{"topic": "room:a"}]) for number in range(8)]
    peers.hub.flip(realtime_v2=False)
    slots = []
    for client in clients:
        await client.expect(Flags, flags={"realtime_v2": False})
        drain = await client.expect(Drain, fallback=FALLBACK)
        assert drain.ticket
        slots.append(drain.after_ms)
    assert sorted(slots) == [0, 25, 50, 75, 100, 125, 150, 175]
    assert [await client.close_code() for client in clients] == [4504] * 8


async def test_who_is_still_there_when_it_comes_back_may_stay(hub_with: HubWith) -> None:
    peers = await hub_with(flags=FixedFlags({"realtime_v2": True}), flags_drain_window_s=60.0)
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    peers.hub.flip(realtime_v2=False)
    await client.expect(Flags, flags={"realtime_v2": False})
    await client.expect(Drain)
    (connection,) = peers.hub.gateway.connections.of_user(peers.org, "u1")
    assert connection.drain_at > time.monotonic()
    peers.hub.flip(realtime_v2=True)
    await client.expect(Flags, flags={"realtime_v2": True})
    await live_marker(client, client, "room:a")
    assert not connection.drain_at


async def test_who_gets_the_socket_back_while_tickets_are_made_is_not_told_to_move(hub_with: HubWith) -> None:
    peers = await hub_with(flags=FixedFlags({"realtime_v2": True}), flags_drain_window_s=60.0)
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    reached, go_on = held_up(peers.hub.gateway.tickets, "issue_many")
    peers.hub.flip(realtime_v2=False)
    await client.expect(Flags, flags={"realtime_v2": False})
    await reached.wait()
    peers.hub.flip(realtime_v2=True)
    await client.expect(Flags, flags={"realtime_v2": True})
    go_on.set()
    await live_marker(client, client, "room:a")
    (connection,) = peers.hub.gateway.connections.of_user(peers.org, "u1")
    assert not connection.drain_at
    # And who loses it once more is told.
    peers.hub.flip(realtime_v2=False)
    await client.expect(Flags, flags={"realtime_v2": False})
    await client.expect(Drain, fallback=FALLBACK)


async def test_who_says_hello_while_flags_change_is_welcomed_with_the_newer_ones(hub_with: HubWith) -> None:
    peers = await start(hub_with)
    for value in (False, True) * 5:
        client = await peers.open(peers.token())
        peers.hub.flip(rooms=value)
        await client.send({"type": "hello", "id": 0, "subscribe": [{"topic": "room:a"}]})
        welcome = await client.expect(Welcome)
        known = dict(welcome.flags)
        while known["rooms"] is not value:
            known |= (await client.await_kind(Flags)).flags


# --- what else there is


async def test_presence_that_goes_off_hides_somebody_until_it_comes_back(hub_with: HubWith) -> None:
    flags = UserFlags({"presence": True})
    peers = await hub_with(factories=SERVICES, flags=flags, presence_flush_ms=1)
    async with watching() as watch:
        ann = watch(await peers.join("ann", subscribe=[{"topic": "lobby:a"}]), "lobby:a")
        bob = await peers.join("bob", subscribe=[{"topic": "lobby:a"}])
        await sees(ann, {"ann": "online", "bob": "online"})
        flags.off_for.add(("presence", "bob"))
        peers.hub.flip(presence=True)
        await sees(ann, {"ann": "online"})
        await bob.refusal(
            {"type": "call", "method": "presence.get", "params": {"topic": "lobby:a"}}, "feature_disabled"
        )
        late = await peers.join("bob", subscribe=[{"topic": "lobby:a"}])  # is not shown either
        await late.publish("lobby:a", 1, ephemeral=True)
        flags.off_for.clear()
        peers.hub.flip(presence=True)
        await sees(ann, {"ann": "online", "bob": "online"})
        assert [word for word in ann.heard if word.startswith("join bob")] == ["join bob online"] * 2


async def test_paths_and_pages_that_are_off_say_so(hub_with: HubWith) -> None:
    peers = await start(hub_with)
    client = await peers.join()
    await client.publish("room:a", 1)
    await client.publish("events:finance", 1)
    headers = {"Authorization": f"Bearer {peers.token()}"}
    async with httpx.AsyncClient(base_url=peers.hub.http_url, headers=headers, timeout=30) as http:
        assert (await http.get("/v1/topics/room:a/events")).status_code == 200
        peers.hub.flip(rooms=False, finance_realtime_v2=False)
        await client.expect(Flags)
        answer = await http.get("/v1/topics/room:a/events")
        assert_problem(answer, "feature_disabled", says="rooms")
        # What is switched off on the socket alone can be had otherwise.
        assert (await http.get("/v1/topics/events:finance/events")).status_code == 200


@pytest.mark.parametrize("on", [True, False])
async def test_compression_is_a_flag_of_who_connects(hub_with: HubWith, on: bool) -> None:
    peers = await hub_with(flags=FixedFlags({"compression": on}))
    headers = {"Authorization": f"Bearer {peers.token()}"}
    extensions = [ClientPerMessageDeflateFactory()]
    async with connect(
        peers.hub.url, additional_headers=headers, extensions=extensions, compression=None, open_timeout=30, proxy=None
    ) as socket:
        assert bool(socket.protocol.extensions) is (on and peers.hub.kind == "direct")
