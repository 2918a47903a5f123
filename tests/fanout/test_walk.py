"""What many subscribers want goes out over several turns of the loop; nobody gets less, more, or another order."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from hub.fanout import dispatcher
from hub.protocol.codec import Encoding
from hub.protocol.frames import Gap
from hub.topics.subscriptions import SubState
from tests.support.fan_out import REPLAY, SHORT, FakeConnection, FanOut, draft, topic
from tests.support.waiting import until

STEP = 2


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "STEP_WRITES", STEP)


async def crowd(hub: FanOut, count: int = 7, room: int = 1_000_000) -> list[FakeConnection]:
    """Connections of both encodings that are live on one topic."""
    encodings = list(Encoding)
    connections = [FakeConnection(hub, encodings[number % 2], room) for number in range(count)]
    for connection in connections:
        assert (await connection.join(REPLAY)).ok
    return connections


def reached(connections: list[FakeConnection]) -> int:
    """How many have got something."""
    return sum(bool(connection.seqs(REPLAY)) for connection in connections)


def left(connections: list[FakeConnection]) -> FakeConnection:
    """One that the walk has not come to."""
    return next(connection for connection in connections if not connection.seqs(REPLAY))


def subscription_state(connection: FakeConnection) -> SubState:
    return connection.subscriptions[topic(REPLAY).wire].state


async def test_a_crowd_is_written_to_in_steps_and_others_in_between(hub: FanOut) -> None:
    connections = await crowd(hub)
    other = FakeConnection(hub)
    await other.join(SHORT)
    hub.publish(REPLAY, 3)
    hub.broker.pump()
    counts = [reached(connections)]
    hub.publish(SHORT)
    hub.broker.pump()
    assert other.seqs(SHORT) == [1]
    while counts[-1] < len(connections):
        await asyncio.sleep(0)
        counts.append(reached(connections))
    assert counts == [2, 4, 6, 7]
    assert [connection.seqs(REPLAY) for connection in connections] == [[1, 2, 3]] * len(connections)
    assert {len(connection.packets) for connection in connections} == {1}
    await until(lambda: hub.local(REPLAY).walk is None)


async def test_the_next_events_come_after_those_of_the_walk(hub: FanOut) -> None:
    connections = await crowd(hub)
    for _ in range(3):
        hub.publish(REPLAY)
        hub.broker.pump()
    await until(lambda: hub.local(REPLAY).walk is None)
    assert [connection.seqs(REPLAY) for connection in connections] == [[1, 2, 3]] * len(connections)


async def test_where_one_stands_in_the_midst_of_a_turn(hub: FanOut) -> None:
    """What else came in the turn (a kick) may end a connection before the events of the turn have gone out."""
    connections = await crowd(hub, 3)
    filtered = FakeConnection(hub)
    await filtered.join(REPLAY, g=1)
    hub.publish(REPLAY, 2, g=1)
    hub.broker.pump()
    told: list[int] = []

    def judge(_: bytes) -> None:
        for connection in (*connections, filtered):
            record, sub = connection.records[topic(REPLAY).wire], connection.subscriptions[topic(REPLAY).wire]
            position = sub.settled()
            record.stands_at(position)
            told.append(position.seq)

    hub.dispatcher.listen(b"control", judge, lambda: None)
    hub.publish(REPLAY, 2, g=1)
    hub.broker.publish_now(draft(REPLAY, g=1, ephemeral=True))
    events = [*hub.broker.wire, (b"control", hub.broker.wire[0][1])]
    hub.broker.wire.clear()
    hub.dispatcher.on_messages(events)
    assert told == [2] * 4
    await until(lambda: hub.local(REPLAY).walk is None)
    assert [connection.seqs(REPLAY) for connection in (*connections, filtered)] == [[1, 2, 3, 4]] * 4


async def test_walks_take_turns(hub: FanOut) -> None:
    """A crowd does not keep a smaller one waiting."""
    connections = await crowd(hub, 20)
    few = connections[:4]
    for connection in few:
        await connection.join(SHORT)
    hub.publish(REPLAY)
    hub.publish(SHORT)
    hub.broker.pump()
    while hub.local(SHORT).walk is not None:  # noqa: ASYNC110 - which turn it is matters
        await asyncio.sleep(0)
    assert all(connection.seqs(SHORT) == [1] for connection in few)
    assert reached(connections) < len(connections)
    await until(lambda: hub.local(REPLAY).walk is None)


async def test_one_that_cannot_be_written_to_does_not_stop_the_walk(
    hub: FanOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = await crowd(hub)
    for connection in connections[:3]:
        monkeypatch.setattr(connection, "deliver", lambda packet: 1 // 0)
    with capture_logs() as logs:
        hub.publish(REPLAY)
        hub.broker.pump()
        await until(lambda: hub.local(REPLAY).walk is None)
    assert {line["event"] for line in logs} == {"delivery failed"}
    assert reached(connections) == len(connections) - 3
    hub.publish(REPLAY)
    hub.broker.pump()
    await until(lambda: reached(connections) and hub.local(REPLAY).walk is None)


async def test_latency_is_that_of_the_last_one(hub: FanOut) -> None:
    connections = await crowd(hub)
    seen: list[int] = []
    hub.metrics.received = lambda *_: seen.append(reached(connections))  # type: ignore[method-assign]
    hub.publish(REPLAY)
    hub.broker.pump()
    await until(lambda: seen == [len(connections)])


async def test_who_unsubscribes_in_mid_walk_gets_nothing_more(hub: FanOut) -> None:
    connections = await crowd(hub)
    hub.publish(REPLAY)
    hub.broker.pump()
    leaver = left(connections)
    leaver.leave(REPLAY)
    await until(lambda: hub.local(REPLAY).walk is None)
    assert leaver.frames == []
    assert reached(connections) == len(connections) - 1


async def test_who_becomes_congested_in_mid_walk_has_what_its_position_says(hub: FanOut) -> None:
    connections = await crowd(hub)
    hub.publish(REPLAY, 2)
    hub.broker.pump()
    slow = left(connections)
    slow.congest()
    assert subscription_state(slow) is SubState.PAUSED
    assert slow.seqs(REPLAY) == [1, 2]
    hub.publish(REPLAY, 2)
    hub.broker.pump()
    slow.drain()
    await until(lambda: slow.complete(REPLAY))
    assert slow.seqs(REPLAY) == [1, 2, 3, 4]


async def test_who_joins_in_mid_walk_gets_what_it_asked_for_once(hub: FanOut) -> None:
    await crowd(hub)
    hub.publish(REPLAY, 2)
    hub.broker.pump()
    fresh, complete = FakeConnection(hub), FakeConnection(hub)
    await fresh.join(REPLAY)
    await complete.join(REPLAY, "start")
    hub.publish(REPLAY)
    hub.broker.pump()
    await until(lambda: complete.complete(REPLAY) and fresh.complete(REPLAY))
    assert complete.seqs(REPLAY) == [1, 2, 3]
    assert fresh.seqs(REPLAY) == [3]


async def test_a_gap_comes_after_the_events_of_the_walk(hub: FanOut) -> None:
    connections = await crowd(hub, 60)  # history answers before the walk is over
    hub.publish(REPLAY)
    hub.broker.pump()
    hub.broker.forget(topic(REPLAY))
    hub.publish(REPLAY)
    hub.broker.pump()
    await until(lambda: all(connection.complete(REPLAY) for connection in connections))
    for connection in connections:
        assert [frame.seq for frame in connection.frames if not isinstance(frame, Gap)] == [1, 1]  # type: ignore[union-attr]
        assert isinstance(connection.frames[1], Gap)


async def test_a_healed_hole_comes_after_the_events_of_the_walk(hub: FanOut) -> None:
    connections = await crowd(hub)
    hub.publish(REPLAY, 4)
    del hub.broker.wire[1]
    hub.broker.pump()
    assert reached(connections) == STEP
    await until(lambda: all(connection.complete(REPLAY) for connection in connections))
    assert [connection.seqs(REPLAY) for connection in connections] == [[1, 2, 3, 4]] * len(connections)


async def test_a_connection_that_is_lost_in_mid_walk_is_left_out(hub: FanOut) -> None:
    connections = await crowd(hub)
    hub.publish(REPLAY)
    hub.broker.pump()
    left(connections).lose()
    await until(lambda: hub.local(REPLAY).walk is None)
    assert reached(connections) == len(connections) - 1


async def test_a_topic_that_everybody_left_in_mid_walk_is_forgotten(hub: FanOut) -> None:
    connections = await crowd(hub)
    hub.publish(REPLAY)
    hub.broker.pump()
    for connection in connections:
        connection.lose()
    await until(lambda: len(hub.topics) == 0)
