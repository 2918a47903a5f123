"""The last event of a topic comes while the topic is being healed, and nothing follows that would betray its loss."""

from __future__ import annotations

import asyncio

from tests.support.fan_out import REPLAY, FakeConnection, FanOut
from tests.support.waiting import until


async def test_what_came_while_healing_is_delivered_though_nothing_follows(hub: FanOut) -> None:
    gate = asyncio.Event()
    made: list[int] = []

    async def arrival() -> None:
        made.append(1)
        await gate.wait()

    connection = FakeConnection(hub)
    await connection.join(REPLAY)
    hub.broker.cut()
    hub.publish(REPLAY, 2)
    hub.broker.arrival = arrival
    hub.broker.mend()
    await until(lambda: made)  # history has answered, and the answer is on its way
    hub.publish(REPLAY)
    hub.broker.pump()
    gate.set()
    await until(lambda: connection.complete(REPLAY))
    assert connection.seqs(REPLAY) == [1, 2, 3]
