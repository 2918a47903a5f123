"""Feeding from history: page by page, as fast as the client reads, by the slow policy of the kind."""

from __future__ import annotations

import asyncio

import pytest

from hub.protocol.frames import Position
from hub.topics.subscriptions import SubState
from tests.support.fan_out import LATEST, REPLAY, FakeConnection, FanOut, topic
from tests.support.waiting import until


async def lag(hub: FanOut, connection: FakeConnection, tags: list[int], *, ack: bool = False) -> None:
    """A client of the kind `latest` that has got one event and then reads no more while events with these tags come."""
    await connection.join(LATEST, ack=ack)
    hub.publish(LATEST, g=0)
    hub.broker.pump()
    connection.congest()
    for g in tags:
        hub.publish(LATEST, g=g)
    hub.broker.pump()


async def test_a_page_goes_out_only_when_the_client_takes_it(hub: FanOut) -> None:
    hub.publish(REPLAY, 17)
    connection = FakeConnection(hub, room=4)
    await connection.join(REPLAY, "start")
    for most in (5, 10, 15, 17):
        await until(lambda most=most: connection.seqs(REPLAY)[-1:] == [most])
        reads = len(hub.broker.reads)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(hub.broker.reads) == reads
        connection.drain()
    await until(lambda: connection.state(REPLAY) is SubState.LIVE)


async def test_the_policy_replay_loses_nothing(hub: FanOut) -> None:
    connection = FakeConnection(hub, room=3)
    await connection.join(REPLAY)
    for _ in range(6):
        hub.publish(REPLAY, 4)
        hub.broker.pump()
    assert connection.state(REPLAY) is SubState.PAUSED
    connection.room = 1000
    connection.drain()
    await until(lambda: connection.complete(REPLAY) and connection.state(REPLAY) is SubState.LIVE)
    assert (connection.seqs(REPLAY), connection.gaps(REPLAY)) == (list(range(1, 25)), [])


async def test_many_topics_share_one_task(hub: FanOut) -> None:
    connection = FakeConnection(hub, room=0)
    for n in range(30):
        await connection.join(REPLAY, key=str(n))
    hub.publish(REPLAY, key="0")
    hub.broker.pump()
    for n in range(30):
        hub.publish(REPLAY, 8, key=str(n))
    hub.broker.pump()
    connection.room = 1000
    connection.drain()
    assert len(hub.catch_up._tasks) == 1
    await until(lambda: all(connection.complete(REPLAY, str(n)) for n in range(30)))
    await until(lambda: not hub.catch_up._tasks)


async def test_who_lags_together_shares_the_reads_and_the_bytes(hub: FanOut) -> None:
    connections = [FakeConnection(hub, room=2) for _ in range(10)]
    for connection in connections:
        await connection.join(REPLAY)
    hub.publish(REPLAY, 3)
    hub.broker.pump()
    hub.publish(REPLAY, 12)
    hub.broker.pump()
    reads = len(hub.broker.reads)
    for connection in connections:
        connection.room = 1000
        connection.drain()
    await until(lambda: all(connection.complete(REPLAY) for connection in connections))
    assert len(hub.broker.reads) - reads <= 4
    assert len({id(connection.packets[-1]) for connection in connections}) == 1


async def test_failed_reads_are_tried_again(hub: FanOut) -> None:
    connection = FakeConnection(hub, room=2)
    await connection.join(REPLAY)
    hub.publish(REPLAY, 9)
    hub.broker.pump()
    hub.publish(REPLAY, 3)
    hub.broker.pump()
    left = [1, 1]
    hub.broker.refuse_read = lambda _: bool(left and left.pop())
    connection.room = 1000
    connection.drain()
    await until(lambda: connection.complete(REPLAY))
    assert left == []


async def test_a_busy_topic_is_met(hub: FanOut) -> None:
    """An event comes with every turn: without the live tail the page would always be one behind."""
    connection = FakeConnection(hub, room=2)
    await connection.join(REPLAY)
    hub.publish(REPLAY, 3)
    hub.broker.pump()

    async def busy() -> None:
        await asyncio.sleep(0)
        hub.publish(REPLAY)
        hub.broker.pump()

    hub.publish(REPLAY)
    hub.broker.pump()
    hub.broker.arrival = busy
    connection.room = 1000
    connection.drain()
    await until(lambda: connection.state(REPLAY) in (SubState.LIVE, SubState.AHEAD))
    assert len(hub.broker.reads) < 5
    hub.broker.arrival = lambda: asyncio.sleep(0)
    await until(lambda: connection.complete(REPLAY))


