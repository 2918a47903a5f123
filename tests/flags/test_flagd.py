"""The hub and flagd decide alike: the expanded document in flagd-core, users pinned for good, processes that agree."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext

from hub.flags import Evaluator, Override, StageState, Subject, expand, load_flags

GOLDEN = Path(__file__).parent / "golden.json"
FILE = """metadata: {team: platform}
flags:
  user: 25%
  org: {rollout: 12.5, by: org}
  least: 0.001%
  lists: {rollout: 10, allow: {users: [user-1, user-2], orgs: [org-3]}}
  members: {rollout: 10, allow: {users: [user-1, org-5/user-5, org-9/user-2], orgs: [org-3]}}
  member: {rollout: 10, by: org, allow: {users: [org-5/user-5]}}
  only: {rollout: 0, allow: {orgs: [org-1]}}
  rule:
    rollout: 40
    targeting: {if: [{"==": [{var: plan}, gold]}, "on", {if: [{"==": [{var: plan}, none]}, "off", null]}]}
  all: {allow: {users: [user-1]}, rollout: 30, by: org, targeting: {if: [{"<": [{var: age}, 18]}, "off", null]}}
  on: on
  off: off
  staged: {stages: [{after: 0h, percent: 1}]}
  spelled:
    state: ENABLED
    variants: {"yes": true, "no": false}
    defaultVariant: "yes"
    targeting: {fractional: [["yes", 25000], ["no", 75000]]}
  open: {state: on, variants: {a: true, b: false}, defaultVariant: null, targeting: {if: [{var: beta}, a, null]}}
  theme:
    state: ENABLED
    variants: {light: 1, dark: 2}
    defaultVariant: light
    targeting: {if: [{$ref: staff}, dark, {fractional: [[dark, 1], [light, 3]]}]}
$evaluators:
  staff: {ends_with: [{var: email}, "@hub.example"]}
"""
CHANGES = {
    "nothing": ({}, {}),
    "percentages": (
        {name: Override(name, percent=33_333) for name in ("user", "org", "rule", "all", "on", "off", "spelled")},
        {"staged": StageState("staged", 5_000)},
    ),
    "on and off": (
        {"user": Override("user", "on"), "rule": Override("rule", "off"), "off": Override("off", "on")},
        {"staged": StageState("staged", 100_000)},
    ),
    "ends": ({"all": Override("all", percent=100_000), "org": Override("org", percent=0)}, {}),
}
PLANS = ({}, {"plan": "gold", "age": 17}, {"plan": "none", "beta": True}, {"email": "x@hub.example", "age": 44})
SUBJECTS = [Subject(f"user-{n}", f"org-{n % 50}" if n % 7 else "", PLANS[n % 4]) for n in range(400)] + [
    Subject(),
    Subject("", "org-3"),
]


@pytest.mark.parametrize("name", CHANGES)
def test_flagd_decides_the_expanded_document_alike(name: str) -> None:
    file = load_flags(FILE, "flags.yaml")
    overrides, stages = CHANGES[name]
    evaluator, core = Evaluator(file, overrides, stages), FlagdCore()
    core.set_flags(json.dumps(expand(file, overrides, stages)))
    for subject in SUBJECTS:
        context = EvaluationContext(subject.user or None, {"org": subject.org, **subject.attributes})
        for flag in file.flags:
            ours = evaluator.evaluate(flag, subject)
            if flag == "theme":
                assert core.resolve_integer_value(flag, 0, context).value == ours.value
            else:
                expected = core.resolve_boolean_value(flag, False, context)
                assert expected.value == (ours.value or False), (flag, subject, ours)
                if ours.reason != "DISABLED":
                    assert expected.variant == ours.variant


def test_the_expanded_document_is_the_same_file() -> None:
    file = load_flags(FILE, "flags.yaml")
    again = load_flags(json.dumps(expand(file), indent=2), "flags.json")
    for name, flag in file.flags.items():
        assert again.flags[name] == msgspec.structs.replace(flag, stages=())
    assert again.metadata == file.metadata


def test_thousands_of_users_are_where_flagd_puts_them() -> None:
    file = load_flags("flags:\n  chat: 25%\n", "flags.yaml")
    evaluator, core = Evaluator(file), FlagdCore()
    core.set_flags(expand(file))
    for number in range(5_000):
        user = f"user-{number}"
        assert core.resolve_boolean_value("chat", True, EvaluationContext(user)).value is evaluator.on(
            "chat", Subject(user)
        )


def _variants() -> dict[str, dict[str, str | None]]:
    file = load_flags("flags:\n  by_user: 25%\n  by_org: {rollout: 50, by: org}\n  rare: 0.1%\n", "flags.yaml")
    evaluator = Evaluator(file)
    names = ["ann", "bob", "Zoë", "", "user-4711", *(f"user-{number}" for number in range(1, 41))]
    return {
        flag: {name: evaluator.evaluate(flag, Subject(name, name)).variant for name in names} for flag in file.flags
    }


def test_users_stay_where_they_are() -> None:
    """When this fails, everybody in every rollout was thrown into the air: flagd-core has other buckets."""
    assert json.loads(GOLDEN.read_text()) == _variants()


def _digest() -> str:
    evaluator = Evaluator(load_flags(FILE, "flags.yaml"))
    text = json.dumps([[evaluator.version, dict(evaluator.values(subject))] for subject in SUBJECTS])
    return hashlib.sha256(text.encode()).hexdigest()


def test_every_process_decides_alike() -> None:
    code = "from tests.flags.test_flagd import _digest; print(_digest())"
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    root = Path(__file__).parent.parent.parent
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == _digest()


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(_variants(), indent=1, ensure_ascii=False) + "\n")
