"""What rules cost: which are large, and which cannot be remembered because they look at the time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from hub.flags.definition import Definition

_LARGE: Final = 200
"""Parts of a rule; each takes about a microsecond."""


def looks_at_time(rule: Any) -> bool:
    """Whether what comes out may be another later for the same user: by the time, or by a name that is computed."""
    return any("var" in part and _may_be_time(part["var"]) for part in _operations(rule)) or any(
        operator in part for part in _operations(rule) for operator in ("missing", "missing_some")
    )


def costly(flags: Mapping[str, Definition]) -> tuple[str, ...]:
    """A sentence for every flag whose rule is expensive where many connections are open: a warning, never a fault."""
    return tuple(sentence for flag in flags.values() if flag.targeting for sentence in _sentences(flag))


def _sentences(flag: Definition) -> Iterator[str]:
    parts = _weight(flag.targeting)
    if parts > _LARGE:
        yield (
            f"{flag.name}: its rule has {parts} parts, each user costs about {parts / 1000:.1f} ms when it is "
            "changed; make it simpler, or list users and organisations under allow"
        )
    if looks_at_time(flag.targeting):
        yield (
            f"{flag.name}: its rule looks at the time or at a name that it computes, so all flags are decided anew "
            "whenever they are asked; use stages instead"
        )


def _may_be_time(name: Any) -> bool:
    if isinstance(name, list):
        name = name[0] if name else ""
    return not isinstance(name, str) or name == "" or (name.startswith("$flagd") and name != "$flagd.flagKey")


def _operations(rule: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(rule, Mapping):
        yield rule
        for given in rule.values():
            yield from _operations(given)
    elif isinstance(rule, list | tuple):
        for given in rule:
            yield from _operations(given)


def _weight(rule: Any) -> int:
    if isinstance(rule, Mapping):
        return 1 + sum(map(_weight, rule.values()))
    return sum(map(_weight, rule)) if isinstance(rule, list | tuple) else 1
