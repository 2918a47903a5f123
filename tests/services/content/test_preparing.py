"""What the event loop does itself, and what it leaves to a thread."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hub.api import ErrorCode, HubError
from services.content.pipeline import Pipeline, Prepared, Unit
from services.content.preparing import Preparer

LONG = "Some *words* of a text. " * 200
PAGE = f"<p>{LONG}</p>\n" * 20


class Watched(Pipeline):
    """Notes who made a document, and how many were being made at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.most = 0
        self._now = 0
        self.begun = asyncio.Event()
        self.gate = threading.Event()
        self.gate.set()
        self._loop = asyncio.get_running_loop()

    def document(self, source: str, declared: str | None = None, unit: Unit = Unit.AUTO) -> Prepared:
        self._now += 1
        self.most = max(self.most, self._now)
        self.threads.append(threading.get_ident())
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self.gate.wait(30)
        self._now -= 1
        return super().document(source, declared, unit)


@pytest.mark.parametrize(
    ("source", "declared", "aside"),
    [
        ("*so*\n\n" * 500, None, True),
        (LONG, "markdown", True),
        (LONG, "text", True),
        ("*short*", "markdown", False),
        (PAGE, "html", False),
        (f"<DIV>{PAGE}</DIV>", None, False),
        (PAGE.replace("</p>", "").replace("<p>", "<b>x</b>"), "html", True),
        ("<table><tr><td>a</td></tr></table>" + PAGE + "</table><table><tr><td>b</table>", "html", False),
        (f"<p>a</p><table><tr><td>{PAGE[:10_000]}</td></tr></TABLE>{PAGE[:80_000]}", "html", True),
        (f"<TABLE><table></table><tr><td>{PAGE[:10_000]}</p>{PAGE[:80_000]}", "html", True),
    ],
)
async def test_what_takes_long_in_one_go_is_made_in_a_thread(source: str, declared: str | None, aside: bool) -> None:
    pipeline = Watched()
    prepared = await Preparer(pipeline).prepare(source, declared, Unit.WORD)
    assert (pipeline.threads[0] != threading.get_ident()) is aside
    assert prepared.document.html == Pipeline().document(source, declared, Unit.WORD).document.html


async def test_the_loop_runs_meanwhile_and_one_thread_at_a_time_works() -> None:
    pipeline = Watched()
    pipeline.gate.clear()
    preparer = Preparer(pipeline)
    tasks = [asyncio.create_task(preparer.prepare(LONG, "markdown", Unit.WORD)) for _ in range(4)]
    await asyncio.wait_for(pipeline.begun.wait(), 30)
    pipeline.gate.set()
    await asyncio.gather(*tasks)
    assert (len(pipeline.threads), pipeline.most) == (4, 1)


async def test_what_is_refused_is_refused_here_too() -> None:
    preparer = Preparer(Pipeline())
    for source, declared, code in (
        ("", None, ErrorCode.EMPTY_CONTENT),
        ("*x* " * 30_000, "markdown", ErrorCode.TOO_LARGE),
        (LONG, "application/pdf", ErrorCode.CONTENT_TYPE),
    ):
        with pytest.raises(HubError) as refused:
            await preparer.prepare(source, declared, Unit.WORD)
        assert refused.value.code is code
