"""Who commits an event through the pool wakes the relays afterwards: in one NOTIFY for many, and whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from hub.database import Database, Transaction
from hub.database.waker import CHANNEL
from hub.errors import HubError
from hub.orgs import OrgId
from tests.support.hub_database import HubDatabase, migrated_database
from tests.support.servers import running_postgres
from tests.support.waiting import until

ACME = OrgId.from_row("acme")
BY_SQL = "SELECT hub_publish('acme', 'events:tasks', 'n', '1')"
_WAKERS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'hub waker'
"""


class Ear:
    """What a relay would hear."""

    def __init__(self, link: Any) -> None:
        self._link = link
        self.heard: list[str] = []

    def hear(self, _link: Any, _pid: int, _channel: str, payload: str) -> None:
        self.heard.append(payload)

    async def wakes(self) -> int:
        """How often it was woken since it was asked last, by all that has committed before."""
        await self._link.execute(f"NOTIFY {CHANNEL}, 'until here'")
        await until(lambda: "until here" in self.heard, what="our own notification")
        count = self.heard.index("until here")
        self.heard.clear()
        return count


@pytest.fixture
async def ear(hub_database: HubDatabase) -> AsyncIterator[Ear]:
    async with hub_database.connect("hub_relay") as link:
        ear = Ear(link)
        await link.add_listener(CHANNEL, ear.hear)
        yield ear
        await link.remove_listener(CHANNEL, ear.hear)


@pytest.fixture
async def database(hub_database: HubDatabase) -> AsyncIterator[Database]:
    pool = await Database.open(hub_database.settings(database_pool=4, database_timeout_s=30))
    yield pool
    await pool.close()


async def say(database: Database, topic: str = "events:tasks") -> None:
    async with database.transaction(ACME) as tx:
        await tx.publish(topic, "n", 1)


async def waker(database: HubDatabase) -> int:
    """Process id of the connection that wakes."""
    async with database.connect("postgres") as superuser:
        pids = [row["pid"] for row in await superuser.fetch(_WAKERS)]
    assert len(pids) == 1
    pid: int = pids[0]
    return pid


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process answers nobody for the length of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_commit_that_published_wakes_once(database: Database, ear: Ear) -> None:
    for _ in range(3):
        async with database.transaction(ACME) as tx:
            for topic in ("events:tasks", "events:guest"):
                await tx.publish(topic, "n", 1)
            assert ear.heard == []
        await until(lambda: ear.heard, what="the wake-up")
        assert await ear.wakes() == 1, "none from within the transaction"


async def test_who_publishes_nothing_wakes_nobody(database: Database, hub_database: HubDatabase, ear: Ear) -> None:
    async with database.transaction(ACME) as tx:
        await tx.execute("SELECT 1")
    with contextlib.suppress(ZeroDivisionError):
        async with database.transaction(ACME) as tx:
            await tx.publish("events:tasks", "n", 1)
            raise ZeroDivisionError
    assert await ear.wakes() == 0
    async with hub_database.connect("postgres") as superuser:
        assert await superuser.fetch(_WAKERS) == [], "it connects when first needed"


async def test_sql_of_ones_own_wakes_within_the_transaction(
    database: Database, hub_database: HubDatabase, ear: Ear
) -> None:
    async with hub_database.connect("hub_app") as link:
        async with link.transaction():
            await link.execute("SELECT set_config('hub.org', 'acme', true)")
            await link.execute(BY_SQL)
        assert await ear.wakes() == 1

    async def by_sql(tx: Transaction) -> None:
        await tx.execute(BY_SQL)

    async def both(tx: Transaction) -> None:
        await tx.publish("events:guest", "n", 1)
        await tx.execute(BY_SQL)

    for transact in (by_sql, both, by_sql):
        async with database.transaction(ACME) as tx:
            await transact(tx)
        await until(lambda: ear.heard, what="the wake-up")
        assert await ear.wakes() == 1, "the connection remembers nothing of the transaction before"


