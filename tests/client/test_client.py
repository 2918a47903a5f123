"""The client against a scripted hub: delivery, repeats, gaps, acknowledgements, slow consumers, requests."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from websockets.exceptions import ConnectionClosedError

from hub.client import (
    ClientOptions,
    ConnectionLost,
    Event,
    Gap,
    GapError,
    HubClient,
    HubClosed,
    Position,
    RequestRefused,
    RequestTimeout,
    Subscription,
    SubscriptionEnded,
)
from tests.client.scripted_hub import Frame, Peer, ScriptedHub, eventually


async def take(subscription: Subscription, count: int) -> list[Event]:
    async with asyncio.timeout(30):
        return [await anext(subscription) for _ in range(count)]


def data(events: list[Event]) -> list[Any]:
    return [event.data for event in events]


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_events_arrive(hub: ScriptedHub, options: ClientOptions, encoding: Any) -> None:
    async with HubClient(hub.url, lambda: "tok", encoding=encoding, options=options) as client:
        async with client.subscribe("events:a") as sub:
            assert sub.verdict is not None
            assert sub.verdict.ok
            assert sub.position is None
            await hub.publish("events:a", {"x": 1})
            (event,) = await take(sub, 1)
        assert (event.topic, event.epoch, event.seq, event.name, event.data) == ("events:a", "e1", 1, "n", {"x": 1})
        assert sub.position == Position("e1", 1)
        peer = await hub.peer(0)
        assert peer.authorization == "Bearer tok"
        await eventually(lambda: peer.got("unsubscribe"), "unsubscribe")
        assert client.session == "s_1"


async def test_a_token_may_come_asynchronously(hub: ScriptedHub, options: ClientOptions) -> None:
    async def get_token() -> str:
        return "later"

    async with HubClient(hub.url, get_token, options=options):
        assert (await hub.peer(0)).authorization == "Bearer later"


async def test_leaving_the_loop_unsubscribes(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=options) as client:
        hub.log("events:a").events += [_event("events:a", 1), _event("events:a", 2)]
        async for event in client.subscribe("events:a", since="start"):
            assert event.seq == 1
            break
        peer = await hub.peer(0)
        await eventually(lambda: peer.got("unsubscribe"), "unsubscribe")
        assert data(await take(client.subscribe("events:a", last=1), 1)) == [2]


async def test_one_subscription_per_topic(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a") as first:
        with pytest.raises(ValueError, match="subscribed to events:a already"):
            await anext(client.subscribe("events:a"))
        waiting = asyncio.create_task(anext(first))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(first)
        await hub.publish("events:a", 1)
        assert (await waiting).seq == 1


async def test_the_first_verdict_may_say_no(hub: ScriptedHub, options: ClientOptions) -> None:
    hub.script = _refuse_subscribe("not_found", times=99)
    async with HubClient(hub.url, options=options) as client:
        with pytest.raises(SubscriptionEnded) as caught:
            await anext(client.subscribe("events:a"))
        assert caught.value.code == "not_found"


async def test_a_refusal_that_passes_is_tried_again(hub: ScriptedHub, options: ClientOptions) -> None:
    hub.script = _refuse_subscribe("unavailable", times=2)
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a") as sub:
        await hub.publish("events:a", 1)
        assert data(await take(sub, 1)) == [1]


async def test_a_topic_that_is_taken_away(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a") as sub:
        await hub.publish("events:a", 1)
        frame = {
            "type": "unsubscribed",
            "topic": "events:a",
            "code": "forbidden",
            "message": "no more",
            "retry": "never",
        }
        await hub.peers[0].send(frame)
        assert data(await take(sub, 1)) == [1]
        with pytest.raises(SubscriptionEnded, match="no more"):
            await anext(sub)


async def test_reconnect_goes_on_where_it_was(hub: ScriptedHub, options: ClientOptions) -> None:
    states: list[str] = []
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a") as sub:
        client.on_state(lambda state, _: states.append(state))
        await hub.publish("events:a", 1)
        assert data(await take(sub, 1)) == [1]
        hub.peers[0].drop()
        await hub.peers[0].gone.wait()
        await hub.publish("events:a", 2)
        assert data(await take(sub, 1)) == [2]
        hello = (await hub.peer(1)).got("hello")[0]
        assert hello["resume"] == {"session": "s_1"}
        assert hello["subscribe"][0]["since"] == {"epoch": "e1", "seq": 1}
        await hub.publish("events:a", 3)
        assert data(await take(sub, 1)) == [3]
    assert states == ["down", "up"]


async def test_repeats_are_dropped(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a") as sub:
        await hub.publish("events:a", 1)
        for _ in range(3):
            await hub.peers[0].send(hub.log("events:a").events[0])
        await hub.publish("events:a", 2)
        assert data(await take(sub, 2)) == [1, 2]
        assert client.counters.repeats == 3


async def test_a_hole_is_a_lost_connection(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a") as sub:
        await hub.publish("events:a", 1)
        await eventually(lambda: client.counters.events == 1)
        log = hub.log("events:a")
        log.events.append(_event("events:a", 2))  # never sent live
        await hub.publish("events:a", 3)
        assert data(await take(sub, 3)) == [1, 2, 3]
        assert client.counters.violations == 1
        assert (await hub.peer(1)).got("hello")[0]["subscribe"][0]["since"] == {"epoch": "e1", "seq": 1}


@pytest.mark.parametrize("message", [b"no json", b'{"type":"event","topic":"events:a"}', b"[1]"])
async def test_nonsense_is_a_lost_connection(hub: ScriptedHub, options: ClientOptions, message: bytes) -> None:
    async with HubClient(hub.url, options=options) as client:
        await hub.peers[0].socket.send(message, text=True)
        await hub.peer(1)
        assert client.session == "s_1"


async def test_unknown_frames_and_fields_are_ignored(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a") as sub:
        await hub.peers[0].send({"type": "invented_later", "x": 1})
        await hub.peers[0].send({**_event("events:a", 1), "more": True})
        assert data(await take(sub, 1)) == [1]
        assert client.counters.unknown_frames == 1


async def test_a_gap_is_told_in_its_place(hub: ScriptedHub, options: ClientOptions) -> None:
    story: list[Any] = []
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a", on_gap=story.append) as sub:
        await hub.publish("events:a", 1)
        await eventually(lambda: client.counters.events == 1)
        hub.peers[0].drop()
        await hub.peers[0].gone.wait()
        log = hub.log("events:a")
        log.events += [_event("events:a", seq) for seq in (2, 3, 4)]
        log.first = 4
        for _ in range(2):
            story.append((await take(sub, 1))[0].data)
    assert [story[0], story[2]] == [1, 4]
    gap = story[1]
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.from_, gap.to) == ("expired", 2, 3)


async def test_a_gap_nobody_asked_for_is_raised_and_iteration_can_go_on(
    hub: ScriptedHub, options: ClientOptions
) -> None:
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a") as sub:
        await hub.publish("events:a", 1)
        assert data(await take(sub, 1)) == [1]
        hub.topics["events:a"].epoch = "e2"
        hub.peers[0].drop()
        with pytest.raises(GapError, match="unknown number"):
            await take(sub, 1)
        (event,) = await take(sub, 1)
        assert (event.epoch, event.seq) == ("e2", 1)


async def test_the_clients_callback_may_be_a_coroutine(hub: ScriptedHub, options: ClientOptions) -> None:
    gaps: list[Gap] = []

    async def note(gap: Gap) -> None:
        gaps.append(gap)

    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a") as sub:
        client.on_gap(note)
        frame = {"type": "gap", "topic": "events:a", "epoch": "e1", "reason": "overflow", "from": 1, "to": 2}
        await hub.peers[0].send(frame)
        await hub.peers[0].send(_event("events:a", 3))
        assert data(await take(sub, 1)) == [3]
        assert [gap.to for gap in gaps] == [2]


async def test_filtered_topics_adopt_positions(hub: ScriptedHub, options: ClientOptions) -> None:
    wanted = {"p": 1}
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a", filter=wanted) as sub:
        for number in range(1, 6):
            await hub.publish("events:a", number, tags={"p": number % 2})
        assert data(await take(sub, 3)) == [1, 3, 5]
        hub.log("events:a").events += [_event("events:a", seq) for seq in range(6, 10)]
        await hub.peers[0].send({"type": "position", "topic": "events:a", "epoch": "e1", "seq": 9})
        waiting = asyncio.create_task(take(sub, 1))
        await eventually(
            lambda: {"epoch": "e1", "seq": 9} in _acked(hub.peers[0], "events:a"), "the adopted position's ack"
        )
        hub.peers[0].drop()
        hello = (await hub.peer(1)).got("hello")[0]
        assert hello["subscribe"][0]["since"] == {"epoch": "e1", "seq": 9}
        assert hello["subscribe"][0]["filter"] == wanted
        await hub.publish("events:a", 10, tags={"p": 1})
        assert data(await waiting) == [10]


async def test_an_event_is_acknowledged_when_the_next_is_asked_for(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a", ack=True) as sub:
        assert hub.windows == 1
        for number in (1, 2, 3):
            await hub.publish("events:a", number)
        await take(sub, 2)
        peer = hub.peers[0]
        await eventually(lambda: peer.got("ack"), "an ack")
        assert _acked(peer, "events:a") == [{"epoch": "e1", "seq": 1}], "the second is still in hand"
        await take(sub, 1)
        sub.ack()
        await sub.leave()
        await eventually(lambda: peer.got("unsubscribe"), "unsubscribe")
        assert _acked(peer, "events:a")[-1] == {"epoch": "e1", "seq": 3}, "before leaving"
        kinds = [frame["type"] for frame in peer.frames]
        assert kinds.index("unsubscribe") > len(kinds) - 1 - kinds[::-1].index("ack")


async def test_acks_are_gathered(hub: ScriptedHub, options: ClientOptions) -> None:
    slow = replace(options, ack_interval_s=60.0, ack_every_events=100, buffer_events=1000)
    async with HubClient(hub.url, options=slow) as client, client.subscribe("events:a") as sub:
        for number in range(251):
            await hub.publish("events:a", number)
        for _ in range(251):
            await take(sub, 1)
            await asyncio.sleep(0)  # the sender gets its turn
        await eventually(lambda: len(hub.peers[0].got("ack")) >= 2, "two acks")
        assert len(hub.peers[0].got("ack")) == 2


async def test_closing_the_client_acknowledges_and_ends_iterations(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=options) as client:
        sub = client.subscribe("events:a")
        consumer = asyncio.create_task(_collect(sub))
        await eventually(lambda: hub.peers[0].live)
        await hub.publish("events:a", 1)
        await hub.publish("events:a", 2)
        await eventually(lambda: sub.position == Position("e1", 2))
    assert await consumer == [1, 2]
    await hub.peers[0].gone.wait()
    assert _acked(hub.peers[0], "events:a") == [{"epoch": "e1", "seq": 2}]


async def test_a_slow_consumer_neither_loses_nor_blocks(hub: ScriptedHub, options: ClientOptions) -> None:
    small = replace(options, buffer_events=10)
    async with (
        HubClient(hub.url, options=small) as client,
        client.subscribe("events:slow") as slow,
        client.subscribe("events:quick") as quick,
    ):
        for number in range(1, 101):
            await hub.publish("events:slow", number)
        await hub.publish("events:quick", "through")
        assert data(await take(quick, 1)) == ["through"]
        assert await client.call("echo", {"x": 1}) == {"x": 1}, "answers come while a buffer is full"
        assert client.counters.overflows == 1
        assert data(await take(slow, 100)) == list(range(1, 101))
        assert hub.windows > 0, "it goes on with the hub's window"


async def test_ephemeral_events(hub: ScriptedHub, options: ClientOptions) -> None:
    small = replace(options, buffer_events=5)
    async with HubClient(hub.url, options=small) as client, client.subscribe("chat:a") as sub:
        for number in range(8):
            await hub.peers[0].send({**_event("chat:a", number), "seq": None, "name": "typing"})
        assert await client.call("echo", {}) == {}
        events = await take(sub, 5)
        assert [event.seq for event in events] == [None] * 5
        assert sub.dropped == 3


async def test_a_topic_without_history_says_that_it_overflowed(hub: ScriptedHub, options: ClientOptions) -> None:
    hub.log("cursor:a").epoch = ""
    async with (
        HubClient(hub.url, options=replace(options, buffer_events=2)) as client,
        client.subscribe("cursor:a") as sub,
    ):
        for number in range(6):
            await hub.peers[0].send({**_event("cursor:a", number), "seq": None})
        await client.call("echo", {})
        assert data(await take(sub, 2)) == [0, 1]
        with pytest.raises(GapError, match="overflow"):
            await take(sub, 1)


# --- requests


async def test_publish(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=options) as client:
        first = await client.publish("events:a", "n", {"x": 1}, key="k", tags={"t": 1})
        again = await client.publish("events:a", "n", {"x": 1}, key="k")
        assert (first.epoch, first.seq, first.duplicate) == ("e1", 1, False)
        assert (again.seq, again.duplicate) == (1, True)
        await client.publish("events:a", "n", 1)
        frames = hub.peers[0].got("publish")
        assert frames[0]["tags"] == {"t": 1}
        assert frames[2]["key"], "every publication gets a key"
        await client.publish("chat:a", "typing", 1, ephemeral=True)
        assert hub.peers[0].got("publish")[3]["key"] is None


async def test_publish_survives_the_connection(hub: ScriptedHub, options: ClientOptions) -> None:
    async def take_and_die(peer: Peer, frame: Frame) -> bool:
        if frame["type"] == "publish" and peer is hub.peers[0]:
            await hub._published(frame)
            peer.drop()
            return True
        return False

    hub.script = take_and_die
    async with HubClient(hub.url, options=options) as client:
        published = await client.publish("events:a", "n", 1)
        assert (published.seq, published.duplicate) == (1, True)
        assert hub.log("events:a").top == 1


async def test_a_call_does_not_repeat_itself_unless_asked_to(hub: ScriptedHub, options: ClientOptions) -> None:
    async def die_once(peer: Peer, frame: Frame) -> bool:
        if frame["type"] == "call" and len(hub.peers) % 2:
            peer.drop()
            return True
        return False

    hub.script = die_once
    async with HubClient(hub.url, options=options) as client:
        with pytest.raises(ConnectionLost):
            await client.call("chat.send", {})
        await hub.peer(1)
        hub.peers[1].drop()
        await hub.peer(2)
        assert await client.call("chat.send", {"x": 1}, retry=True) == {"x": 1}


async def test_a_repeated_call_leaves_the_loop_a_turn_to_notice_a_dead_socket(
    hub: ScriptedHub, options: ClientOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HubClient(hub.url, options=options) as client:
        connection = await client._link.ready()

        async def closed(*_: Any, **__: Any) -> None:
            # What websockets raises, without a turn of the loop, before its reader has heard of it.
            raise ConnectionClosedError(None, None)

        monkeypatch.setattr(connection.transport._socket, "send", closed)
        calling = asyncio.create_task(client.call("chat.send", {"x": 1}, retry=True))
        await asyncio.sleep(0)
        hub.peers[0].drop()
        assert await calling == {"x": 1}
        assert len(hub.peers) == 2


async def test_refusals_reach_the_caller(hub: ScriptedHub, options: ClientOptions) -> None:
    async def refuse(peer: Peer, frame: Frame) -> bool:
        if frame["type"] != "call":
            return False
        error = {"type": "error", "id": frame["id"], "code": "invented", "message": "no", "retry": "never"}
        await peer.send({**error, "details": {"why": 1}})
        return True

    hub.script = refuse
    async with HubClient(hub.url, options=options) as client:
        with pytest.raises(RequestRefused) as caught:
            await client.call("x.y")
        assert (caught.value.code, caught.value.details) == ("invented", {"why": 1})


async def test_rate_limits_are_waited_out_within_the_deadline(hub: ScriptedHub, options: ClientOptions) -> None:
    refusals = [30, 30, 3_600_000]

    async def limit(peer: Peer, frame: Frame) -> bool:
        if frame["type"] != "publish" or not refusals or len(peer.got("publish")) == 3:
            return False
        error = {"type": "error", "id": frame["id"], "code": "rate_limited", "message": "slow", "retry": "later"}
        await peer.send({**error, "retry_after_ms": refusals.pop(0)})
        return True

    hub.script = limit
    async with HubClient(hub.url, options=options) as client:
        assert (await client.publish("events:a", "n", 1)).seq == 1
        with pytest.raises(RequestRefused, match="rate_limited"):
            await client.publish("events:a", "n", 1)


async def test_no_answer_in_time(hub: ScriptedHub, options: ClientOptions) -> None:
    async def swallow(_: Peer, frame: Frame) -> bool:
        return frame["type"] == "call"

    hub.script = swallow
    async with HubClient(hub.url, options=options) as client:
        with pytest.raises(RequestTimeout, match=r"0\.05 s"):
            await client.call("x.y", timeout_s=0.05)
        assert (await client.publish("events:a", "n", 1)).seq == 1


async def test_a_frame_too_large_is_not_sent(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=options) as client:
        with pytest.raises(RequestRefused, match="too_large"):
            await client.call("x.y", {"text": "x" * 1_100_000})
        assert await client.call("x.y", {}) == {}


async def test_after_the_end_everything_says_so(hub: ScriptedHub, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a") as sub:
        await hub.publish("events:a", 1)
        await hub.peers[0].close(4409, "taken over")
        assert data(await take(sub, 1)) == [1], "what had come before is still delivered"
        for attempt in (anext(sub), client.call("x.y"), client.publish("events:a", "n", 1)):
            with pytest.raises(HubClosed) as caught:
                await attempt
            assert caught.value.code == 4409
        with pytest.raises(HubClosed):
            await anext(client.subscribe("events:b"))


def test_since_and_last_exclude_each_other(options: ClientOptions) -> None:
    with pytest.raises(ValueError, match="not both"):
        HubClient("ws://127.0.0.1:1/ws", options=options).subscribe("events:a", since="start", last=1)


# --- helpers


def _event(topic: str, seq: int) -> Frame:
    return {"type": "event", "topic": topic, "seq": seq, "id": f"i{seq}", "name": "n", "ts": 1, "data": seq}


def _acked(peer: Peer, topic: str) -> list[Frame]:
    return [frame["positions"][topic] for frame in peer.got("ack") if topic in frame["positions"]]


async def _collect(subscription: Subscription) -> list[Any]:
    return [event.data async for event in subscription]


def _refuse_subscribe(code: str, times: int) -> Any:
    left = [times]

    async def script(peer: Peer, frame: Frame) -> bool:
        if frame["type"] != "subscribe" or left[0] == 0:
            return False
        left[0] -= 1
        error = {"code": code, "message": "no", "retry": "never" if code == "not_found" else "later"}
        verdicts = [{"topic": item["topic"], "ok": False, "error": error} for item in frame["topics"]]
        await peer.send({"type": "reply", "id": frame["id"], "result": {"topics": verdicts}})
        return True

    return script
