"""What follows from a failure: the table, and that every sequence of failures comes to an end."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.content.assistant.plan import RULES, Plan, Step
from services.content.assistant.provider import Fault, ProviderFailure
from tests.services.assistant.conftest import assistant_settings


def test_every_fault_has_its_rule_and_no_text_is_begun_twice() -> None:
    assert set(RULES) == set(Fault)
    assert Step.RETRY not in {rule.spoken for rule in RULES.values()}


@pytest.mark.parametrize("fault", [Fault.DENIED, Fault.REJECTED])
def test_what_asking_again_cannot_help_is_not_asked_again(fault: Fault) -> None:
    assert RULES[fault].silent is Step.NEXT


@given(
    st.lists(st.tuples(st.sampled_from(Fault), st.booleans(), st.none() | st.floats(0, 1e6)), min_size=40, max_size=40),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(),
)
def test_calls_are_bounded_whatever_happens(
    failures: list[tuple[Fault, bool, float | None]], providers: int, attempts: int, seed: int
) -> None:
    settings = assistant_settings(attempts=attempts, backoff_base_s=0.5, backoff_max_s=8.0, retry_after_max_s=20.0)
    names = [f"p{index}" for index in range(providers)]
    plan = Plan(names, settings, random.Random(seed))
    calls: list[str] = []
    for fault, spoken, asked in failures:
        calls.append(plan.provider)
        step = plan.after(ProviderFailure(fault, retry_after_s=asked), spoken=spoken, left_s=25.0)
        if step is Step.RETRY:
            assert plan.provider == calls[-1]
            assert not spoken
            assert (asked or 0) <= plan.pause_s <= 20.0 + 8.0
            assert plan.pause_s < 25.0
        elif step is Step.NEXT:
            assert plan.provider not in calls
            assert plan.pause_s == 0
        else:
            break
    else:
        pytest.fail("never ended")
    assert calls == sorted(calls, key=names.index)
    assert max(calls.count(name) for name in calls) <= attempts
