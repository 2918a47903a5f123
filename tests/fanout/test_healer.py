"""Holes are closed before anything after them is seen, or announced; another epoch is told to everybody once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from structlog.testing import capture_logs

from hub.fanout.broker import HistoryRequest
from hub.protocol.codec import Encoding
from hub.protocol.frames import Event, Gap, Position
from hub.topics.subscriptions import Phase, SubState
from tests.support.fan_out import REPLAY, SHORT, FakeConnection, FanOut, topic
from tests.support.waiting import until


def held_answers(hub: FanOut) -> tuple[asyncio.Event, list[int]]:
    """Answers are made at once and arrive when the event is set; the list counts those made."""
    gate = asyncio.Event()
    made: list[int] = []

    async def arrival() -> None:
        made.append(1)
        await gate.wait()

    hub.broker.arrival = arrival
    return gate, made


def at_once() -> Callable[[], Awaitable[None]]:
    """No delay any more."""
    return lambda: asyncio.sleep(0)


async def live(hub: FanOut, count: int = 2) -> list[FakeConnection]:
    """Connections that are live on two topics."""
    connections = [FakeConnection(hub, list(Encoding)[n % 2]) for n in range(count)]
    for connection in connections:
        await connection.join(REPLAY)
        await connection.join(SHORT)
    return connections


async def test_a_long_hole_is_closed_page_by_page(hub: FanOut) -> None:
    connections = await live(hub)
    hub.broker.cut()
    hub.publish(REPLAY, 23)
    hub.broker.mend()
    hub.publish(REPLAY)
    hub.broker.pump()
    await until(lambda: all(connection.complete(REPLAY) for connection in connections))
    assert connections[0].seqs(REPLAY) == list(range(1, 25))
    assert hub.local(REPLAY).phase is Phase.LIVE


async def test_what_is_gone_is_announced_exactly(hub: FanOut) -> None:
    connections = await live(hub)
    told: list[object] = []
    hub.errands.gapped = lambda sub: told.append(sub.subscriber)
    hub.publish(SHORT, 2)
    hub.broker.pump()
    hub.broker.cut()
    hub.publish(SHORT, 10)
    hub.broker.mend()
    await until(lambda: all(connection.complete(SHORT) for connection in connections))
    for connection in connections:
        assert connection.gaps(SHORT) == [("expired", 3, 7)]
        assert connection.seqs(SHORT) == [1, 2, 8, 9, 10, 11, 12]
        assert told.count(connection) == 1


async def test_a_failover_is_told_once_and_what_follows_the_base_comes(hub: FanOut) -> None:
    connections = await live(hub)
    hub.publish(REPLAY, 5)
    hub.broker.pump()
    hub.broker.fail_over("s2", lost=2)
    hub.publish(REPLAY, 3)
    hub.broker.pump()
    await until(lambda: all(connection.complete(REPLAY) for connection in connections))
    now = hub.broker.state(topic(REPLAY)).epoch
    for connection in connections:
        assert connection.gaps(REPLAY) == [("epoch_changed", None, None)]
        assert connection.records["replay:1"].events[5:] == [(now, 4), (now, 5), (now, 6)]


async def test_late_messages_of_the_epoch_before_do_no_harm(hub: FanOut) -> None:
    (connection,) = await live(hub, 1)
    hub.publish(REPLAY, 3)
    late = list(hub.broker.wire)
    hub.broker.pump()
    hub.broker.fail_over("s2", lost=1)
    hub.publish(REPLAY, 1)
    hub.broker.wire.extendleft(late)
    hub.broker.wire.extend(late)
    hub.broker.pump()
    await until(lambda: connection.complete(REPLAY))
    hub.broker.wire.extend(late)
    hub.broker.pump()
    hub.publish(REPLAY, 1)
    hub.broker.pump()
    await until(lambda: connection.complete(REPLAY))
    assert len(connection.gaps(REPLAY)) == 1


async def test_it_tries_until_history_answers(hub: FanOut) -> None:
    (connection,) = await live(hub, 1)
    refused: list[HistoryRequest] = []
    hub.broker.refuse_read = lambda request: len(refused) < 2 and not refused.append(request)  # type: ignore[func-returns-value]
    hub.publish(REPLAY, 2)
    del hub.broker.wire[0]
    hub.broker.pump()
    await until(lambda: connection.complete(REPLAY))
    assert len(refused) == 2


async def test_a_fault_of_ours_does_not_leave_the_topic_deaf(hub: FanOut) -> None:
    (connection,) = await live(hub, 1)
    faults = [1]

    def fault(_: HistoryRequest) -> bool:
        if faults:
            raise RuntimeError(faults.pop())
        return False

    hub.broker.refuse_read = fault
    hub.publish(REPLAY, 2)
    del hub.broker.wire[0]
    hub.broker.pump()
    with capture_logs() as logs:
        await until(lambda: connection.complete(REPLAY))
    assert "history could not be read" in [line["event"] for line in logs]


# --- what is learned while something older is on its way


async def test_a_state_that_comes_while_healing_is_not_forgotten(hub: FanOut) -> None:
    """The page on its way was read before the second loss of the link."""
    (connection,) = await live(hub, 1)
    gate, made = held_answers(hub)
    hub.publish(REPLAY, 2)
    del hub.broker.wire[0]
    hub.broker.pump()
    await until(lambda: made)
    hub.broker.cut()
    hub.publish(REPLAY, 2)
    hub.broker.arrival = at_once()
    hub.broker.mend()
    gate.set()
    await until(lambda: connection.seqs(REPLAY) == [1, 2, 3, 4])


async def test_a_state_that_comes_while_subscribing_is_not_forgotten(hub: FanOut) -> None:
    """The answer to the subscription was made before the link was lost."""
    connection = FakeConnection(hub)
    gate, made = held_answers(hub)
    joining = asyncio.create_task(connection.join(REPLAY))
    await until(lambda: made)
    hub.broker.cut()
    hub.publish(REPLAY, 2)
    hub.broker.arrival = at_once()
    hub.broker.mend()
    gate.set()
    await joining
    await until(lambda: connection.complete(REPLAY))


async def test_healing_does_not_share_a_page_read_before_the_doubt(hub: FanOut) -> None:
    first, second = FakeConnection(hub), FakeConnection(hub)
    await first.join(REPLAY)
    hub.publish(REPLAY, 2)
    hub.broker.pump()
    gate, made = held_answers(hub)
    position = Position(hub.broker.state(topic(REPLAY)).epoch, 2)
    joining = asyncio.create_task(second.join(REPLAY, position))
    await until(lambda: made)
    hub.broker.cut()
    hub.publish(REPLAY, 2)
    hub.broker.arrival = at_once()
    hub.broker.mend()
    # The old page is still on its way.
    await until(lambda: first.seqs(REPLAY) == [1, 2, 3, 4])
    gate.set()
    await joining
    await until(lambda: second.complete(REPLAY))


# --- who is not at the topic's position


async def test_who_is_ahead_but_not_beyond_the_hole_gets_a_gap_of_its_own(hub: FanOut) -> None:
    first, second = FakeConnection(hub), FakeConnection(hub)
    await first.join(SHORT)
    hub.publish(SHORT, 2)
    hub.broker.wire.clear()
    await second.join(SHORT, "start")
    assert second.state(SHORT) is SubState.AHEAD
    hub.publish(SHORT, 10)
    for _ in range(9):
        hub.broker.wire.popleft()
    hub.broker.pump()
    await until(lambda: first.complete(SHORT) and second.complete(SHORT))
    assert first.gaps(SHORT) == [("expired", 1, 7)]
    assert second.gaps(SHORT) == [("expired", 3, 7)]


async def test_a_gap_that_congests_a_connection_is_told_once(hub: FanOut) -> None:
    """It leaves the live set with the position that the gap led to, and not while the set is walked."""
    slow = [FakeConnection(hub, room=3) for _ in range(3)]
    quick = FakeConnection(hub)
    for connection in (*slow, quick):
        await connection.join(SHORT)
    hub.publish(SHORT, 3)
    hub.broker.pump()
    hub.broker.cut()
    hub.publish(SHORT, 10)
    hub.broker.mend()
    await until(lambda: quick.complete(SHORT))
    for connection in slow:
        assert connection.state(SHORT) is SubState.PAUSED
        assert [type(frame) for frame in connection.frames[3:]][:2] == [Gap, Event]
        connection.drain()
    await until(lambda: all(connection.complete(SHORT) for connection in slow))
    for connection in slow:
        assert connection.gaps(SHORT) == [("expired", 4, 8)]


async def test_filtered_clients_are_healed_like_the_others(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await connection.join(REPLAY, g=1, ack=True)
    hub.publish(REPLAY, 2, g=1)
    hub.broker.pump()
    hub.broker.forget(topic(REPLAY))
    for g in (0, 1, 0):
        hub.publish(REPLAY, g=g)
    hub.broker.pump()
    await until(lambda: connection.complete(REPLAY))
    assert connection.seqs(REPLAY) == [1, 2, 2]


async def test_a_topic_given_up_is_not_healed_any_more(hub: FanOut) -> None:
    (connection,) = await live(hub, 1)
    hub.broker.refuse_read = lambda _: True
    hub.publish(REPLAY, 2)
    del hub.broker.wire[0]
    hub.broker.pump()
    connection.lose()
    await until(lambda: not hub.healer._tasks and not len(hub.topics))
