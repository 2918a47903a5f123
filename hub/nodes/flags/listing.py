"""Flags as operators see them: what the file says, what was changed, and what counts now."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Literal

from msgspec import Struct

from hub.flags import Definition, Override, StageState
from hub.nodes.flags.board import FlagBoard
from hub.nodes.flags.stages import Plan

By = Literal["kill_switch", "override", "stage", "file"]


class OverrideShown(Struct, omit_defaults=True):
    """A run-time change. One of ``state`` and ``percent`` is there; ``at`` is in seconds since 1970."""

    flag: str
    version: int
    who: str
    why: str
    at: float
    state: Literal["on", "off"] | None = None
    percent: float | None = None


class StageShown(Struct, omit_defaults=True):
    """Where a schedule stands; ``stage`` counts from 0, -1 is before the first."""

    stage: int
    percent: float
    started_at: float
    next_at: float | None = None
    """When the next stage comes, if no guard trips."""
    stopped: str | None = None
    """The guard that has stopped it; ``held``: somebody has changed the flag, or the file has switched it off."""


class PlannedStage(Struct):
    """A percentage that is due so long after the schedule began."""

    after_s: float
    percent: float


class Effect(Struct, omit_defaults=True):
    """What counts now. ``state``: for everybody; else so many ``percent`` of those for whom no rule decides."""

    by: By
    state: Literal["on", "off"] | None = None
    percent: float | None = None


class FlagShown(Struct, omit_defaults=True):
    """One flag. ``rules``: there are targeting rules; ``allowed``: how many users and organisations are listed."""

    flag: str
    now: Effect
    enabled: bool
    variants: Mapping[str, Any]
    default: str | None
    by: Literal["user", "org"]
    owner: str
    description: str
    percent: float | None = None
    """The file's."""
    expires: date | None = None
    expired: bool = False
    rules: bool = False
    allowed: int = 0
    stages: list[PlannedStage] = []
    stage: StageShown | None = None
    override: OverrideShown | None = None


class FileShown(Struct, omit_defaults=True):
    """The file that is in effect, and why the one that is there now is not."""

    source: str
    digest: str
    problem: str | None = None
    line: int | None = None


class FlagsShown(Struct, omit_defaults=True):
    """All flags of this node."""

    version: str
    changes: int
    """Version of the last change that this node has read."""
    file: FileShown
    flags: list[FlagShown]
    orphans: list[OverrideShown]
    """Run-time changes of flags that the file does not have."""
    away: str | None = None
    """Why changes cannot be read just now; the last known ones count."""


def all_flags(board: FlagBoard) -> FlagsShown:
    """Everything that an operator may want to see."""
    problem = board.problem
    return FlagsShown(
        version=board.version,
        changes=board.stored.version,
        file=FileShown(
            source=board.source,
            digest=board.file.digest,
            problem=None if problem is None else problem.message,
            line=None if problem is None else problem.line,
        ),
        flags=[one_flag(board, name) for name in sorted(board.file.flags)],
        orphans=[override_shown(one) for one in board.evaluator.orphans],
        away=board.away,
    )


def one_flag(board: FlagBoard, name: str) -> FlagShown:
    """A flag that the file has."""
    flag = board.file.flags[name]
    override, stage = board.stored.overrides.get(name), board.stored.stages.get(name)
    return FlagShown(
        flag=name,
        now=_effect(flag, override, stage),
        enabled=flag.enabled,
        variants=flag.variants,
        default=flag.default_variant,
        by=flag.by,
        owner=flag.owner,
        description=flag.description,
        percent=_percent(flag.percent),
        expires=flag.expires,
        expired=flag.expires is not None and flag.expires < datetime.now(UTC).date(),
        rules=flag.targeting is not None,
        allowed=len(flag.allow_users) + len(flag.allow_orgs),
        stages=[PlannedStage(planned.after_s, planned.percent / 1000) for planned in flag.stages],
        stage=None if stage is None else _stage(flag, stage),
        override=None if override is None else override_shown(override),
    )


def override_shown(override: Override) -> OverrideShown:
    """A run-time change."""
    return OverrideShown(
        flag=override.flag,
        version=override.version,
        who=override.who,
        why=override.why,
        at=override.at,
        state=override.state,
        percent=_percent(override.percent),
    )


def _stage(flag: Definition, stage: StageState) -> StageShown:
    plan = Plan.of(flag)
    next_at = None if plan is None else plan.next_at(stage)
    return StageShown(stage.stage, stage.percent / 1000, stage.started_at, next_at, stage.stopped)


def _effect(flag: Definition, override: Override | None, stage: StageState | None) -> Effect:
    if not flag.enabled:
        return Effect("kill_switch", state="off")
    if override is not None:
        return Effect("override", state=override.state, percent=_percent(override.percent))
    if stage is not None and flag.stages:
        return Effect("stage", percent=stage.percent / 1000)
    return Effect("file", percent=_percent(flag.percent))


def _percent(thousandths: int | None) -> float | None:
    return None if thousandths is None else thousandths / 1000
