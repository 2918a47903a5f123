"""The writer's time-outs, bounds and fallbacks, with scripted providers and a clock that jumps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from hub.errors import ErrorCode, HubError
from services.content.assistant import Outcome, Prompt, Writer
from services.content.assistant.provider import Fault, ProviderFailure
from tests.services.assistant.conftest import assistant_settings, chat, collected
from tests.support.virtual_loop import run_virtually

Step = str | float | ProviderFailure
"""A piece to write, seconds of silence, or a failure."""


class Scripted:
    """A provider that follows one script after the other; the last is repeated."""

    def __init__(self, name: str, *scripts: Sequence[Step]) -> None:
        self.name = name
        self._scripts = list(scripts)
        self.prompts: list[Prompt] = []
        self.open = 0
        self.closed = False

    async def generate(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        self.prompts.append(prompt)
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.open += 1
        try:
            for step in script:
                if isinstance(step, str):
                    yield step
                elif isinstance(step, ProviderFailure):
                    raise step
                else:
                    await asyncio.sleep(step)
        finally:
            self.open -= 1

    async def close(self) -> None:
        self.closed = True


class Highest(random.Random):
    """Draws the upper bound, so that pauses can be told."""

    def uniform(self, a: float, b: float) -> float:
        return b


def run(*providers: Scripted, provider: str | None = None, **changes: Any) -> tuple[str, Outcome, float]:
    """Text, outcome, and the seconds that it took."""

    async def write() -> tuple[str, Outcome, float]:
        pieces, outcome = await collected(writer.write(chat(), provider))
        return "".join(pieces), outcome, asyncio.get_running_loop().time()

    defaults = {"backoff_base_s": 1.0, "backoff_max_s": 3.0}
    writer = Writer(providers, assistant_settings(**(defaults | changes)), Highest())
    result = run_virtually(write())
    assert [one.open for one in providers] == [0] * len(providers)
    return result


def fails(fault: Fault, **more: Any) -> ProviderFailure:
    return ProviderFailure(fault, **more)


def test_a_text_that_comes() -> None:
    provider = Scripted("a", ["one ", 1.0, "two"])
    text, outcome, took = run(provider)
    assert (text, took) == ("one two", 1.0)
    assert outcome == Outcome("a", 7, None, ())


def test_the_first_piece_has_its_time_and_the_others_have_theirs() -> None:
    patience = {"first_token_timeout_s": 30.0, "token_timeout_s": 5.0, "attempts": 1}
    text, outcome, _ = run(Scripted("a", [29.9, "a", 4.9, "b", 4.9, "c"]), **patience)
    assert (text, outcome.error) == ("abc", None)
    _, outcome, took = run(Scripted("a", [30.1, "a"]), **patience)
    assert (outcome.failures, took) == ((("a", Fault.NO_FIRST_TOKEN),), 30.0)
    text, outcome, took = run(Scripted("a", [29.0, "a", 5.1, "b"]), **patience)
    assert (text, outcome.failures, took) == ("a", (("a", Fault.STALLED),), 34.0)
    assert outcome.error is not None
    assert outcome.error.code == ErrorCode.TIMEOUT


def test_the_whole_has_its_time() -> None:
    slow: list[Step] = ["x", 4.0] * 100
    text, outcome, took = run(Scripted("a", slow), Scripted("b", slow), total_timeout_s=50.0, token_timeout_s=5.0)
    assert (len(text), outcome.failures, took) == (13, (("a", Fault.OVERTIME),), 50.0)
    # … all attempts and pauses included
    stubborn = Scripted("a", [20.0, fails(Fault.OVERLOADED)])
    _, outcome, took = run(stubborn, total_timeout_s=50.0, first_token_timeout_s=30.0, attempts=9)
    assert outcome.failures == (("a", Fault.OVERLOADED), ("a", Fault.OVERLOADED), ("a", Fault.OVERTIME))
    assert took == 50.0


def test_pauses_double_up_to_their_longest() -> None:
    provider = Scripted("a", [fails(Fault.OVERLOADED)])
    _, outcome, took = run(provider, attempts=5)
    assert len(outcome.failures) == len(provider.prompts) == 5
    assert took == 1 + 2 + 3 + 3


def test_a_pause_that_was_asked_for_is_made() -> None:
    provider = Scripted("a", [fails(Fault.RATE_LIMITED, retry_after_s=7.0)], ["done"])
    text, _, took = run(provider)
    assert (text, took) == ("done", 7.0 + 1.0)


def test_a_pause_that_is_too_long_is_not_made() -> None:
    other = Scripted("b", ["done"])
    text, outcome, took = run(Scripted("a", [fails(Fault.RATE_LIMITED, retry_after_s=21.0)]), other)
    assert (text, outcome.provider, took) == ("done", "b", 0.0)


def test_a_pause_for_which_no_time_is_left_is_not_made() -> None:
    provider = Scripted("a", [40.0, fails(Fault.RATE_LIMITED, retry_after_s=15.0)])
    _, outcome, took = run(provider, total_timeout_s=50.0, first_token_timeout_s=45.0)
    assert (outcome.failures, took) == ((("a", Fault.RATE_LIMITED),), 40.0)
    assert outcome.error is not None
    assert outcome.error.retry_after_ms == 15_000


def test_nothing_is_written_twice() -> None:
    provider = Scripted("a", [fails(Fault.UNREACHABLE)], ["half", fails(Fault.UNREACHABLE)], ["never"])
    text, outcome, _ = run(provider)
    assert (text, len(provider.prompts)) == ("half", 2)
    assert outcome.failures == (("a", Fault.UNREACHABLE),) * 2


def test_each_provider_goes_on_after_those_before() -> None:
    lost = fails(Fault.UNREACHABLE)
    a, b, c = Scripted("a", ["1", lost]), Scripted("b", [lost], ["2", lost]), Scripted("c", ["3"])
    text, outcome, _ = run(a, b, c)
    assert text == "123"
    assert outcome.failures == (("a", lost.fault), ("b", lost.fault), ("b", lost.fault))
    assert [prompt.written for prompt in (*a.prompts, *b.prompts, *c.prompts)] == ["", "1", "1", "12"]


def test_the_order_begins_with_the_one_asked_for() -> None:
    lost = fails(Fault.DENIED)
    a, b, c = Scripted("a", [lost]), Scripted("b", [lost]), Scripted("c", [lost])
    _, outcome, _ = run(a, b, c, provider="b")
    assert [name for name, _ in outcome.failures] == ["b", "a", "c"]
    assert outcome.provider == "c"


def test_a_provider_that_is_not_there() -> None:
    provider = Scripted("a", ["x"])
    with pytest.raises(HubError, match="must be one of a") as raised:
        Writer([provider], assistant_settings()).write(chat(), "b")
    assert raised.value.code == ErrorCode.BAD_REQUEST
    assert not provider.prompts


def test_a_refusal_is_an_answer() -> None:
    other = Scripted("b", ["yes"])
    text, outcome, _ = run(Scripted("a", ["no", fails(Fault.WITHHELD)]), other)
    assert (text, other.prompts) == ("no", [])
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.retry) == (ErrorCode.UPSTREAM_FAILED, "never")


def test_the_text_ends_at_its_limit() -> None:
    text, outcome, _ = run(Scripted("a", ["12345678", "é€", "never"]), Scripted("b", ["never"]), max_output_bytes=16)
    assert (text, outcome.bytes) == ("12345678é€nev", 16)
    assert outcome.failures == (("a", Fault.TOO_LONG),)
    # Another provider has no more room than what the first left.
    text, outcome, _ = run(
        Scripted("a", ["1234567890", fails(Fault.STALLED)]), Scripted("b", ["12345€"]), max_output_bytes=16
    )
    assert (text, outcome.bytes, outcome.provider) == ("123456789012345", 15, "b")
    # Exactly full is not too long.
    text, outcome, _ = run(Scripted("a", ["1234567890123456"]), max_output_bytes=16)
    assert (outcome.bytes, outcome.error) == (16, None)


def test_what_a_writer_before_had_written() -> None:
    lost = fails(Fault.UNREACHABLE)
    a, b = Scripted("a", ["2", lost]), Scripted("b", ["34567"])

    async def go_on() -> tuple[list[str], Outcome]:
        writer = Writer([a, b], assistant_settings(max_output_bytes=16))
        items = [item async for item in writer.write(chat(), written="0123456789ab1")]
        assert isinstance(items[-1], Outcome)
        return [item for item in items if isinstance(item, str)], items[-1]

    pieces, outcome = run_virtually(go_on())
    assert [prompt.written for prompt in (*a.prompts, *b.prompts)] == ["0123456789ab1", "0123456789ab12"]
    assert (pieces, outcome.bytes) == (["2", "34"], 16)
    assert outcome.failures == (("a", lost.fault), ("b", Fault.TOO_LONG))


def test_more_was_written_before_than_may_be() -> None:
    async def go_on() -> list[str | Outcome]:
        writer = Writer([Scripted("a", ["x"])], assistant_settings(max_output_bytes=16))
        return [item async for item in writer.write(chat(), written="x" * 20)]

    (outcome,) = run_virtually(go_on())
    assert isinstance(outcome, Outcome)
    assert (outcome.bytes, outcome.failures) == (20, (("a", Fault.TOO_LONG),))


def test_an_answer_without_text() -> None:
    _, outcome, _ = run(Scripted("a", []), Scripted("b", [fails(Fault.DENIED)]))
    assert outcome.failures == (("a", Fault.EMPTY), ("b", Fault.DENIED))


def test_whoever_stops_listening_ends_the_call() -> None:
    provider = Scripted("a", ["x", "y"])

    async def listen_a_little() -> None:
        items = Writer([provider], assistant_settings()).write(chat())
        assert await anext(items) == "x"
        assert provider.open == 1
        await items.aclose()
        # Now, and not when the garbage is collected.
        assert provider.open == 0

    run_virtually(listen_a_little())


def test_closing_closes_all() -> None:
    providers = [Scripted("a", []), Scripted("b", [])]
    run_virtually(Writer(providers, assistant_settings()).close())
    assert all(provider.closed for provider in providers)
