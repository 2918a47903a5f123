"""A flag in flagd's own terms: what the short form stands for, and the way back.

The document is complete: flagd decides by it as the hub does, run-time changes and stages included. Schedules and
guards are the hub's alone; of them only the percentage that is reached goes along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hub.flags.changes import WHOLE, Override, StageState
from hub.flags.definition import By, Definition

_MEMBER: Mapping[str, Any] = {"cat": [{"var": "org"}, "/", {"var": "targetingKey"}]}
"""``org/user``; no organisation has a slash."""
_FALLS_ON: Mapping[str, Any] = {"!!": [{"var": "org"}]}


class Effective(NamedTuple):
    """A flag as it stands now: by its file, and what is over it."""

    enabled: bool
    forced: str | None
    """"on" or "off" for everybody, by an override."""
    percent: int | None
    outside: str | None
    """The variant of those whom nothing decides."""
    moved: bool
    """Whether the percentage is another than the file's."""


def effective(flag: Definition, override: Override | None, stage: StageState | None) -> Effective:
    """What counts of a flag: an override before a stage, a stage before the file."""
    forced = override.state if override is not None else None
    percent, outside = flag.percent, flag.default_variant
    if flag.boolean and flag.on_variant and flag.off_variant:
        if override is not None and override.percent is not None:
            percent = override.percent
        elif stage is not None and flag.stages:
            percent = stage.percent
        percent = None if percent is None else min(max(percent, 0), WHOLE)
        outside = _outside(flag, percent)
    return Effective(flag.enabled, forced, percent, outside, percent != flag.percent)


def _outside(flag: Definition, percent: int | None) -> str | None:
    """With 0 or 100 % it is what everybody has; in between, what the file says, if that was about a part as well."""
    if percent == WHOLE:
        return flag.default_variant if flag.value_of(flag.default_variant) is True else flag.on_variant
    if percent == 0:
        return flag.default_variant if flag.value_of(flag.default_variant) is False else flag.off_variant
    return flag.default_variant if percent == flag.percent else flag.off_variant


def flag_document(flag: Definition, now: Effective) -> dict[str, Any]:
    """One flag of a flagd document."""
    document: dict[str, Any] = {"state": "ENABLED" if flag.enabled else "DISABLED", "variants": dict(flag.variants)}
    document["defaultVariant"] = now.outside
    if now.forced is not None:
        document["defaultVariant"] = _forced_variant(flag, now.forced)
        if document["defaultVariant"] is None:
            document["state"] = "DISABLED"
    elif (rule := _rule(flag, now)) is not None:
        document["targeting"] = rule
    if metadata := flag_metadata(flag):
        document["metadata"] = metadata
    return document


def flag_metadata(flag: Definition) -> dict[str, Any]:
    """Metadata of a flag, with what the short form has fields for."""
    known = {
        "owner": flag.owner,
        "description": flag.description,
        "expires": flag.expires.isoformat() if flag.expires else "",
    }
    return {**flag.metadata, **{name: text for name, text in known.items() if text}}


def _forced_variant(flag: Definition, forced: str) -> str | None:
    if not flag.boolean:
        return flag.default_variant if forced == "on" else None
    return flag.on_variant if forced == "on" else flag.off_variant


def _rule(flag: Definition, now: Effective) -> dict[str, Any] | None:
    rule: dict[str, Any] | None = dict(flag.targeting) if flag.targeting else None
    if now.percent is not None and 0 < now.percent < WHOLE:
        share = share_rule(flag, now.percent)
        rule = share if rule is None else {"if": [{"===": [rule, None]}, share, rule]}
    if flag.allow_users or flag.allow_orgs:
        rule = {"if": [_allowed(flag), flag.on_variant, rule]}
    return rule


def share_rule(flag: Definition, percent: int) -> dict[str, Any]:
    """So many of all users or organisations, "on" first: then whoever is on stays on when the percentage grows."""
    buckets = [[flag.on_variant, percent], [flag.off_variant, WHOLE - percent]]
    if flag.by == "user":
        return {"fractional": buckets}
    by_org = {"cat": [{"var": "$flagd.flagKey"}, {"var": "org"}]}
    return {"if": [dict(_FALLS_ON), {"fractional": [by_org, *buckets]}, None]}


def _allowed(flag: Definition) -> dict[str, Any]:
    lists = (
        ({"var": "targetingKey"}, [user for user in flag.allow_users if "/" not in user]),
        (_MEMBER, [user for user in flag.allow_users if "/" in user]),
        ({"var": "org"}, list(flag.allow_orgs)),
    )
    conditions = [{"in": [who, names]} for who, names in lists if names]
    return conditions[0] if len(conditions) == 1 else {"or": conditions}


class Parts(NamedTuple):
    """A rule taken apart into what the short form has words for."""

    users: tuple[str, ...] = ()
    orgs: tuple[str, ...] = ()
    rest: Mapping[str, Any] | None = None
    percent: int | None = None
    by: By = "user"


def parts_of(rule: Mapping[str, Any] | None, on: str | None, off: str | None) -> Parts:
    """The way back: a rule that is written as ``flag_document`` writes it. So a percentage that flagd's form spells out
    can be changed at run time like any other. What is written otherwise stays one rule."""
    if rule is None or on is None or off is None:
        return Parts(rest=rule)
    match rule:
        case {"if": [condition, outcome, rest]} if outcome == on and (lists := _lists_of(condition)) is not None:
            inner = parts_of(rest, on, off) if rest is None or isinstance(rest, dict) else None
            if inner is None or inner.users or inner.orgs:
                return Parts(rest=rule)
            return Parts(*lists, inner.rest, inner.percent, inner.by)
        case {"if": [{"===": [first, None]}, share, again]} if first == again and isinstance(first, dict):
            found = _share_of(share, on, off)
            return Parts(rest=first, percent=found[0], by=found[1]) if found else Parts(rest=rule)
    found = _share_of(rule, on, off)
    return Parts(percent=found[0], by=found[1]) if found else Parts(rest=rule)


def _share_of(rule: Any, on: str, off: str) -> tuple[int, By] | None:
    match rule:
        case {"fractional": [[first, int(percent)], [second, int(rest)]]}:
            by: By = "user"
        case {"if": [guard, {"fractional": [key, [first, int(percent)], [second, int(rest)]]}, None]}:
            if guard != _FALLS_ON or key != {"cat": [{"var": "$flagd.flagKey"}, {"var": "org"}]}:
                return None
            by = "org"
        case _:
            return None
    fits = (first, second) == (on, off) and percent + rest == WHOLE and 0 < percent < WHOLE
    return (percent, by) if fits else None


def _lists_of(condition: Any) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    conditions = condition["or"] if isinstance(condition, dict) and set(condition) == {"or"} else [condition]
    users: list[Any] = []
    orgs: list[Any] = []
    for one in conditions if isinstance(conditions, list) else ():
        match one:
            case {"in": [{"var": "targetingKey"}, [*names]]} if not any("/" in str(name) for name in names):
                users += names
            case {"in": [who, [*names]]} if who == _MEMBER and all("/" in str(name) for name in names):
                users += names
            case {"in": [{"var": "org"}, [*names]]}:
                orgs += names
            case _:
                return None
    names = [*users, *orgs]
    if not names or not all(isinstance(name, str) and name for name in names):
        return None
    return tuple(users), tuple(orgs)
