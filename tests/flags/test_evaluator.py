"""How flags are decided: the order of the steps, who is in a percentage, and that reading a flag cannot fail."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from openfeature.contrib.tools.flagd.core.targeting.custom_ops import fractional

from hub.flags import WHOLE, Evaluator, Override, StageState, Subject, load_flags
from hub.flags.buckets import Buckets
from hub.flags.cost import costly, looks_at_time
from hub.flags.plan import Plan

ANN = Subject("ann", "acme")
USERS = [f"user-{number}" for number in range(20_000)]


def evaluator(text: str, **overrides: Override) -> Evaluator:
    return Evaluator(load_flags("flags:\n" + text, "flags.yaml"), overrides)


def test_the_order_of_decision() -> None:
    rule = 'targeting: {if: [{"==": [{var: plan}, gold]}, "on", null]}'
    steps = [
        ("kill_switch", "state: off, "),
        ("allow_list", "allow: {users: [ann]}, "),
        ("targeting", ""),
    ]
    gold = Subject("ann", "acme", {"plan": "gold"})
    for step, extra in steps:
        flags = evaluator(f"  chat: {{{extra}rollout: 0, {rule}}}")
        assert flags.evaluate("chat", gold).rule == step
    flags = evaluator(f"  chat: {{rollout: 50, {rule}}}")
    assert {flags.evaluate("chat", Subject(user)).rule for user in USERS[:20]} == {"rollout"}
    assert flags.evaluate("chat", Subject()).rule == "default"


def test_an_override_comes_after_the_kill_switch_and_before_all_else() -> None:
    on, off = Override("chat", state="on"), Override("chat", state="off")
    assert evaluator("  chat: off", chat=on).on("chat", ANN) is False
    found = evaluator("  chat: {rollout: 0, allow: {users: [bob]}}", chat=on).evaluate("chat", ANN)
    assert (found.value, found.variant, found.rule) == (True, "on", "override")
    found = evaluator("  chat: {rollout: 100, allow: {users: [ann]}}", chat=off).evaluate("chat", ANN)
    assert (found.value, found.variant, found.rule, found.reason) == (False, "off", "override", "DISABLED")


def test_a_percentage_at_run_time_leaves_allow_list_and_rules() -> None:
    flags = evaluator("  chat: {allow: {users: [ann]}}", chat=Override("chat", percent=0))
    assert flags.on("chat", ANN)
    assert not flags.on("chat", Subject("bob"))
    assert evaluator("  chat: 0%", chat=Override("chat", percent=100_000)).on("chat", ANN)


def test_a_user_of_one_organisation_in_the_allow_list() -> None:
    flags = evaluator("  chat: {rollout: 0, allow: {users: [acme/ann, bob, acme/auth/9]}}")
    assert flags.on("chat", ANN)
    assert flags.on("chat", Subject("auth/9", "acme"))
    assert flags.on("chat", Subject("bob", "globex")), "a bare name is whoever has it"
    for other in (Subject("ann", "globex"), Subject("acme/ann", "globex"), Subject("acme/ann"), Subject("ann")):
        assert not flags.on("chat", other)


@given(st.text(max_size=300), st.text(max_size=300))
def test_buckets_are_those_of_flagd(user: str, org: str) -> None:
    assume(user and org)
    buckets = Buckets("chat")
    place = buckets.of_user(user)
    data = {"targetingKey": user, "$flagd": {"flagKey": "chat"}}
    assert [fractional(data, [True, part], [False, WHOLE - part]) for part in (place, place + 1)] == [False, True]
    place = buckets.of_org(org)
    assert [fractional({}, "chat" + org, [1, part], [0, WHOLE - part]) for part in (place, place + 1)] == [0, 1]


PARTS = "".join(f"  f{number}: {{rollout: 25}}\n" for number in range(5)) + "  by_org: {rollout: 50, by: org}\n"
RULED = PARTS + '  ruled: {rollout: 30, targeting: {if: [{"==": [{var: org}, globex]}, "on", null]}}\n'


def test_what_did_not_change_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    drawn_by = Plan.drawn

    def counted(plan: Plan, subject: Subject) -> tuple[bool, str]:
        drawn.append(plan.name)
        return drawn_by(plan, subject)

    monkeypatch.setattr(Plan, "drawn", counted)
    file, people = load_flags("flags:\n" + RULED, "flags.yaml"), [Subject(user, "acme") for user in USERS[:50]]
    changes: list[dict[str, Override]] = [
        {},
        {"f1": Override("f1", "off", version=1)},
        {"f1": Override("f1", percent=70_000, version=2)},
        {"f1": Override("f1", percent=70_000, version=2), "ruled": Override("ruled", percent=1, version=3)},
        {"ruled": Override("ruled", percent=1, version=3)},
    ]
    again = [7, 0, 1, 1, 1]
    before = None
    for count, change in zip(again, changes, strict=True):
        flags, afresh = Evaluator(file, change, {}, before), Evaluator(file, change)
        drawn.clear()
        found = [flags.outcome(one) for one in people]
        assert len(drawn) == count * len(people)
        assert found == [afresh.outcome(one) for one in people]
        assert flags.evaluate("f3", ANN) == afresh.evaluate("f3", ANN), "the version is that of now"
        before = flags
    # Two changes between which nobody was looked at.
    assert before is not None
    hop = Evaluator(file, {"f1": Override("f1", percent=1, version=4)}, {}, before)
    flags = Evaluator(file, {"f2": Override("f2", percent=1, version=5)}, {}, hop)
    drawn.clear()
    found = [flags.outcome(one) for one in people]
    assert len(drawn) == 3 * len(people)
    afresh = Evaluator(file, {"f2": Override("f2", percent=1, version=5)})
    assert found == [afresh.outcome(one) for one in people]


def test_attributes_and_the_time_are_never_remembered() -> None:
    rule = '  by_plan: {rollout: 0, targeting: {if: [{"==": [{var: plan}, gold]}, "on", null]}}'
    flags = evaluator(PARTS + rule)
    assert not flags.values(ANN)["by_plan"]
    assert flags.values(Subject("ann", "acme", {"plan": "gold"}))["by_plan"]
    assert not flags.values(ANN)["by_plan"]
    timed = evaluator('  late: {rollout: 0, targeting: {if: [{">": [{var: $flagd.timestamp}, 1]}, "on", null]}}')
    assert timed.outcome(ANN) is not None
    assert not timed._known
    assert looks_at_time({"if": [{"==": [{"var": {"cat": ["a", "b"]}}, 1]}, "on", None]})
    assert not looks_at_time({"if": [{"==": [{"var": "email"}, 1]}, {"var": ["$flagd.flagKey"]}, None]})


def test_rules_that_are_expensive_are_told() -> None:
    parts = ", ".join(f'{{"==": [{{var: org}}, o{number}]}}' for number in range(80))
    file = load_flags(f'flags:\n  large: {{rollout: 0, targeting: {{if: [{{or: [{parts}]}}, "on", null]}}}}\n', "x")
    (sentence,) = costly(file.flags)
    assert sentence.startswith("large: its rule has 3")
    assert costly(load_flags("flags:\n" + RULED, "x").flags) == ()


def test_who_is_not_known_is_outside_of_every_part() -> None:
    assert evaluator("  chat: on").on("chat", Subject())
    assert not evaluator("  chat: 99.999%").on("chat", Subject())
    assert not evaluator("  chat: on", chat=Override("chat", percent=99_999)).on("chat", Subject())
    assert not evaluator("  chat: {rollout: 99.999, by: org}").on("chat", Subject("ann"))


def test_a_stage_stands_in_the_place_of_the_file_and_below_an_override() -> None:
    file = load_flags("flags:\n  chat: {stages: [{after: 0h, percent: 1}]}", "flags.yaml")
    stages = {"chat": StageState("chat", 100_000)}
    assert not Evaluator(file).on("chat", ANN)
    assert Evaluator(file, {}, stages).on("chat", ANN)
    assert not Evaluator(file, {"chat": Override("chat", percent=0)}, stages).on("chat", ANN)


@pytest.mark.parametrize("by", ["user", "org"])
def test_a_percentage_is_that_of_the_users_and_only_grows(by: str) -> None:
    def of(percent: str) -> set[str]:
        flags = evaluator(f"  chat: {{rollout: {percent}, by: {by}}}")
        return {name for name in USERS if flags.on("chat", Subject(name, name) if by == "user" else Subject("x", name))}

    quarter, tenth, least = of("25"), of("10"), of("0.005")
    assert 0.24 <= len(quarter) / len(USERS) <= 0.26
    assert least < tenth < quarter < of("25.5")


def test_a_flag_that_is_not_there_is_on_and_says_so() -> None:
    found = evaluator("  chat: on").evaluate("other", ANN)
    assert (found.value, found.reason, found.error_code) == (None, "ERROR", "FLAG_NOT_FOUND")
    assert evaluator("  chat: on").on("other", ANN)


def test_values_are_shared() -> None:
    flags = evaluator("  chat: 50%\n  uploads: 50%\n  presence: on")
    seen: dict[tuple[bool, ...], Any] = {}
    for user in USERS[:500]:
        values = flags.values(Subject(user))
        assert values == {name: flags.on(name, Subject(user)) for name in ("chat", "uploads", "presence")}
        assert seen.setdefault(tuple(values.values()), values) is values
    assert len(seen) == 4


def test_what_differs() -> None:
    one = evaluator("  chat: 50%\n  uploads: on\n  presence: on\n  gone: on")
    other = evaluator("  chat: 51%\n  uploads: {owner: ann}\n  presence: off\n  new: on")
    assert one.differs(other) == {"chat", "presence", "gone", "new"}
    assert one.version != other.version
    changed = evaluator("  chat: on", chat=Override("chat", percent=5, version=1))
    assert len({changed.version, evaluator("  chat: on").version, evaluator("  chat: on  # as ever").version}) == 3
    assert one.differs(evaluator("  chat: 50%\n  uploads: on\n  presence: on\n  gone: on")) == frozenset()


def test_overrides_without_a_flag_change_nothing() -> None:
    flags = evaluator("  chat: on", old=Override("old", state="off"))
    assert [one.flag for one in flags.orphans] == ["old"]
    assert flags.values(ANN) == {"chat": True}
    assert flags.on("old", ANN)
