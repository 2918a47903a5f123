"""Decides flags: a file, run-time changes and stages, compiled once. Rules are flagd-core's, and so are its buckets.

Order: kill switch → override → allow list → targeting rule → sticky percentage → default. Never raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from hub.config.flag_bounds import FLAG_MAPPINGS, FLAG_SUBJECTS
from hub.flags.changes import Override, StageState
from hub.flags.plan import Plan, Stamp
from hub.flags.schema import FlagFile
from hub.flags.words import Evaluation, Subject

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class Outcome(NamedTuple):
    """All boolean flags of somebody. One object, and one mapping of values, for all who have the same."""

    values: Mapping[str, bool]
    reasons: Mapping[str, str]


class Evaluator:
    """The flags as they stand. Immutable: a change is another evaluator. For one event loop or thread at a time."""

    def __init__(
        self,
        file: FlagFile,
        overrides: Mapping[str, Override] = _NONE,
        stages: Mapping[str, StageState] = _NONE,
    ) -> None:
        self.file = file
        self.overrides = dict(overrides)
        self.stages = dict(stages)
        self.version = _version(file, self.overrides, self.stages)
        self._plans = {
            name: Plan(flag, self.overrides.get(name), self.stages.get(name), Stamp(self.version, file.metadata))
            for name, flag in file.flags.items()
        }
        booleans = [plan for plan in self._plans.values() if plan.flag.boolean]
        self._open = [plan for plan in booleans if plan.constant is None]
        self._same = {plan.name: plan.constant is None or plan.on(_NOBODY) for plan in booleans}
        self._reasons = {plan.name: plan.constant.reason for plan in booleans if plan.constant is not None}
        self._constant = Outcome(self._same, self._reasons)
        self._by_place = not any(plan.flag.targeting for plan in self._open)
        self._mappings: dict[tuple[bool, ...], Mapping[str, bool]] = {}
        self._outcomes: dict[tuple[tuple[bool, str], ...], Outcome] = {}
        self._known: dict[tuple[str, str], Outcome] = {}

    @property
    def orphans(self) -> tuple[Override, ...]:
        """Overrides of flags that are not in the file; they change nothing."""
        return tuple(one for name, one in self.overrides.items() if name not in self._plans)

    def evaluate(self, flag: str, subject: Subject) -> Evaluation:
        """One flag, of any type. Never raises: one that does not exist has the value None and an ``error_code``."""
        plan = self._plans.get(flag)
        if plan is not None:
            return plan.decide(subject)
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
        if not self._by_place:
            return self._outcome(subject)
        place = (subject.user, subject.org)
        known = self._known.get(place)
        if known is None:
            if len(self._known) >= FLAG_SUBJECTS:
                self._known.clear()
            known = self._known[place] = self._outcome(subject)
        return known

    def _outcome(self, subject: Subject) -> Outcome:
        drawn = tuple([plan.drawn(subject) for plan in self._open])
        outcome = self._outcomes.get(drawn)
        if outcome is None:
            reasons = {plan.name: reason for plan, (_, reason) in zip(self._open, drawn, strict=True)}
            outcome = Outcome(self._mapping(tuple([on for on, _ in drawn])), self._reasons | reasons)
            if len(self._outcomes) < FLAG_MAPPINGS:
                self._outcomes[drawn] = outcome
        return outcome

    def _mapping(self, drawn: tuple[bool, ...]) -> Mapping[str, bool]:
        mapping = self._mappings.get(drawn)
        if mapping is None:
            mapping = self._same | {plan.name: on for plan, on in zip(self._open, drawn, strict=True)}
            if len(self._mappings) < FLAG_MAPPINGS:
                self._mappings[drawn] = mapping
        return mapping

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
