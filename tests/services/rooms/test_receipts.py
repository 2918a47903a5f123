"""The tasks of receipts: bounded, owned, and in nobody's way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from hub.orgs import OrgId
from services.chat import receipts as module
from services.chat.receipts import Receipts
from tests.services.rooms.parlour import parlour
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

ORG = OrgId.from_operator("acme")


class StuckDatabase:
    """PostgreSQL does not answer."""

    def __init__(self) -> None:
        self.asked = 0

    @contextlib.asynccontextmanager
    async def transaction(self, _: OrgId) -> AsyncIterator[Any]:
        self.asked += 1
        await asyncio.Event().wait()
        yield None


async def test_while_postgresql_is_stuck_nothing_piles_up() -> None:
    settings = SimpleNamespace(chat_read_batch_ms=0, chat_receipts_max_members=100)
    database = StuckDatabase()
    hub: Any = SimpleNamespace(settings=settings, database=database)
    receipts = Receipts(hub, None)  # type: ignore[arg-type]
    before = asyncio.all_tasks()
    for _ in range(50):
        for room in range(20):
            receipts._tell_soon(ORG, f"r{room}")
        await asyncio.sleep(0)
    await until(lambda: database.asked == module._AT_ONCE, what="the slots to be taken")
    assert len(ours(before)) <= 20 + module._AT_ONCE
    await receipts.close()
    assert not ours(before)


def ours(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """The tasks of receipts that have come since. Those of other tests' servers come and go."""
    return {task for task in asyncio.all_tasks() - before if task.get_name() == "chat-receipts"}


async def test_receipts_of_a_large_room_keep_nobody_from_writing(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_receipts_max_members=5, chat_read_batch_ms=3_600_000) as house:
        ada = await house.person()
        await ada.do("create", "r", name="Room")
        sent = await ada.send("r", "x")
        async with house.database.connect("postgres") as link:
            await link.execute(
                "INSERT INTO hub.chat_members (org, room, member, role, read_number, read_count)"
                " SELECT 'acme', 'r', 'u' || n, 'member', $1, 1 FROM generate_series(1, 100) AS n",
                sent["number"],
            )
            await link.execute("UPDATE hub.chat_rooms SET members = 101")
            # Somebody has the room's turn, and does not let go of it.
            async with link.transaction():
                await link.execute("SELECT FROM hub.topic_counters WHERE topic = 'chat:r' FOR UPDATE")
                hub = house.hubs[0]
                await house.nodes[0].within(lambda: Receipts(hub, None).tell(ORG, "r"))  # type: ignore[arg-type]
        assert not await house.rows("SELECT 1 FROM hub.chat_members WHERE told_number < read_number")
        async with house.database.connect("hub_relay") as relay:
            told = await relay.fetchval("SELECT count(*) FROM hub.outbox WHERE name = 'chat.read'")
        assert told == 100
