"""What services do with the outbox beside publishing: ask for the number of the next event, take back what one said."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest

from hub.database import Database
from hub.errors import ErrorCode, HubError
from hub.orgs import OrgId
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

ACME = OrgId.from_row("acme")
GLOBEX = OrgId.from_row("globex")
TOPIC = "chat:r1"


@pytest.fixture
async def database(hub_database: HubDatabase) -> AsyncIterator[Database]:
    pool = await Database.open(hub_database.settings(database_pool=9))
    yield pool
    await pool.close()


async def say(database: Database, *values: Any, org: OrgId = ACME, topic: str = TOPIC) -> None:
    async with database.transaction(org) as tx:
        for value in values:
            await tx.publish(topic, "n", value)


async def data(hub_database: HubDatabase, org: str = "acme", topic: str = TOPIC) -> list[tuple[int, str, int, str]]:
    async with hub_database.connect("hub_relay") as link:
        rows = await link.fetch(
            "SELECT number, data::text, bytes, state FROM hub.outbox WHERE org = $1 AND topic = $2 ORDER BY number",
            org,
            topic,
        )
        return [tuple(row) for row in rows]


async def waits(hub_database: HubDatabase, pid: int) -> bool:
    async with hub_database.connect("postgres") as superuser:
        answer: bool = await superuser.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid)
        return answer


# --- the next number


async def test_an_event_carries_the_number_it_gets(database: Database, hub_database: HubDatabase) -> None:
    for _ in range(2):
        async with database.transaction(ACME) as tx:
            for with_key in (False, True):
                number = await tx.next_number(TOPIC)
                assert await tx.next_number(TOPIC) == number, "asking takes none"
                key = f"k{number}" if with_key else None
                assert await tx.publish(TOPIC, "n", {"number": number}, key=key) == number
            assert await tx.next_number("chat:r2") == 1, "every topic counts by itself"
    assert [(number, text) for number, text, _, _ in await data(hub_database)] == [
        (number, f'{{"number": {number}}}') for number in (1, 2, 3, 4)
    ]
    async with database.transaction(GLOBEX) as tx:
        assert await tx.next_number(TOPIC) == 1, "every organisation too"


async def test_numbers_asked_for_at_the_same_time_have_no_hole_and_no_double(
    database: Database, hub_database: HubDatabase
) -> None:
    """From the very first event on, whose counter nobody has made yet; with rollbacks between."""

    async def one(index: int) -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with database.transaction(ACME) as tx:
                number = await tx.next_number(TOPIC)
                assert await tx.publish(TOPIC, "n", number) == number
                if index % 3 == 0:
                    raise ZeroDivisionError

    await asyncio.gather(*(one(index) for index in range(60)))
    assert [(number, text) for number, text, _, _ in await data(hub_database)] == [(n, str(n)) for n in range(1, 41)]


@pytest.mark.parametrize("published_before", [0, 1])
async def test_the_topic_is_locked_until_the_commit(
    database: Database, hub_database: HubDatabase, published_before: int
) -> None:
    await say(database, *range(published_before))
    pids: list[int] = []

    async def second() -> int:
        async with database.transaction(ACME) as tx:
            pids.append(await tx.fetch_value("SELECT pg_backend_pid()"))
            number = await tx.next_number(TOPIC)
            assert await tx.publish(TOPIC, "n", "second") == number
            return number

    async with database.transaction(ACME) as tx:
        number = await tx.next_number(TOPIC)
        waiting = asyncio.create_task(second())
        await until(lambda: len(pids) == 1, what="the second transaction")
        await until(lambda: waits(hub_database, pids[0]), what="it to wait")
        # Whoever has the counter does not queue again behind those who wait for it.
        assert await tx.publish(TOPIC, "n", "first") == number == published_before + 1
    assert await waiting == published_before + 2


async def test_a_known_key_keeps_its_number(database: Database) -> None:
    async with database.transaction(ACME) as tx:
        assert await tx.publish(TOPIC, "n", 1, key="k") == 1
    async with database.transaction(ACME) as tx:
        assert await tx.next_number(TOPIC) == 2
        assert await tx.publish(TOPIC, "n", 2, key="k") == 1
        assert await tx.next_number(TOPIC) == 2


# --- erasing


async def test_erasing_changes_what_an_event_says_and_nothing_else(
    database: Database, hub_database: HubDatabase
) -> None:
    await say(database, *(f"secret {n}" for n in range(1, 6)))
    await say(database, "theirs", org=GLOBEX)
    await say(database, "elsewhere", topic="chat:r2")
    async with hub_database.connect("hub_relay") as link:
        await link.execute("UPDATE hub.outbox SET state = 'relayed', settled_at = now() WHERE number = 2")
        await link.execute("UPDATE hub.outbox SET state = 'failed', settled_at = now() WHERE number = 3")
    async with database.transaction(ACME) as tx:
        await tx.erase(TOPIC, [3, 1, 2, 1, 99], {"deleted": True})
        await tx.erase(TOPIC, [], None)
    gone = '{"deleted": true}'
    assert await data(hub_database) == [
        (1, gone, len(gone), "pending"),
        (2, gone, len(gone), "relayed"),
        (3, gone, len(gone), "failed"),
        (4, '"secret 4"', 10, "pending"),
        (5, '"secret 5"', 10, "pending"),
    ]
    assert [text for _, text, _, _ in await data(hub_database, "globex")] == ['"theirs"']
    assert [text for _, text, _, _ in await data(hub_database, topic="chat:r2")] == ['"elsewhere"']


async def test_erasing_is_undone_by_a_rollback(database: Database, hub_database: HubDatabase) -> None:
    await say(database, "kept")
    with contextlib.suppress(ZeroDivisionError):
        async with database.transaction(ACME) as tx:
            await tx.erase(TOPIC, [1], None)
            raise ZeroDivisionError
    assert [text for _, text, _, _ in await data(hub_database)] == ['"kept"']


@pytest.mark.parametrize(
    ("instead", "code"),
    [
        ("\0", ErrorCode.BAD_REQUEST),
        (msgspec.json.decode("[" * 70 + "]" * 70), ErrorCode.BAD_REQUEST),
        ("x" * 70_000, ErrorCode.TOO_LARGE),
    ],
)
async def test_what_stands_there_instead_must_be_deliverable(
    database: Database, hub_database: HubDatabase, instead: Any, code: ErrorCode
) -> None:
    await say(database, "kept")
    with pytest.raises(HubError) as refused:
        async with database.transaction(ACME) as tx:
            await tx.erase(TOPIC, [1], instead)
    assert refused.value.code is code
    assert [text for _, text, _, _ in await data(hub_database)] == ['"kept"']


# --- who may


@pytest.mark.parametrize("binding", ["globex", "", None])
@pytest.mark.parametrize("call", ["hub.next_number($1, 'chat:r1')", "hub.outbox_erase($1, 'chat:r1', '{1}', 'null')"])
async def test_another_organisation_is_refused(
    database: Database, hub_database: HubDatabase, binding: str | None, call: str
) -> None:
    await say(database, "ours")
    async with hub_database.connect("hub_app") as link:
        for org in ("acme", None):
            change = link.transaction()
            await change.start()
            if binding is not None:
                await link.execute("SELECT set_config('hub.org', $1, true)", binding)
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="not bound to organisation"):
                await link.execute(f"SELECT {call}", org)
            await change.rollback()
    assert [text for _, text, _, _ in await data(hub_database)] == ['"ours"']


@pytest.mark.parametrize("role", ["hub_relay", "plain"])
async def test_only_the_serving_role_may_call(hub_database: HubDatabase, role: str) -> None:
    async with hub_database.connect("postgres") as superuser:
        name = role if role == "hub_relay" else f"{hub_database.name}_{role}"
        if name != role:
            await superuser.execute(f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA hub TO {name}")
        try:
            async with hub_database.connect(name) as link:
                for call in (
                    "hub.next_number('acme', 'chat:r1')",
                    "hub.outbox_erase('acme', 'chat:r1', '{1}', 'null')",
                    "hub.check_bound('acme')",
                ):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for function"):
                        await link.execute(f"SELECT {call}")
        finally:
            if name != role:
                await superuser.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_the_functions_trust_no_search_path(hub_database: HubDatabase, database: Database) -> None:
    await say(database, "ours")
    async with hub_database.connect("hub_owner") as owner:
        await owner.execute("CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO hub_app")
    async with hub_database.connect("hub_app") as link:
        for name, args in (("octet_length", "text"), ("current_setting", "text, boolean")):
            await link.execute(f"CREATE FUNCTION evil.{name}({args}) RETURNS text LANGUAGE sql AS $$SELECT 'globex'$$")
        await link.execute("SET search_path = evil, pg_catalog, public")
        for call in ("hub.next_number('globex', 'chat:r1')", "hub.outbox_erase('globex', 'chat:r1', '{1}', 'null')"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await link.execute(f"SELECT {call}")
