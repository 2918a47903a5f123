"""One flag as it stands, ready to be decided: what needs no rule is known beforehand, rules are given to flagd-core."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import structlog
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext

from hub.flags.buckets import Buckets
from hub.flags.changes import WHOLE, Override, StageState
from hub.flags.cost import looks_at_time
from hub.flags.definition import Definition
from hub.flags.flagd import effective, flag_metadata
from hub.flags.words import Evaluation, Subject

_RESERVED: Final = ("targetingKey", "user", "org", "$flagd")

log = structlog.get_logger(__name__)

# It tells of attributes that do not fit a rule, with what was in them. Clients send attributes.
logging.getLogger("openfeature.contrib").setLevel(logging.CRITICAL)


class Stamp(NamedTuple):
    """What all answers of one evaluator have."""

    version: str
    metadata: Mapping[str, Any]


class Plan:
    """How one flag is decided."""

    def __init__(self, flag: Definition, override: Override | None, stage: StageState | None, stamp: Stamp) -> None:
        self.flag = flag
        self.name = flag.name
        now = effective(flag, override, stage)
        self._version = stamp.version
        self._metadata = {**stamp.metadata, **flag_metadata(flag)}
        self.made_of = ingredients(flag, override, stage)
        """Plans for which this is equal are the same, but for their stamps."""
        self.timed = flag.targeting is not None and looks_at_time(flag.targeting)
        """Whether it may be another for the same user later."""
        self._users = frozenset(user for user in flag.allow_users if "/" not in user)
        self._members = frozenset(tuple(user.split("/", 1)) for user in flag.allow_users if "/" in user)
        self._draws: dict[tuple[bool, str], tuple[bool, str]] = {}
        self._orgs = frozenset(flag.allow_orgs)
        self._by_org = flag.by == "org"
        self._buckets = Buckets(flag.name)
        part = now.percent is not None and 0 < now.percent < WHOLE
        self._percent = now.percent if part else None
        selective = bool(flag.allow_users or self._orgs or flag.targeting)
        self._choose = _chooser(flag) if flag.targeting else None
        self._allowed = self._made(flag.on_variant, "TARGETING_MATCH", "allow_list")
        self._in = self._made(flag.on_variant, "SPLIT", "rollout")
        self._out = self._made(flag.off_variant, "SPLIT", "rollout")
        self._matches = {name: self._made(name, "TARGETING_MATCH", "targeting") for name in flag.variants}
        rule = "rollout" if now.moved and not part else "default"
        self._default = self._made(
            now.outside, "DEFAULT" if selective or part or now.outside is None else "STATIC", rule
        )
        self._told = False
        self.constant = self._constant(now.enabled, now.forced, open_=selective or part)
        self.decides_by = self._essence(now.percent, now.outside)
        """Plans for which this is equal decide the same for everybody."""

    def decide(self, subject: Subject) -> Evaluation:
        """Never raises."""
        if self.constant is not None:
            return self.constant
        try:
            return self._decide(subject)
        except Exception as error:  # whatever a rule does with what it was given: reading a flag cannot fail
            return self._failed(error)

    def on(self, subject: Subject) -> bool:
        """Whether it is on; what has no value, or is not boolean, counts as on."""
        return self.drawn(subject)[0]

    def drawn(self, subject: Subject) -> tuple[bool, str]:
        """The same, and the reason. One object for all who have the same."""
        found = self.constant or self.decide(subject)
        drawn = (found.value if isinstance(found.value, bool) else True, found.reason)
        return self._draws.setdefault(drawn, drawn)

    def _decide(self, subject: Subject) -> Evaluation:
        if subject.user in self._users or subject.org in self._orgs:
            return self._allowed
        if self._members and (subject.org, subject.user) in self._members:
            return self._allowed
        if self._choose is not None:
            variant = self._choose(subject)
            if variant is not None:
                return self._matches[variant]
        if self._percent is not None:
            outcome = self._bucket(subject, self._percent)
            if outcome is not None:
                return outcome
        return self._default

    def _bucket(self, subject: Subject, percent: int) -> Evaluation | None:
        """None for whom there is nothing to draw by."""
        who = subject.org if self._by_org else subject.user
        if not who:
            return None
        try:
            place = self._buckets.of_org(who) if self._by_org else self._buckets.of_user(who)
        except UnicodeEncodeError:
            return None
        return self._in if place < percent else self._out

    def _constant(self, enabled: bool, forced: str | None, *, open_: bool) -> Evaluation | None:
        flag = self.flag
        if not enabled:
            return self._off("kill_switch")
        if forced == "off":
            return self._off("override")
        if forced == "on":
            variant = flag.on_variant if flag.boolean else flag.default_variant
            made = self._made(variant, "STATIC", "override")
            return made if variant or not flag.boolean else self._valued(made, True)
        return None if open_ else self._default

    def _off(self, rule: str) -> Evaluation:
        """Switched off: false for a flag that is on or off, for others the default of whoever asks."""
        made = self._made(self.flag.off_variant, "DISABLED", rule)
        return self._valued(made, False) if self.flag.boolean else made

    def _made(self, variant: str | None, reason: str, rule: str) -> Evaluation:
        value = self.flag.value_of(variant)
        return Evaluation(self.name, value, reason, self._version, variant, rule, metadata=self._metadata)

    def _valued(self, made: Evaluation, value: bool) -> Evaluation:
        return Evaluation(
            self.name, value, made.reason, self._version, made.variant, made.rule, metadata=self._metadata
        )

    def _failed(self, error: Exception) -> Evaluation:
        made = self._default
        kind = type(error).__name__
        if not self._told:
            self._told = True
            # Its text may hold what a client sent.
            log.warning("rule of a flag failed; the default counts", flag=self.name, reason=kind)
        return Evaluation(
            *(self.name, made.value, "ERROR", self._version, made.variant, "default", "GENERAL", "the rule failed"),
            metadata=self._metadata,
            cause=f"{kind}: {str(error)[:200]}",
        )

    def _essence(self, percent: int | None, outside: str | None) -> tuple[Any, ...]:
        if self.constant is not None:
            return (True, self.constant.value, self.constant.variant)
        flag = self.flag
        rules = (flag.variants, flag.targeting, self._users, self._members, self._orgs)
        return (False, percent, flag.by if self._percent else "", outside, *rules)


def ingredients(flag: Definition, override: Override | None, stage: StageState | None) -> tuple[Any, ...]:
    """All that a plan depends on."""
    forced = None if override is None else (override.state, override.percent)
    return (flag, forced, None if stage is None else stage.percent)


def _chooser(flag: Definition) -> Callable[[Subject], str | None]:
    """Asks flagd-core about the rule alone: the variant that it names, None when it names none."""
    core = FlagdCore()
    document = {
        "state": "ENABLED",
        "variants": dict(flag.variants),
        "defaultVariant": None,
        "targeting": flag.targeting,
    }
    core.set_flags({"flags": {flag.name: document}})
    kind = type(next(iter(flag.variants.values())))
    resolvers: dict[type, Callable[..., Any]] = {
        bool: core.resolve_boolean_value,
        str: core.resolve_string_value,
        int: core.resolve_float_value,
        float: core.resolve_float_value,
    }
    resolve = resolvers.get(kind, core.resolve_object_value)

    def choose(subject: Subject) -> str | None:
        variant: str | None = resolve(flag.name, None, _context(subject)).variant
        return variant

    return choose


def _context(subject: Subject) -> EvaluationContext:
    """Attributes, and over them who it is: nobody becomes somebody else by an attribute."""
    attributes = {name: value for name, value in subject.attributes.items() if name not in _RESERVED}
    if subject.user:
        attributes["user"] = subject.user
    if subject.org:
        attributes["org"] = subject.org
    return EvaluationContext(subject.user or None, attributes)
