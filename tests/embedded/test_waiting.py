"""``until`` waits for what comes, and says what it waited for when it does not."""

from __future__ import annotations

import pytest

from tests.support.waiting import until, until_sync


async def test_it_returns_the_value_of_a_condition_that_becomes_true() -> None:
    answers = ["value", None, None]
    assert await until(answers.pop) == "value"

    async def asynchronous() -> str:
        return "value"

    assert await until(asynchronous) == "value"


async def test_a_failed_assertion_inside_means_not_yet() -> None:
    left = [1, 2, 3]

    def condition() -> bool:
        assert not left, left.pop()
        return True

    assert await until(condition)
    left.append(1)
    assert until_sync(condition)


async def test_the_failure_names_what_was_waited_for_and_the_last_value() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.01 s for rain; last seen: 0"):
        await until(lambda: 0, 0.01, "rain")
    with pytest.raises(AssertionError, match=r"waited 0\.01 s for rain; last seen: 0"):
        until_sync(lambda: 0, 0.01, "rain")


async def test_an_asynchronous_condition_that_hangs_ends_at_the_deadline() -> None:
    async def hang() -> bool:
        await until(lambda: False, 60)
        return True

    with pytest.raises(AssertionError, match=r"waited 0\.05 s"):
        await until(hang, 0.05)


async def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        await until(lambda: 1 // 0)
