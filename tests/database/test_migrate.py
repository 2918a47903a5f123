"""Migrations: forward only, one runner at a time, and errors that say what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from hub.database.locks import LOCK_SPACE, MIGRATION_LOCK
from hub.database.migrate import MigrationError, migrate, migrations_folder, pending_migrations, read_migrations
from hub.embedded import PostgresServer
from hub.errors import ConfigError, HubError
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.servers import running_postgres
from tests.support.waiting import until


@pytest.fixture
async def fresh(postgres_server: PostgresServer) -> AsyncIterator[HubDatabase]:
    async with empty_database(postgres_server) as database:
        yield database


def write(folder: Path, **files: str) -> Path:
    for name, sql in files.items():
        (folder / f"{name.removeprefix('m')}.sql").write_text(sql)
    return folder


async def test_everything_is_applied_once_and_told(fresh: HubDatabase) -> None:
    names = [migration.name for migration in read_migrations(migrations_folder())]
    told: list[str] = []
    assert await pending_migrations(fresh.url("hub_owner")) == names
    assert await migrate(fresh.settings(), told.append) == len(names)
    assert [line.split(" ")[0] for line in told[:-1]] == names
    assert await migrate(fresh.settings(), told.append) == 0
    assert told[-1] == f"up to date ({len(names)})"
    assert await pending_migrations(fresh.url("hub_app")) == []


async def test_a_changed_file_is_refused(fresh: HubDatabase, tmp_path: Path) -> None:
    folder = write(tmp_path, m0001_first="CREATE TABLE hub.one ();\n")
    await migrate(fresh.settings(), print, folder)
    (folder / "0001_first.sql").write_bytes(b"CREATE TABLE hub.one ();\r\n")
    assert await migrate(fresh.settings(), print, folder) == 0, "line ends do not count"
    write(tmp_path, m0001_first="CREATE TABLE hub.two ();\n")
    with pytest.raises(MigrationError, match="0001_first was changed after it was applied; restore it"):
        await migrate(fresh.settings(), print, folder)


async def test_a_file_that_fails_leaves_nothing_and_the_ones_before_it_stay(fresh: HubDatabase, tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        m0001_good="CREATE TABLE hub.good ();",
        m0002_bad="CREATE TABLE hub.half (); SELECT 1 / 0;",
        m0003_later="CREATE TABLE hub.later ();",
    )
    with pytest.raises(MigrationError, match="0002_bad: division by zero"):
        await migrate(fresh.settings(), print, folder)
    async with fresh.connect("hub_owner") as link:
        tables = await link.fetch("SELECT relname FROM pg_class WHERE relname IN ('good', 'half', 'later')")
        assert [row["relname"] for row in tables] == ["good"]
    assert await pending_migrations(fresh.url("hub_owner"), folder) == ["0002_bad", "0003_later"]


async def test_a_file_of_a_newer_release_or_out_of_order_is_refused(fresh: HubDatabase, tmp_path: Path) -> None:
    folder = write(tmp_path, m0001_first="SELECT 1;", m0003_third="SELECT 3;")
    await migrate(fresh.settings(), print, folder)
    write(tmp_path, m0002_second="SELECT 2;")
    with pytest.raises(MigrationError, match="0002_second comes before 0003_third"):
        await migrate(fresh.settings(), print, folder)
    (folder / "0002_second.sql").unlink()
    (folder / "0003_third.sql").unlink()
    with pytest.raises(MigrationError, match="0003_third, which this release does not know"):
        await migrate(fresh.settings(), print, folder)


@pytest.mark.parametrize("names", [["0001_one", "0001_two"], ["1_short"], ["0001-dash"]])
def test_names_are_checked(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / f"{name}.sql").write_text("SELECT 1;")
    with pytest.raises(MigrationError, match=names[-1]):
        read_migrations(tmp_path)


async def test_an_index_is_built_concurrently_while_another_runner_waits(fresh: HubDatabase, tmp_path: Path) -> None:
    """With a blocking lock the waiting runner's snapshot and the index build would wait for each other."""
    index = "CREATE INDEX CONCURRENTLY {0} ON hub.t (a);\n"
    folder = write(
        tmp_path,
        m0001_table="CREATE TABLE hub.t (a int);",
        m0002_index="-- no transaction\n" + index.format("one") + "-- and another; really\n" + index.format("two"),
    )
    told: list[str] = []
    async with fresh.connect("hub_owner") as link:
        await link.execute("SELECT pg_advisory_lock($1, $2)", LOCK_SPACE, MIGRATION_LOCK)
        runners = [asyncio.create_task(migrate(fresh.settings(), told.append, folder)) for _ in range(3)]
        await until(lambda: told == ["waiting for another migration to end"] * 3, what="all runners to wait")
        await link.execute("SELECT pg_advisory_unlock($1, $2)", LOCK_SPACE, MIGRATION_LOCK)
        assert sorted(await asyncio.gather(*runners)) == [0, 0, 2]
        assert (
            await link.fetchval("SELECT count(*) FROM pg_index WHERE indrelid = 'hub.t'::regclass AND indisvalid") == 2
        )


