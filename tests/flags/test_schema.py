"""Files of flags: both forms are the same flag, and what is wrong is told with line, reason and what to write."""

# ruff: noqa: E501 - the faults are a table

from __future__ import annotations

import contextlib
import json
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.config.flag_bounds import FLAG_FILE_BYTES, FLAG_FILE_FAULTS
from hub.errors import ConfigError
from hub.flags import Definition, FlagFile, FlagFileError, Guards, Stage, load_flags, parse_percent, percent_text


def load(flags: str) -> FlagFile:
    return load_flags("flags:\n" + flags, "flags.yaml")


def one(flag: str) -> Definition:
    (definition,) = load(f"  chat: {flag}\n").flags.values()
    return definition


LONG_ON_OFF = 'state: ENABLED, variants: {"on": true, "off": false}'
SAME = {
    "a percentage": (
        "25%",
        f'{{{LONG_ON_OFF}, defaultVariant: "off", targeting: {{fractional: [["on", 25000], ["off", 75000]]}}}}',
    ),
    "on": ("on", f'{{{LONG_ON_OFF}, defaultVariant: "on"}}'),
    "off": ("off", '{state: DISABLED, variants: {"on": true, "off": false}, defaultVariant: "on"}'),
    "nobody": ("0%", f'{{{LONG_ON_OFF}, defaultVariant: "off"}}'),
    "unquoted on": (
        "{state: on, rollout: 100}",
        "{state: on, variants: {on: true, off: false}, defaultVariant: on}",
    ),
    "who and what for": (
        "{owner: ann, description: Rooms, expires: 2026-12-31}",
        f'{{{LONG_ON_OFF}, defaultVariant: "on", metadata: {{owner: ann, description: Rooms, expires: 2026-12-31}}}}',
    ),
    "lists": (
        "{rollout: 0, allow: {users: [ann], orgs: [acme]}}",
        f'{{{LONG_ON_OFF}, defaultVariant: "off", targeting: {{if: [{{or: [{{in: [{{var: targetingKey}}, [ann]]}}, '
        '{in: [{var: org}, [acme]]}]}, "on", null]}}',
    ),
    "by organisation": (
        "{rollout: 0.125, by: org}",
        f'{{{LONG_ON_OFF}, defaultVariant: "off", targeting: {{if: [{{"!!": [{{var: org}}]}}, {{fractional: '
        '[{cat: [{var: $flagd.flagKey}, {var: org}]}, ["on", 125], ["off", 99875]]}, null]}}',
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_both_forms_are_the_same_flag(name: str) -> None:
    short, long = SAME[name]
    assert one(short) == one(long)


def test_everything_that_a_flag_can_say() -> None:
    flag = one(
        "{state: on, by: org, allow: {users: [ann, 17], orgs: [on]}, owner: team, expires: 2026-12-31, "
        "stages: [{after: 0h, percent: 1}, {after: 48h, percent: 12.5%}], starts_at: 2026-05-01T09:00:00+02:00, "
        "abort_if: {gap_rate: 0.5, error_rate: 0.02, p99_ms: 250, window: 5m, least: 10}}"
    )
    assert (flag.percent, flag.by, flag.allow_users, flag.allow_orgs) == (0, "org", ("ann", "17"), ("on",))
    assert flag.stages == (Stage(0.0, 1_000), Stage(172_800.0, 12_500))
    assert flag.starts_at == datetime(2026, 5, 1, 7, tzinfo=UTC).timestamp()
    assert flag.abort_if == Guards(0.5, 0.02, 250.0, 300.0, 10)
    assert flag.expires == date(2026, 12, 31)


def test_json_is_read_too() -> None:
    text = json.dumps({"flags": {"chat": {"rollout": 5, "description": "\U0001f600"}}}, indent=2)
    assert load_flags(text, "flags.json").flags["chat"].description == "\U0001f600"


def test_expiry_is_a_warning() -> None:
    file = load("  chat: {expires: 2026-05-01, owner: ann}\n  uploads: {expires: 2026-05-02}\n")
    assert file.expired(date(2026, 5, 1)) == ()
    (warning,) = file.expired(date(2026, 5, 2))
    assert "chat expired on 2026-05-01, ask ann" in warning


def test_percentages_as_text() -> None:
    assert [parse_percent(text) for text in ("25", "25%", "0.001%", "12.50", "100 %")] == [
        25_000,
        25_000,
        1,
        12_500,
        100_000,
    ]
    assert [percent_text(percent) for percent in (25_000, 1, 12_500, 100_000, 0)] == [
        "25%",
        "0.001%",
        "12.5%",
        "100%",
        "0%",
    ]


FAULTS = {
    "tabs": ("flags:\n\tchat: on\n", 2, "a tab; indent with spaces"),
    "a tab after the colon": ("flags:\n  chat:\ton\n", 2, "a tab"),
    "a duplicate": ("flags:\n  chat: on\n  uploads: on\n  chat: off\n", 4, "chat stands here twice, first in line 2"),
    "a duplicate field": ("flags:\n  chat:\n    rollout: 1\n    rollout: 2\n", 4, "rollout stands here twice"),
    "101": ("flags:\n  chat: 101%\n", 2, "more than 100 %; write a percentage between 0 and 100"),
    "a step that is too small": ("flags:\n  chat: 1.2345%\n", 2, "more than 3 decimals"),
    "a bare number": ("flags:\n  chat: 25\n", 2, "write a percentage, as 25%, on or off"),
    "no variant": ("flags:\n  c:\n    state: on\n    variants: {a: 1, b: 2}\n    defaultVariant: A\n", 5, "no variant A"),
    "no variant in a rule": ("flags:\n  chat:\n    targeting:\n      if: [true, onn, off]\n", 4, "did you mean on?"),
    "no variant in a shared rule": (
        "$evaluators:\n  r: {if: [true, big, null]}\nflags:\n  chat: {targeting: {$ref: r}}\n",
        2,
        "there is no variant big",
    ),
    "no default": ("flags:\n  chat: {state: on, variants: {a: 1}}\n", 2, "no defaultVariant; name one of a"),
    "a loop": (
        "$evaluators:\n  a: {or: [{$ref: b}]}\n  b: {or: [{$ref: a}]}\nflags:\n  chat: {targeting: {$ref: a}}\n",
        3,
        "the rule loops: a → b → a",
    ),
    "no such rule": ("flags:\n  chat: {targeting: {$ref: vips}}\n", 2, "no rule vips"),
    "an ambiguous on": ('flags:\n  c: {state: on, variants: {a: on}, defaultVariant: a}\n', 2, 'write true for the boolean or "on"'),
    "on in a comparison": ('flags:\n  c: {targeting: {if: [{"==": [{var: x}, on]}, on, off]}}\n', 2, 'or "on" in quotes'),
    "an old octal": ("flags:\n  c: {state: on, variants: {a: 017}, defaultVariant: a}\n", 2, '"017" in quotes'),
    "nothing": ("", 1, "nothing in the file; it begins with `flags:`"),
    "only a comment": ("# flags\n", 1, "nothing in the file"),
    "no flags": ("flags:\n", 1, "flags is a mapping of names"),
    "a list": ("- chat\n", 1, "not a mapping"),
    "an alias": ("flags:\n  a: &x {rollout: 1}\n  b: *x\n", 3, "aliases are not read"),
    "a tag": ("flags:\n  a: !!python/name:os.system x\n", 2, "tags are not read"),
    "two documents": ("flags: {}\n---\nflags: {}\n", 2, "a second document"),
    "no such field": ("flags:\n  chat:\n    rolout: 5\n", 3, "did you mean rollout?"),
    "no such field at the top": ("flag:\n  chat: on\n", 1, "did you mean flags?"),
    "no such operator": ("flags:\n  chat: {targeting: {iff: [true, on, null]}}\n", 2, "did you mean if?"),
    "an operator that writes": ("flags:\n  chat: {targeting: {log: [on]}}\n", 2, "no operator log"),
    "two operators": ("flags:\n  chat: {targeting: {or: [true], and: [true]}}\n", 2, "has one operator, this has 2"),
    "weights of nothing": ("flags:\n  chat: {targeting: {fractional: [[on, 0], [off, 0]]}}\n", 2, "add up to 0"),
    "a weight with decimals": ("flags:\n  chat: {targeting: {fractional: [[on, 0.5], [off, 1]]}}\n", 2, "whole numbers"),
    "an open bracket": ("flags:\n  chat: {rollout: 5\n", 3, "begins in line 2"),
    "a control character": ("flags:\n  a: \x01on\n", 2, "U+0001"),
    "mixed variants": ("flags:\n  c: {state: on, variants: {a: 1, b: one}, defaultVariant: a}\n", 2, "of one type"),
    "a percentage of texts": ("flags:\n  c: {state: on, variants: {a: x}, defaultVariant: a, rollout: 1}\n", 2, "use targeting"),
    "stages that shrink": ("flags:\n  c: {stages: [{after: 0, percent: 9}, {after: 1h, percent: 5}]}\n", 2, "stages only grow"),
    "stages in disorder": ("flags:\n  c: {stages: [{after: 2h, percent: 1}, {after: 1h, percent: 5}]}\n", 2, "order of their times"),
    "a window in which not all nodes are heard": (
        "flags:\n  c:\n    stages: [{after: 0h, percent: 1}]\n    abort_if:\n      p99_ms: 5\n      window: 9s\n",
        6,
        "10s at least",
    ),
    "guards without stages": ("flags:\n  c: {abort_if: {p99_ms: 5}}\n", 2, "add stages"),
    "no such day": ("flags:\n  c: {expires: 2026-02-30}\n", 2, "as 2026-12-31"),
    "a moment without a zone": ("flags:\n  c: {stages: [{after: 0, percent: 1}], starts_at: 2026-01-01T00:00}\n", 2, "and zone"),
    "a list of users that is none": ("flags:\n  c: {allow: {users: ann}}\n", 2, "users is a list"),
    "a name with spaces": ("flags:\n  'a b': on\n", 2, "is no name for a flag"),
    "too deep": ("flags: " + "[" * 5000 + "]" * 5000, 1, "nested deeper"),
    "too large": ("flags:\n" + "#" * FLAG_FILE_BYTES, 1, "larger than"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_refused(name: str) -> None:
    text, line, reason = FAULTS[name]
    with pytest.raises(FlagFileError) as caught:
        load_flags(text, "flags.yaml")
    assert reason in str(caught.value)
    assert (line, True) == (caught.value.line, isinstance(caught.value, ConfigError))
    assert str(caught.value).startswith(f"flags.yaml, line {line}: ")


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(FlagFileError) as caught:
        load("  a: 101%\n  b: {rolout: 5}\n  c: {expires: soon}\n")
    assert [fault.line for fault in caught.value.faults] == [2, 3, 4]
    with pytest.raises(FlagFileError) as caught:
        load("".join(f"  f{number}: 101%\n" for number in range(100)))
    assert len(caught.value.faults) == FLAG_FILE_FAULTS
    assert "and 80 more" in str(caught.value)


def test_references_that_double_end_soon() -> None:
    rules = "".join(
        f"  r{number}: {{or: [{{$ref: r{number + 1}}}, {{$ref: r{number + 1}}}]}}\n" for number in range(30)
    )
    text = f"$evaluators:\n{rules}  r30: {{'!!': true}}\nflags:\n  a: {{targeting: {{if: [{{$ref: r0}}, on, null]}}}}\n"
    with pytest.raises(FlagFileError, match="too large once its references are put in"):
        load_flags(text, "flags.yaml")


SAMPLE = """flags:
  chat: {rollout: 25, by: org, allow: {users: [ann]}, expires: 2026-12-31}
  theme:
    state: ENABLED
    variants: {light: 1, dark: 2}
    defaultVariant: light
    targeting: {if: [{$ref: r}, dark, {fractional: [[dark, 1], [light, 3]]}]}
  staged: {stages: [{after: 0h, percent: 1}], abort_if: {p99_ms: 5}}
$evaluators:
  r: {ends_with: [{var: email}, x]}
"""


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, len(SAMPLE)),
    st.integers(0, 12),
    st.text(alphabet=" \n\t:{}[],-&*!'\"%#on0123.$rxé\ud800", max_size=6),
)
def test_nothing_but_its_own_error_comes_out_of_a_file(at: int, cut: int, put: str) -> None:
    with contextlib.suppress(FlagFileError):
        load_flags(SAMPLE[:at] + put + SAMPLE[at + cut :], "flags.yaml")