async def test_a_savepoint_that_is_taken_back_takes_no_wake_up_along(database: Database, ear: Ear) -> None:
    async with database.transaction(ACME) as tx:
        await tx.execute("SAVEPOINT here")
        await tx.publish("events:tasks", "n", 1)
        await tx.execute("ROLLBACK TO here")
        await tx.execute(BY_SQL)
    await until(lambda: ear.heard, what="the wake-up")


async def test_many_commits_share_a_wake_up(database: Database, hub_database: HubDatabase, ear: Ear) -> None:
    await say(database)
    await until(lambda: ear.heard)
    assert await ear.wakes() == 1
    with stopped(await waker(hub_database)):
        await asyncio.gather(*(say(database, f"events:t{n}") for n in range(40)))
        assert await ear.wakes() == 0, "and nobody has waited for it"
    await until(lambda: len(ear.heard) >= 2, what="the one under way, and the one for all others")
    assert await ear.wakes() == 2


async def test_a_wake_up_takes_no_connection_from_the_pool(hub_database: HubDatabase, ear: Ear) -> None:
    database = await Database.open(hub_database.settings(database_pool=2))
    async with database.transaction(ACME):
        await say(database)
        async with database.transaction(ACME):
            await until(lambda: ear.heard, what="the wake-up, while all connections are in use")
    await database.close()


async def test_a_commit_whose_answer_is_lost_wakes(hub_database: HubDatabase, ear: Ear) -> None:
    database = await Database.open(hub_database.settings())

    async def cancelled_at_commit() -> None:
        async with database.transaction(ACME) as tx:
            await tx.publish("events:tasks", "n", 1)
            # The next await is that of the commit.
            asyncio.get_running_loop().call_soon(task.cancel)

    task = asyncio.create_task(cancelled_at_commit())
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await until(lambda: ear.heard, what="the wake-up")
    await database.close()


async def test_a_lost_connection_heals(database: Database, hub_database: HubDatabase, ear: Ear) -> None:
    await say(database)
    await until(lambda: ear.heard)
    for how in ("while idle", "under way"):
        await ear.wakes()
        pid = await waker(hub_database)
        async with hub_database.connect("postgres") as superuser:
            if how == "while idle":
                await superuser.fetchval("SELECT pg_terminate_backend($1)", pid)
                await say(database)
            else:
                with stopped(pid):
                    await say(database)
                    await superuser.fetchval("SELECT pg_terminate_backend($1)", pid)
        await until(lambda: ear.heard, what=f"the wake-up after a loss {how}")
        await until(lambda pid=pid: another(hub_database, pid), what="a new connection")


async def another(database: HubDatabase, pid: int) -> bool:
    return await waker(database) != pid


async def test_a_wake_up_that_fails_is_nobodys_error_and_made_up_for() -> None:
    with running_postgres() as server:
        async with migrated_database(server) as own:
            database = await Database.open(own.settings(reconnect_max_s=0.05))

            async def too_late() -> None:
                async with database.transaction(ACME) as tx:
                    await tx.publish("events:tasks", "n", 1)
                    server.stop()

            await say(database)
            with capture_logs() as logs:
                with pytest.raises(HubError, match="the database is not reachable"):
                    await too_late()
                await until(lambda: len(logs) >= 2, what="attempts while PostgreSQL is away")
            assert {line["event"] for line in logs} == {"relays were not woken; they look by themselves"}
            server.start()
            await until(lambda: woke(own), 30, "the wake-up")
            await database.close()


async def woke(database: HubDatabase) -> bool:
    """Whether the connection has notified: who listens only now may be too late to hear it."""
    pid = await waker(database)
    async with database.connect("postgres") as superuser:
        last = await superuser.fetchrow("SELECT query, state FROM pg_stat_activity WHERE pid = $1", pid)
    return last is not None and tuple(last) == (f"NOTIFY {CHANNEL}", "idle")


async def test_closing_waits_for_no_wake_up(hub_database: HubDatabase, ear: Ear) -> None:
    database = await Database.open(hub_database.settings(database_timeout_s=60))
    await say(database)
    await until(lambda: ear.heard)
    with stopped(await waker(hub_database)):
        await say(database)
        async with asyncio.timeout(30):
            await database.close()
    assert [task for task in asyncio.all_tasks() if task.get_name() == "outbox waker"] == []
