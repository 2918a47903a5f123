"""One subscription through its states: windows, filters, positions, congestion, and meeting the live set."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from hub.errors import ErrorCode, HubError
from hub.protocol.codec import Encoding
from hub.protocol.frames import Position, PositionFrame
from hub.topics.subscriptions import SubState
from tests.support.fan_out import FLEETING, REPLAY, SHORT, SKIP, FakeConnection, FanOut, topic
from tests.support.waiting import until


def epoch(hub: FanOut) -> str:
    """The topic's."""
    return hub.broker.state(topic(REPLAY)).epoch


# --- windows


async def test_a_full_window_pauses_until_acknowledgements_come(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await connection.join(REPLAY, ack=True)
    hub.publish(REPLAY, 3)
    hub.broker.pump()
    hub.publish(REPLAY, 8)
    hub.broker.pump()
    assert connection.seqs(REPLAY) == [1, 2, 3, 4]
    assert connection.state(REPLAY) is SubState.WINDOW_FULL
    for most in (8, 11):
        assert connection.acknowledge(REPLAY)
        await until(lambda most=most: connection.seqs(REPLAY)[-1] == most)
    assert connection.seqs(REPLAY) == list(range(1, 12))
    assert connection.acknowledge(REPLAY)
    assert connection.state(REPLAY) is SubState.LIVE
    hub.publish(REPLAY)
    hub.broker.pump()
    assert connection.seqs(REPLAY)[-1] == 12


async def test_a_replay_keeps_to_the_window(hub: FanOut) -> None:
    hub.publish(REPLAY, 20)
    connection = FakeConnection(hub)
    await connection.join(REPLAY, "start", ack=True)
    assert connection.seqs(REPLAY) == [1, 2, 3, 4]
    for most in (8, 12, 16, 20):
        connection.acknowledge(REPLAY)
        await until(lambda most=most: connection.seqs(REPLAY)[-1] == most)
    connection.acknowledge(REPLAY)
    await until(lambda: connection.state(REPLAY) is SubState.LIVE)


async def test_what_history_loses_while_the_window_is_full_is_announced(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await connection.join(SHORT, ack=True)
    hub.publish(SHORT, 4)
    hub.broker.pump()
    hub.publish(SHORT, 10)
    hub.broker.pump()
    connection.acknowledge(SHORT)
    await until(lambda: len(connection.seqs(SHORT)) == 8)
    assert connection.gaps(SHORT) == [("expired", 5, 9)]
    assert connection.seqs(SHORT)[4:] == [10, 11, 12, 13]


async def test_another_epoch_empties_the_window(hub: FanOut) -> None:
    """The client can never acknowledge what it was sent before: its numbers may be someone else's now."""
    connection = FakeConnection(hub)
    await connection.join(REPLAY, ack=True)
    hub.publish(REPLAY, 3)
    hub.broker.pump()
    hub.broker.forget(topic(REPLAY))
    for _ in range(3):
        hub.publish(REPLAY, 3)
        hub.broker.pump()
        await until(lambda: connection.complete(REPLAY))
        connection.acknowledge(REPLAY)
    assert connection.gaps(REPLAY) == [("epoch_changed", None, None)]
    assert len(connection.seqs(REPLAY)) == 12


async def test_another_epoch_empties_a_full_window_too(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await connection.join(REPLAY, ack=True)
    hub.publish(REPLAY, 9)
    hub.broker.pump()
    assert connection.state(REPLAY) is SubState.WINDOW_FULL
    hub.broker.forget(topic(REPLAY))
    hub.publish(REPLAY, 3)
    hub.broker.pump()
    # It may still acknowledge what it has; that goes on into the new epoch.
    connection.acknowledge(REPLAY)
    await until(lambda: connection.complete(REPLAY))
    connection.acknowledge(REPLAY)
    assert hub.delivery is not None
    assert connection.subscriptions["replay:1"].window_room == 4


# --- acknowledgements


async def test_acknowledgements_that_say_nothing_are_ignored(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await connection.join(REPLAY)
    hub.publish(REPLAY, 5)
    hub.broker.pump()
    now = epoch(hub)
    assert connection.acknowledge(REPLAY, position=Position(now, 3))
    for position in (Position(now, 3), Position(now, 2), Position("other", 5), Position("", 1)):
        assert not connection.acknowledge(REPLAY, position=position)
    with pytest.raises(HubError) as caught:
        connection.acknowledge(REPLAY, position=Position(now, 6))
    assert caught.value.code == ErrorCode.BAD_REQUEST
    assert connection.acknowledge(REPLAY, position=Position(now, 5))


async def test_a_lower_number_is_news_in_another_epoch(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await connection.join(REPLAY)
    hub.publish(REPLAY, 5)
    hub.broker.pump()
    assert connection.acknowledge(REPLAY)
    hub.broker.forget(topic(REPLAY))
    hub.publish(REPLAY, 2)
    hub.broker.pump()
    await until(lambda: connection.complete(REPLAY))
    assert connection.acknowledge(REPLAY, position=Position(epoch(hub), 2))


# --- filters


async def test_a_filtered_client_is_told_its_position(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await connection.join(REPLAY, g=1)
    for g in (1, 0, 0, 1, 0, 0, 0, 1):
        hub.publish(REPLAY, g=g)
        hub.broker.pump()
    assert connection.seqs(REPLAY) == [1, 4, 8]
    # Three were skipped after 5, and once more after 8 there was nothing to tell.
    assert [frame.seq for frame in connection.frames if isinstance(frame, PositionFrame)] == [5]


async def test_a_filtered_client_with_a_window(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await connection.join(REPLAY, g=1, ack=True)
    for g in (0, 1) * 10:
        hub.publish(REPLAY, g=g)
    hub.broker.pump()
    assert connection.seqs(REPLAY) == [2, 4, 6, 8]
    while not connection.complete(REPLAY):
        connection.acknowledge(REPLAY)
        await asyncio.sleep(0)
    assert connection.seqs(REPLAY) == list(range(2, 21, 2))


# --- meeting the live set


async def test_live_events_that_came_while_history_was_read_are_bridged(hub: FanOut) -> None:
    hub.publish(REPLAY, 3)
    first = FakeConnection(hub)
    await first.join(REPLAY)
    gate, made = asyncio.Event(), []

    async def arrival() -> None:
        made.append(1)
        await gate.wait()

    hub.broker.arrival = arrival
    second = FakeConnection(hub, Encoding.MSGPACK)
    joining = asyncio.create_task(second.join(REPLAY, "start"))
    await until(lambda: made)
    hub.broker.arrival = lambda: asyncio.sleep(0)
    hub.publish(REPLAY, 4)
    hub.broker.pump()
    gate.set()
    await joining
    # Without another look at history.
    assert len(hub.broker.reads) == 1
    assert second.seqs(REPLAY) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_subscription_ahead_of_the_link_waits_and_keeps_its_place(hub: FanOut) -> None:
    """Also when what the link brings ends with an event that has no number."""
    first, second = FakeConnection(hub), FakeConnection(hub)
    await first.join(REPLAY)
    hub.publish(REPLAY, 3)
    await second.join(REPLAY, "start")
    assert (second.seqs(REPLAY), second.state(REPLAY)) == ([1, 2, 3], SubState.AHEAD)
    hub.publish(REPLAY, 1)
    hub.publish(REPLAY, ephemeral=True)
    hub.broker.pump(2)
    assert (second.seqs(REPLAY), second.state(REPLAY)) == ([1, 2, 3], SubState.AHEAD)
    hub.broker.pump()
    assert second.seqs(REPLAY) == [1, 2, 3, 4]
    assert second.state(REPLAY) is SubState.LIVE
    assert (second.records["replay:1"].ephemeral, first.seqs(REPLAY)) == (1, [1, 2, 3, 4])
    assert all(later >= earlier for earlier, later in pairwise(second.seqs(REPLAY)))


async def test_who_is_congested_by_the_bridge_does_not_go_live(hub: FanOut) -> None:
    """Nothing would bound what is unsent then."""
    first = FakeConnection(hub)
    await first.join(REPLAY)
    second = FakeConnection(hub, room=3)
    await second.join(REPLAY, key="2")
    gate, made = asyncio.Event(), []

    async def arrival() -> None:
        made.append(1)
        await gate.wait()

    hub.broker.arrival = arrival
    joining = asyncio.create_task(second.join(REPLAY, "start"))
    await until(lambda: made)
    hub.publish(REPLAY, 5)
    hub.broker.pump()
    hub.broker.arrival = lambda: asyncio.sleep(0)
    gate.set()
    await joining
    assert second.seqs(REPLAY) == [1, 2, 3, 4, 5]
    assert second.state(REPLAY) is SubState.PAUSED
    hub.publish(REPLAY)
    hub.broker.pump()
    assert second.seqs(REPLAY) == [1, 2, 3, 4, 5]
    second.drain()
    await until(lambda: second.complete(REPLAY))


# --- the policy gap


async def test_the_policy_gap_skips_and_says_so(hub: FanOut) -> None:
    connection = FakeConnection(hub, room=2)
    await connection.join(SKIP)
    hub.publish(SKIP, 3)
    hub.broker.pump()
    hub.publish(SKIP, 4)
    hub.broker.pump()
    connection.drain()
    hub.publish(SKIP)
    hub.broker.pump()
    assert connection.seqs(SKIP) == [1, 2, 3, 8]
    assert connection.gaps(SKIP) == [("overflow", 4, 7)]


async def test_the_policy_gap_without_history_says_that_something_is_missing(hub: FanOut) -> None:
    connection = FakeConnection(hub, room=2)
    await connection.join(FLEETING)
    hub.publish(FLEETING, 3)
    hub.broker.pump()
    connection.drain()
    hub.publish(FLEETING)
    hub.broker.pump()
    assert connection.gaps(FLEETING) == [("overflow", None, None)]
    assert connection.records["fleeting:1"].ephemeral == 4


async def test_the_policy_gap_does_not_go_back_to_an_older_epoch(hub: FanOut) -> None:
    """History has shown the new epoch to one that joined; the link has not, so the topic still has the old one."""
    first, second = FakeConnection(hub), FakeConnection(hub)
    await first.join(SKIP)
    hub.publish(SKIP, 2)
    hub.broker.pump()
    hub.broker.fail_over("s2")
    hub.broker.refuse_read = lambda request: isinstance(request.after, Position) and request.after.epoch == "e1"
    await second.join(SKIP, "start")
    assert second.state(SKIP) is SubState.AHEAD
    second.congest()
    assert second.state(SKIP) is SubState.PAUSED
    second.drain()
    hub.broker.refuse_read = lambda _: False
    await until(lambda: first.complete(SKIP) and second.complete(SKIP))
    assert second.gaps(SKIP) == []
    assert second.seqs(SKIP) == [1, 2]