async def test_nothing_comes_after_leaving(hub: FanOut) -> None:
    hub.publish(REPLAY, 20)
    connection = FakeConnection(hub)
    await connection.join(REPLAY, "start")
    connection.leave(REPLAY)
    got = len(connection.frames)
    await until(lambda: not hub.catch_up._tasks)
    assert len(connection.frames) == got
    await connection.join(REPLAY, "start")
    await until(lambda: connection.complete(REPLAY))


# --- the policy latest


async def test_only_the_newest_per_tag_comes_and_the_rest_is_announced(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await lag(hub, connection, [1, 2, 1, 1, 3, 2, 1, 1])
    connection.drain()
    await until(lambda: connection.complete(LATEST))
    assert connection.seqs(LATEST) == [1, 6, 7, 9]
    assert connection.gaps(LATEST) == [("overflow", 2, 5), ("overflow", 8, 8)]
    assert connection.state(LATEST) is SubState.LIVE


async def test_what_expires_between_two_pages_does_not_swallow_what_was_collected(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await lag(hub, connection, [1, 2] * 10)
    steps: list[int] = []

    async def delay() -> None:
        steps.append(1)
        if len(steps) == 2:  # before the second page is made
            hub.broker.trim(topic(LATEST), 11)

    hub.broker.delay = delay
    connection.drain()
    await until(lambda: connection.complete(LATEST))
    assert connection.gaps(LATEST) == [
        ("overflow", 2, 4),
        ("expired", 7, 11),
        ("overflow", 12, 19),
    ]
    assert connection.seqs(LATEST) == [1, 5, 6, 20, 21]


async def test_another_epoch_between_two_pages(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await lag(hub, connection, [1, 2] * 10)
    steps: list[int] = []

    async def delay() -> None:
        steps.append(1)
        if len(steps) == 2:
            hub.broker.fail_over("s2", lost=1)

    hub.broker.delay = delay
    connection.drain()
    await until(lambda: connection.complete(LATEST))
    assert connection.gaps(LATEST)[:2] == [("overflow", 2, 4), ("epoch_changed", None, None)]
    assert [seq for _, seq in connection.records["latest:1"].events] == [1, 5, 6, 19, 20]


async def test_a_full_window_stops_even_the_newest(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await lag(hub, connection, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5], ack=True)
    connection.drain()
    await until(lambda: connection.state(LATEST) is SubState.WINDOW_FULL)
    assert connection.seqs(LATEST) == [1, 3, 5, 7]
    while not connection.complete(LATEST):
        connection.acknowledge(LATEST)
        await asyncio.sleep(0)
    assert connection.seqs(LATEST)[-1] == 11


async def test_what_was_never_permitted_is_not_collected(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await connection.join(LATEST, first_permitted=8)
    hub.publish(LATEST, g=0)
    hub.broker.pump()
    connection.congest()
    for g in [3, 3, 3, *[1, 2] * 4]:
        hub.publish(LATEST, g=g)
    hub.broker.pump()
    connection.drain()
    await until(lambda: connection.complete(LATEST))
    assert connection.gaps(LATEST) == [("not_permitted", 2, 7), ("overflow", 8, 10)]
    assert connection.seqs(LATEST) == [1, 11, 12]


@pytest.mark.parametrize("how", ["lost", "left"])
async def test_nothing_is_kept_of_who_has_gone(hub: FanOut, how: str) -> None:
    connection = FakeConnection(hub)
    await lag(hub, connection, [1, 2] * 10)
    gate = asyncio.Event()
    hub.broker.delay = gate.wait  # type: ignore[assignment]
    connection.drain()
    await until(lambda: hub.catch_up._conflating)
    if how == "lost":
        # Two topics lag, and only one of them is being read when the connection goes.
        connection.congest()
        connection.lose()
    else:
        connection.leave(LATEST)
    gate.set()
    await until(lambda: not hub.catch_up._tasks)
    assert hub.catch_up._conflating == {}
    assert hub.catch_up._lagging == {}


async def test_many_that_lag_leave_nothing_when_they_go(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    for n in range(12):
        await connection.join(LATEST, key=str(n))
    connection.congest()
    for n in range(12):
        hub.publish(LATEST, 3, key=str(n), g=1)
    hub.broker.pump()
    gate = asyncio.Event()
    hub.broker.delay = gate.wait  # type: ignore[assignment]
    connection.drain()
    await until(lambda: hub.broker.reads and len(hub.catch_up._conflating) == 12)
    connection.lose()
    gate.set()
    await until(lambda: not hub.catch_up._tasks)
    assert hub.catch_up._conflating == {}


async def test_a_position_of_nobody(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    hub.publish(REPLAY, 7)
    verdict = await connection.join(REPLAY, Position("nobody", 3))
    assert (verdict.recovered, verdict.seq) == (False, 7)
    await until(lambda: connection.complete(REPLAY))
    assert connection.seqs(REPLAY) == list(range(1, 8))
