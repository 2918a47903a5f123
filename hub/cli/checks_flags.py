"""``hub doctor`` on flags: the file, what has expired, and what was changed at run time."""

from __future__ import annotations

import datetime

import asyncpg

from hub.cli.checks import Verdict, bad, ok, warn
from hub.cli.environment import is_unset
from hub.config import Settings
from hub.database import Database
from hub.errors import ConfigError, HubError
from hub.flags import FlagFile
from hub.nodes.flags.source import FlagSource
from hub.nodes.flags.store import FlagStore
from hub.orgs import OrgId


async def check_flags(settings: Settings) -> list[Verdict]:
    """All rows about flags."""
    rows = []
    if settings.flags_org:
        try:
            OrgId.from_operator(settings.flags_org)
        except ConfigError as error:
            rows.append(bad("flags events", str(error), "correct HUB_FLAGS_ORG, or leave it empty"))
    try:
        source = FlagSource(settings)
        file, _ = source.first()
    except ConfigError as error:
        return [*rows, bad("flags file", str(error), "correct it; `hub flags check FILE` says when all is well")]
    rows.append(ok("flags file", f"{source.name}: {len(file.flags)} flags"))
    expired = file.expired(datetime.datetime.now(datetime.UTC).date())
    if expired:
        rows.append(warn("flags that expired", "\n".join(expired), "take them out of code and file"))
    if not is_unset(settings.database_url):
        rows += await _check_changes(settings, file)
    return rows


async def _check_changes(settings: Settings, file: FlagFile) -> list[Verdict]:
    database = await Database.open(settings)
    try:
        stored = await FlagStore(database, None, settings.flags_audit_keep_s).read()
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError) as error:
        return [bad("flags at run time", str(error), "run `hub migrate` of the release that is to serve")]
    except (HubError, ConfigError) as error:
        return [bad("flags at run time", str(error), "start PostgreSQL, or correct HUB_DATABASE_URL")]
    finally:
        await database.close()
    orphans = sorted(name for name in stored.overrides if name not in file.flags)
    if orphans:
        found = f"changed, but not in the file: {', '.join(orphans)}"
        return [warn("flags at run time", found, f"`hub flags clear {orphans[0]}` forgets it")]
    return [
        ok("flags at run time", f"{len(stored.overrides)} changed: {', '.join(sorted(stored.overrides)) or 'none'}")
    ]
