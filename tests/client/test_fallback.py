"""Falling back from WebSocket to server-sent events and polls, and coming back up: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from hub.client import ClientOptions, ConnectionLost, HubClient, HubClosed, SubscriptionEnded
from tests.client.scripted_front import Front, HttpPeer, scripted_front
from tests.client.scripted_hub import Frame, eventually

TOPIC = "events:a"


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with scripted_front() as running:
        yield running


@pytest.fixture
def any_way(options: ClientOptions) -> ClientOptions:
    return replace(
        options,
        transports=("websocket", "sse", "poll"),
        try_next_after_s=20.0,
        upgrade_after_s=60.0,
        move_jitter_s=0.01,
        poll_wait_s=2.0,
    )


async def numbers(subscription: Any, count: int) -> list[int]:
    async with asyncio.timeout(30):
        return [(await anext(subscription)).seq for _ in range(count)]


@pytest.mark.parametrize("name", ["sse", "poll"])
async def test_a_client_over_http(front: Front, any_way: ClientOptions, name: Any) -> None:
    """Everything that goes over a socket goes here."""
    only = replace(any_way, transports=(name,))
    async with HubClient(front.url, lambda: "tok", encoding="msgpack", options=only) as client:
        assert client.transport == name
        async with client.subscribe(TOPIC, ack=True) as sub, client.subscribe("events:b"):
            done = await asyncio.gather(*(client.publish(TOPIC, "n", number) for number in range(20)))
            assert sorted(one.seq for one in done) == list(range(1, 21))
            assert await numbers(sub, 20) == list(range(1, 21))
            assert await client.call("echo", {"x": 1}) == {"x": 1}
            sub.ack()
            (peer,) = front.peers(name)
            if name == "sse":
                await eventually(lambda: peer.got("ack"), "ack")
                assert peer.got("ack")[-1]["positions"] == {TOPIC: {"epoch": "e1", "seq": 20}}
        await eventually(lambda: len(peer.got("unsubscribe")) == 2, "unsubscribe")
        assert client.counters.repeats == 0
        assert name == "sse" or not peer.got("ack"), "a poll's cursor acknowledges"
    assert set(front.tokens) == {"Bearer tok"}
    # What is asked at the same moment goes together.
    assert len(front.posts) < 20


@pytest.mark.parametrize("how", ["refuse", "swallow", "mute"])
async def test_a_proxy_that_eats_websockets(front: Front, any_way: ClientOptions, how: Any) -> None:
    front.websockets = how
    ways = replace(any_way, try_next_after_s=1.0)
    async with HubClient(front.url, lambda: "tok", options=ways) as client, client.subscribe(TOPIC) as sub:
        assert client.transport == "sse"
        await front.hub.publish(TOPIC, 1)
        assert await numbers(sub, 1) == [1]
        # What worked is remembered.
        upgrades = front.upgrades
        front.peers("sse")[0].drop()
        await front.peer("sse", 1)
        await front.hub.publish(TOPIC, 2)
        assert await numbers(sub, 1) == [2]
        assert front.upgrades == upgrades


async def test_neither_sockets_nor_streams(front: Front, any_way: ClientOptions) -> None:
    front.websockets = "refuse"
    front.refuse = lambda path: (502, None) if path == "/v1/sse" else None
    async with HubClient(front.url, options=any_way) as client:
        assert client.transport == "poll"


async def test_a_stream_that_is_held_back_by_a_proxy(front: Front, any_way: ClientOptions) -> None:
    async def hold(peer: Any, frame: Frame) -> bool:
        return isinstance(peer, HttpPeer) and peer.kind == "sse"

    front.websockets, front.hub.script = "refuse", hold
    async with HubClient(front.url, options=replace(any_way, try_next_after_s=1.0)) as client:
        assert client.transport == "poll"


async def test_all_ways_refused_for_good(front: Front, any_way: ClientOptions) -> None:
    front.websockets, front.refuse = "refuse", lambda _: (404, None)
    with pytest.raises(HubClosed) as caught:
        async with HubClient(front.url, options=any_way):
            pass
    assert caught.value.code == 4403


async def test_a_refused_token_is_no_reason_to_fall_back(front: Front, any_way: ClientOptions) -> None:
    front.hub.reject = lambda _: 401
    with pytest.raises(HubClosed) as caught:
        async with HubClient(front.url, lambda: "t", options=any_way):
            pass
    assert caught.value.code == 4401
    assert front.tokens == []


async def test_nobody_there_is_no_reason_to_fall_back(any_way: ClientOptions) -> None:
    client = HubClient("ws://127.0.0.1:9/ws", options=replace(any_way, first_connect_timeout_s=0.5))
    with pytest.raises(ConnectionLost, match="cannot connect"):
        async with client:
            pass
    assert client._link._ladder.current == "websocket"


async def test_a_proven_way_is_not_given_up_at_once(front: Front, any_way: ClientOptions) -> None:
    async with HubClient(front.url, options=any_way) as client:
        front.refusals = 1
        front.hub.peers[0].drop()
        await eventually(lambda: front.upgrades >= 3)
        await eventually(lambda: client.transport == "websocket")


# --- the hub says so


async def disabled_at_hello(peer: Any, frame: Frame) -> bool:
    if frame["type"] != "hello" or isinstance(peer, HttpPeer):
        return False
    error = {"type": "error", "id": frame["id"], "code": "feature_disabled", "message": "off", "retry": "later"}
    await peer.send({**error, "details": {"flag": "realtime_v2", "fallback": ["sse", "poll"]}})
    await peer.close(4403, "not allowed")
    return True


@pytest.mark.parametrize(("ways", "used"), [(("websocket", "sse", "poll"), "sse"), (("websocket", "poll"), "poll")])
async def test_a_socket_that_is_switched_off(front: Front, any_way: ClientOptions, ways: Any, used: str) -> None:
    front.hub.script = disabled_at_hello
    async with HubClient(front.url, options=replace(any_way, transports=ways)) as client:
        assert client.transport == used
        assert front.upgrades == 1


async def test_without_a_fallback_of_its_own_a_client_waits(front: Front, any_way: ClientOptions) -> None:
    front.hub.script = disabled_at_hello
    client = HubClient(front.url, options=replace(any_way, transports=("websocket",)))
    entering = asyncio.create_task(client.__aenter__())
    await eventually(lambda: front.upgrades >= 3)
    front.hub.script = None
    await entering
    assert client.transport == "websocket"
    await client.close()


@pytest.mark.parametrize("name", ["sse", "poll"])
async def test_drain_with_a_fallback_and_back_again(front: Front, any_way: ClientOptions, name: str) -> None:
    """The kill switch and its end, with events before, between and after."""
    hub = front.hub
    async with HubClient(front.url, lambda: "tok", options=any_way) as client, client.subscribe(TOPIC) as sub:
        await hub.publish(TOPIC, 1)
        hub.script, hub.flags = disabled_at_hello, {"realtime_v2": False}
        await hub.peers[0].send({"type": "flags", "flags": {"realtime_v2": False}})
        await hub.peers[0].send({"type": "drain", "after_ms": 20, "ticket": "t", "fallback": [name]})
        peer = await front.peer(name)
        assert peer.got("hello")[0]["resume"] == {"session": "s_1"}
        await eventually(lambda: client.transport == name)
        await hub.publish(TOPIC, 2)
        assert await numbers(sub, 2) == [1, 2]
        assert client.flags == {"realtime_v2": False}
        # Something else that is switched on is no reason to try.
        await peer.send({"type": "flags", "flags": {"chat": True}})
        await hub.publish(TOPIC, 3)
        assert await numbers(sub, 1) == [3]
        assert front.upgrades == 1
        hub.script = None
        await peer.send({"type": "flags", "flags": {"realtime_v2": True}})
        await eventually(lambda: client.transport == "websocket", "back up")
        await hub.publish(TOPIC, 4)
        assert await numbers(sub, 1) == [4]
        await eventually(lambda: peer.gone.is_set() or name == "poll")
        assert client.counters.gaps == client.counters.violations == 0


async def test_a_drain_that_is_taken_back(front: Front, any_way: ClientOptions) -> None:
    async with HubClient(front.url, options=any_way) as client:
        peer = front.hub.peers[0]
        await peer.send({"type": "drain", "after_ms": 1000, "ticket": "t", "fallback": ["sse"]})
        assert await client.call("echo", {}) == {}  # it waits for its slot now
        await peer.send({"type": "flags", "flags": {"realtime_v2": True}})
        await eventually(lambda: client.flags)
        await asyncio.sleep(1.1)  # beyond its slot
        assert (client.transport, front.peers("sse")) == ("websocket", [])
        assert not peer.gone.is_set()


@pytest.mark.parametrize("when", ["live", "entering"])
async def test_a_topic_that_is_elsewhere_takes_the_client_along(
    front: Front, any_way: ClientOptions, when: str
) -> None:
    async def not_on_the_socket(peer: Any, frame: Frame) -> bool:
        if isinstance(peer, HttpPeer) or frame["type"] != "subscribe" or frame["topics"][0]["topic"] != TOPIC:
            return False
        error = {"code": "feature_disabled", "message": "off", "retry": "later", "details": {"fallback": ["sse"]}}
        verdicts = [{"topic": TOPIC, "ok": False, "error": error}]
        await peer.send({"type": "reply", "id": frame["id"], "result": {"topics": verdicts}})
        return True

    hub = front.hub
    hub.script = not_on_the_socket if when == "entering" else None
    async with HubClient(front.url, options=any_way) as client, client.subscribe("events:b") as other:
        await hub.publish("events:b", 1)
        async with client.subscribe(TOPIC, since="start") as sub:
            if when == "live":
                await hub.publish(TOPIC, 1)
                assert await numbers(sub, 1) == [1]
                ended = {"type": "unsubscribed", "topic": TOPIC, "code": "feature_disabled", "message": "off"}
                refusals: list[tuple[int, Frame | None]] = [(502, None), (502, None)]
                front.refuse = lambda _: refusals.pop() if refusals else None
                hub.script = not_on_the_socket
                await hub.peers[0].send({**ended, "retry": "later", "fallback": ["sse", "poll"]})
                hub.peers[0].live.pop(TOPIC)
            await eventually(lambda: client.transport == "sse", "the move")
            await hub.publish(TOPIC, 2)
            await hub.publish("events:b", 2)
            assert len(await numbers(sub, 2 if when == "entering" and hub.log(TOPIC).top == 2 else 1)) >= 1
            assert await numbers(other, 2) == [1, 2]
            assert sub.position is not None
            assert sub.position.seq == hub.log(TOPIC).top


async def test_a_topic_that_is_off_everywhere_waits_if_it_was_live(front: Front, any_way: ClientOptions) -> None:
    hub, off = front.hub, [True]

    async def gate(peer: Any, frame: Frame) -> bool:
        if frame["type"] != "subscribe" or not off[0]:
            return False
        error = {"code": "feature_disabled", "message": "off", "retry": "later"}
        verdicts = [{"topic": frame["topics"][0]["topic"], "ok": False, "error": error}]
        await peer.send({"type": "reply", "id": frame["id"], "result": {"topics": verdicts}})
        return True

    slow = replace(any_way, backoff_base_s=60.0, backoff_floor_s=60.0, backoff_max_s=60.0)
    async with HubClient(front.url, options=slow) as client, client.subscribe(TOPIC) as sub:
        await hub.publish(TOPIC, 1)
        hub.script = gate
        ended = {"type": "unsubscribed", "topic": TOPIC, "code": "feature_disabled", "message": "off", "retry": "never"}
        await hub.peers[0].send(ended)
        hub.peers[0].live.pop(TOPIC)
        with pytest.raises(SubscriptionEnded, match="feature_disabled"):
            await anext(client.subscribe("events:new"))
        await hub.publish(TOPIC, 2)
        off[0] = False
        await hub.peers[0].send({"type": "flags", "flags": {"a": True}})
        assert await numbers(sub, 2) == [1, 2]
        assert client.transport == "websocket"


class Switch:
    """A flag that keeps ``TOPIC`` from sockets; without ``http``, nothing else gets through."""

    def __init__(self, front: Front, *, http: bool = True) -> None:
        self.front = front
        self.on = True
        front.hub.script = self._gate
        front.refuse = lambda _: None if http else (502, None)

    async def flip(self, *, on: bool) -> None:
        self.on = on
        self.front.hub.flags = {"a_v2": on}
        for peer in [one for one in self.front.hub.peers if not one.gone.is_set()]:
            await peer.send({"type": "flags", "flags": {"a_v2": on}})
            if not on and not isinstance(peer, HttpPeer) and peer.live.pop(TOPIC, None):
                ended = {"type": "unsubscribed", "topic": TOPIC, "code": "feature_disabled", "message": "off"}
                await peer.send({**ended, "retry": "later", "fallback": ["sse", "poll"]})

    async def _gate(self, peer: Any, frame: Frame) -> bool:
        if self.on or isinstance(peer, HttpPeer) or frame["type"] != "subscribe":
            return False
        error = {"code": "feature_disabled", "message": "off", "retry": "later"}
        details = {"flag": "a_v2", "fallback": ["sse", "poll"]}
        verdicts = [{"topic": TOPIC, "ok": False, "error": {**error, "details": details}}]
        await peer.send({"type": "reply", "id": frame["id"], "result": {"topics": verdicts}})
        return True


async def test_a_topic_that_is_on_again_before_the_move(
    front: Front, any_way: ClientOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = Switch(front)
    monkeypatch.setattr("hub.client.link.random.uniform", lambda _least, most: most)
    slow = replace(any_way, move_jitter_s=1.0)
    async with HubClient(front.url, options=slow) as client, client.subscribe(TOPIC) as sub:
        for on in (False, True, False, True):
            await switch.flip(on=on)
        await front.hub.publish(TOPIC, 1)
        assert await numbers(sub, 1) == [1]
        await eventually(lambda: not client._link._sinks, "its time to move")
        assert (client.transport, front.peers("sse")) == ("websocket", [])


async def test_a_topic_that_is_on_again_during_the_move(front: Front, any_way: ClientOptions) -> None:
    """The pause before it comes up by itself is a minute."""
    switch = Switch(front)

    async def meanwhile(peer: Any, frame: Frame) -> bool:
        if isinstance(peer, HttpPeer) and frame["type"] == "hello":
            front.hub.script = switch._gate
            await switch.flip(on=True)
        return False

    async with HubClient(front.url, options=any_way) as client, client.subscribe(TOPIC) as sub:
        front.hub.script = meanwhile
        await switch.flip(on=False)
        await front.peer("sse")
        await eventually(lambda: client.transport == "websocket", "back up")
        await front.hub.publish(TOPIC, 1)
        assert await numbers(sub, 1) == [1]


async def test_a_topic_that_is_off_where_only_sockets_pass(front: Front, any_way: ClientOptions) -> None:
    switch = Switch(front, http=False)
    slow = replace(any_way, backoff_base_s=60.0, backoff_floor_s=60.0, backoff_max_s=60.0, request_timeout_s=60.0)
    async with HubClient(front.url, options=slow) as client:
        await switch.flip(on=False)
        async with asyncio.timeout(30):
            with pytest.raises(SubscriptionEnded, match="feature_disabled"):
                await anext(client.subscribe(TOPIC))
        await switch.flip(on=True)
        async with client.subscribe(TOPIC) as sub:
            await switch.flip(on=False)
            await eventually(lambda: sub.state.value == "out")
            await switch.flip(on=True)
            await front.hub.publish(TOPIC, 1)
            assert await numbers(sub, 1) == [1]
        assert client.transport == "websocket"


async def test_nobody_knocks_where_flags_say_no(front: Front, any_way: ClientOptions) -> None:
    front.hub.script, front.hub.flags = disabled_at_hello, {"realtime_v2": False}
    often = replace(any_way, upgrade_after_s=0.02, upgrade_max_s=0.02)
    async with HubClient(front.url, options=often) as client:
        pauses = client._link._ladder
        await eventually(lambda: pauses.climb_at)
        first = pauses.climb_at
        await eventually(lambda: pauses.climb_at != first, "the time of an attempt")
        assert front.upgrades == 1
        front.hub.script = None
        await front.peers("sse")[0].send({"type": "flags", "flags": {"realtime_v2": True}})
        await eventually(lambda: client.transport == "websocket", "back up")


async def test_a_drain_that_is_taken_back_when_the_move_has_failed(front: Front, any_way: ClientOptions) -> None:
    async with HubClient(front.url, options=any_way) as client, client.subscribe(TOPIC) as sub:
        refused: list[str] = []

        def refuse(path: str) -> tuple[int, Frame | None]:
            refused.append(path)
            return 502, None

        front.refuse = refuse
        (peer,) = front.hub.peers
        await peer.send({"type": "drain", "after_ms": 1, "ticket": "t", "fallback": ["sse"]})
        await eventually(lambda: refused, "the move")
        await eventually(lambda: client._link._ladder.current != "websocket", "the move to come to nothing")
        await peer.send({"type": "flags", "flags": {"realtime_v2": True}})
        await eventually(lambda: client._link._ladder.current == "websocket", "the end of the move")
        await peer.send({"type": "drain", "after_ms": 1, "ticket": "t"})
        await eventually(lambda: len(front.hub.peers) == 2, "another move")
        await front.hub.publish(TOPIC, 1)
        assert await numbers(sub, 1) == [1]


# --- coming back up


async def test_it_tries_again_in_growing_pauses(front: Front, any_way: ClientOptions) -> None:
    front.websockets = "refuse"
    async with HubClient(front.url, options=replace(any_way, upgrade_after_s=0.05)) as client:
        assert client.transport == "sse"
        await eventually(lambda: front.upgrades >= 3)
        assert not front.peers("sse")[0].gone.is_set(), "the old connection goes on"
        front.websockets = "pass"
        await eventually(lambda: client.transport == "websocket")
        assert len(front.peers("sse")) == 1


async def test_a_proxy_that_cuts_sockets_after_the_welcome(front: Front, any_way: ClientOptions) -> None:
    async with HubClient(front.url, options=any_way) as client, client.subscribe(TOPIC) as sub:
        for number in range(3):
            peer = await front.hub.peer(number)
            assert peer.path == "/ws"
            await eventually(lambda: client.transport == "websocket")
            peer.drop()
        await front.peer("sse")
        await front.hub.publish(TOPIC, 1)
        assert await numbers(sub, 1) == [1]


async def test_what_hangs_above_holds_nothing_up(front: Front, any_way: ClientOptions) -> None:
    """The attempt would take a minute; meanwhile the stream goes on, and when it has ended there is another one."""
    front.websockets = "refuse"
    slow = replace(any_way, upgrade_after_s=0.05, try_next_after_s=60.0, settle_s=0.05)
    async with HubClient(front.url, options=slow) as client, client.subscribe(TOPIC) as sub:
        front.websockets = "mute"
        await eventually(lambda: len(front.hub.peers) == 2, "an attempt")
        assert (await client.publish(TOPIC, "n", 1)).seq == 1
        front.peers("sse")[0].drop()
        await front.peer("sse", 1)
        assert (await client.publish(TOPIC, "n", 2)).seq == 2
        assert await numbers(sub, 2) == [1, 2]


async def test_attempts_that_come_to_nothing_cost_no_event(front: Front, any_way: ClientOptions) -> None:
    front.websockets = "mute"
    often = replace(any_way, upgrade_after_s=0.02, upgrade_max_s=0.02, try_next_after_s=0.5)
    async with HubClient(front.url, options=often) as client, client.subscribe(TOPIC) as sub:
        for number in range(1, 40):
            assert (await client.publish(TOPIC, "n", number)).seq == number
            assert await numbers(sub, 1) == [number]
        await eventually(lambda: front.upgrades >= 3)
        assert client.transport == "sse"
        assert client.counters.gaps == client.counters.violations == 0


async def test_a_takeover_that_its_own_attempt_has_caused(front: Front, any_way: ClientOptions) -> None:
    """The hub gives the session to a socket whose welcome never comes: no reason to end."""

    async def take_over(peer: Any, frame: Frame) -> bool:
        if frame["type"] != "hello" or isinstance(peer, HttpPeer):
            return False
        await front.peers("sse")[-1].close(4409, "taken over")
        return True

    front.websockets, front.hub.script = "refuse", take_over
    quick = replace(any_way, upgrade_after_s=0.05, upgrade_max_s=0.05)
    async with HubClient(front.url, options=quick) as client, client.subscribe(TOPIC) as sub:
        front.websockets = "pass"
        await front.peer("sse", 1)
        await eventually(lambda: client.transport == "sse")
        front.websockets = "refuse"
        await eventually(lambda: client.transport == "sse" and TOPIC in front.peers("sse")[-1].live)
        await front.hub.publish(TOPIC, 1)
        assert await numbers(sub, 1) == [1]


def test_who_never_falls_back_loads_no_http_library() -> None:
    program = "import sys, hub.client; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- polling


async def test_a_lost_answer_is_asked_for_again(front: Front, any_way: ClientOptions) -> None:
    async with HubClient(front.url, options=replace(any_way, transports=("poll",))) as client:
        async with client.subscribe(TOPIC) as sub:
            front.lose_answers = 2
            for number in range(1, 4):
                await front.hub.publish(TOPIC, number)
            assert await numbers(sub, 3) == [1, 2, 3]
        assert len(front.peers("poll")) == 1
        assert client.counters.repeats == 0


@pytest.mark.parametrize("name", ["sse", "poll"])
async def test_close_frames_mean_what_close_codes_do(front: Front, any_way: ClientOptions, name: Any) -> None:
    only = replace(any_way, transports=(name,))
    async with HubClient(front.url, lambda: "t", options=only) as client, client.subscribe(TOPIC) as sub:
        await (await front.peer(name)).close(4504, "draining")
        second = await front.peer(name, 1)
        await front.hub.publish(TOPIC, 1)
        assert await numbers(sub, 1) == [1]
        await second.close(4403, "not allowed")
        with pytest.raises(HubClosed) as caught:
            await numbers(sub, 1)
        assert caught.value.code == 4403


@pytest.mark.parametrize("name", ["sse", "poll"])
async def test_a_connection_that_the_hub_has_forgotten(front: Front, any_way: ClientOptions, name: Any) -> None:
    only = replace(any_way, transports=(name,))
    async with HubClient(front.url, options=only) as client:
        (await front.peer(name)).session = "another"
        async with client.subscribe(TOPIC, since="start") as sub:
            await front.hub.publish(TOPIC, 1)
            assert await numbers(sub, 1) == [1]
        assert len(front.peers(name)) == 2


async def test_posts_that_are_refused_for_now_are_repeated(front: Front, any_way: ClientOptions) -> None:
    problem: Frame = {"code": "unavailable", "detail": "wait", "retry": "later"}
    refusals: list[tuple[int, Frame | None]] = [(503, problem), (429, problem)]
    front.refuse = lambda path: refusals.pop() if path == "/v1/frames" and refusals else None
    async with HubClient(front.url, options=replace(any_way, transports=("sse",))) as client:
        assert await client.call("echo", {"x": 1}) == {"x": 1}
        assert len(front.peers("sse")) == 1


async def test_a_post_that_something_bars_ends_the_way(front: Front, any_way: ClientOptions) -> None:
    front.refuse = lambda path: (403, None) if path.startswith("/v1/frames") else None
    front.websockets = "refuse"
    async with HubClient(front.url, options=any_way) as client:
        assert client.transport == "sse"
        front.websockets = "pass"
        assert await client.call("echo", {"x": 1}, retry=True) == {"x": 1}
        assert client.transport == "websocket"


async def test_a_fresh_token_is_used_for_everything(front: Front, any_way: ClientOptions) -> None:
    tokens = iter(["old", "fresh"])
    async with HubClient(front.url, lambda: next(tokens), options=replace(any_way, transports=("sse",))) as client:
        (peer,) = front.peers("sse")
        await peer.send({"type": "expiring", "expires_in_ms": 5000})
        await eventually(lambda: peer.got("auth"), "auth")
        assert peer.got("auth")[0]["token"] == "fresh"
        await client.call("echo", {})
        assert front.tokens[-1] == "Bearer fresh"
