"""``hub doctor`` on PostgreSQL: each of the hub's three roles, row-level security, migrations."""

from __future__ import annotations

from typing import Any

import asyncpg

from hub.cli.checks import Verdict, bad, clock, now, ok, warn
from hub.cli.environment import is_unset
from hub.config import Settings
from hub.database.migrate import MigrationError, pending_migrations
from hub.errors import ConfigError, HubError

_ROLE = """
SELECT current_user::text AS name, rolsuper, rolbypassrls,
       extract(epoch FROM clock_timestamp())::float8 AS time
FROM pg_catalog.pg_roles WHERE rolname = current_user
"""
# Tables with a column `org` whose rows a policy does not keep apart, from their owner too.
_OPEN_TABLES = """
SELECT c.oid::regclass::text
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org' AND NOT a.attisdropped
WHERE n.nspname = 'hub' AND c.relkind IN ('r', 'p') AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
ORDER BY 1
"""


async def check_database(settings: Settings) -> list[Verdict]:
    """All rows about PostgreSQL."""
    if is_unset(settings.database_url):
        return [bad("database", "HUB_DATABASE_URL is not set", "set it to PostgreSQL as hub_app")]
    rows = await _check_role(settings, "HUB_DATABASE_URL", settings.database_url, serves=True)
    if rows[0].status == "ok":
        rows.append(await _check_isolation(settings))
        rows.append(await _check_migrations(settings))
    if settings.database_relay_url:
        rows += await _check_role(settings, "HUB_DATABASE_RELAY_URL", settings.database_relay_url, serves=True)
    else:
        rows.append(
            warn("database relay", "HUB_DATABASE_RELAY_URL is not set", "set it on at least one node, as hub_relay")
        )
    if settings.database_owner_url:
        rows += await _check_role(settings, "HUB_DATABASE_OWNER_URL", settings.database_owner_url, serves=False)
    else:
        rows.append(warn("database owner", "HUB_DATABASE_OWNER_URL is not set", "set it where `hub migrate` runs"))
    return rows


async def _check_role(settings: Settings, variable: str, url: str, *, serves: bool) -> list[Verdict]:
    check = f"database as {variable.removeprefix('HUB_DATABASE_').removesuffix('URL').strip('_').lower() or 'app'}"
    asked_at = now()
    try:
        row = await _first(settings, url, _ROLE)
    except (asyncpg.PostgresError, OSError, TimeoutError, ValueError) as error:
        return [bad(check, f"{type(error).__name__}: {error}", f"start PostgreSQL, or correct {variable}")]
    name = row["name"]
    if serves and (row["rolsuper"] or row["rolbypassrls"]):
        remedy = f"use hub_app or hub_relay, or run: ALTER ROLE {name} NOSUPERUSER NOBYPASSRLS"
        return [bad(check, f"{name} bypasses row-level security", remedy)]
    rows = [ok(check, name)]
    if variable == "HUB_DATABASE_URL":
        rows.append(clock("clock of PostgreSQL", row["time"], asked_at, now()))
    return rows


async def _check_isolation(settings: Settings) -> Verdict:
    connection = await _connect(settings, settings.database_url)
    try:
        tables = [row[0] for row in await connection.fetch(_OPEN_TABLES)]
    finally:
        await connection.close()
    if tables:
        remedy = "run as owner: " + " ".join(f"CALL hub.isolate('{table}');" for table in tables)
        return bad("row-level security", f"not forced on {', '.join(tables)}", remedy)
    return ok("row-level security", "forced on every table with an organisation")


async def _check_migrations(settings: Settings) -> Verdict:
    try:
        pending = await pending_migrations(settings.database_url)
    except (MigrationError, ConfigError, HubError, asyncpg.PostgresError) as error:
        return bad("migrations", str(error), "run `hub migrate` of the release that is to serve")
    if pending:
        return bad("migrations", f"{len(pending)} missing: {', '.join(pending)}", "run `hub migrate`")
    return ok("migrations", "up to date")


async def _first(settings: Settings, url: str, query: str) -> Any:
    connection = await _connect(settings, url)
    try:
        return await connection.fetchrow(query)
    finally:
        await connection.close()


async def _connect(settings: Settings, url: str) -> Any:
    timeout_s = settings.database_timeout_s
    return await asyncpg.connect(url, timeout=timeout_s, command_timeout=timeout_s)
