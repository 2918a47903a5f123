"""A stream and drivers of it that come and go, over the fake hub and in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from prometheus_client import CollectorRegistry

from hub.api import HubError
from services.content.assistant import Outcome, Prompt
from services.content.dictation import Dictation
from services.content.driver import Driver
from services.content.journal import Journal
from services.content.metrics import ContentMetrics
from services.content.pipeline import Pipeline, Unit
from services.content.sources import DocumentSource, Source, TakenOver
from services.content.states import State
from services.content.store import Stored
from services.content.track import chunk_event
from tests.services.content.fake_hub import ORG, FakeHub, FakeStore, new_stream

HTML = "<h1>One two</h1><p>three <b>four five</b> six</p><ul><li>seven</li><li>eight nine</li></ul><p>ten</p>"
TEXT = "# One two\n\nthree **four five** six\n\n- seven\n- eight *nine*\n\n`ten` eleven twelve"
CONTENT, JOURNAL = "content:s", "content_dictation:s"
PROMPT = Prompt("chat", "", ())


class FakeWriter:
    """Writes ``TEXT`` in small pieces; what was written already is not written again."""

    def __init__(self, error: HubError | None = None, *, crash: bool = False) -> None:
        self.error = error
        self.crash = crash
        self.calls = 0

    def write(
        self, prompt: Prompt, provider: str | None = None, written: str = ""
    ) -> AsyncGenerator[str | Outcome, None]:
        self.calls += 1
        assert TEXT.startswith(written)
        return self._write(TEXT[len(written) :])

    async def _write(self, text: str) -> AsyncGenerator[str | Outcome, None]:
        for at in range(0, len(text), 3):
            await asyncio.sleep(0.01)
            yield text[at : at + 3]
        if self.crash:
            raise RuntimeError("a fault of the writer, on purpose")
        yield Outcome("fake", len(TEXT.encode()), self.error, ())


def document() -> DocumentSource:
    return DocumentSource(Pipeline().document(HTML, "html", Unit.WORD).document)


def all_chunks() -> list[dict[str, Any]]:
    """What is to come of the document, as events' data."""
    stored = new_stream()
    return [chunk_event(chunk, stored)[1] for chunk in Pipeline().document(HTML, "html", Unit.WORD).document.chunks()]


class Scene:
    """A stream, and drivers of it that come and go."""

    def __init__(self, *, assistant: bool, hub: FakeHub | None = None, writer: FakeWriter | None = None) -> None:
        self.hub = hub or FakeHub()
        self.store = FakeStore()
        self.metrics = ContentMetrics(CollectorRegistry())
        self.stored: Stored = new_stream("assistant" if assistant else "document")
        self.writer = writer or FakeWriter()
        self.drivers: list[tuple[Driver, asyncio.Task[None]]] = []
        self._begun = False

    async def drive(self) -> None:
        """One more driver; the first one has begun the stream, the others have adopted it."""
        adopted, self._begun = self._begun, True
        source: Source = document()
        if self.stored.plan.kind == "assistant":
            journal = Journal(self.hub, ORG, "s")  # type: ignore[arg-type]
            while adopted:
                try:
                    await journal.read()
                    break
                except HubError:
                    continue
            source = Dictation(journal, self.writer, PROMPT, None, Pipeline(), Unit.WORD)  # type: ignore[arg-type]
        driver = Driver(self.hub, self.store, self.metrics, self.stored, source)  # type: ignore[arg-type]
        self.drivers.append((driver, asyncio.create_task(driver.run(adopted=adopted))))

    async def kill(self, *, but: int = 0) -> None:
        """All drivers are cancelled but the newest ones."""
        gone = self.drivers[: len(self.drivers) - but]
        self.drivers = self.drivers[len(self.drivers) - but :]
        for _, task in gone:
            task.cancel()
        for outcome in await asyncio.gather(*(task for _, task in gone), return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError | TakenOver), outcome

    async def finish(self) -> None:
        """From now on nothing happens any more; a driver goes on to the end, others adopt when it gives in."""
        self.hub.faults.clear()
        self.hub.deaf = 0
        for _ in range(3):
            await self.kill(but=1)
            if not self.drivers:
                await self.drive()
            ((_, task),) = self.drivers
            await asyncio.wait([task])
            if task.exception() is None:
                return
            assert isinstance(task.exception(), TakenOver), task.exception()
            await self.kill()
        raise AssertionError("nobody finishes")

    @property
    def ended(self) -> bool:
        return any(name in ("stream_complete", "stream_error") for name, _ in self.hub.topics.get(CONTENT, []))

    def check(self, *, lost: bool) -> None:
        """The topic has the whole, and so has whoever watched."""
        events = self.hub.topics[CONTENT]
        assert [name for name, _ in events] == ["stream_start", *["chunk"] * (len(events) - 2), "stream_complete"]
        chunks = [data for name, data in events if name == "chunk"]
        assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
        first: dict[int, Any] = {}
        for name, data in self.hub.seen:
            if name == "chunk":
                assert data["index"] in (len(first), *first), "one is missing"
                assert first.setdefault(data["index"], data) == data, "the same number, but another chunk"
        assert list(first.values()) == chunks
        if not lost:
            assert self.hub.seen == events
        if self.stored.plan.kind == "document":
            assert chunks == all_chunks()
        html = Pipeline().document(HTML, "html").document.html if self.stored.plan.kind == "document" else shown()
        assert self.store.finished == [(State.COMPLETE, html, (len(chunks), chunks[-1]["block"] + 1), events[-1][1])]


def shown() -> str:
    live = Pipeline().live(unit=Unit.WORD)
    live.feed(TEXT)
    live.finish()
    return live.html


def times(seen: list[tuple[float, str, Any]]) -> list[float]:
    """When each group of chunks came, in milliseconds since the first one."""
    at = [when for when, name, data in seen if name == "chunk" and data["op"] != "close"]
    return [round((when - at[0]) * 1000) for when in at]


class Watched(FakeHub):
    """Notes when events come."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        self.when: list[tuple[float, str, Any]] = []

    def _append(self, topic: str, events: Any, after: int) -> bool:
        done = super()._append(topic, events, after)
        if done:
            self.when += [(asyncio.get_running_loop().time(), name, data) for name, data in events]
        return done


async def driven(scene: Scene, until_chunk: int) -> Driver:
    """A driver that has published so many chunks."""
    await scene.drive()
    driver, task = scene.drivers[-1]
    await soon(lambda: len(scene.hub.topics.get(CONTENT, [])) > until_chunk or task.done())
    assert not task.done()
    return driver


async def soon(condition: Callable[[], bool]) -> None:
    """Waits for a condition, in virtual time."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came")


async def end(scene: Scene) -> dict[str, Any]:
    """The data of the event that ended the stream, when the driver is done."""
    await scene.drivers[-1][1]
    return dict(scene.hub.topics[CONTENT][-1][1])
