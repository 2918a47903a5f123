"""One flag of a file, field by field: flagd's own, and those of the short form."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple, TypeVar

from hub.config.flag_bounds import FLAG_LEAST_WINDOW_S
from hub.flags.changes import WHOLE
from hub.flags.definition import By, Definition, Guards, Stage, parse_percent, percent_text
from hub.flags.document import Faults, Mapping, Node, Scalar, Sequence, plain_value, scalar_value
from hub.flags.flagd import parts_of
from hub.flags.rules import Rules, nearest

_T = TypeVar("_T")

_FLAG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}", re.ASCII)
_VARIANT_NAME_LENGTH: Final = 100
_ON: Final = frozenset({"on", "true", "enabled", "yes"})
_OFF: Final = frozenset({"off", "false", "disabled", "no"})
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhdw])|0", re.ASCII)
_FLAGD_FIELDS: Final = ("state", "variants", "defaultVariant", "targeting", "metadata")
_FIELDS: Final = (
    *_FLAGD_FIELDS,
    *("rollout", "by", "allow", "stages", "starts_at", "abort_if", "owner", "description", "expires"),
)
_GUARDS: Final = ("gap_rate", "error_rate", "p99_ms", "window", "least")
_IGNORED: Final = ("$comment",)


def duration(text: str) -> float:
    """Seconds out of ``90s``, ``30m``, ``48h``, ``7d``. Raises ``ValueError``, whose text says why."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]} is not a time; write a number with s, m, h, d or w, as 48h")
    return float(found[1]) * _UNITS[found[2]] if found[2] else 0.0


def moment(text: str) -> float:
    """Seconds since 1970 out of ``2026-05-01T09:00:00Z``. Raises ``ValueError``, whose text says why."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min
    if at.tzinfo is None:
        raise ValueError(f"{text[:40]} is not a moment; write date, time and zone, as 2026-05-01T09:00:00Z")
    return at.astimezone(UTC).timestamp()


def day(text: str) -> date:
    """``2026-12-31``. Raises ``ValueError``, whose text says why."""
    try:
        if len(text) == 10:
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(f"{text[:40]} is not a date; write year, month and day, as 2026-12-31")


def read_metadata(node: Node, faults: Faults) -> dict[str, Any]:
    """flagd's metadata: names, each with a text, number or boolean."""
    if not isinstance(node, Mapping):
        faults.add(node.line, "metadata is a mapping of names to texts, numbers or booleans")
        return {}
    read: dict[str, Any] = {}
    for name, (line, value) in node.items.items():
        if name in _IGNORED:
            continue
        if not name or not isinstance(value, Scalar) or (plain := scalar_value(value, faults)) is None:
            faults.add(line, f"metadata {name[:80]}: write a text, a number or a boolean")
        else:
            read[name] = plain
    return read


class _Variants(NamedTuple):
    """What a flag can be, and which of it is on and off."""

    values: dict[str, Any]
    boolean: bool
    on: str | None
    off: str | None


