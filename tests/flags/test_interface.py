"""What every ``Flags`` does, over a dict or over a file; and that reading a flag cannot fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.flags import Evaluation, Evaluator, FixedFlags, Subject, load_flags


class Reads(Protocol):
    version: Any

    def evaluate(self, flag: str, subject: Subject) -> Evaluation: ...
    def on(self, flag: str, subject: Subject) -> bool: ...
    def values(self, subject: Subject) -> Any: ...


def over_a_file(values: dict[str, bool]) -> Reads:
    lines = "".join(f"  {name}: {100 if on else 0}%\n" for name, on in values.items())
    return Evaluator(load_flags("flags:\n" + lines, "flags.yaml"))


@pytest.mark.parametrize("make", [FixedFlags, over_a_file])
def test_every_implementation(make: Callable[[dict[str, bool]], Reads]) -> None:
    flags, ann = make({"chat": True, "uploads": False}), Subject("ann", "acme")
    assert (flags.on("chat", ann), flags.on("uploads", ann), flags.on("other", ann)) == (True, False, True)
    assert flags.values(ann) == {"chat": True, "uploads": False}
    assert flags.values(ann) is flags.values(Subject("bob"))
    found = flags.evaluate("uploads", ann)
    assert (found.value, found.variant, found.reason, found.rule) == (False, "off", "STATIC", "default")
    assert found.version == flags.version != make({"chat": True}).version or make is FixedFlags
    missing = flags.evaluate("other", ann)
    assert (missing.value, missing.reason, missing.error_code) == (None, "ERROR", "FLAG_NOT_FOUND")


RULES = [
    '{"==": [{"+": [{var: a}, {"/": [1, {var: b}]}]}, 1]}',
    '{"<": [{var: a}, {var: b}]}',
    "{in: [{var: a}, {var: b}]}",
    '{sem_ver: [{var: a}, ">", {var: b}]}',
    "{starts_with: [{var: a}, {var: b}]}",
    '{reduce: [{var: a}, {cat: [{var: accumulator}, {var: current}]}, ""]}',
    '{some: [{var: a}, {"==": [{var: ""}, {var: b}]}]}',
    '{"%": [{var: a}, {var: b}]}',
    "{substr: [{var: a}, {var: b}]}",
]
STRANGE = Evaluator(
    load_flags(
        "flags:\n"
        + "".join(f"  f{n}: {{rollout: 50, targeting: {{if: [{rule}, on, null]}}}}\n" for n, rule in enumerate(RULES))
        + "  named: {rollout: 50, targeting: {var: a}}\n"
        + "  bucket: {targeting: {fractional: [{var: a}, [on, {var: b}], [off, 1]]}}\n"
        + "  staff: {rollout: 50, by: org, allow: {users: [ann]}}\n",
        "flags.yaml",
    )
)
ATTRIBUTE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("x" * 100_000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=5), st.text(max_size=5), ATTRIBUTE, ATTRIBUTE)
def test_no_attribute_makes_a_rule_raise(user: str, org: str, a: Any, b: Any) -> None:
    subject = Subject(user, org, {"a": a, "b": b, "targetingKey": "ann", "user": "ann", "$flagd": 1})
    values = STRANGE.values(subject)
    for name in values:
        found = STRANGE.evaluate(name, subject)
        assert (found.value, values[name]) in ((True, True), (False, False))
        assert (found.reason == "ERROR") == (found.error_code is not None)
    assert STRANGE.evaluate("staff", subject).rule != "allow_list" or user == "ann"


def test_a_rule_that_fails_says_so_and_leaves_the_default() -> None:
    found = STRANGE.evaluate("f0", Subject("ann", "", {"a": "x", "b": 0}))
    assert (found.value, found.reason, found.error_code) == (False, "ERROR", "GENERAL")
    assert found.error_message == "the rule failed"
    assert found.cause == "ZeroDivisionError: division by zero"


def test_nobody_becomes_somebody_else_by_an_attribute() -> None:
    rule = 'targeting: {if: [{"==": [{var: org}, acme]}, on, null]}'
    flags = Evaluator(load_flags(f"flags:\n  chat: {{rollout: 0, {rule}}}\n", "flags.yaml"))
    assert flags.on("chat", Subject("ann", "acme"))
    assert not flags.on("chat", Subject("ann", "", {"org": "acme"}))
    assert not flags.on("chat", Subject("ann", "other", {"org": "acme"}))
