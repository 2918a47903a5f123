"""``hub doctor``: what is well, and that each fault is found, on real servers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from hub.cli.checks import Verdict, clock
from hub.cli.checks_database import check_database
from hub.cli.checks_flags import check_flags
from hub.cli.checks_redis import check_redis
from hub.cli.checks_services import check_services
from hub.cli.checks_tokens import check_tokens
from hub.config import Settings
from hub.embedded import PostgresServer, RedisServer
from tests.cli.conftest import SECRET, Commands
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.servers import running_redis


def settings(**values: Any) -> Settings:
    return Settings(**{"redis_url": "", "database_url": "", "jwt_secret": SECRET, **values})


def only(rows: list[Verdict], check: str) -> Verdict:
    (row,) = [row for row in rows if row.check.startswith(check)]
    return row


async def test_all_is_well(hub_command: Commands, hub_database: HubDatabase) -> None:
    with running_redis(options={"client-output-buffer-limit": "pubsub 0 0 0"}) as server:
        environ = {
            "HUB_REDIS_URL": server.url,
            "HUB_DATABASE_URL": hub_database.url("hub_app"),
            "HUB_DATABASE_RELAY_URL": hub_database.url("hub_relay"),
            "HUB_DATABASE_OWNER_URL": hub_database.url("hub_owner"),
        }
        run = await hub_command("doctor", **environ)
    assert (run.process.returncode, run.err) == (0, "")
    assert "fail" not in run.out
    assert "warn" not in run.out
    assert run.out.count("│ ok") == 15


async def test_nothing_is_set(hub_command: Commands) -> None:
    run = await hub_command("doctor", HUB_JWT_SECRET="")
    assert run.process.returncode == 1
    for text in ("HUB_REDIS_URL is not set", "HUB_DATABASE_URL is not set", "nothing to verify them with"):
        assert text in run.out
    assert "3 of 5 checks failed" in run.out


async def test_nobody_answers() -> None:
    there = settings(redis_url="redis://127.0.0.1:9", database_url="postgresql://hub_app@127.0.0.1:9/hub")
    (redis,) = await check_redis(there)
    assert (redis.status, redis.remedy) == ("fail", "start it, or correct HUB_REDIS_URL")
    row = only(await check_database(there), "database as app")
    assert (row.status, row.remedy) == ("fail", "start PostgreSQL, or correct HUB_DATABASE_URL")
    (row,) = await check_redis(settings(redis_url="http://x"))
    assert (row.status, row.remedy) == ("fail", "correct HUB_REDIS_URL")


async def test_uploads_that_cannot_be_kept(hub_command: Commands) -> None:
    (hub_command.folder / "data").write_text("in the way")
    run = await hub_command("doctor", HUB_JWT_SECRET="")
    assert "4 of 5 checks failed" in run.out
    assert "correct HUB_UPLOADS_STORE" in run.out
    assert "uploads_store_failed" not in run.out + run.err


async def test_services_without_checks_and_no_services() -> None:
    assert await check_services(settings(services="tests.support.hub_services:SERVICES")) == []
    (row,) = await check_services(settings(services="tests.support.nothing:SERVICES"))
    assert (row.status, row.remedy) == ("fail", "correct HUB_SERVICES")


async def test_a_redis_that_evicts_and_has_small_buffers() -> None:
    with running_redis(options={"maxmemory-policy": "allkeys-lru"}) as server:
        rows = await check_redis(settings(redis_url=server.url))
    assert only(rows, "Redis eviction").status == "fail"
    assert "noeviction" in only(rows, "Redis eviction").remedy
    assert (only(rows, "Redis pub/sub buffer").status, only(rows, "Redis pub/sub buffer").found) == ("warn", "32 MB")
    assert only(rows, "Redis version").status == "ok"
    assert only(rows, "clock of Redis").status == "ok"


async def test_a_cluster_node_without_a_cluster() -> None:
    with running_redis(options={"cluster-enabled": "yes"}) as server:
        assert only(await check_redis(settings(redis_url=server.url)), "Redis cluster").status == "fail"
        cluster = server.url.replace("redis://", "redis+cluster://")
        (row,) = await check_redis(settings(redis_url=cluster))
        assert row.status == "fail"


async def test_a_server_that_does_not_allow_config(redis_server: RedisServer) -> None:
    with running_redis(options={"rename-command": "CONFIG nothing"}) as server:
        row = only(await check_redis(settings(redis_url=server.url)), "Redis pub/sub buffer")
    assert (row.status, row.found) == ("warn", "CONFIG is not allowed here")


async def test_a_role_that_sees_everything(hub_database: HubDatabase) -> None:
    rows = await check_database(settings(database_url=hub_database.url("postgres")))
    row = only(rows, "database as app")
    assert (row.status, row.found) == ("fail", "postgres bypasses row-level security")


async def test_a_table_that_is_open(hub_database: HubDatabase) -> None:
    async with hub_database.connect("hub_owner") as owner:
        await owner.execute("CREATE TABLE hub.forgotten (org text)")
    row = only(await check_database(settings(database_url=hub_database.url("hub_app"))), "row-level security")
    assert (row.status, row.found) == ("fail", "not forced on hub.forgotten")
    assert "CALL hub.isolate('hub.forgotten');" in row.remedy


async def test_migrations(hub_database: HubDatabase, hub_command: Commands) -> None:
    async with empty_database(hub_database.server) as empty:
        row = only(await check_database(settings(database_url=empty.url("hub_app"))), "migrations")
        assert row.status == "fail"
        assert "0001_roles" in row.found
        run = await hub_command("migrate", HUB_DATABASE_OWNER_URL=empty.url("hub_owner"))
        assert (run.err, run.process.returncode) == ("", 0)
        assert "0001_roles applied" in run.out
        row = only(await check_database(settings(database_url=empty.url("hub_app"))), "migrations")
        assert row.status == "ok"


async def test_migrate_without_an_owner(hub_command: Commands) -> None:
    run = await hub_command("migrate")
    assert run.process.returncode == 2
    assert run.err == "hub: HUB_DATABASE_OWNER_URL is not set; migrations run as the owner of the database\n"


async def test_tokens() -> None:
    (row,) = await check_tokens(settings())
    assert row.status == "ok"
    (row,) = await check_tokens(settings(jwt_secret="", jwks_url="http://127.0.0.1:9/jwks"))
    assert (row.status, row.check) == ("fail", "JWKS")


@pytest.mark.parametrize(("ahead", "status"), [(0.0, "ok"), (-2.0, "warn"), (60.0, "fail")])
def test_clocks(ahead: float, status: str) -> None:
    now = time.time()
    assert clock("clock", now + ahead, now - 0.01, now + 0.01).status == status
    # What may be the way there and back is not held against the clock.
    assert clock("clock", now + ahead, now - 100, now + 100).status == "ok"


# --- flags


async def test_a_file_of_flags_that_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    (missing,) = await check_flags(settings(flags_file=str(file)))
    assert (missing.status, "there is no such file" in missing.found) == ("fail", True)
    file.write_text("flags:\n  chat: 101%\n")
    (row,) = await check_flags(settings(flags_file=str(file)))
    assert (row.status, "hub flags check" in row.remedy) == ("fail", True)
    assert "line 2" in row.found
    file.write_text("flags:\n  chat: {rollout: 5, owner: ann, description: Rooms., expires: 2020-01-01}\n")
    well, expired = await check_flags(settings(flags_file=str(file)))
    assert (well.status, expired.status) == ("ok", "warn")
    assert "chat expired on 2020-01-01, ask ann" in expired.found
    row = only(await check_flags(settings(flags_file=str(file), flags_org="_hub")), "flags events")
    assert row.status == "fail"


async def test_flags_at_run_time(hub_database: HubDatabase, postgres_server: PostgresServer) -> None:
    there = hub_database.settings()
    assert only(await check_flags(there), "flags at run time").status == "ok"
    async with hub_database.connect("hub_app") as link:
        await link.execute(
            "INSERT INTO hub.flag_overrides (flag, state, version, who, why) VALUES ('gone', 'off', 1, 'x', '')"
        )
    row = only(await check_flags(there), "flags at run time")
    assert (row.status, row.remedy) == ("warn", "`hub flags clear gone` forgets it")
    async with empty_database(postgres_server) as fresh:
        row = only(await check_flags(fresh.settings()), "flags at run time")
        assert (row.status, "hub migrate" in row.remedy) == ("fail", True)
