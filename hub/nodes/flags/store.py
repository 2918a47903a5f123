"""Overrides, stages and their audit in PostgreSQL. Every change of any flag is one version later than the one before.

They have no organisation: a transaction is that of the operators, so that an event about a change leaves with its
commit. Who may change anything is asked before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from hub.database import Database, Transaction
from hub.errors import ErrorCode, HubError
from hub.flags import Override, StageState
from hub.orgs import CONTROL_ORG, OrgId

TOPIC: Final = "flags:changes"
EVENTS: Final = {
    "override": "flag.changed",
    "clear": "flag.changed",
    "stage": "flag.stage",
    "rollback": "flag.rolled_back",
}

Kind = Literal["override", "clear", "stage", "rollback"]

# One statement sees one moment, so what is read belongs together.
_READ = """
SELECT version,
  (SELECT coalesce(jsonb_agg(to_jsonb(o) || jsonb_build_object('at', extract(epoch FROM o.at))), '[]')
   FROM hub.flag_overrides AS o) AS overrides,
  (SELECT coalesce(jsonb_agg(to_jsonb(s) || jsonb_build_object(
     'at', extract(epoch FROM s.at), 'started_at', extract(epoch FROM s.started_at))), '[]')
   FROM hub.flag_stages AS s) AS stages
FROM hub.flag_version
"""
_NEXT = "UPDATE hub.flag_version SET version = version + $1 RETURNING version"
_OVERRIDES = """
SELECT flag, state, percent, version, who, why, extract(epoch FROM at)::float8 AS at
FROM hub.flag_overrides WHERE flag = ANY ($1)
"""
_SET = """
INSERT INTO hub.flag_overrides (flag, state, percent, version, who, why) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (flag) DO UPDATE SET state = excluded.state, percent = excluded.percent, version = excluded.version,
  who = excluded.who, why = excluded.why, at = now()
RETURNING extract(epoch FROM at)::float8
"""
_CLEAR = "DELETE FROM hub.flag_overrides WHERE flag = $1"
# What is held was changed by hand before; it goes on by itself when the override is gone.
_UNSTOP = "DELETE FROM hub.flag_stages WHERE flag = $1 AND stopped <> 'held' RETURNING stopped"
_STAGE = "SELECT percent, version FROM hub.flag_stages WHERE flag = $1"
_SET_STAGE = """
INSERT INTO hub.flag_stages (flag, percent, schedule, stage, started_at, stopped, version)
VALUES ($1, $2, $3, $4, to_timestamp($5), $6, $7)
ON CONFLICT (flag) DO UPDATE SET percent = excluded.percent, schedule = excluded.schedule, stage = excluded.stage,
  started_at = excluded.started_at, stopped = excluded.stopped, version = excluded.version, at = now()
RETURNING extract(epoch FROM at)::float8
"""
_DROP_STAGE = "DELETE FROM hub.flag_stages WHERE flag = $1 RETURNING percent"
_RECORD = """
INSERT INTO hub.flag_audit (version, flag, kind, was, became, who, why) VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING extract(epoch FROM at)::float8
"""
_AUDIT = """
SELECT version, extract(epoch FROM at)::float8 AS at, flag, kind, was, became, who, why
FROM hub.flag_audit WHERE ($1::text IS NULL OR flag = $1) AND version < $2 ORDER BY version DESC LIMIT $3
"""
_EXPIRE = "SELECT hub.expire_flag_audit($1)"
_NEWEST: Final = 2**62


class Change(Struct, frozen=True):
    """What somebody wants of one flag: one of ``state``, ``percent`` (thousandths) and ``clear``."""

    flag: str
    state: Literal["on", "off"] | None = None
    percent: int | None = None
    clear: bool = False
    if_version: int | None = None
    """Only if the flag's override has this version; 0: only if it has none."""


class AuditRow(Struct, frozen=True, rename={"was": "from", "became": "to"}):
    """A row of the record: who changed what. ``from`` and ``to`` are as ``said`` makes them: a state, a percentage, or
    null for no run-time change."""

    version: int
    at: float
    flag: str
    kind: Kind
    was: dict[str, Any] | None
    became: dict[str, Any] | None
    who: str
    why: str


class Stored(Struct, frozen=True):
    """All there is, at one moment."""

    version: int
    overrides: Mapping[str, Override]
    stages: Mapping[str, StageState]


class Changed(Struct, frozen=True):
    """What came of a list of changes: each flag's override then, and the version of the last."""

    version: int
    overrides: list[Override | None]


class _Rows(Struct):
    overrides: list[Override]
    stages: list[StageState]


def said(override: Override | None) -> dict[str, Any] | None:
    """An override as it is shown: ``{"state": "off"}`` or ``{"percent": 12.5}``."""
    if override is None:
        return None
    return {"state": override.state} if override.percent is None else {"percent": override.percent / 1000}


