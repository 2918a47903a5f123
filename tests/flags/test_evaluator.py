"""How flags are decided: the order of the steps, who is in a percentage, and that reading a flag cannot fail."""

from __future__ import annotations

from typing import Any

import pytest

from hub.flags import Evaluator, Override, StageState, Subject, load_flags

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
