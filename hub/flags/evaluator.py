"""Decides flags: a file, run-time changes and stages, compiled once. Rules are flagd-core's, buckets are flagd's.

Order: kill switch → override → allow list → targeting rule → sticky percentage → default. Never raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from hub.config.flag_bounds import FLAG_MAPPINGS, FLAG_SUBJECTS
from hub.flags.changes import Override, StageState
from hub.flags.plan import Plan, Stamp, ingredients
from hub.flags.schema import FlagFile
from hub.flags.words import Evaluation, Subject

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
_GENERATIONS: Final = 3
"""So many of those before are asked: changes may follow one another faster than everybody's flags are looked at."""


class Outcome(NamedTuple):
    """All boolean flags of somebody. One object, and one mapping of values, for all who have the same."""

    values: Mapping[str, bool]
    reasons: Mapping[str, str]
    drawn: tuple[tuple[bool, str], ...] = ()
    """Of the flags that are not the same for everybody."""


_Place = tuple[str, str]


class _Before(NamedTuple):
    """What another evaluator has decided, as far as it still holds."""

    known: Mapping[_Place, Outcome]
    order: tuple[int, ...]
    """Of each open plan: which of the drawn it was then; -1: it decides otherwise now."""
    fresh: tuple[Plan, ...]
    """Those of -1."""
    made: dict[tuple[int, tuple[tuple[bool, str], ...]], Outcome]
    """By what was known, and what is drawn anew."""


