"""Where the schedule of a flag stands, and what is to be done next: a state machine. Pure; ``leader`` performs it.

A stage lasts as long as the schedule says from when it really began: what was missed while nobody was there, or while
somebody had changed the flag by hand, is not made up for. So a percentage grows by one stage at a time, whatever the
clock does, and after a guard has tripped it grows no more until somebody says so. Nodes may have different files for a
while; what only one of them has changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct, structs

from hub.flags import Definition, Guards, Stage, StageState
from hub.nodes.flags.guards import Trip

HELD: Final = "held"
"""``StageState.stopped`` while somebody has changed the flag by hand, or the file has switched it off."""
_BEFORE: Final = -1  # the stage before the first


class Plan(Struct, frozen=True):
    """The schedule of one flag, as the file has it."""

    flag: str
    stages: tuple[Stage, ...]
    starts_at: float | None
    guards: Guards | None
    base: int = 0
    """The percentage before the first stage (thousandths)."""

    @classmethod
    def of(cls, definition: Definition) -> Plan | None:
        """The schedule of a flag, if it has one."""
        if not definition.stages:
            return None
        base = definition.percent or 0
        return cls(definition.name, definition.stages, definition.starts_at, definition.abort_if, base)

    @property
    def digest(self) -> str:
        """Another one is another schedule; guards are part of it."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]

    def percent(self, stage: int) -> int:
        """Thousandths of a percent."""
        return self.base if stage == _BEFORE else self.stages[stage].percent

    def place(self, percent: int) -> int:
        """The last stage that is not above a percentage."""
        return max((number for number, stage in enumerate(self.stages) if stage.percent <= percent), default=_BEFORE)

    def stage_of(self, state: StageState) -> int:
        """Where a row stands in this schedule, whichever it follows."""
        return state.stage if state.schedule == self.digest else self.place(state.percent)

    def next_at(self, state: StageState) -> float | None:
        """When the next stage comes (seconds since 1970); None when there is none, or nothing goes on."""
        if state.stopped is not None or state.schedule != self.digest or state.stage + 1 >= len(self.stages):
            return None
        return state.started_at + self.length_s(state.stage)

    def length_s(self, stage: int) -> float:
        """How long a stage lasts; 0 for the last."""
        if stage + 1 >= len(self.stages):
            return 0.0
        if stage == _BEFORE:
            return self.stages[0].after_s
        length = self.stages[stage + 1].after_s - self.stages[stage].after_s
        # Nobody goes on before the guards had time to look.
        return length if self.guards is None else max(length, self.guards.window_s)


class Standing(StrEnum):
    """How it is with a schedule."""

    UNKNOWN = "unknown"
    RUNNING = "running"
    HELD = "held"
    STOPPED = "stopped"


class Happening(StrEnum):
    """What may be the case; what stands first is looked at first."""

    SEEN = "seen for the first time"
    CHANGED = "the schedule is another"
    TAKEN = "changed by hand, or switched off"
    FREED = "left to its schedule again"
    TRIPPED = "a guard tripped"
    DUE = "the next stage is due"


TABLE: Final[Mapping[tuple[Standing, Happening], Standing]] = {
    (Standing.UNKNOWN, Happening.SEEN): Standing.RUNNING,
    (Standing.RUNNING, Happening.CHANGED): Standing.RUNNING,
    (Standing.HELD, Happening.CHANGED): Standing.HELD,
    (Standing.RUNNING, Happening.TAKEN): Standing.HELD,
    (Standing.HELD, Happening.FREED): Standing.RUNNING,
    (Standing.RUNNING, Happening.TRIPPED): Standing.STOPPED,
    (Standing.RUNNING, Happening.DUE): Standing.RUNNING,
}
"""What is not here does nothing."""


class Situation(Struct, frozen=True):
    """What there is to know at a moment. ``now``: seconds since 1970."""

    now: float
    held: bool = False
    """Somebody has changed the flag."""
    off: bool = False
    """The file has switched it off."""
    trip: Trip | None = None
    blind: bool = False
    """Figures of other nodes do not come, or not yet, so nothing grows."""
    agreed: bool = True
    """All nodes are known to have the same schedule. As long as they have not, only people and guards do anything."""


