"""Who lags on one node, and for how long its writer should care. Time is what the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hub.protocol.frames import Position
from hub.topics.kinds import TopicKind
from hub.topics.subscriptions import SubState
from tests.support.fan_out import PACED, REPLAY, FakeConnection, FanOut, topic
from tests.support.waiting import until

PATIENCE_S = 10.0


@pytest.fixture
async def hub() -> AsyncIterator[FanOut]:
    hub = FanOut(ack_window=50, attentive_s=PATIENCE_S)
    yield hub
    await hub.close()
    assert not hub.violations


def lags(hub: FanOut, now: float, least: int = 0) -> dict[str, int]:
    return {local.topic.text: lag for local, lag in hub.membership.attentive.lags(now, least).items()}


def write(hub: FanOut, count: int, kind: TopicKind = PACED, key: str = "1") -> None:
    hub.publish(kind, count, key)
    hub.broker.pump()


async def follower(hub: FanOut, *, key: str = "1") -> FakeConnection:
    connection = FakeConnection(hub)
    await connection.join(PACED, key=key, ack=True)
    return connection


async def test_the_slowest_one_counts(hub: FanOut) -> None:
    fast, slow = await follower(hub), await follower(hub)
    write(hub, 20)
    fast.acknowledge(PACED)
    slow.acknowledge(PACED, position=Position(hub.local(PACED).epoch, 5))
    assert lags(hub, 0) == {"paced:1": 15}
    assert lags(hub, 0, least=14) == {"paced:1": 15}
    assert lags(hub, 0, least=15) == {}
    slow.acknowledge(PACED)
    assert lags(hub, 0) == {}


async def test_topics_are_apart(hub: FanOut) -> None:
    await follower(hub)
    await follower(hub, key="2")
    write(hub, 3)
    write(hub, 4, key="2")
    assert lags(hub, 0) == {"paced:1": 3, "paced:2": 4}


async def test_what_does_not_fit_into_the_window_counts_too(hub: FanOut) -> None:
    connection = await follower(hub)
    write(hub, 80)
    assert connection.state(PACED) is SubState.WINDOW_FULL
    assert lags(hub, 0) == {"paced:1": 80}


async def test_what_a_congested_client_has_not_got_counts_too(hub: FanOut) -> None:
    connection = await follower(hub)
    connection.congest()
    write(hub, 30)
    assert connection.seqs(PACED) == []
    assert lags(hub, 0) == {"paced:1": 30}


async def test_who_joins_owes_only_what_he_asked_for(hub: FanOut) -> None:
    write(hub, 40)
    connection = await follower(hub)
    assert lags(hub, 0) == {}
    await FakeConnection(hub).join(PACED, "start", ack=True)
    assert lags(hub, 0) == {"paced:1": 40}
    write(hub, 1)
    assert connection.seqs(PACED) == [41]


async def test_who_is_silent_does_not_count_for_long(hub: FanOut) -> None:
    connection = await follower(hub)
    write(hub, 20)
    assert lags(hub, 100) == {"paced:1": 20}
    assert lags(hub, 100 + PATIENCE_S) == {"paced:1": 20}
    assert lags(hub, 100.1 + PATIENCE_S) == {}
    connection.acknowledge(PACED, position=Position(hub.local(PACED).epoch, 1))
    assert lags(hub, 200) == {"paced:1": 19}


async def test_who_acknowledges_now_and_then_counts_all_the_time(hub: FanOut) -> None:
    connection = await follower(hub)
    write(hub, 40)
    for turn in range(1, 20):
        connection.acknowledge(PACED, position=Position(hub.local(PACED).epoch, turn))
        assert lags(hub, turn * PATIENCE_S) == {"paced:1": 40 - turn}


async def test_who_had_nothing_to_acknowledge_is_not_silent(hub: FanOut) -> None:
    connection = await follower(hub)
    write(hub, 20)
    connection.acknowledge(PACED)
    assert lags(hub, 0) == {}
    assert lags(hub, 1000) == {}
    write(hub, 20)
    assert lags(hub, 1001) == {"paced:1": 20}
    assert lags(hub, 1000.1 + PATIENCE_S) == {}


async def test_who_leaves_is_forgotten_at_once(hub: FanOut) -> None:
    one, two = await follower(hub), await follower(hub)
    write(hub, 20)
    one.leave(PACED)
    assert lags(hub, 0) == {"paced:1": 20}
    two.lose()
    assert lags(hub, 0) == {}
    assert len(hub.membership.attentive) == 0


async def test_others_are_not_even_known(hub: FanOut) -> None:
    connection = FakeConnection(hub)
    await connection.join(REPLAY, ack=True)
    await connection.join(PACED)
    write(hub, 20)
    write(hub, 20, REPLAY)
    assert len(hub.membership.attentive) == 0


async def test_a_new_epoch_leaves_no_debt_behind(hub: FanOut) -> None:
    connection = await follower(hub)
    write(hub, 20)
    hub.broker.forget(topic(PACED))
    write(hub, 3)
    await until(lambda: hub.local(PACED).epoch == hub.broker.state(topic(PACED)).epoch)
    await until(lambda: lags(hub, 0) == {"paced:1": 3})
    connection.acknowledge(PACED)
    assert lags(hub, 0) == {}


def test_what_is_not_kept_cannot_be_paced() -> None:
    with pytest.raises(ValueError, match="cannot be paced"):
        TopicKind(name="fleeting", history=None, slow=REPLAY.slow.GAP, paced=True)