async def test_waiting_for_another_runner_ends(fresh: HubDatabase, tmp_path: Path) -> None:
    folder = write(tmp_path, m0001_first="SELECT 1;")
    async with fresh.connect("hub_owner") as link:
        await link.execute("SELECT pg_advisory_lock($1, $2)", LOCK_SPACE, MIGRATION_LOCK)
        with pytest.raises(MigrationError, match="another migration still runs"):
            await migrate(fresh.settings(migration_lock_wait_s=0.05), print, folder)
        told: list[str] = []
        waiting = asyncio.create_task(migrate(fresh.settings(), told.append, folder))
        await until(lambda: told, what="the runner to say that it waits")
        await link.execute("SELECT pg_advisory_unlock($1, $2)", LOCK_SPACE, MIGRATION_LOCK)
        assert await waiting == 1


async def test_an_owner_that_cannot_create_roles_is_told_what_to_run() -> None:
    """Roles belong to the whole server, so this needs one without them."""
    with running_postgres() as server:
        superuser = await asyncpg.connect(server.url("postgres"))
        try:
            await superuser.execute("ALTER ROLE hub_owner NOCREATEROLE")
            async with empty_database(server) as database:
                settings = database.settings()
                with pytest.raises(MigrationError) as refused:
                    await migrate(settings, print)
                text = str(refused.value)
                assert 'roles are missing and "hub_owner" may not create them' in text
                statements = text.split("Run as superuser: ", 1)[1]
                await superuser.execute(statements)
                await migrate(settings, print)

            # Roles that would make row-level security a decoration.
            for spoil, heal, complaint in [
                ("ALTER ROLE hub_app BYPASSRLS", "ALTER ROLE hub_app NOBYPASSRLS", "hub_app bypasses row-level"),
                (
                    "GRANT hub_owner TO hub_app",
                    "REVOKE hub_owner FROM hub_app",
                    "hub_app holds the rights of hub_owner",
                ),
                ("GRANT hub_publish_any TO hub_relay", "REVOKE hub_publish_any FROM hub_relay", "hub_relay holds"),
            ]:
                await superuser.execute(spoil)
                async with empty_database(server) as database:
                    with pytest.raises(MigrationError, match=complaint):
                        await migrate(database.settings(), print)
                await superuser.execute(heal)
        finally:
            await superuser.close()


async def test_an_owner_that_may_not_make_the_schema_is_told_what_to_run(fresh: HubDatabase) -> None:
    async with fresh.connect("postgres") as superuser:
        await superuser.execute(f"ALTER DATABASE {fresh.name} OWNER TO postgres")
        with pytest.raises(MigrationError, match="CREATE SCHEMA hub AUTHORIZATION hub_owner;"):
            await migrate(fresh.settings(), print)
        await superuser.execute("CREATE SCHEMA hub AUTHORIZATION hub_owner")
        with pytest.raises(MigrationError, match=r"0002_outbox: .* GRANT CREATE ON SCHEMA public TO hub_owner;"):
            await migrate(fresh.settings(), print)
        await superuser.execute("GRANT CREATE ON SCHEMA public TO hub_owner")
        await migrate(fresh.settings(), print)


async def test_settings_and_outages_are_told_apart(fresh: HubDatabase) -> None:
    with pytest.raises(ConfigError, match="HUB_DATABASE_OWNER_URL"):
        await migrate(fresh.settings(database_owner_url=""), print)
    with pytest.raises(HubError, match="the database is not reachable"):
        await migrate(fresh.settings(database_owner_url="postgresql://hub_owner@127.0.0.1:1/hub"), print)
