"""Runs the numbered SQL files of ``migrations/``, forward only, as the owner.

Each file runs in a transaction of its own. One whose first line is ``-- no transaction`` (CREATE INDEX CONCURRENTLY)
runs statement by statement, cut where a line ends in ``;``, and must be written so that it can be run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import sysconfig
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
from msgspec import Struct

from hub.config import Settings
from hub.database.failures import translated
from hub.database.locks import LOCK_SPACE, MIGRATION_LOCK
from hub.errors import ConfigError

_FILE_NAME = re.compile(r"([0-9]{4})_[a-z0-9_]+\.sql")
_NO_TRANSACTION = "-- no transaction"
_LOCK_POLL_S = 0.2
_TABLE = """
CREATE TABLE IF NOT EXISTS hub.migrations (
  version integer PRIMARY KEY,
  name text NOT NULL,
  checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
)
"""

Progress = Callable[[str], None]


class MigrationError(Exception):
    """The database was left as the last finished file made it. The text names the file and what to do."""


class Migration(Struct, frozen=True):
    """One file."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text; line ends do not count."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def transactional(self) -> bool:
        """Whether the file runs in a transaction."""
        return self.sql.split("\n", 1)[0].strip() != _NO_TRANSACTION

    @property
    def statements(self) -> list[str]:
        """The parts between line ends that follow a semicolon; those with nothing but comments are left out."""
        return [part for part in re.split(r"(?<=;)[ \t]*\n", self.sql) if re.sub(r"(?m)^\s*--.*$", "", part).strip()]


def migrations_folder() -> Path:
    """``migrations/`` beside the package in a checkout, else where the wheel put it. Raises ``ConfigError``."""
    checkout = Path(__file__).resolve().parents[2] / "migrations"
    installed = Path(sysconfig.get_path("data")) / "share" / "hub" / "migrations"
    for folder in (checkout, installed):
        if any(folder.glob("*.sql")):
            return folder
    raise ConfigError(f"no migrations found, neither in {checkout} nor in {installed}; install the hub again")


def read_migrations(folder: Path) -> list[Migration]:
    """The files in order of their numbers. Raises ``MigrationError`` for a malformed name or a number used twice."""
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: a migration is named 0001_what_it_does.sql")
        # Text mode turns \r\n into \n, so a checkout on Windows has the same checksums.
        migration = Migration(int(match[1]), path.stem, path.read_text(encoding="utf-8"))
        if found and found[-1].version == migration.version:
            raise MigrationError(f"{found[-1].name} and {migration.name} have the same number; give one the next")
        found.append(migration)
    return found


async def migrate(settings: Settings, progress: Progress, folder: Path | None = None) -> int:
    """Applies what is missing; answers with how many files that were. ``progress`` gets one line per step.

    Waits at most ``migration_lock_wait_s`` while another node migrates. Raises ``MigrationError``, ``ConfigError`` or
    ``HubError(unavailable)``.
    """
    migrations = read_migrations(folder or migrations_folder())
    async with _connect(settings) as connection, _locked(connection, settings.migration_lock_wait_s, progress):
        await _prepare(connection)
        missing = _missing(migrations, await _applied(connection))
        for migration in missing:
            await _apply(connection, migration, progress)
    progress(f"{len(missing)} applied, {len(migrations)} in all" if missing else f"up to date ({len(migrations)})")
    return len(missing)


async def pending_migrations(url: str, folder: Path | None = None) -> list[str]:
    """Names of the files that the database behind ``url`` lacks; the role may be the owner or hub_app.

    Raises ``MigrationError`` when the database has what this release does not know or has changed.
    """
    migrations = read_migrations(folder or migrations_folder())
    with translated():
        connection = await asyncpg.connect(url)
    try:
        there = await connection.fetchval("SELECT to_regclass('hub.migrations') IS NOT NULL")
        return [migration.name for migration in _missing(migrations, await _applied(connection) if there else [])]
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def _connect(settings: Settings) -> AsyncIterator[Any]:
    if not settings.database_owner_url:
        raise ConfigError("HUB_DATABASE_OWNER_URL is not set; migrations run as the owner of the database")
    with translated():
        connection = await asyncpg.connect(
            settings.database_owner_url,
            timeout=settings.database_timeout_s,
            server_settings={"application_name": "hub migrate", "search_path": "hub, public"},
        )
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def _locked(connection: Any, wait_s: float, progress: Progress) -> AsyncIterator[None]:
    """One runner at a time. A blocked lock would hold a snapshot, which CREATE INDEX CONCURRENTLY waits for in turn."""
    deadline = time.monotonic() + wait_s
    told = False
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCK_SPACE, MIGRATION_LOCK):
        if time.monotonic() >= deadline:
            raise MigrationError(f"another migration still runs after {wait_s:g} s; try again when it is done")
        if not told:
            progress("waiting for another migration to end")
            told = True
        await asyncio.sleep(_LOCK_POLL_S)
    try:
        yield
    finally:
        # A connection that is gone has given the lock back already.
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1, $2)", LOCK_SPACE, MIGRATION_LOCK)


async def _prepare(connection: Any) -> None:
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'hub')"):
            await connection.execute("CREATE SCHEMA hub")
        await connection.execute(_TABLE)
    except asyncpg.InsufficientPrivilegeError as error:
        owner, database = await connection.fetchrow("SELECT quote_ident(current_user), quote_ident(current_database())")
        raise MigrationError(
            f"{owner} may not create the schema hub ({error}); "
            f"run as superuser in database {database}: CREATE SCHEMA hub AUTHORIZATION {owner};"
        ) from error


async def _applied(connection: Any) -> list[Any]:
    rows: list[Any] = await connection.fetch("SELECT version, name, checksum FROM hub.migrations ORDER BY version")
    return rows


def _missing(migrations: Sequence[Migration], applied: Sequence[Any]) -> list[Migration]:
    known = {migration.version: migration for migration in migrations}
    for row in applied:
        migration = known.pop(row["version"], None)
        if migration is None:
            raise MigrationError(
                f"the database has {row['name']}, which this release does not know; run the newer release's hub migrate"
            )
        if migration.checksum != row["checksum"]:
            raise MigrationError(
                f"{migration.name} was changed after it was applied; restore it and put the change into a new file"
            )
    missing = sorted(known.values(), key=lambda migration: migration.version)
    if missing and applied and missing[0].version < applied[-1]["version"]:
        raise MigrationError(
            f"{missing[0].name} comes before {applied[-1]['name']}, which is applied; give it the next free number"
        )
    return missing


async def _apply(connection: Any, migration: Migration, progress: Progress) -> None:
    started = time.monotonic()
    try:
        if migration.transactional:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await _record(connection, migration)
        else:
            for statement in migration.statements:
                await connection.execute(statement)
            await _record(connection, migration)
    except asyncpg.PostgresError as error:
        hint = f". {error.hint}" if getattr(error, "hint", None) else ""
        raise MigrationError(f"{migration.name}: {error.args[0]}{hint}") from error
    progress(f"{migration.name} applied in {time.monotonic() - started:.2f} s")


async def _record(connection: Any, migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO hub.migrations (version, name, checksum) VALUES ($1, $2, $3)",
        migration.version,
        migration.name,
        migration.checksum,
    )
