"""From the wire to the live set: positions are checked, bytes are shared, one write per subscriber and turn."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from hub.fanout.broker import Draft
from hub.orgs import CONTROL_ORG
from hub.protocol.codec import Encoding
from hub.protocol.frames import Event
from hub.topics.kinds import SlowPolicy, TopicKind
from hub.topics.publication import TopicState
from hub.topics.subscriptions import Phase
from hub.topics.topic import Topic
from tests.support.fan_out import FLEETING, REPLAY, FakeConnection, FanOut, draft, topic
from tests.support.waiting import until

CHANNEL = topic(REPLAY).names.channel.encode()


async def live(hub: FanOut, *encodings: Encoding) -> list[FakeConnection]:
    """Connections that are live on one topic."""
    connections = [FakeConnection(hub, encoding) for encoding in encodings or (Encoding.JSON,)]
    for connection in connections:
        assert (await connection.join(REPLAY)).ok
    return connections


async def test_a_turn_is_one_write_of_the_same_bytes_for_everybody(hub: FanOut) -> None:
    connections = await live(hub, Encoding.JSON, Encoding.JSON, Encoding.MSGPACK, Encoding.MSGPACK)
    hub.publish(REPLAY, 3)
    hub.broker.pump()
    assert [connection.seqs(REPLAY) for connection in connections] == [[1, 2, 3]] * 4
    assert [len(connection.packets) for connection in connections] == [1] * 4
    assert connections[0].packets[0] is connections[1].packets[0]
    assert connections[2].packets[0] is connections[3].packets[0]


async def test_topics_of_one_turn_do_not_mix(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    for key in ("1", "2"):
        await connection.join(REPLAY, key=key)
    for key in ("1", "2", "1", "2", "2"):
        hub.publish(REPLAY, key=key)
    hub.broker.pump()
    assert (connection.seqs(REPLAY, "1"), connection.seqs(REPLAY, "2")) == ([1, 2], [1, 2, 3])
    assert len(connection.packets) == 2


async def test_repeats_are_dropped(hub: FanOut) -> None:
    (connection,) = await live(hub)
    hub.publish(REPLAY, 3)
    hub.broker.wire.extend(list(hub.broker.wire))
    reads = len(hub.broker.reads)
    hub.broker.pump(4)
    hub.broker.pump()
    assert connection.seqs(REPLAY) == [1, 2, 3]
    assert hub.local(REPLAY).phase is Phase.LIVE
    assert len(hub.broker.reads) == reads


async def test_a_hole_is_healed_before_anything_after_it(hub: FanOut) -> None:
    (connection,) = await live(hub)
    hub.publish(REPLAY, 6)
    del hub.broker.wire[2], hub.broker.wire[2]
    hub.broker.pump()
    assert connection.seqs(REPLAY) == [1, 2]
    hub.publish(REPLAY)
    hub.broker.pump()
    assert connection.seqs(REPLAY) == [1, 2]
    await until(lambda: connection.complete(REPLAY))
    assert connection.seqs(REPLAY) == [1, 2, 3, 4, 5, 6, 7]


async def test_ephemeral_events_need_no_history_and_pass_a_hole(hub: FanOut) -> None:
    (connection,) = await live(hub)
    await connection.join(FLEETING)
    hub.publish(REPLAY, 2)
    del hub.broker.wire[0]
    hub.publish(REPLAY, ephemeral=True)
    hub.publish(FLEETING, 2)
    hub.broker.pump()
    assert connection.records["replay:1"].ephemeral == 1
    assert connection.records["fleeting:1"].ephemeral == 2
    assert all(event.seq is None for event in connection.frames if isinstance(event, Event))
    await until(lambda: connection.complete(REPLAY))


async def test_one_unreadable_message_does_not_cost_the_others(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    for key in ("1", "2"):
        await connection.join(REPLAY, key=key)
    hub.publish(REPLAY, key="1")
    for garbage in (b"", b"unreadable", b"e x 1\n{}", b"\xff 1 1\n{}", b"e 1\n{}"):
        hub.broker.wire.append((CHANNEL, garbage))
    hub.publish(REPLAY, key="2")
    with capture_logs() as logs:
        hub.broker.pump()
    assert [line["event"] for line in logs] == ["unreadable envelope dropped"] * 5
    hub.publish(REPLAY, key="1")
    hub.publish(REPLAY, key="2")
    hub.broker.pump()
    assert (connection.seqs(REPLAY, "1"), connection.seqs(REPLAY, "2")) == ([1, 2], [1, 2])


async def test_one_topic_that_cannot_be_encoded_does_not_cost_the_others(hub: FanOut) -> None:
    connection = FakeConnection(hub, Encoding.MSGPACK)
    for key in ("1", "2"):
        await connection.join(REPLAY, key=key)
    hub.broker.publish_now(Draft(topic(REPLAY, "1"), REPLAY.history, b'{"id":"x","name":"n","data":%d}' % 2**70))
    hub.publish(REPLAY, key="2")
    with capture_logs() as logs:
        hub.broker.pump()
    assert [line["event"] for line in logs] == ["delivery failed"]
    assert connection.seqs(REPLAY, "2") == [1]
    hub.publish(REPLAY, key="2")
    hub.broker.pump()
    assert connection.seqs(REPLAY, "2") == [1, 2]


# --- a state that comes by itself


@pytest.mark.parametrize("lost", [0, 1, 7])
async def test_what_a_lost_link_missed_is_healed_at_once(hub: FanOut, lost: int) -> None:
    (connection,) = await live(hub)
    hub.publish(REPLAY, 2)
    hub.broker.pump()
    hub.broker.cut()
    if lost:
        hub.publish(REPLAY, lost)
    reads = len(hub.broker.reads)
    hub.broker.mend()
    await until(lambda: connection.complete(REPLAY))
    assert connection.seqs(REPLAY) == list(range(1, 3 + lost))
    assert (len(hub.broker.reads) > reads) is bool(lost)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("lost", [0, 1])
async def test_what_was_not_kept_is_doubted_once_after_a_lost_link(hub: FanOut, lost: int, kept: bool) -> None:
    here = TopicKind(name="here", presence=True, history=REPLAY.history if kept else None, slow=SlowPolicy.GAP)
    doubted: list[Phase] = []
    hub.errands.watched_by(
        live=lambda _: None, ephemeral=lambda *_: None, doubted=lambda local: doubted.append(local.phase)
    )
    connection = FakeConnection(hub)
    await connection.join(here)
    hub.broker.cut()
    if lost:
        hub.publish(here, lost)
    hub.broker.mend()
    await until(lambda: doubted and (not kept or connection.complete(here)))
    await until(lambda: not hub.healer._tasks)
    assert doubted == [Phase.LIVE]
    # The same when it is lost again before it has healed.
    doubted.clear()
    hub.broker.cut()
    hub.publish(here, 1)
    hub.broker.mend()
    if kept:
        assert hub.local(here).phase is Phase.HEALING
        hub.broker.cut()
        hub.broker.mend()
    await until(lambda: not hub.healer._tasks)
    assert doubted == [Phase.LIVE]


# --- who leaves the live set in the middle of a turn


async def test_a_congested_connection_gets_the_turn_and_then_nothing(hub: FanOut) -> None:
    slow, (quick,) = FakeConnection(hub, room=2), await live(hub)
    for key in ("1", "2"):
        await slow.join(REPLAY, key=key)
    hub.publish(REPLAY, 3, "1")
    hub.publish(REPLAY, 1, "2")
    hub.broker.pump()
    assert (slow.seqs(REPLAY, "1"), slow.seqs(REPLAY, "2")) == ([1, 2, 3], [1])
    hub.publish(REPLAY, 3, "1")
    hub.broker.pump()
    assert slow.seqs(REPLAY, "1") == [1, 2, 3]
    assert quick.seqs(REPLAY, "1") == [1, 2, 3, 4, 5, 6]


async def test_what_is_to_be_done_waits_for_the_end_of_the_turn(hub: FanOut) -> None:
    done: list[int] = []
    hub.dispatcher.when_settled(lambda: done.append(1))
    assert done == [1]
    with hub.dispatcher.turn():
        hub.dispatcher.when_settled(lambda: done.append(2))
        with hub.dispatcher.turn():
            hub.dispatcher.when_settled(lambda: done.append(3))
        assert done == [1]
    assert done == [1, 2, 3]


# --- control channels


async def test_a_listener_gets_bodies_and_may_fail(hub: FanOut) -> None:
    control = Topic(CONTROL_ORG, "control", "all")
    got: list[bytes] = []

    def listen(body: bytes) -> None:
        got.append(body)
        raise RuntimeError

    channel = control.names.channel.encode()
    doubts: list[bool] = []
    hub.dispatcher.listen(channel, listen, lambda: doubts.append(True))
    (connection,) = await live(hub)
    hub.publish(REPLAY)
    hub.broker.wire.appendleft((channel, b"- 0 1\nhello"))
    hub.broker.wire.appendleft((b"nobody's", b"- 0 1\nhello"))
    with capture_logs() as logs:
        hub.broker.pump()
    assert got == [b"hello"]
    assert [line["event"] for line in logs] == ["control message not taken"]
    assert connection.seqs(REPLAY) == [1]
    assert doubts == []
    hub.dispatcher.on_state(channel, TopicState("e", 0, 1, "", 0, "s"))
    assert doubts == [True]


async def test_events_of_services_are_counted(hub: FanOut) -> None:
    await live(hub)
    hub.publish(REPLAY, 3)
    hub.broker.pump()
    assert hub.metrics.stats()["eventsDelivered"] == 3
    assert b'hub_events_received_total{kind="replay"} 3.0' in hub.metrics.prometheus()
    assert draft(REPLAY).topic == topic(REPLAY)
