"""The pool: a transaction belongs to one organisation, errors are the hub's, and it heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from hub.database import Database
from hub.errors import ConfigError, ErrorCode, HubError
from hub.orgs import OrgId
from tests.support.hub_database import HubDatabase, migrated_database
from tests.support.servers import running_postgres
from tests.support.waiting import until

ACME = OrgId.from_row("acme")
GLOBEX = OrgId.from_row("globex")


@pytest.fixture
async def database(hub_database: HubDatabase) -> AsyncIterator[Database]:
    pool = await Database.open(hub_database.settings(database_pool=2))
    yield pool
    await pool.close()


async def test_a_transaction_is_bound_to_its_organisation_and_no_longer(database: Database) -> None:
    async with database.transaction(ACME) as tx:
        assert tx.org == "acme"
        assert await tx.fetch_value("SELECT current_setting('hub.org')") == "acme"
        assert await tx.fetch_value("SELECT current_user::text") == "hub_app"
        connection = await tx.fetch_value("SELECT pg_backend_pid()")
    async with database.transaction(GLOBEX) as tx:
        assert await tx.fetch_value("SELECT pg_backend_pid()") == connection, "the same connection"
        assert await tx.fetch_value("SELECT current_setting('hub.org')") == "globex"
    with pytest.raises(TypeError, match="bound to an OrgId"):
        async with database.transaction("acme"):  # type: ignore[arg-type]
            pass


async def test_commit_rollback_and_values(database: Database, hub_database: HubDatabase) -> None:
    data = {"a": [1, 2.5, None, "ü"], "big": 2**62}
    async with database.transaction(ACME) as tx:
        assert await tx.publish("events:tasks", "task.assigned", data, key="k", tags={"late": True}, by="u1") == 1
        assert await tx.fetch_value("SELECT $1::jsonb", data) == data
    with contextlib.suppress(ZeroDivisionError):
        async with database.transaction(ACME) as tx:
            assert await tx.publish("events:tasks", "task.assigned", None) == 2
            raise ZeroDivisionError
    async with hub_database.connect("hub_relay") as link:
        rows = await link.fetch("SELECT number, key, by_user, data->'a' AS a FROM hub.outbox")
        assert [tuple(row) for row in rows] == [(1, "k", "u1", '[1, 2.5, null, "ü"]')]


async def test_what_one_transaction_sets_the_next_does_not_find(database: Database) -> None:
    for how in ("commit", "rollback"):
        with contextlib.suppress(ZeroDivisionError):
            async with database.transaction(ACME) as tx:
                connection = await tx.fetch_value("SELECT pg_backend_pid()")
                await tx.execute("SET search_path = pg_temp")
                await tx.execute("SELECT set_config('hub.org', 'globex', false)")
                if how == "rollback":
                    raise ZeroDivisionError
        async with database.transaction(GLOBEX) as tx:
            assert await tx.fetch_value("SELECT pg_backend_pid()") == connection, "the same connection"
            assert await tx.fetch_value("SHOW search_path") == "hub, public"
            await tx.execute("RESET hub.org")
            assert not await tx.fetch_value("SELECT current_setting('hub.org', true)"), "bound to nothing beneath"


async def test_a_transaction_that_has_failed_does_not_look_committed(
    database: Database, hub_database: HubDatabase
) -> None:
    async def go_on() -> None:
        async with database.transaction(ACME) as tx:
            await tx.publish("events:tasks", "n", 1)
            with contextlib.suppress(asyncpg.DivisionByZeroError):
                await tx.execute("SELECT 1 / 0")

    with pytest.raises(asyncpg.InFailedSQLTransactionError, match="nothing was committed"):
        await go_on()
    async with hub_database.connect("hub_relay") as link:
        assert await link.fetchval("SELECT count(*) FROM hub.outbox") == 0
    async with database.transaction(ACME) as tx:
        assert await tx.publish("events:tasks", "n", 1) == 1


async def test_a_cancelled_transaction_holds_nothing(database: Database, hub_database: HubDatabase) -> None:
    async def hang() -> None:
        async with database.transaction(ACME) as tx:
            await tx.publish("events:tasks", "n", 1)
            await tx.execute("SELECT pg_sleep(60)")

    asleep = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    async with hub_database.connect("postgres") as superuser:
        for _ in range(4):
            task = asyncio.create_task(hang())
            await until(lambda: is_one(superuser, asleep), what="the statement to be under way")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    async with database.transaction(ACME) as tx:
        assert await tx.publish("events:tasks", "n", 1) == 1, "nothing of it was committed, and nobody holds the topic"


async def is_one(link: Any, query: str) -> bool:
    return await link.fetchval(query) == 1


async def test_a_statement_that_nobody_waits_for_any_more_ends(hub_database: HubDatabase) -> None:
    """A cancellation can come to the server before the statement does, and then it has no effect."""
    database = await Database.open(hub_database.settings(database_timeout_s=1))
    async with database.transaction(ACME) as tx:
        assert await tx.fetch_value("SHOW statement_timeout") == "1s"
    await database.close()


async def test_an_event_that_cannot_be_delivered_is_the_callers_fault(database: Database) -> None:
    for topic, data, code in [
        ("tasks", {}, ErrorCode.BAD_REQUEST),
        ("events:tasks", "\0", ErrorCode.BAD_REQUEST),
        ("events:tasks", "x" * 70_000, ErrorCode.TOO_LARGE),
        ("events:tasks", "x" * 10_000_000, ErrorCode.TOO_LARGE),
    ]:
        with pytest.raises(HubError) as refused:
            async with database.transaction(ACME) as tx:
                await tx.publish(topic, "task.assigned", data)
        assert refused.value.code is code


@pytest.mark.parametrize(
    ("query", "value"),
    [("SELECT $1::text", "\0"), ("SELECT $1::jsonb", {"a": "\0"}), ("SELECT $1::int", 2**40), ("SELECT $1::int", "x")],
)
async def test_a_value_that_cannot_be_kept_is_the_callers_fault(database: Database, query: str, value: Any) -> None:
    with pytest.raises(HubError) as refused:
        async with database.transaction(ACME) as tx:
            await tx.fetch_value(query, value)
    assert refused.value.code is ErrorCode.BAD_REQUEST
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with database.transaction(ACME) as tx:
            await tx.fetch_value("SELECT 1 / 0")


async def test_other_faults_stay_what_they_are(database: Database) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        async with database.transaction(ACME) as tx:
            await tx.fetch("SELECT * FROM nowhere")
    with pytest.raises(TimeoutError):
        async with database.transaction(ACME):
            raise TimeoutError("of the caller's own doing")
    await database.ping()


async def test_opposite_orders_are_a_conflict_to_be_tried_again(database: Database) -> None:
    both = asyncio.Barrier(2)

    async def publish(*topics: str) -> None:
        async with database.transaction(ACME) as tx:
            await tx.publish(topics[0], "n", 1)
            await both.wait()
            await tx.publish(topics[1], "n", 1)

    outcomes = await asyncio.gather(publish("a:1", "a:2"), publish("a:2", "a:1"), return_exceptions=True)
    errors = [outcome for outcome in outcomes if outcome is not None]
    assert len(errors) == 1
    assert isinstance(errors[0], HubError)
    assert (errors[0].code, errors[0].retry) == (ErrorCode.CONFLICT, "now")


async def test_waits_have_an_end(hub_database: HubDatabase) -> None:
    database = await Database.open(hub_database.settings(database_pool=1, database_timeout_s=3.0))
    try:
        with pytest.raises(HubError, match="the database is not reachable"):
            async with database.transaction(ACME) as tx:
                await tx.execute("SELECT pg_sleep(60)")
        async with database.transaction(ACME):
            with pytest.raises(HubError, match="the database is not reachable"):
                async with database.transaction(GLOBEX):
                    pass
        await database.ping()
    finally:
        await database.close()


async def test_a_transaction_that_hangs_is_ended_by_the_server(hub_database: HubDatabase) -> None:
    """It would hold the counters of its topics for ever."""
    database = await Database.open(hub_database.settings(database_timeout_s=3.0))

    async def hang() -> None:
        async with hub_database.connect("postgres") as superuser, database.transaction(ACME) as tx:
            await tx.publish("events:tasks", "n", 1)
            pid = await tx.fetch_value("SELECT pg_backend_pid()")
            there = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1"
            await until(lambda: gone(superuser, there, pid), 30, "the server to end the session")

    try:
        with pytest.raises(HubError, match="the database is not reachable"):
            await hang()
        async with database.transaction(ACME) as tx:
            assert await tx.publish("events:tasks", "n", 1) == 1
    finally:
        await database.close()


async def gone(link: Any, query: str, pid: int) -> bool:
    return await link.fetchval(query, pid) == 0


@pytest.mark.parametrize("role", ["postgres", "bypassing"])
async def test_a_role_that_bypasses_row_level_security_is_refused(hub_database: HubDatabase, role: str) -> None:
    async with hub_database.connect("postgres") as superuser:
        if role == "bypassing":
            role = f"{hub_database.name}_bypassing"
            await superuser.execute(f"CREATE ROLE {role} LOGIN BYPASSRLS")
        database = await Database.open(hub_database.settings(database_url=hub_database.url(role)))
        try:
            with pytest.raises(ConfigError, match="HUB_DATABASE_URL must name hub_app"):
                await database.ping()
            with pytest.raises(ConfigError):
                async with database.transaction(ACME):
                    pass
        finally:
            await database.close()
        if role != "postgres":
            await superuser.execute(f"DROP ROLE {role}")


async def test_it_heals_after_a_restart_and_starts_before_the_server() -> None:
    with running_postgres() as server:
        async with migrated_database(server) as own:
            settings = own.settings(database_pool=3)
            server.stop()
            database = await Database.open(settings)
            try:
                with pytest.raises(HubError, match="the database is not reachable"):
                    await database.ping()
                for turn in range(3):
                    server.start()
                    assert await publish(database) == turn + 1
                    await hold(database, 3)
                    with pytest.raises(HubError, match="the database is not reachable"):
                        await publish(database, before_commit=server.stop)
                    with pytest.raises(HubError, match="the database is not reachable"):
                        await publish(database)
                server.start()
                assert await publish(database) == 4
            finally:
                await database.close()
                if not server.running:
                    server.start()


async def hold(database: Database, connections: int) -> None:
    """Opens that many transactions at once."""
    if connections:
        async with database.transaction(ACME):
            await hold(database, connections - 1)


async def publish(database: Database, before_commit: Callable[[], None] = lambda: None) -> Any:
    async with database.transaction(ACME) as tx:
        number = await tx.publish("events:tasks", "n", {"x": 1})
        before_commit()
        return number