class Evaluator:
    """The flags as they stand. Immutable: a change is another evaluator. For one event loop or thread at a time.

    With ``before`` it takes over what that one has decided of flags that are the same: after a change of one flag,
    nobody's other flags are decided again.
    """

    def __init__(
        self,
        file: FlagFile,
        overrides: Mapping[str, Override] = _NONE,
        stages: Mapping[str, StageState] = _NONE,
        before: Evaluator | None = None,
    ) -> None:
        self.file = file
        self.overrides = dict(overrides)
        self.stages = dict(stages)
        self.version = _version(file, self.overrides, self.stages)
        self._plans = {name: self._plan(name, before) for name in file.flags}
        booleans = [plan for plan in self._plans.values() if plan.flag.boolean]
        self._open = [plan for plan in booleans if plan.constant is None]
        self._same = {plan.name: plan.constant is None or plan.on(_NOBODY) for plan in booleans}
        self._still = {plan.name: plan.constant.reason for plan in booleans if plan.constant is not None}
        self._constant = Outcome(self._same, self._still)
        self._ruled = any(plan.flag.targeting for plan in self._open)
        self._timed = any(plan.timed for plan in self._open)
        self._reasons: dict[tuple[str, ...], Mapping[str, str]] = {}
        self._mappings: dict[tuple[bool, ...], Mapping[str, bool]] = {}
        self._outcomes: dict[tuple[tuple[bool, str], ...], Outcome] = {}
        self._known: dict[_Place, Outcome] = {}
        self._before: tuple[_Before, ...] = () if before is None else self._taken_over(before)

    @property
    def orphans(self) -> tuple[Override, ...]:
        """Overrides of flags that are not in the file; they change nothing."""
        return tuple(one for name, one in self.overrides.items() if name not in self._plans)

    def evaluate(self, flag: str, subject: Subject) -> Evaluation:
        """One flag, of any type. Never raises: one that does not exist has the value None and an ``error_code``."""
        plan = self._plans.get(flag)
        if plan is not None:
            found = plan.decide(subject)
            return found if found.version == self.version else msgspec.structs.replace(found, version=self.version)
        message = f"flag {flag} not found"
        return Evaluation(flag, None, "ERROR", self.version, error_code="FLAG_NOT_FOUND", error_message=message)

    def on(self, flag: str, subject: Subject) -> bool:
        """Whether a boolean flag is on. One that is not in the file, or of another type, is: so code declares it."""
        plan = self._plans.get(flag)
        return plan is None or plan.on(subject)

    def values(self, subject: Subject) -> Mapping[str, bool]:
        """All boolean flags. One mapping for all who have the same: do not change it."""
        return self.outcome(subject).values

    def outcome(self, subject: Subject) -> Outcome:
        """All boolean flags, and why they are so."""
        if not self._open:
            return self._constant
        if self._timed or (self._ruled and subject.attributes):
            return self._made(tuple([plan.drawn(subject) for plan in self._open]))
        place = (subject.user, subject.org)
        known = self._known.get(place)
        if known is None:
            if len(self._known) >= FLAG_SUBJECTS:
                all_of_them = _Before(self._known, tuple(range(len(self._open))), (), {})
                self._before, self._known = (all_of_them, *self._before)[:_GENERATIONS], {}
            known = self._known[place] = self._decided(place, subject)
        return known

    def _decided(self, place: _Place, subject: Subject) -> Outcome:
        for before in self._before:
            was = before.known.get(place)
            if was is not None:
                fresh = tuple([plan.drawn(subject) for plan in before.fresh])
                # It is kept by those who know it, so no other takes its identity.
                key = (id(was), fresh)
                outcome = before.made.get(key)
                if outcome is None:
                    drawn = iter(fresh)
                    outcome = self._made(tuple([was.drawn[old] if old >= 0 else next(drawn) for old in before.order]))
                    if len(before.made) < FLAG_MAPPINGS:
                        before.made[key] = outcome
                return outcome
        return self._made(tuple([plan.drawn(subject) for plan in self._open]))

    def _made(self, drawn: tuple[tuple[bool, str], ...]) -> Outcome:
        outcome = self._outcomes.get(drawn)
        if outcome is None:
            reasons = self._reasons_of(tuple([reason for _, reason in drawn]))
            outcome = Outcome(self._mapping(tuple([on for on, _ in drawn])), reasons, drawn)
            if len(self._outcomes) < FLAG_MAPPINGS:
                self._outcomes[drawn] = outcome
        return outcome

    def _reasons_of(self, drawn: tuple[str, ...]) -> Mapping[str, str]:
        reasons = self._reasons.get(drawn)
        if reasons is None:
            reasons = self._still | {plan.name: reason for plan, reason in zip(self._open, drawn, strict=True)}
            if len(self._reasons) < FLAG_MAPPINGS:
                self._reasons[drawn] = reasons
        return reasons

    def _mapping(self, drawn: tuple[bool, ...]) -> Mapping[str, bool]:
        mapping = self._mappings.get(drawn)
        if mapping is None:
            mapping = self._same | {plan.name: on for plan, on in zip(self._open, drawn, strict=True)}
            if len(self._mappings) < FLAG_MAPPINGS:
                self._mappings[drawn] = mapping
        return mapping

    def _plan(self, name: str, before: Evaluator | None) -> Plan:
        flag, override, stage = self.file.flags[name], self.overrides.get(name), self.stages.get(name)
        if before is not None and before.file.metadata == self.file.metadata:
            plan = before._plans.get(name)
            if plan is not None and plan.made_of == ingredients(flag, override, stage):
                return plan
        return Plan(flag, override, stage, Stamp(self.version, self.file.metadata))

    def _taken_over(self, before: Evaluator) -> tuple[_Before, ...]:
        if before._timed or self._timed:
            return ()
        places = {id(plan): place for place, plan in enumerate(before._open)}
        order = tuple(places.get(id(plan), -1) for plan in self._open)
        return tuple(
            self._of(known, tuple(then[old] if old >= 0 else -1 for old in order))
            for known, then in [
                (before._known, tuple(range(len(before._open)))),
                *((one.known, one.order) for one in before._before),
            ][:_GENERATIONS]
        )

    def _of(self, known: Mapping[_Place, Outcome], order: tuple[int, ...]) -> _Before:
        fresh = tuple(plan for plan, old in zip(self._open, order, strict=True) if old < 0)
        return _Before(known, order, fresh, {})

    def differs(self, other: Evaluator) -> frozenset[str]:
        """Flags that may have another value for somebody."""
        names = self._plans.keys() | other._plans.keys()
        return frozenset(name for name in names if not _alike(self._plans.get(name), other._plans.get(name)))


_NOBODY: Final = Subject()


def _alike(one: Plan | None, other: Plan | None) -> bool:
    return one is not None and other is not None and one.decides_by == other.decides_by


def _version(file: FlagFile, overrides: Mapping[str, Override], stages: Mapping[str, StageState]) -> str:
    parts = [file.digest]
    parts += [f"{one.flag} {one.state} {one.percent} {one.version}" for _, one in sorted(overrides.items())]
    parts += ["-", *(f"{one.flag} {one.percent}" for _, one in sorted(stages.items()))]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "replace")).hexdigest()[:16]
