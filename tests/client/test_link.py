"""Staying connected: close codes, tokens, silence, drain, the first connection, backoff."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace
from websockets.http11 import Request

from hub.client import ClientOptions, ConnectionLost, HubClient, HubClosed
from hub.client.backoff import Backoff
from hub.client.connection import Connection
from hub.client.transport import Ended, Transport
from hub.client.wire import Wire
from hub.protocol.codes import CLOSE_SPECS, CloseCode
from tests.client.scripted_hub import Frame, Peer, ScriptedHub, eventually
from tests.support.virtual_loop import run_virtually


async def _until_closed(client: HubClient) -> HubClosed:
    async with asyncio.timeout(30):
        with pytest.raises(HubClosed) as caught:
            await anext(client.subscribe("events:other"))
    return caught.value


# 1002 and 1007 may not be sent by an application through every library; 4401 has rules of its own.
SENDABLE = [code for code in CLOSE_SPECS if code not in (CloseCode.UNAUTHENTICATED,)]


@pytest.mark.parametrize("code", SENDABLE)
async def test_close_codes(hub: ScriptedHub, options: ClientOptions, code: CloseCode) -> None:
    async with HubClient(hub.url, lambda: "t", options=options) as client, client.subscribe("events:a") as sub:
        await hub.peers[0].close(code, "because")
        if CLOSE_SPECS[code].reconnect == "never":
            with pytest.raises(HubClosed) as caught:
                async with asyncio.timeout(30):
                    await anext(sub)
            assert (caught.value.code, caught.value.reason) == (code, "because")
        else:
            await hub.peer(1)
            await eventually(lambda: "events:a" in hub.peers[1].live)


@pytest.mark.parametrize("code", [1001, 1011, 1012, 4999])
async def test_codes_that_are_not_the_hubs_word_mean_later(hub: ScriptedHub, options: ClientOptions, code: int) -> None:
    async with HubClient(hub.url, options=options):
        await hub.peers[0].close(code)
        await hub.peer(1)


async def test_an_expired_token_is_replaced_once(hub: ScriptedHub, options: ClientOptions) -> None:
    tokens = iter(["old", "fresh", "fresher"])
    async with HubClient(hub.url, lambda: next(tokens), options=options):
        await hub.peers[0].close(4401, "expired")
        assert (await hub.peer(1)).authorization == "Bearer fresh"


async def test_the_same_token_is_not_tried_twice(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, lambda: "always", options=options) as client:
        await hub.peers[0].close(4401, "expired")
        assert (await _until_closed(client)).code == 4401
        assert len(hub.peers) == 1


async def test_two_refused_tokens_in_a_row_are_enough(hub: ScriptedHub, options: ClientOptions) -> None:
    asked: list[int] = []
    hub.reject = lambda _: 401

    def get_token() -> str:
        asked.append(1)
        return f"t{len(asked)}"

    with pytest.raises(HubClosed) as caught:
        async with HubClient(hub.url, get_token, options=options):
            pass
    assert caught.value.code == 4401
    assert len(asked) == 2


@pytest.mark.parametrize(("status", "code"), [(403, 4403), (404, 404)])
async def test_a_handshake_that_is_refused_for_good(
    hub: ScriptedHub, options: ClientOptions, status: int, code: int
) -> None:
    hub.reject = lambda _: status
    with pytest.raises(HubClosed) as caught:
        async with HubClient(hub.url, options=options):
            pass
    assert caught.value.code == code


@pytest.mark.parametrize("status", [429, 503])
async def test_a_handshake_that_is_refused_for_now(hub: ScriptedHub, options: ClientOptions, status: int) -> None:
    refusals = [status, status]
    hub.reject = lambda _: refusals.pop() if refusals else None
    async with HubClient(hub.url, options=options):
        assert not refusals


async def test_nobody_there(options: ClientOptions) -> None:
    impatient = replace(options, first_connect_timeout_s=0.5)
    with pytest.raises(ConnectionLost, match=r"no connection to ws://127.0.0.1:9/ws within 0.5 s: cannot connect"):
        async with HubClient("ws://127.0.0.1:9/ws", options=impatient):
            pass


async def test_no_token_to_be_had(hub: ScriptedHub, options: ClientOptions) -> None:
    def get_token() -> str:
        raise LookupError("vault is sealed")

    with pytest.raises(ConnectionLost, match="vault is sealed"):
        async with HubClient(hub.url, get_token, options=replace(options, first_connect_timeout_s=0.5)):
            pass


async def test_no_welcome(hub: ScriptedHub, options: ClientOptions) -> None:
    async def mute_first(peer: Peer, _: Frame) -> bool:
        return peer is hub.peers[0]

    hub.script = mute_first
    async with HubClient(hub.url, options=replace(options, welcome_timeout_s=0.05)):
        assert len(hub.peers) >= 2


async def test_silence_is_a_lost_connection(hub: ScriptedHub, options: ClientOptions) -> None:
    hub.heartbeat_ms = 30
    async with HubClient(hub.url, options=options), asyncio.timeout(30):
        await hub.peer(1)


class Heartbeats:
    """What a connection needs of a transport, which brings a welcome, heartbeats, and then nothing any more."""

    wire = Wire("json")
    name = "websocket"
    wrapping_bytes = 0

    async def run(self, deliver: Callable[[bytes], None], _: Any) -> Ended:
        welcome = {"type": "welcome", "session": "s_1", "resumed": False, "user": "u1", "org": "acme", "topics": []}
        numbers = {"expires_in_ms": 60_000, "heartbeat_ms": 1000, "max_message_bytes": 1000, "flags": {}}
        deliver(msgspec.json.encode(welcome | numbers))
        for ts in range(20):
            await asyncio.sleep(1.9)
            deliver(msgspec.json.encode({"type": "heartbeat", "ts": ts}))
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def welcomed(self, *_: Any) -> None:
        pass

    def under_way(self) -> tuple[int, ...]:
        return ()

    def abort(self) -> None:
        pass


def test_heartbeats_keep_it(options: ClientOptions) -> None:
    async def listening() -> tuple[Ended, float]:
        line = cast(Transport, Heartbeats())
        connection = Connection(line, options, lambda *_: None, itertools.count(1))
        return await connection.ended, asyncio.get_running_loop().time()

    ended, at = run_virtually(listening())
    assert ended.reason == "nothing heard for 2 s"
    assert at == pytest.approx(20 * 1.9 + 2)


async def test_expiring_is_answered_with_a_fresh_token(hub: ScriptedHub, options: ClientOptions) -> None:
    tokens = iter(["old", "fresh"])
    async with HubClient(hub.url, lambda: next(tokens), options=options):
        await hub.peers[0].send({"type": "expiring", "expires_in_ms": 5000})
        await eventually(lambda: hub.peers[0].got("auth"), "auth")
        assert hub.peers[0].got("auth")[0]["token"] == "fresh"
        assert len(hub.peers) == 1


async def test_drain_moves_with_the_old_connection_open(hub: ScriptedHub, options: ClientOptions) -> None:
    asked: list[str] = []

    def get_token() -> str:
        asked.append("t")
        return "t"

    async def take_over(peer: Peer, frame: Frame) -> bool:
        if frame["type"] == "hello" and len(hub.peers) == 2:
            assert not hub.peers[0].gone.is_set(), "the old connection is still open"
            # This event goes to the old connection and is in the new one's replay too.
            await hub.publish("events:a", 2)
            await hub.answer(peer, frame)
            await hub.peers[0].close(4409, "taken over")
            return True
        return False

    hub.script = take_over
    async with HubClient(hub.url, get_token, options=options) as client, client.subscribe("events:a") as sub:
        await hub.publish("events:a", 1)
        await hub.peers[0].send({"type": "drain", "after_ms": 20, "ticket": "a b"})
        second = await hub.peer(1)
        assert second.path == "/ws?ticket=a+b"
        assert second.authorization is None
        assert second.got("hello")[0]["resume"] == {"session": "s_1"}
        await eventually(lambda: "events:a" in second.live)
        await hub.publish("events:a", 3)
        async with asyncio.timeout(30):
            assert [(await anext(sub)).seq for _ in range(3)] == [1, 2, 3]
        assert asked == ["t"], "the ticket stands for the token"
        await hub.peers[0].gone.wait()
        assert await client.call("echo", {"x": 1}) == {"x": 1}
        assert len(hub.peers) == 2


async def _follow(client: HubClient, seen: list[int]) -> None:
    async for event in client.subscribe("events:a", on_gap=lambda _: None):
        seen.append(event.seq or 0)


async def test_a_move_that_began_before_the_first_verdict(hub: ScriptedHub, options: ClientOptions) -> None:
    """The new connection is live from a later number on than the old one was."""
    seen: list[int] = []

    async def script(peer: Peer, frame: Frame) -> bool:
        if frame["type"] == "hello" and len(hub.peers) == 2:
            await hub.answer(hub.peers[0], hub.peers[0].got("subscribe")[0])
            await hub.publish("events:a", "by the old connection")
            await eventually(lambda: seen == [1])
            del hub.peers[0].live["events:a"]
            await hub.publish("events:a", "by none")
        return frame["type"] == "subscribe" and peer is hub.peers[0]

    hub.script = script
    async with HubClient(hub.url, options=replace(options, move_patience_s=0.01, request_timeout_s=30.0)) as client:
        follower = asyncio.create_task(_follow(client, seen))
        await eventually(lambda: hub.peers[0].got("subscribe"))
        await hub.peers[0].send({"type": "drain", "after_ms": 0, "ticket": "t"})
        await eventually(lambda: len(seen) == 2, "what came while it moved")
        await hub.publish("events:a", "by the new connection")
        await eventually(lambda: len(seen) == 3)
    await follower
    assert seen == [1, 2, 3]


async def test_a_move_to_a_node_that_has_not_heard_of_a_new_epoch(hub: ScriptedHub, options: ClientOptions) -> None:
    """The old connection was first to tell, after the new one had asked."""
    seen: list[int] = []
    log = hub.log("events:a")
    gap = {"type": "gap", "topic": "events:a", "epoch": "e2", "reason": "epoch_changed"}

    async def script(peer: Peer, frame: Frame) -> bool:
        if frame["type"] != "hello" or len(hub.peers) != 2:
            return False
        await hub.peers[0].send(gap)
        await hub.publish("events:a", "by the old connection")
        await eventually(lambda: seen == [1, 2])
        await hub.answer(peer, frame)
        log.epoch = "e2"
        await peer.send(gap)
        await peer.send(log.events[1])
        return True

    hub.script = script
    async with HubClient(hub.url, options=options) as client:
        follower = asyncio.create_task(_follow(client, seen))
        await eventually(lambda: hub.peers[0].live)
        await hub.publish("events:a", "in the first epoch")
        await eventually(lambda: seen == [1])
        await hub.peers[0].send({"type": "drain", "after_ms": 0, "ticket": "t"})
        second = await hub.peer(1)
        await eventually(lambda: second.got("subscribe"))
        assert second.got("subscribe")[0]["topics"][0]["since"] == {"epoch": "e2", "seq": 2}
        await hub.publish("events:a", "by the new connection")
        await eventually(lambda: 3 in seen)
    await follower
    assert seen == [1, 2, 3]


async def test_answers_on_the_old_connection_still_count(hub: ScriptedHub, options: ClientOptions) -> None:
    async def hold_calls(_: Peer, frame: Frame) -> bool:
        return frame["type"] == "call"

    hub.script = hold_calls
    async with HubClient(hub.url, options=replace(options, drain_linger_s=30.0)) as client:
        call = asyncio.create_task(client.call("slow.one", {}))
        await eventually(lambda: hub.peers[0].got("call"))
        await hub.peers[0].send({"type": "drain", "after_ms": 0, "ticket": "t"})
        await hub.peer(1)
        await hub.peers[0].send({"type": "reply", "id": hub.peers[0].got("call")[0]["id"], "result": "kept"})
        assert await call == "kept"


@pytest.mark.parametrize("old_code", [4504, 4409])
async def test_a_ticket_that_is_refused_leads_back_to_the_token(
    hub: ScriptedHub, options: ClientOptions, old_code: int
) -> None:
    def gate(request: Request) -> int | None:
        return 401 if "ticket" in request.path else None

    hub.reject = gate
    async with HubClient(hub.url, lambda: "t", options=options), asyncio.timeout(30):
        await hub.peers[0].send({"type": "drain", "after_ms": 0, "ticket": "spent"})
        await hub.peers[0].close(old_code)
        assert (await hub.peer(1)).authorization == "Bearer t"


async def test_subscriptions_made_while_down_are_in_the_next_hello(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=replace(options, backoff_floor_s=0.1, backoff_max_s=0.1)) as client:
        hub.peers[0].drop()
        await hub.peers[0].gone.wait()
        await asyncio.sleep(0.02)  # the client has noticed too, most probably; either way it must work
        async with client.subscribe("events:a", since="start"):
            assert "events:a" in (await hub.peer(1)).live


async def test_a_session_of_an_earlier_client(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, session="s_old", options=options) as client, client.subscribe("events:a"):
        assert hub.peers[0].got("hello")[0]["resume"] == {"session": "s_old"}
        assert hub.peers[0].got("subscribe")[0]["topics"][0]["since"] is None, "the session's position is wanted"


def test_backoff_is_full_jitter_with_a_floor() -> None:
    backoff = Backoff(ClientOptions(), random.Random(7))
    assert backoff.next_s("now") <= 0.2
    for attempt in range(1, 40):
        assert 0.05 <= backoff.next_s("now") <= min(20, 0.5 * 2**attempt)
    spread = [backoff.next_s() for _ in range(200)]
    assert min(spread) < 3 < 17 < max(spread)
    backoff.reset()
    assert backoff.next_s() <= 0.5
