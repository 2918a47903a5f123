"""What tests of the behaviour suite say to a hub again and again."""

from __future__ import annotations

from typing import Any

from hub.edge.connection import Connection
from hub.protocol.frames import ErrorBody, Event, Verdict
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.waiting import until

SHARED_TOPIC = "room:a"
"""The topic that the fixture ``witness`` watches."""


def code_of(verdict: Verdict) -> str:
    """The code of a refusal."""
    assert not verdict.ok
    assert isinstance(verdict.error, ErrorBody)
    return verdict.error.code


async def published(client: RawClient, topic: str, count: int, **more: Any) -> str:
    """Publishes 1, 2, 3 … as data and returns the epoch."""
    epoch = ""
    for number in range(1, count + 1):
        epoch = (await client.publish(topic, number, **more))["epoch"]
    return epoch


async def live_marker(writer: RawClient, reader: RawClient, topic: str) -> None:
    """An event that is published now comes next: nothing else was on its way."""
    await writer.publish(topic, "marker")
    event = await reader.expect(Event, topic=topic, data="marker")
    assert event.name == "thing.happened"


async def older(peers: Peers, whose: str | Connection = "u1", **seconds: float) -> Connection:
    """As if so much more time had passed since moments that a connection (a user's only one) notes. The hub has looked
    at it then.

    So a deadline can be long enough for a machine that stands still, and a test need not wait for it.
    """
    keeper = peers.hub.gateway.keeper
    (connection,) = peers.hub.gateway.connections.of_user(peers.org, whose) if isinstance(whose, str) else (whose,)

    async def age() -> None:
        for name, passed_s in seconds.items():
            setattr(connection, name, getattr(connection, name) - passed_s)
        keeper.watch(connection)
        await until(lambda: connection not in keeper._soon, what="the hub to look at the connection")

    await peers.hub.within(age)
    return connection
