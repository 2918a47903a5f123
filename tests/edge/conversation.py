"""What tests of the behaviour suite say to a hub again and again."""

from __future__ import annotations

from typing import Any

from hub.protocol.frames import ErrorBody, Event, Verdict
from tests.support.raw_client import RawClient

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
