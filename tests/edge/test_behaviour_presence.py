"""Presence over real sockets: who comes, changes and goes, and what those who watch make of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from hub.protocol.codec import Encoding
from tests.edge.conftest import HubWith
from tests.support.presence_service import SERVICES
from tests.support.present import Present, View
from tests.support.raw_client import ClosedByHub, RawClient
from tests.support.waiting import until

QUICK: dict[str, Any] = {"factories": SERVICES, "presence_grace_s": 0.2, "presence_flush_ms": 1}
Watch = Callable[[RawClient, str], Present]
PATIENT: dict[str, Any] = QUICK | {"presence_grace_s": 30.0}


@pytest.fixture(params=["party:a", "lobby:a"])
def room(request: pytest.FixtureRequest) -> str:
    """A topic with history, and one without."""
    name: str = request.param
    return name


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    """Reads whatever comes to a client from now on; it may not ask for anything any more."""
    tasks: list[asyncio.Task[None]] = []

    def begin(client: RawClient, topic: str) -> Present:
        tasks.append(asyncio.create_task(_read(client)))
        return Present(client, topic)

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _read(client: RawClient) -> None:
    with contextlib.suppress(ClosedByHub):
        while True:
            await client.receive(3600)


async def sees(present: Present, view: View | None) -> None:
    await until(lambda: present.view == view, what=f"{view} to be seen; told: {present.told}")


async def set_status(client: RawClient, status: str) -> None:
    result = await client.result({"type": "call", "method": "presence.set", "params": {"status": status}})
    assert result == {"status": status}


async def got(client: RawClient, topic: str) -> Any:
    return await client.result({"type": "call", "method": "presence.get", "params": {"topic": topic}})


async def test_join_update_and_leave_are_distinct(
    hub_with: HubWith, watch: Watch, room: str, encoding: Encoding
) -> None:
    peers = await hub_with(encoding, **QUICK)
    ann = watch(await peers.join("ann", subscribe=[{"topic": room}]), room)
    await sees(ann, {"ann": "online"})
    bob = await peers.join("bob", subscribe=[{"topic": room}])
    await sees(ann, {"ann": "online", "bob": "online"})
    await set_status(bob, "away")
    await sees(ann, {"ann": "online", "bob": "away"})
    await bob.unsubscribe(room)
    await sees(ann, {"ann": "online"})
    assert ann.told[-3:] == ["join bob online", "update bob away", "leave bob offline"]
