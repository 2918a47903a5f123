"""Requests of a client without a socket: who waits for whom, and what the failure of one means to the others."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from hub.client import ClientOptions, ConnectionLost, HubClient, HubClosed, RequestTimeout
from hub.client.tokens import Tokens
from tests.client.scripted_front import Front, scripted_front
from tests.client.scripted_hub import Frame, ScriptedHub, eventually

TOPIC = "events:a"


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with scripted_front() as running:
        yield running


@pytest.fixture
def over_sse(options: ClientOptions) -> ClientOptions:
    return replace(options, transports=("sse",), max_posts=3)


class SlowCalls:
    """A script: calls of ``slow`` are answered when ``released``."""

    def __init__(self, front: Front) -> None:
        self.begun = 0
        self.released = asyncio.Event()
        front.hub.script = self.take

    async def take(self, peer: Any, frame: Frame) -> bool:
        if frame.get("method") != "slow":
            return False
        self.begun += 1
        await self.released.wait()
        await peer.send({"type": "reply", "id": frame["id"], "result": "at last"})
        return True


async def test_calls_hold_nothing_else_back(front: Front, over_sse: ClientOptions) -> None:
    calls = SlowCalls(front)
    async with HubClient(front.url, options=over_sse) as client, asyncio.timeout(30):
        slow = [asyncio.create_task(client.call("slow")) for _ in range(4)]
        await eventually(lambda: calls.begun == 2, "as many as there may be posts beside one")
        await client.publish(TOPIC, "n", 1)
        async with client.subscribe(TOPIC):
            calls.released.set()
            assert await asyncio.gather(*slow) == ["at last"] * 4


async def test_a_call_that_is_given_up_leaves_its_place(front: Front, over_sse: ClientOptions) -> None:
    calls = SlowCalls(front)
    async with HubClient(front.url, options=over_sse) as client, asyncio.timeout(30):
        for _ in range(2):
            with pytest.raises(RequestTimeout):
                await asyncio.gather(*(client.call("slow", timeout_s=0.5) for _ in range(2)))
        assert calls.begun == 4
        assert await client.call("echo", {"x": 1}) == {"x": 1}


async def test_a_failed_call_fails_alone(front: Front, over_sse: ClientOptions) -> None:
    calls = SlowCalls(front)
    async with HubClient(front.url, options=over_sse) as client, asyncio.timeout(30):
        slow = asyncio.create_task(client.call("slow"))
        await eventually(lambda: calls.begun)
        front.refuse = lambda path: (504, None)
        with pytest.raises(ConnectionLost, match="504"):
            await client.call("echo")
        front.refuse = lambda _: None
        calls.released.set()
        assert await slow == "at last"
        assert client.counters.connections == 1


async def test_what_may_be_repeated_is_repeated_in_pauses(front: Front, over_sse: ClientOptions) -> None:
    refused: list[str] = []

    def refuse(path: str) -> tuple[int, None] | None:
        refused.append(path)
        return (502, None) if len(refused) < 4 else None

    async with HubClient(front.url, options=over_sse) as client, asyncio.timeout(30):
        front.refuse = refuse
        assert (await client.publish(TOPIC, "n", 1)).seq == 1
        assert len(refused) == 4
        assert client.counters.connections == 1


async def test_acknowledgements_that_cannot_be_posted_wait(front: Front, over_sse: ClientOptions) -> None:
    async with HubClient(front.url, options=over_sse) as client, client.subscribe(TOPIC) as sub:
        (peer,) = front.peers("sse")
        refusals = [502, 502]
        front.refuse = lambda _: (refusals.pop(), None) if refusals else None
        await front.hub.publish(TOPIC, 1)
        async with asyncio.timeout(30):
            await anext(sub)
            sub.ack()
        await eventually(lambda: peer.got("ack"), "the acknowledgement")
        assert peer.got("ack")[-1]["positions"] == {TOPIC: {"epoch": "e1", "seq": 1}}
        assert client.counters.connections == 1


@pytest.mark.parametrize("then", ["up", "down"])
async def test_calls_under_way_outlive_their_connection(front: Front, over_sse: ClientOptions, then: str) -> None:
    ways = replace(over_sse, transports=("websocket", "sse"), upgrade_after_s=60.0, move_jitter_s=0.01)
    calls = SlowCalls(front)
    front.websockets = "refuse" if then == "up" else "pass"
    async with HubClient(front.url, lambda: "t", options=ways) as client, asyncio.timeout(30):
        slow = asyncio.create_task(client.call("slow"))
        await eventually(lambda: calls.begun)
        if then == "up":
            front.websockets = "pass"
            await front.peers("sse")[0].send({"type": "flags", "flags": {"realtime_v2": True}})
            await eventually(lambda: client.transport == "websocket", "the move")
            await eventually(lambda: front.peers("sse")[0].gone.is_set(), "the end of the stream")
            calls.released.set()
        else:
            peer = front.hub.peers[0]
            await peer.send({"type": "drain", "after_ms": 0, "ticket": "t", "fallback": ["sse"]})
            asyncio.get_running_loop().call_later(0.2, calls.released.set)
        assert await slow == "at last"
        await eventually(lambda: client.transport == ("websocket" if then == "up" else "sse"), "the move")


async def test_closing_ends_the_calls(front: Front, over_sse: ClientOptions) -> None:
    calls = SlowCalls(front)
    async with HubClient(front.url, options=over_sse) as client:
        slow = asyncio.create_task(client.call("slow"))
        await eventually(lambda: calls.begun)
    async with asyncio.timeout(30):
        with pytest.raises(ConnectionLost):
            await slow


async def test_no_failure_is_left_that_nobody_has_heard_of(front: Front, over_sse: ClientOptions) -> None:
    said: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: said.append(context["message"]))
    try:
        async with HubClient(front.url, options=replace(over_sse, transports=("websocket",))) as client:
            connection = client._link.current
            assert connection is not None

            async def dies(message: Any, *, chunk: bool = False) -> None:
                connection.abort("while it is being sent")
                raise ConnectionLost("so")

            connection.transport.send = dies  # type: ignore[method-assign]
            with pytest.raises(ConnectionLost):
                await client.call("echo")
            gc.collect()
            await asyncio.sleep(0)
        assert said == []
    finally:
        loop.set_exception_handler(None)


def test_a_frame_of_the_connection() -> None:
    from hub.client.posting import _Frame

    def free(frame: Frame) -> bool:
        return msgspec.convert(frame, _Frame).free

    assert free({"type": "call", "id": 1, "method": "chat.rooms"})
    assert not free({"type": "call", "id": 1, "method": "presence.get"})
    assert not free({"type": "publish", "id": 1})


async def test_a_poll_that_a_proxy_gives_up_waits_less(front: Front, over_sse: ClientOptions) -> None:
    """For the rest of the connection; what waits less than ``poll_least_wait_s`` is another trouble."""
    front.most_wait_s = 0.2
    polls = replace(over_sse, transports=("poll",), poll_wait_s=1.0, poll_least_wait_s=0.05)
    async with HubClient(front.url, options=polls) as client, client.subscribe(TOPIC) as sub:
        # As long as it has taken to be given up says how much less, and that may be far longer than it needs.
        await eventually(lambda: len(front.waits) > 3 and front.waits[-2] < 0.2, "polls that pass")
        assert front.waits[0] == 1.0
        assert front.waits == sorted(front.waits, reverse=True)
        await front.hub.publish(TOPIC, 1)
        async with asyncio.timeout(30):
            assert (await anext(sub)).seq == 1
        assert client.counters.connections == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_what_a_proxy_says_is_not_the_hubs_word(front: Front, over_sse: ClientOptions, status: int) -> None:
    """While a portal answers everything, a client that was there before waits."""
    ways = replace(over_sse, transports=("sse", "poll"))
    async with HubClient(front.url, lambda: "t", options=ways) as client, client.subscribe(TOPIC) as sub:
        refusals: list[str] = []

        def portal(path: str) -> tuple[int, None]:
            refusals.append(path)
            return status, None

        front.refuse = portal
        front.peers("sse")[0].drop()
        await eventually(lambda: len(refusals) > 6, "attempts")
        front.refuse = lambda _: None
        await eventually(lambda: client.transport, "a connection")
        await front.hub.publish(TOPIC, 1)
        async with asyncio.timeout(30):
            assert (await anext(sub)).seq == 1


async def test_who_has_refused_everything_is_named(front: Front, over_sse: ClientOptions) -> None:
    front.refuse = lambda _: (401, None)
    with pytest.raises(HubClosed, match="something on the way, not the hub"):
        async with HubClient(front.url, lambda: "t", options=over_sse):
            pass


async def test_a_growing_part_of_a_short_life_passes_before_the_next_token(options: ClientOptions) -> None:
    tokens = Tokens(lambda: "t", options)
    await tokens.fresh()
    assert [tokens.renewal_pause_s(400.0) for _ in range(4)] == [100.0, 200.0, 300.0, 300.0]


async def test_a_token_that_expires_at_once_is_renewed_in_pauses(hub: ScriptedHub, options: ClientOptions) -> None:
    """The hub says so again with each one that it gets."""
    asked: list[float] = []

    def get_token() -> str:
        asked.append(asyncio.get_running_loop().time())
        return f"token {len(asked)}"

    async def says_so(peer: Any, frame: Frame) -> bool:
        if frame["type"] == "auth":
            await hub.answer(peer, frame)
            await peer.send({"type": "expiring", "expires_in_ms": 2000})
            return True
        return False

    hub.script = says_so
    async with HubClient(hub.url, get_token, options=options) as client:
        await hub.peers[0].send({"type": "expiring", "expires_in_ms": 2000})
        await eventually(lambda: len(hub.peers[0].got("auth")) >= 2, "renewals all the same")
        assert [frame["token"] for frame in hub.peers[0].got("auth")][:2] == ["token 2", "token 3"]
        assert asked[2] - asked[1] >= 1.0, "half of its life is the least by now"
        assert client.counters.connections == 1
