"""Organisations are kept apart by the database itself, for the roles that serve. No superuser, no owner here."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tests.support.hub_database import HubDatabase

# Every table that has a column `org`, whoever made it and wherever it lies.
_TABLES = """
SELECT c.oid::regclass::text AS name, c.relrowsecurity, c.relforcerowsecurity,
  (SELECT array_agg(p.polname::text ORDER BY p.polname) FROM pg_policy p WHERE p.polrelid = c.oid) AS policies
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'org' AND NOT a.attisdropped)
ORDER BY 1
"""
# Tables of the hub without an organisation; whoever adds one gives the reason here.
_WITHOUT_ORG = {
    "hub.migrations": "what was applied to this database",
    **dict.fromkeys(
        ("hub.flag_version", "hub.flag_overrides", "hub.flag_stages", "hub.flag_audit"),
        "flags are the deployment's; the scope flags:write says who sees and changes them",
    ),
}
_OF_OWNER = {
    "searched": ("hub.chat_messages", "true"),  # a policy with a condition would keep the text index from being used
    "all_of_them": ("hub.chat_policies", "true"),
    "left_over": ("hub.chat_erasures", "true"),
    "due": ("hub.uploads", "(due_at < now())"),
    "untold": ("hub.chat_members", "(told_number < read_number)"),
}
_ALL = """
SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname IN ('hub', 'public')
"""


@pytest.fixture
async def filled(hub_database: HubDatabase) -> HubDatabase:
    """Both organisations have an event."""
    async with hub_database.connect("hub_app") as link:
        for org in ("acme", "globex"):
            async with link.transaction():
                await link.execute("SELECT set_config('hub.org', $1, true)", org)
                await link.execute("""SELECT hub_publish($1, 'events:tasks', 'task.assigned', '{}')""", org)
    return hub_database


async def tables(database: HubDatabase) -> list[Any]:
    async with database.connect("hub_app") as link:
        rows: list[Any] = await link.fetch(_TABLES)
        return rows


async def test_every_table_with_an_organisation_is_forced_under_its_policy(hub_database: HubDatabase) -> None:
    found = await tables(hub_database)
    assert {"hub.outbox", "hub.topic_counters"} <= {row["name"] for row in found}
    for row in found:
        assert row["relrowsecurity"], f"{row['name']}: CALL hub.isolate('{row['name']}') is missing"
        assert row["relforcerowsecurity"], f"{row['name']}: its owner sees past the policies"
        assert "organisation" in row["policies"], row["name"]
    with_org = {row["name"] for row in found}
    async with hub_database.connect("hub_app") as link:
        every = {row["name"] for row in await link.fetch(_ALL)}
    assert every - with_org == set(_WITHOUT_ORG), "a table without a column org: is that meant?"


async def test_no_policy_lets_the_serving_role_past_its_organisation(hub_database: HubDatabase) -> None:
    """Permissive policies add up, so every one that applies to hub_app must be the one of the organisation."""
    async with hub_database.connect("hub_app") as link:
        rows = await link.fetch(
            """
            SELECT polrelid::regclass::text AS name, polname::text, polroles::regrole[]::text[] AS roles,
              pg_get_expr(polqual, polrelid) AS using, pg_get_expr(polwithcheck, polrelid) AS check,
              polcmd::text AS command
            FROM pg_policy
            """
        )
    expected = "(org = current_setting('hub.org'::text, true))"
    for row in rows:
        if set(row["roles"]) == {"hub_relay"}:
            assert row["name"] == "hub.outbox"
        elif row["polname"] == "expired":
            # Functions of the owner delete what nobody may read any more; the owner itself serves nobody.
            assert set(row["roles"]) == {"hub_owner"}
            assert (row["using"], row["check"]) == ("(expires_at < now())", "false"), row["name"]
        elif row["polname"] == "unfinished":
            # … and find what nobody drives.
            assert set(row["roles"]) == {"hub_owner"}
            assert (row["using"], row["check"]) == ("(finished_at IS NULL)", None), row["name"]
        elif row["polname"] in _OF_OWNER:
            # … and read, never write, what only a function of the owner can find. Nobody logs in as the owner to serve.
            assert set(row["roles"]) == {"hub_owner"}
            assert (row["name"], row["using"], row["check"], row["command"]) == (*_OF_OWNER[row["polname"]], None, "r")
        else:
            assert (row["using"], row["check"]) == (expected, expected), row["name"]


@pytest.mark.parametrize("role", ["hub_app", "hub_owner"])
@pytest.mark.parametrize("bound", ["acme", "", None])
async def test_a_bound_transaction_sees_no_foreign_row(filled: HubDatabase, role: str, bound: str | None) -> None:
    found = await tables(filled)
    async with filled.connect(role) as link:
        assert await link.fetchval("SELECT NOT (rolsuper OR rolbypassrls) FROM pg_roles WHERE rolname = current_user")
        seen = 0
        for table in [row["name"] for row in found]:
            async with link.transaction():
                if bound is not None:
                    await link.execute("SELECT set_config('hub.org', $1, true)", bound)
                try:
                    async with link.transaction():
                        orgs = {row["org"] for row in await link.fetch(f"SELECT org FROM {table}")}
                except asyncpg.InsufficientPrivilegeError:
                    assert role == "hub_app"
                    continue
                assert orgs <= {bound}, table
                seen += len(orgs)
        if role == "hub_owner":
            assert seen == (2 if bound == "acme" else 0), "the tables were looked at"


async def test_isolate_gives_a_new_table_the_same_protection(filled: HubDatabase) -> None:
    """What the migrations of services rely on: reading, writing and moving rows across is refused."""
    async with filled.connect("hub_owner") as owner:
        await owner.execute("CREATE TABLE hub.rooms (org text NOT NULL, name text)")
        await owner.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON hub.rooms TO hub_app")
        forgotten = {row["name"] for row in await tables(filled) if not row["relforcerowsecurity"]}
        assert forgotten == {"hub.rooms"}, "a forgotten table is noticed"
        await owner.execute("CALL hub.isolate('hub.rooms')")

    async with filled.connect("hub_app") as link:
        async with link.transaction():
            await link.execute("SELECT set_config('hub.org', 'globex', true)")
            await link.execute("INSERT INTO hub.rooms VALUES ('globex', 'theirs')")
        async with link.transaction():
            await link.execute("SELECT set_config('hub.org', 'acme', true)")
            await link.execute("INSERT INTO hub.rooms VALUES ('acme', 'ours')")
            assert [tuple(row) for row in await link.fetch("SELECT * FROM hub.rooms")] == [("acme", "ours")]
            assert await link.execute("UPDATE hub.rooms SET name = 'taken' WHERE org = 'globex'") == "UPDATE 0"
            assert await link.execute("DELETE FROM hub.rooms WHERE org = 'globex'") == "DELETE 0"
            for crossing in ("INSERT INTO hub.rooms VALUES ('globex', 'x')", "UPDATE hub.rooms SET org = 'globex'"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                    async with link.transaction():
                        await link.execute(crossing)
        assert await link.fetchval("SELECT count(*) FROM hub.rooms") == 0, "bound to nothing, sees nothing"
        with pytest.raises(asyncpg.PostgresError):
            await link.execute("CALL hub.isolate('hub.rooms')")
        for escape in ("SET ROLE hub_owner", "SET ROLE hub_relay", "SET ROLE hub_publish_any"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await link.execute(escape)


async def test_the_relay_sees_the_outbox_alone(filled: HubDatabase) -> None:
    async with filled.connect("hub_relay") as link:
        assert await link.fetchval("SELECT count(DISTINCT org) FROM hub.outbox") == 2
        for row in await link.fetch(_ALL):
            if row["name"] != "hub.outbox":
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await link.fetch(f"SELECT * FROM {row['name']}")
        for forbidden in (
            "UPDATE hub.outbox SET data = '1'",
            "UPDATE hub.outbox SET org = 'acme'",
            "INSERT INTO hub.outbox (org) VALUES ('acme')",
            "SELECT hub_publish('acme', 'events:tasks', 'n', '1')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await link.execute(forbidden)


async def test_the_serving_role_cannot_touch_the_outbox_but_through_hub_publish(filled: HubDatabase) -> None:
    async with filled.connect("hub_app") as link:
        for forbidden in (
            "SELECT * FROM hub.outbox",
            "DELETE FROM hub.outbox",
            "UPDATE hub.topic_counters SET number = 0",
            "SELECT hub.outbox_append('acme', 'events:tasks', 'n', '1', NULL, NULL, NULL)",
            "CREATE TABLE hub.mine ()",
            "CREATE TABLE public.mine ()",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await link.execute(forbidden)
