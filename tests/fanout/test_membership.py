"""Joining and leaving: one batch for many, verdicts before events, and races that cannot deafen a topic."""

from __future__ import annotations

import asyncio

import pytest

from hub.errors import ErrorCode
from hub.fanout.broker import HistoryRequest
from hub.fanout.membership import JoinRequest
from hub.protocol.frames import ErrorBody, Position, Verdict
from hub.topics.subscriptions import SubState
from tests.support.fan_out import FLEETING, REPLAY, SHORT, FakeConnection, FanOut, topic
from tests.support.waiting import until

CHANNEL = topic(REPLAY).names.channel.encode()


def code(verdict: Verdict) -> str:
    """Of a refusal."""
    assert isinstance(verdict.error, ErrorBody)
    return verdict.error.code


# --- verdicts


async def test_a_topic_that_never_had_an_event(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    verdict = await connection.join(REPLAY)
    assert (verdict.ok, verdict.seq, verdict.recovered) == (True, 0, True)
    assert hub.publish(REPLAY).epoch == verdict.epoch
    hub.broker.pump()
    assert connection.records["replay:1"].events == [(verdict.epoch, 1)]


async def test_a_kind_without_history(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    verdict = await connection.join(FLEETING, Position("any", 7))
    assert (verdict.epoch, verdict.seq, verdict.recovered) == ("", 0, True)
    assert hub.broker.reads == []


@pytest.mark.parametrize(
    ("asked", "recovered", "seqs"),
    [
        ("now", True, []),
        ("start", True, [4, 5, 6, 7, 8]),
        (2, True, [7, 8]),
        (0, True, []),
        (100, True, [4, 5, 6, 7, 8]),
        (Position("e1", 6), True, [7, 8]),
        (Position("e1", 3), True, [4, 5, 6, 7, 8]),
        (Position("e1", 8), True, []),
        (Position("e1", 1), False, [4, 5, 6, 7, 8]),
        (Position("e1", 9), False, [4, 5, 6, 7, 8]),
        (Position("other", 1), False, [4, 5, 6, 7, 8]),
    ],
)
async def test_what_was_asked_is_what_comes(
    hub: FanOut, asked: Position | str | int, recovered: bool, seqs: list[int]
) -> None:
    hub.publish(SHORT, 8)
    connection = FakeConnection(hub)
    verdict = await connection.join(SHORT, asked)  # type: ignore[arg-type]
    assert (verdict.epoch, verdict.seq, verdict.recovered) == ("e1", 8, recovered)
    await until(lambda: connection.state(SHORT) is SubState.LIVE)
    hub.publish(SHORT)
    hub.broker.pump()
    assert connection.seqs(SHORT) == [*seqs, 9]


async def test_the_second_to_join_a_live_topic_asks_redis_nothing(hub: FanOut) -> None:
    first, second = FakeConnection(hub), FakeConnection(hub)
    await first.join(REPLAY)
    hub.publish(REPLAY, 3)
    hub.broker.pump()
    reads = len(hub.broker.reads)
    verdict = await second.join(REPLAY)
    assert (verdict.seq, len(hub.broker.reads)) == (3, reads)


async def test_a_topic_in_doubt_asks_history_also_for_now(hub: FanOut) -> None:
    first, second = FakeConnection(hub), FakeConnection(hub)
    await first.join(REPLAY)
    hub.publish(REPLAY, 3)
    del hub.broker.wire[0]
    hub.broker.pump()
    verdict = await second.join(REPLAY)
    assert verdict.seq == 3
    await until(lambda: first.complete(REPLAY) and second.complete(REPLAY))
    assert (first.seqs(REPLAY), second.seqs(REPLAY)) == ([1, 2, 3], [])


async def test_many_topics_are_one_batch(hub: FanOut) -> None:
    for n in range(20):
        if n:
            hub.publish(REPLAY, n, key=str(n))
    calls: list[int] = []

    async def delay() -> None:
        calls.append(1)

    hub.broker.delay = delay
    connection = FakeConnection(hub)
    requests = [JoinRequest(topic(REPLAY, str(n)), REPLAY, "start") for n in range(20)]
    verdicts = await connection.join_all(requests)
    assert [verdict.seq for verdict in verdicts] == list(range(20))
    assert len(calls) == 2  # one read and one subscribe
    await until(lambda: all(connection.complete(REPLAY, str(n)) for n in range(20)))


# --- refusals


async def test_one_refused_topic_does_not_spoil_the_others(hub: FanOut) -> None:
    hub.broker.refuse_subscribe = lambda of: of.key == "1"
    hub.broker.refuse_read = lambda request: request.topic.key == "2"
    connection = FakeConnection(hub)
    verdicts = await connection.join_all([JoinRequest(topic(REPLAY, str(n)), REPLAY, "start") for n in range(4)])
    assert [verdict.ok for verdict in verdicts] == [True, False, False, True]
    assert code(verdicts[1]) == code(verdicts[2]) == ErrorCode.UNAVAILABLE
    await until(lambda: len(hub.topics) == 2)
    assert len(hub.broker.wanted) == 2


async def test_a_refused_topic_may_be_asked_for_again_at_once(hub: FanOut) -> None:
    refusals = [1]
    hub.broker.refuse_subscribe = lambda _: bool(refusals and refusals.pop())
    connection = FakeConnection(hub)
    assert code(await connection.join(REPLAY)) == ErrorCode.UNAVAILABLE
    assert (await connection.join(REPLAY)).ok
    hub.publish(REPLAY)
    hub.broker.pump()
    assert connection.seqs(REPLAY) == [1]
    await asyncio.sleep(hub.settings.unsubscribe_delay_s * 3)  # the first refusal's farewell must not take it away
    hub.publish(REPLAY)
    hub.broker.pump()
    assert connection.seqs(REPLAY) == [1, 2]


async def test_a_hub_that_stops_answers_who_waits(hub: FanOut) -> None:
    hub.broker.delay = asyncio.Event().wait  # type: ignore[assignment]
    connection = FakeConnection(hub)
    joining = asyncio.create_task(connection.join(REPLAY))
    await until(lambda: hub.broker.wanted)
    await hub.membership.close()
    assert code(await joining) == ErrorCode.UNAVAILABLE


# --- first and last


async def test_first_and_last_touch_the_broker(hub: FanOut) -> None:
    first, second = FakeConnection(hub), FakeConnection(hub)
    await first.join(REPLAY)
    await second.join(REPLAY)
    first.leave(REPLAY)
    await asyncio.sleep(hub.settings.unsubscribe_delay_s * 3)  # longer than the farewell would take
    assert CHANNEL in hub.broker.wanted
    second.leave(REPLAY)
    assert CHANNEL in hub.broker.wanted
    await until(lambda: CHANNEL not in hub.broker.wanted)
    assert len(hub.topics) == 0


async def test_coming_back_within_the_delay_keeps_the_topic(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await connection.join(REPLAY)
    local = hub.local(REPLAY)
    connection.leave(REPLAY)
    await connection.join(REPLAY)
    await asyncio.sleep(hub.settings.unsubscribe_delay_s * 3)  # the farewell's time has passed
    assert hub.local(REPLAY) is local
    hub.publish(REPLAY)
    hub.broker.pump()
    assert connection.seqs(REPLAY) == [1]


async def test_leaving_twice_is_leaving_once(hub: FanOut) -> None:
    first, second = FakeConnection(hub), FakeConnection(hub)
    await first.join(REPLAY)
    await second.join(REPLAY)
    sub = first.subscriptions["replay:1"]
    hub.membership.leave(sub)
    hub.membership.leave(sub)
    assert hub.local(REPLAY).holders == 1


async def test_who_goes_while_joining_leaves_nothing(hub: FanOut) -> None:
    gate = asyncio.Event()
    hub.broker.delay = gate.wait  # type: ignore[assignment]
    first, second = FakeConnection(hub), FakeConnection(hub)
    joining = [asyncio.create_task(connection.join(REPLAY, "start")) for connection in (first, second)]
    await until(lambda: hub.topics.get(CHANNEL) and hub.local(REPLAY).holders == 2)
    joining[0].cancel()
    await asyncio.gather(joining[0], return_exceptions=True)
    assert (hub.local(REPLAY).holders, hub.local(REPLAY).tail_users) == (1, 1)
    gate.set()
    assert (await joining[1]).ok
    assert hub.local(REPLAY).tail_users == 0
    hub.publish(REPLAY)
    hub.broker.pump()
    assert (first.frames, second.seqs(REPLAY)) == ([], [1])


async def test_everybody_who_waits_for_a_topic_shares_the_first_s_answer(hub: FanOut) -> None:
    gate = asyncio.Event()
    hub.broker.delay = gate.wait  # type: ignore[assignment]
    connections = [FakeConnection(hub) for _ in range(5)]
    joining = [asyncio.create_task(connection.join(REPLAY)) for connection in connections]
    await until(lambda: hub.topics.get(CHANNEL) and hub.local(REPLAY).holders == 5)
    assert len(hub.membership._tasks) == 1
    gate.set()
    assert all([(await task).ok for task in joining])


# --- events around the verdict


async def test_what_comes_between_the_subscription_and_its_answer_follows_the_verdict(hub: FanOut) -> None:
    hub.publish(REPLAY, 2)
    gate, made = asyncio.Event(), []

    async def arrival() -> None:
        made.append(1)
        await gate.wait()

    hub.broker.arrival = arrival
    connection = FakeConnection(hub)
    joining = asyncio.create_task(connection.join(REPLAY, "start"))
    await until(lambda: len(made) == 2)
    hub.publish(REPLAY, 3)
    hub.broker.pump()
    assert connection.frames == []
    gate.set()
    assert (await joining).seq == 2
    await until(lambda: connection.complete(REPLAY))
    assert connection.seqs(REPLAY) == [1, 2, 3, 4, 5]


async def test_more_than_the_tail_holds_is_read_again(hub: FanOut) -> None:
    first, second = FakeConnection(hub), FakeConnection(hub)
    await first.join(REPLAY)
    held: list[HistoryRequest] = []
    gate = asyncio.Event()

    async def delay() -> None:
        if hub.broker.reads and not gate.is_set():
            held.extend(hub.broker.reads)
            await gate.wait()

    hub.broker.delay = delay
    joining = asyncio.create_task(second.join(REPLAY, "start"))
    await until(lambda: held)
    big = "x" * 1_000_000
    for _ in range(6):
        hub.publish(REPLAY, data=big)
        hub.broker.pump()
    assert hub.local(REPLAY).tail_bytes <= hub.settings.join_tail_bytes
    gate.set()
    await joining
    await until(lambda: second.complete(REPLAY))
    assert second.seqs(REPLAY) == first.seqs(REPLAY) == [1, 2, 3, 4, 5, 6]
    await until(lambda: hub.local(REPLAY).tail_users == 0)
    assert (hub.local(REPLAY).tail, hub.local(REPLAY).tail_bytes) == (None, 0)


async def test_what_may_not_be_seen_is_announced(hub: FanOut) -> None:
    hub.publish(REPLAY, 6)
    connection = FakeConnection(hub)
    verdict = await connection.join(REPLAY, Position("e1", 1), first_permitted=4)
    assert verdict.recovered is False
    await until(lambda: connection.complete(REPLAY))
    assert (connection.gaps(REPLAY), connection.seqs(REPLAY)) == ([("not_permitted", 2, 3)], [4, 5, 6])


async def test_a_race_of_joining_and_leaving_does_not_deafen(hub: FanOut) -> None:
    connections = [FakeConnection(hub) for _ in range(4)]
    hub.broker.delay = lambda: asyncio.sleep(0)

    async def flap(connection: FakeConnection) -> None:
        for _ in range(40):
            await connection.join(REPLAY)
            await asyncio.sleep(0)
            connection.leave(REPLAY)
            await asyncio.sleep(hub.settings.unsubscribe_delay_s if connection is connections[0] else 0)
        await connection.join(REPLAY)

    await asyncio.gather(*(flap(connection) for connection in connections))
    await asyncio.sleep(hub.settings.unsubscribe_delay_s * 3)  # every farewell's time has passed
    hub.publish(REPLAY)
    hub.broker.pump()
    assert [connection.seqs(REPLAY)[-1] for connection in connections] == [1, 1, 1, 1]
    assert hub.local(REPLAY).holders == 4
