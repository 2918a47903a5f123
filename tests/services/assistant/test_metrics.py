"""What is counted of a text: how it ended, which calls failed, how long people waited."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from services.content.assistant import AssistantMetrics, Writer
from services.content.assistant.provider import Fault
from tests.services.assistant.conftest import assistant_settings, chat
from tests.services.assistant.test_writer import Scripted, fails
from tests.support.virtual_loop import run_virtually


def counted(*providers: Scripted, pieces: int = 1000) -> dict[str, float]:
    """All counts after one text, of which so many items were read."""
    registry = CollectorRegistry()

    async def read() -> None:
        items = Writer(providers, assistant_settings(attempts=2), metrics=AssistantMetrics(registry)).write(chat())
        async for _ in items:
            nonlocal pieces
            pieces -= 1
            if not pieces:
                break
        await items.aclose()

    run_virtually(read())
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {
        " ".join((sample.name.removeprefix("hub_assistant_"), *sample.labels.values())): sample.value
        for sample in samples
        if sample.name.endswith(("_total", "_count")) and sample.value
    }


def test_a_text() -> None:
    assert counted(Scripted("a", ["one ", "two"])) == {
        "texts_total a complete": 1,
        "first_text_seconds_count a": 1,
        "seconds_count a": 1,
    }


def test_the_next_provider() -> None:
    assert counted(Scripted("a", [fails(Fault.OVERLOADED)]), Scripted("b", ["one"])) == {
        "texts_total b complete": 1,
        "failures_total a overloaded": 2,
        "first_text_seconds_count b": 1,
        "seconds_count b": 1,
    }


def test_an_error() -> None:
    assert counted(Scripted("a", [fails(Fault.DENIED)])) == {
        "texts_total a upstream_failed": 1,
        "failures_total a denied": 1,
        "seconds_count a": 1,
    }


def test_nobody_listens_any_more() -> None:
    assert counted(Scripted("a", ["one", "two"]), pieces=1) == {
        "texts_total a cancelled": 1,
        "first_text_seconds_count a": 1,
        "seconds_count a": 1,
    }
