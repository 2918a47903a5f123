"""Many who change one room at once: they wait on the node, and nobody else waits for them."""

from __future__ import annotations

import asyncio

import pytest

from hub.errors import ErrorCode, HubError
from hub.orgs import OrgId
from services.chat.turns import Turns
from tests.services.rooms.parlour import parlour
from tests.support.hub_database import HubDatabase

ACME, GLOBEX = OrgId.from_operator("acme"), OrgId.from_operator("globex")


async def test_a_busy_room_leaves_connections_to_the_others(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, database_pool=3) as house:
        ada = await house.person()
        await ada.do("create", "busy", name="Busy")
        await ada.do("create", "calm", name="Calm")
        async with hub_database.connect("hub_app") as link, link.transaction():
            await link.execute("SELECT set_config('hub.org', 'acme', true)")
            await link.execute("SELECT hub.next_number('acme', 'chat:busy')")
            sends = [asyncio.create_task(ada.send("busy", f"{n}")) for n in range(10)]
            await ada.send("calm", "heard at once")
            assert not any(send.done() for send in sends)
        await asyncio.gather(*sends)
        assert len((await ada.do("history", "busy"))["messages"]) == 10


async def refused(turns: Turns) -> HubError:
    with pytest.raises(HubError) as caught:
        async with turns.turn(ACME, "r"):
            pass
    assert caught.value.code == ErrorCode.RATE_LIMITED
    assert caught.value.retry_after_ms
    return caught.value


async def test_queues_have_an_end_and_are_forgotten() -> None:
    turns, leave, inside = Turns(3, 30.0), asyncio.Event(), 0

    async def stay() -> None:
        nonlocal inside
        async with turns.turn(ACME, "r"):
            inside += 1
            await leave.wait()

    tasks = [asyncio.create_task(stay()) for _ in range(5)]
    await asyncio.sleep(0)
    await refused(turns)
    assert inside == 2
    async with turns.turn(GLOBEX, "r"), turns.turn(ACME, "other"):
        tasks[2].cancel()
        leave.set()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert inside == 4
    assert not turns._queues


async def test_nobody_waits_for_ever() -> None:
    turns = Turns(3, 0.01)
    async with turns.turn(ACME, "r"), turns.turn(ACME, "r"):
        await refused(turns)
    assert not turns._queues