class FlagReader:
    """Reads one flag. What is wrong goes to ``faults``."""

    def __init__(self, name: str, line: int, faults: Faults, rules: Rules) -> None:
        self._name = name
        self._line = line
        self._faults = faults
        self._rules = rules
        self._given: dict[str, tuple[int, Node]] = {}

    def read(self, node: Node) -> Definition | None:
        """The flag, whichever form it is written in; None when there is no making sense of it."""
        if not _FLAG_NAME.fullmatch(self._name):
            text = f"{self._name[:80]!r} is no name for a flag; use letters, digits, _ . : and -, at most 100 of them"
            self._faults.add(self._line, text)
        if isinstance(node, Scalar):
            return self._word(node)
        if not isinstance(node, Mapping):
            self._faults.add(node.line, f"{self._name} is a percentage, as 25%, on, off, or a mapping of fields")
            return None
        for name, (line, _) in node.items.items():
            if name not in _FIELDS and name not in _IGNORED:
                self._faults.add(line, f"a flag has no field {name[:80]}; {nearest(name, _FIELDS)}")
        self._given = node.items
        return self._fields()

    def _word(self, node: Scalar) -> Definition | None:
        """``chat: 25%``, ``chat: on``, ``chat: off``."""
        word = node.text.lower()
        if word in _ON or word in _OFF:
            self._given = {"state": (node.line, node)}
        elif node.text.endswith("%"):
            self._given = {"rollout": (node.line, node)}
        else:
            text = f"{self._name}: {node.text[:40] or 'nothing'} is no flag; write a percentage, as 25%, on or off"
            self._faults.add(node.line, text)
            return None
        return self._fields()

    def _fields(self) -> Definition:
        variants = self._variants()
        metadata = read_metadata(self._given["metadata"][1], self._faults) if "metadata" in self._given else {}
        expires = self._text("expires", metadata)
        line = self._line_of("expires")
        share = self._share(variants)
        return Definition(
            name=self._name,
            enabled=self._state(),
            variants=variants.values,
            boolean=variants.boolean,
            **share,
            stages=self._stages(share["percent"]),
            starts_at=self._parsed("starts_at", moment),
            abort_if=self._guards(),
            owner=self._text("owner", metadata),
            description=self._text("description", metadata),
            expires=self._try(line, "expires", day, expires) if expires else None,
            metadata=metadata,
        )

    # --- on and off

    def _state(self) -> bool:
        if "state" not in self._given:
            if "variants" in self._given:
                self._faults.add(self._line, f"{self._name} has no state; write state: ENABLED")
            return True
        node = self._given["state"][1]
        word = node.text.lower() if isinstance(node, Scalar) else ""
        if word not in _ON and word not in _OFF:
            self._faults.add(node.line, "state is on or off (flagd: ENABLED or DISABLED)")
        return word not in _OFF

    def _variants(self) -> _Variants:
        usual = {"on": True, "off": False}
        if "variants" not in self._given:
            return _Variants(usual, True, "on", "off")
        line, node = self._given["variants"]
        if not isinstance(node, Mapping) or not node.items:
            self._faults.add(line, 'variants is a mapping of names to values, as {"on": true, "off": false}')
            return _Variants(usual, True, "on", "off")
        values: dict[str, Any] = {}
        for name, (name_line, value) in node.items.items():
            if not 0 < len(name) <= _VARIANT_NAME_LENGTH:
                self._faults.add(name_line, f"the name of a variant has 1 to {_VARIANT_NAME_LENGTH} characters")
            values[name] = plain_value(value, self._faults)
        kinds = {_kind(value) for value in values.values()}
        if kinds & {"null"}:
            self._faults.add(line, "a variant has no value; write one, as true, 10 or a text")
        elif len(kinds) > 1:
            self._faults.add(line, f"variants of one flag are of one type, these are {' and '.join(sorted(kinds))}")
        made = Definition(self._name, True, values, None, kinds == {"boolean"})
        return _Variants(values, made.boolean, made.on_variant, made.off_variant)

    # --- for whom

    def _share(self, variants: _Variants) -> dict[str, Any]:
        """The fields that say for whom a flag is what: default, allow list, rule, percentage."""
        rule = None
        if "targeting" in self._given:
            rule = self._rules.rule(self._given["targeting"][1], variants.values)
        parts = parts_of(rule, variants.on, variants.off)
        users, orgs = self._allowed(variants)
        given = self._percent(variants)
        if given is not None and parts.percent is not None:
            self._faults.add(self._line_of("rollout"), "rollout, and a percentage in targeting; keep one of them")
        percent = parts.percent if given is None else given
        default = self._default(variants, percent)
        if variants.boolean and percent is None and default is not None:
            percent = WHOLE if variants.values.get(default) is True else 0
        return {
            "default_variant": default,
            "percent": percent if variants.boolean else None,
            "by": self._by(parts.by, parts.percent is not None),
            "allow_users": users or parts.users,
            "allow_orgs": orgs or parts.orgs,
            "targeting": parts.rest,
        }

    def _percent(self, variants: _Variants) -> int | None:
        if "rollout" in self._given:
            self._need_switch("rollout", variants)
            return self._parsed("rollout", parse_percent)
        if "stages" in self._given:
            self._need_switch("stages", variants)
            return 0
        return None

    def _default(self, variants: _Variants, percent: int | None) -> str | None:
        if "defaultVariant" not in self._given:
            if "variants" in self._given and percent is None:
                names = ", ".join(variants.values)[:80]
                text = (
                    f"{self._name} has no defaultVariant; name one of {names}, or write null for the caller's default"
                )
                self._faults.add(self._line, text)
            return variants.on if percent is None or percent == WHOLE else variants.off
        node = self._given["defaultVariant"][1]
        name = node.text if isinstance(node, Scalar) else ""
        if (
            isinstance(node, Scalar)
            and node.plain
            and scalar_value(node, Faults("")) is None
            and not node.is_switch_word
        ):
            return None
        if name not in variants.values:
            text = f"there is no variant {name[:80]}: {nearest(name, variants.values)}"
            self._faults.add(node.line, text)
        return name

    def _by(self, found: By, spelled: bool) -> By:
        if "by" not in self._given:
            return found
        node = self._given["by"][1]
        word = node.text if isinstance(node, Scalar) else ""
        if word not in ("user", "org"):
            self._faults.add(node.line, f"by is user or org, not {word[:40] or 'this'}")
        if spelled:
            self._faults.add(node.line, "by, and a percentage in targeting that says it itself; take by out")
        return "org" if word == "org" else "user"

    def _allowed(self, variants: _Variants) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if "allow" not in self._given:
            return (), ()
        self._need_switch("allow", variants)
        line, node = self._given["allow"]
        if not isinstance(node, Mapping):
            self._faults.add(line, "allow has lists of users and orgs, as {users: [ann], orgs: [acme]}")
            return (), ()
        for name, (name_line, _) in node.items.items():
            if name not in ("users", "orgs"):
                self._faults.add(name_line, f"allow has no field {name[:80]}; it has users and orgs")
        return self._names(node, "users"), self._names(node, "orgs")

    def _names(self, node: Mapping, field: str) -> tuple[str, ...]:
        """Names, as they were written: ``[1001, on]`` are the texts "1001" and "on"."""
        if field not in node.items:
            return ()
        line, listed = node.items[field]
        if not isinstance(listed, Sequence):
            self._faults.add(line, f"{field} is a list, as [ann, bob]")
            return ()
        names = [item.text if isinstance(item, Scalar) else "" for item in listed.items]
        for item, name in zip(listed.items, names, strict=True):
            if field == "users" and "/" in name and not all(name.split("/", 1)):
                self._faults.add(item.line, f"{name[:80]} is no user; write a user, or org/user")
        for item, name in zip(listed.items, names, strict=True):
            if not name:
                self._faults.add(item.line, f"{field} has an entry that is no name; write names, as [ann, bob]")
        return tuple(dict.fromkeys(names))

    def _need_switch(self, field: str, variants: _Variants) -> None:
        if variants.on is None or variants.off is None:
            text = f"{field} is for flags with a variant that is true and one that is false; use targeting for others"
            self._faults.add(self._line_of(field), text)

    # --- schedules

    def _stages(self, percent: int | None) -> tuple[Stage, ...]:
        if "stages" not in self._given:
            for field in ("starts_at", "abort_if"):
                if field in self._given:
                    self._faults.add(self._line_of(field), f"{field} is about stages, and there are none; add stages")
            return ()
        line, node = self._given["stages"]
        if not isinstance(node, Sequence) or not node.items:
            self._faults.add(line, "stages is a list, as [{after: 0h, percent: 1}, {after: 48h, percent: 10}]")
            return ()
        stages: list[Stage] = []
        before = Stage(-1.0, percent or 0)
        for item in node.items:
            stage = self._stage(item)
            if stage is None:
                continue
            if stage.after_s <= before.after_s:
                self._faults.add(
                    item.line, "a stage comes after the one before it; put them in the order of their times"
                )
            if stage.percent < before.percent:
                shown = f"{percent_text(stage.percent)} after {percent_text(before.percent)}"
                self._faults.add(
                    item.line, f"stages only grow, here is {shown}; to go back use abort_if or hub flags set"
                )
            stages.append(stage)
            before = stage
        return tuple(stages)

    def _stage(self, node: Node) -> Stage | None:
        if not isinstance(node, Mapping) or set(node.items) != {"after", "percent"}:
            self._faults.add(node.line, "a stage has after and percent, as {after: 48h, percent: 10}")
            return None
        after = self._parse(node.items["after"][1], "after", duration)
        percent = self._parse(node.items["percent"][1], "percent", parse_percent)
        return None if after is None or percent is None else Stage(after, percent)

    def _guards(self) -> Guards | None:
        if "abort_if" not in self._given:
            return None
        line, node = self._given["abort_if"]
        if not isinstance(node, Mapping):
            self._faults.add(line, "abort_if is a mapping of limits, as {error_rate: 0.02, window: 5m}")
            return None
        read: dict[str, Any] = {}
        for name, (name_line, value) in node.items.items():
            if name not in _GUARDS:
                self._faults.add(name_line, f"abort_if has no field {name[:80]}; {nearest(name, _GUARDS)}")
            elif name == "window":
                read["window_s"] = self._window(name_line, value)
            else:
                read[name] = self._limit(value, name)
        if not {"gap_rate", "error_rate", "p99_ms"} & set(read):
            self._faults.add(line, "abort_if has no limit; add gap_rate, error_rate or p99_ms")
        return Guards(**read)

    def _window(self, line: int, node: Node) -> float:
        window_s = self._parse(node, "window", duration)
        if window_s is not None and window_s < FLAG_LEAST_WINDOW_S:
            text = f"the window of abort_if is {FLAG_LEAST_WINDOW_S:g}s at least, to hear all nodes in it; write 5m"
            self._faults.add(line, text)
        return window_s or 0.0

    def _limit(self, node: Node, name: str) -> float | int:
        value = scalar_value(node, self._faults) if isinstance(node, Scalar) else None
        whole = name == "least"
        fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and value >= whole
        if not fits:
            wanted = "a whole number from 1" if whole else "a number from 0, as 0.02"
            self._faults.add(node.line, f"{name} is {wanted}")
            return 1
        return int(value) if whole else float(value)  # type: ignore[arg-type]

    # --- single values

    def _line_of(self, field: str) -> int:
        return self._given[field][0] if field in self._given else self._line

    def _text(self, field: str, metadata: dict[str, Any]) -> str:
        """A field that flagd's form has in its metadata."""
        beside = metadata.pop(field, "")
        if field not in self._given:
            return str(beside)
        line, node = self._given[field]
        if beside:
            self._faults.add(line, f"{field} stands here and in metadata; keep one of them")
        if not isinstance(node, Scalar):
            self._faults.add(line, f"{field} is a text")
            return ""
        return node.text

    def _parsed(self, field: str, parse: Callable[[str], _T]) -> _T | None:
        return self._parse(self._given[field][1], field, parse) if field in self._given else None

    def _parse(self, node: Node, field: str, parse: Callable[[str], _T]) -> _T | None:
        return self._try(node.line, field, parse, node.text if isinstance(node, Scalar) else "this")

    def _try(self, line: int, field: str, parse: Callable[[str], _T], text: str) -> _T | None:
        try:
            return parse(text)
        except (ValueError, OverflowError) as error:
            self._faults.add(line, f"{field}: {error}")
            return None


def _kind(value: Any) -> str:
    kinds = {bool: "boolean", int: "number", float: "number", str: "text", dict: "mapping", list: "mapping"}
    return kinds.get(type(value), "null")
