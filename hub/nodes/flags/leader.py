"""Leads the schedules of staged flags: one node at a time writes what ``stages`` decides, all nodes report figures.

Who leads has the duty (``hub.nodes.duties``). Everything it writes is conditional on the row that it has read, and what
must outlive it stands in that row: two who both think that they lead do no harm, and any other goes on.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec
import structlog
from msgspec import Struct

from hub.config import Settings
from hub.errors import ErrorCode, HubError
from hub.flags import FlagFile, StageState
from hub.nodes.duties import Duties
from hub.nodes.flags.cohorts import Cohorts, Values, Watched
from hub.nodes.flags.guards import Figures, Trip, judge
from hub.nodes.flags.stages import Happening, Plan, Situation, Standing, Step, decide, standing
from hub.nodes.flags.store import Stored
from hub.orgs import CONTROL_ORG, OrgId
from hub.telemetry import FlagMetrics

PURPOSE: Final = "flags"
_DUTY: Final = "stages"
_MOST_NODES: Final = 1000
"""Whose figures are kept; a node that is started anew is another."""
_SETTLED: Final = 3
"""After so many reports of its own a node that leads has heard every other that can be heard."""
_TICK_S: Final = 1.0
"""A busy node may be so late with its next turn."""
_FORGET_S: Final = 3600.0
"""A schedule that the file has no more is forgotten then: until then other nodes may have another file."""

log = structlog.get_logger(__name__)


class Rows(Protocol):
    """What is needed of the board."""

    @property
    def file(self) -> FlagFile:
        """The file that is in effect."""

    @property
    def stored(self) -> Stored:
        """What PostgreSQL had when it was asked last."""

    async def set_stage(self, state: StageState, *, kind: Literal["stage", "rollback"], who: str, why: str) -> int:
        """Writes a row if it still has ``state.version``; else raises ``conflict``."""

    async def drop_stage(self, flag: str, *, who: str, why: str) -> Any:
        """Takes a row away."""


_Counted = Mapping[str, tuple[int, Figures, Figures]]
"""By flag: version of the step, the cohort, the rest."""


class _Told(Struct):
    """A report as it is sent."""

    node: str
    figures: dict[str, tuple[int, list[Any], list[Any]]]
    schedules: dict[str, str]

    def heard(self, at: float) -> _Report:
        """Raises ``msgspec.ValidationError``."""
        told = self.figures.items()
        figures = {flag: (one, Figures.heard(cohort), Figures.heard(rest)) for flag, (one, cohort, rest) in told}
        return _Report(at, figures, self.schedules)


class _Report(NamedTuple):
    """What a node counted and by what schedules it goes, when it was heard."""

    at: float
    figures: _Counted
    schedules: Mapping[str, str]


class StageLeader:
    """One per node; the one that has the duty leads. ``connections`` gives the flags of each connection of this node.

    ``clock`` says the time of day (seconds since 1970), by which stages come; ``cohorts`` has a clock of its own.
    """

    def __init__(
        self,
        settings: Settings,
        node: str,
        rows: Rows,
        duties: Duties,
        cohorts: Cohorts,
        metrics: FlagMetrics,
    ) -> None:
        self._settings = settings
        self._who = f"hub/{node}"
        self._rows = rows
        self._duties = duties
        self._metrics = metrics
        self._cohorts = cohorts
        self.connections: Callable[[], Iterable[Values]] = tuple
        self.ready: Callable[[], bool] = lambda: True
        """Whether what other nodes report can come."""
        self.clock: Callable[[], float] = time.time
        # Another life of a node counts from the beginning, and what the one before said still counts for a while.
        self._me = secrets.token_hex(8)
        self._reports: dict[str, _Report] = {}
        self._file: FlagFile | None = None
        self._plans: Mapping[str, Plan] = {}
        self._off: frozenset[str] = frozenset()
        self._schedules: Mapping[str, str] = {}
        self._began: float | None = None
        """Since when this node leads and can hear the others, without a break."""
        self._led_at = 0.0
        self._steps: dict[tuple[str, int], float] = {}
        """Since when this node counts, by flag and version of the step."""
        self._orphans: dict[str, float] = {}
        self._split: set[str] = set()
        self._shown: set[str] = set()
        self._away = False
        self._task: asyncio.Task[None] | None = None
        duties.on_adopt(lambda *_: None)  # the next tick takes what is there to be done from the rows
        duties.on_lost(lambda *_: self._leave())
        duties.on_signal(self._heard)

    def start(self) -> None:
        """Begins to report, and to lead if nobody does. ``close`` must follow, before the duties are handed over."""
        self._task = asyncio.create_task(self._run(), name="flag-stages")

    async def close(self) -> None:
        """Ends it; a step that is under way is written or not, as a whole."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def leads(self) -> bool:
        """Whether this node leads, as far as it knows."""
        return self._duties.holds(CONTROL_ORG, _DUTY)

    async def tick(self) -> None:
        """Reports, and performs what is due. Raises ``unavailable``."""
        self._look()
        if not self._plans and not self._orphans:
            self._leave()
            self._duties.release(CONTROL_ORG, _DUTY)
            return
        figures = self._cohorts.look(self.connections()) if self._cohorts.counting else {}
        told = {"node": self._me, "figures": figures, "schedules": self._schedules}
        await self._duties.signal(CONTROL_ORG, _DUTY, told)
        if await self._duties.take(CONTROL_ORG, _DUTY):
            await self._lead()
        else:
            self._leave()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.flags_report_s * random.uniform(0.8, 1.0))
            try:
                await self.tick()
                self._away = False
            except HubError as error:
                if not self._away:
                    self._away = True
                    log.warning("stages of flags stand still", reason=str(error))
            except Exception:
                # Without it no guard would stop anything.
                log.exception("stages of flags failed")

    # --- on every node

    def _look(self) -> None:
        """What there is to be counted."""
        file, states = self._rows.file, self._rows.stored.stages
        if file is not self._file:
            self._file = file
            plans = map(Plan.of, file.flags.values())
            self._plans = {plan.flag: plan for plan in plans if plan is not None}
            self._off = frozenset(flag for flag in self._plans if not file.flags[flag].enabled)
            self._schedules = {
                flag: f"{plan.digest} {'off' if flag in self._off else 'on'}" for flag, plan in self._plans.items()
            }
        now = self._cohorts.now()
        self._orphans = {flag: self._orphans.get(flag, now) for flag in states if flag not in self._plans}
        watched = {
            plan.flag: Watched.by(plan.guards, state.version)
            for plan, state in self._running(states)
            if plan.guards is not None and state.stage >= 0
        }
        self._cohorts.watch(watched)
        steps = [(flag, one.version) for flag, one in watched.items()]
        self._steps = {step: self._steps.get(step, now) for step in steps}
        gone = dict.fromkeys(self._shown - states.keys(), 0)
        self._shown = set(states)
        for flag, percent in (gone | {state.flag: state.percent for state in states.values()}).items():
            self._metrics.stage(flag, percent)

    def _running(self, states: Mapping[str, StageState]) -> Iterable[tuple[Plan, StageState]]:
        for flag, plan in self._plans.items():
            state = states.get(flag)
            if state is not None and standing(state) is Standing.RUNNING:
                yield plan, state

    # --- on the one that leads

    def _heard(self, _: OrgId, __: str, message: dict[str, Any]) -> None:
        try:
            told = msgspec.convert(message, _Told)
            report = told.heard(self._cohorts.now())
        except msgspec.ValidationError as error:
            log.info("figures of a node not understood; is it of another version?", reason=str(error))
            return
        # The newest last.
        self._reports.pop(told.node, None)
        self._reports[told.node] = report
        if len(self._reports) > _MOST_NODES:
            del self._reports[next(iter(self._reports))]

    async def _lead(self) -> None:
        settled = self._settled()
        for plan in self._plans.values():
            stored = self._rows.stored
            state = stored.stages.get(plan.flag)
            step = decide(plan, state, self._situation(plan, state, settled))
            if step is not None:
                await self._perform(step)
        for flag, since in tuple(self._orphans.items()):
            if self._cohorts.now() - since > _FORGET_S:
                await self._rows.drop_stage(flag, who=self._who, why="the file has no stages for it any more")

    def _leave(self) -> None:
        self._began = None
        self._reports.clear()

    def _settled(self) -> bool:
        """Whether this node leads for so long, without a break, that it has heard all others."""
        now = self._cohorts.now()
        if not self.ready():
            self._began = None
            return False
        if self._began is None or now - self._led_at > self._patience_s + _TICK_S:
            self._began = now
        self._led_at = now
        return now - self._began >= self._patience_s

    @property
    def _patience_s(self) -> float:
        return _SETTLED * self._settings.flags_report_s

    def _situation(self, plan: Plan, state: StageState | None, settled: bool) -> Situation:
        now, recent = self.clock(), self._recent(self._patience_s)
        agreed = all(one.schedules.get(plan.flag) == self._schedules[plan.flag] for one in recent)
        if not agreed and plan.flag not in self._split:
            log.warning("nodes have different schedules, so nothing goes on; give all the same file", flag=plan.flag)
        (self._split.discard if agreed else self._split.add)(plan.flag)
        blind = not settled
        if state is not None and state.stage >= 0 and plan.guards is not None:
            # What happened in this stage must have been told.
            seen = any(_of_step(one, state) for one in recent)
            blind = blind or not seen or now - state.started_at < self._patience_s
        return Situation(
            now,
            held=plan.flag in self._rows.stored.overrides,
            off=plan.flag in self._off,
            trip=None if state is None else self._trip(plan, state, settled),
            blind=blind,
            agreed=settled and agreed,
        )

    def _recent(self, reach_s: float) -> list[_Report]:
        oldest = self._cohorts.now() - reach_s
        return [one for one in self._reports.values() if one.at >= oldest]

    def _trip(self, plan: Plan, state: StageState, settled: bool) -> Trip | None:
        """What the figures of all nodes say. Those of a node that has died count for as long as they are recent."""
        since = self._steps.get((plan.flag, state.version))
        if plan.guards is None or since is None:
            return None
        # However seldom nodes report.
        recent = self._recent(max(plan.guards.window_s, self._patience_s))
        told = [figures for one in recent if (figures := _of_step(one, state)) is not None]
        cohort, rest = Figures.sum(one for one, _ in told), Figures.sum(one for _, one in told)
        trip = judge(plan.guards, cohort, rest, whole=self._cohorts.now() - since >= plan.guards.window_s)
        # That there is no rest cannot be said before all have been heard.
        return trip if trip is None or trip.rest is not None or settled else None

    async def _perform(self, step: Step) -> None:
        back = step.happening is Happening.TRIPPED
        try:
            await self._rows.set_stage(step.state, kind="rollback" if back else "stage", who=self._who, why=step.why)
        except HubError as error:
            if error.code is not ErrorCode.CONFLICT:
                raise
            # Another leads too, or somebody has just changed the flag: the rows say what is next.
            log.info("stage was changed meanwhile", flag=step.state.flag)
            return
        tell = log.warning if back else log.info
        tell("stage", flag=step.state.flag, percent=step.state.percent / 1000, why=step.why)
        if back and step.trip is not None:
            self._metrics.guard_tripped(step.state.flag, step.trip.guard)


def _of_step(report: _Report, state: StageState) -> tuple[Figures, Figures] | None:
    """Cohort and rest, if the node has counted since the step that the row tells of."""
    told = report.figures.get(state.flag)
    return None if told is None or told[0] != state.version else told[1:]