class FlagStore:
    """The tables. Everything raises ``unavailable`` while PostgreSQL is away; ``org``: whose events changes are."""

    def __init__(self, database: Database, org: OrgId | None, keep_s: float) -> None:
        self._database = database
        self._org = org
        self._keep_s = keep_s

    async def read(self) -> Stored:
        """Everything that is committed now."""
        async with self._database.transaction(CONTROL_ORG) as tx:
            row = await tx.fetch_row(_READ)
        if row is None:
            raise HubError(ErrorCode.INTERNAL, "hub.flag_version has no row; run `hub migrate` on a fresh database")
        rows = msgspec.convert({"overrides": row["overrides"], "stages": row["stages"]}, _Rows)
        overrides = {override.flag: override for override in rows.overrides}
        return Stored(row["version"], overrides, {stage.flag: stage for stage in rows.stages})

    async def change(self, changes: Sequence[Change], who: str, why: str) -> Changed:
        """Performs all changes or none.

        Each flag is named once. To clear what is not there succeeds. A schedule that a guard has stopped is forgotten,
        so that it begins anew. Raises ``conflict`` with ``details["versions"]``, the versions that are there, when an
        ``if_version`` is not met.
        """
        async with self._transaction() as tx:
            version = await tx.fetch_value(_NEXT, len(changes)) - len(changes)
            rows = await tx.fetch(_OVERRIDES, [change.flag for change in changes])
            there = {row["flag"]: Override(**row) for row in rows}
            _check_versions(changes, there)
            outcome = []
            for change in changes:
                version += 1
                outcome.append(await self._apply(tx, change, there.get(change.flag), Note(version, who, why)))
        return Changed(version, outcome)

    async def set_stage(self, state: StageState, *, kind: Literal["stage", "rollback"], who: str, why: str) -> int:
        """Writes where a schedule stands, with its audit row; answers with the version.

        Raises ``conflict`` when the row's version is not ``state.version`` any more (0: there is none): somebody has
        changed it, or reset it, since it was read.
        """
        async with self._transaction() as tx:
            version: int = await tx.fetch_value(_NEXT, 1)
            row = await tx.fetch_row(_STAGE, state.flag)
            if (row["version"] if row else 0) != state.version:
                raise HubError(ErrorCode.CONFLICT, f"the stage of {state.flag} was changed meanwhile; read it again")
            await tx.fetch_value(
                _SET_STAGE,
                state.flag,
                state.percent,
                state.schedule,
                state.stage,
                state.started_at,
                state.stopped,
                version,
            )
            was = {"percent": row["percent"] / 1000} if row else None
            await self._record(tx, state.flag, kind, (was, {"percent": state.percent / 1000}), Note(version, who, why))
        return version

    async def drop_stage(self, flag: str, *, who: str, why: str) -> int:
        """Forgets a schedule that the file has no more; answers with the version. Nothing happens when it is gone."""
        async with self._transaction() as tx:
            version: int = await tx.fetch_value(_NEXT, 1)
            percent = await tx.fetch_value(_DROP_STAGE, flag)
            if percent is not None:
                was = {"percent": percent / 1000}
                await self._record(tx, flag, "stage", (was, None), Note(version, who, why))
        return version

    async def audit(self, flag: str | None, limit: int, before: int | None) -> list[AuditRow]:
        """The newest changes first: of one flag or of all, those before the version ``before``."""
        async with self._database.transaction(CONTROL_ORG) as tx:
            rows = await tx.fetch(_AUDIT, flag, _NEWEST if before is None else before, limit)
        return [AuditRow(**row) for row in rows]

    async def expire(self) -> None:
        """Takes away audit rows that are older than ``keep_s``."""
        await self._database.maintain(_EXPIRE, float(self._keep_s))

    def _transaction(self) -> Any:
        return self._database.transaction(self._org or CONTROL_ORG)

    async def _apply(self, tx: Transaction, change: Change, was: Override | None, note: Note) -> Override | None:
        # Whoever changes a flag has said that it may go on.
        stopped = await tx.fetch_value(_UNSTOP, change.flag)
        if change.clear:
            await tx.execute(_CLEAR, change.flag)
            if was is not None or stopped is not None:
                before = {"stopped": stopped} if was is None else said(was)
                await self._record(tx, change.flag, "clear", (before, None), note)
            return None
        became = Override(change.flag, change.state, change.percent, note.version, note.who, note.why)
        at = await tx.fetch_value(_SET, became.flag, became.state, became.percent, became.version, note.who, note.why)
        await self._record(tx, change.flag, "override", (said(was), said(became)), note)
        return msgspec.structs.replace(became, at=at)

    async def _record(self, tx: Transaction, flag: str, kind: Kind, moved: tuple[Any, Any], note: Note) -> None:
        was, became = moved
        at = await tx.fetch_value(_RECORD, note.version, flag, kind, was, became, note.who, note.why)
        if self._org is not None:
            row = AuditRow(note.version, at, flag, kind, was, became, note.who, note.why)
            await tx.publish(TOPIC, EVENTS[kind], msgspec.to_builtins(row))


class Note(Struct, frozen=True):
    """What goes with every change."""

    version: int
    who: str
    why: str


def _check_versions(changes: Sequence[Change], there: Mapping[str, Override]) -> None:
    found = {change.flag: there[change.flag].version if change.flag in there else 0 for change in changes}
    stale = [one.flag for one in changes if one.if_version is not None and one.if_version != found[one.flag]]
    if stale:
        text = f"{', '.join(stale)} was changed meanwhile; look at it again and send the version that it has now"
        raise HubError(ErrorCode.CONFLICT, text, details={"versions": {flag: found[flag] for flag in stale}})