class Step(Struct, frozen=True):
    """What is to be written, and why. ``state.version`` is that of the row that it replaces, 0 for none."""

    happening: Happening
    state: StageState
    was: StageState | None
    why: str
    trip: Trip | None = None


def standing(state: StageState | None) -> Standing:
    """How it is with a schedule."""
    if state is None:
        return Standing.UNKNOWN
    if state.stopped is None:
        return Standing.RUNNING
    return Standing.HELD if state.stopped == HELD else Standing.STOPPED


def decide(plan: Plan, state: StageState | None, situation: Situation) -> Step | None:
    """The next step of a flag's schedule; None: it stays as it is."""
    before = standing(state)
    for happening in Happening:
        after = TABLE.get((before, happening))
        if after is not None and _is_so(happening, plan, state, situation):
            return _step(happening, after, plan, state, situation)
    return None


def _is_so(happening: Happening, plan: Plan, state: StageState | None, situation: Situation) -> bool:
    if state is None:
        return happening is Happening.SEEN
    due = plan.next_at(state)
    return {
        Happening.SEEN: False,
        Happening.CHANGED: state.schedule != plan.digest and situation.agreed,
        Happening.TAKEN: situation.held or (situation.off and situation.agreed),
        Happening.FREED: not situation.held and not situation.off and situation.agreed,
        Happening.TRIPPED: situation.trip is not None and state.stage > _BEFORE,
        Happening.DUE: due is not None and due <= situation.now and not situation.blind and situation.agreed,
    }[happening]


def _step(happening: Happening, after: Standing, plan: Plan, state: StageState | None, situation: Situation) -> Step:
    if state is not None and happening in (Happening.TAKEN, Happening.FREED):
        # Where it is; what it follows, it follows.
        begins = _begins(happening, plan, state.stage, state, situation.now)
        moved = structs.replace(state, stopped=_stopped(after, situation), started_at=begins)
        return Step(happening, moved, state, _why(happening, plan, moved, situation))
    stage = _stage(happening, plan, state)
    becomes = StageState(
        flag=plan.flag,
        percent=_percent(happening, plan, stage, state),
        schedule=plan.digest,
        stage=stage,
        started_at=_begins(happening, plan, stage, state, situation.now),
        stopped=_stopped(after, situation),
        version=0 if state is None else state.version,
    )
    return Step(happening, becomes, state, _why(happening, plan, becomes, situation), situation.trip)


def _stage(happening: Happening, plan: Plan, state: StageState | None) -> int:
    if state is None:
        return _BEFORE
    return max(_BEFORE, plan.stage_of(state) + {Happening.DUE: 1, Happening.TRIPPED: -1}.get(happening, 0))


def _percent(happening: Happening, plan: Plan, stage: int, state: StageState | None) -> int:
    percent = plan.percent(stage)
    # A row that follows another schedule may be lower already.
    return percent if state is None or happening is not Happening.TRIPPED else min(percent, state.percent)


def _begins(happening: Happening, plan: Plan, stage: int, state: StageState | None, now: float) -> float:
    if stage == _BEFORE and plan.starts_at is not None:
        return plan.starts_at
    if happening is not Happening.CHANGED or state is None or plan.percent(stage) != state.percent:
        return now
    # The percentage is the one there was, so it has begun already. The guards begin to look anew.
    window_s = 0.0 if plan.guards is None else plan.guards.window_s
    return min(now, max(state.started_at, now + window_s - plan.length_s(stage)))


def _stopped(after: Standing, situation: Situation) -> str | None:
    if after is Standing.STOPPED and situation.trip is not None:
        return situation.trip.guard
    return HELD if after is Standing.HELD else None


def _why(happening: Happening, plan: Plan, state: StageState, situation: Situation) -> str:
    if happening is Happening.TRIPPED and situation.trip is not None:
        return situation.trip.text
    place = "before the first stage" if state.stage == _BEFORE else f"stage {state.stage + 1} of {len(plan.stages)}"
    return f"{happening.value}: {place}"
