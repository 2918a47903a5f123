"""An answer out of scripted texts, on a clock that jumps: silence, ends, slow readers, faults of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from hub.errors import ErrorCode, HubError
from hub.nodes.answers import Ending
from services.content.assistant import Outcome
from services.content.chat.answer import Bounds, answer
from services.content.chat.sse import ServerSentEvents
from services.content.chat.words import KEEP_ALIVE
from services.content.pipeline import Limits, Pipeline
from tests.services.chat.reading import Told, document, events
from tests.support.log_catcher import caught_logs
from tests.support.virtual_loop import run_virtually

DONE = Outcome("a", 0, None, ())
CUT = Outcome("a", 0, HubError(ErrorCode.UPSTREAM_FAILED, "gone"), ())


class Script:
    """Text, seconds of silence, an outcome, or a fault. ``ended``: it was closed, in order or not."""

    def __init__(self, *steps: str | float | Outcome | Exception) -> None:
        self._steps = steps
        self.reached = 0
        self.ended = False

    async def pieces(self) -> AsyncGenerator[str | Outcome, None]:
        try:
            for step in self._steps:
                self.reached += 1
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.ended = True


def telling(
    script: Script, unread_bytes: int = 1000, limits: Limits | None = None, ending: Ending | None = None
) -> AsyncGenerator[bytes, None]:
    ending = ending or asyncio.get_running_loop().create_future()
    bounds = Bounds(15.0, unread_bytes)
    return answer("s", script.pieces(), Pipeline(limits).live(), ServerSentEvents(), bounds, ending)


def told_of(script: Script, **how: Any) -> tuple[list[bytes], list[Told]]:
    """All that is told, as it came and as events; the text is ended afterwards."""

    async def collect() -> list[bytes]:
        return [news async for news in telling(script, **how)]

    news = run_virtually(collect())
    assert script.ended
    return news, events(b"".join(news).decode())


def names(told: Sequence[Told]) -> list[str]:
    """Of the events, each once in a row."""
    found: list[str] = []
    for one in told:
        if found[-1:] != [one.name]:
            found.append(one.name)
    return found


def test_a_text() -> None:
    _, told = told_of(Script("# One\n\ntwo ", "**three", "**\n", Outcome("a", 22, None, ())))
    assert names(told) == ["stream_start", "chunk", "stream_complete"]
    assert document(told) == "<h1>One</h1><p>two <strong>three</strong></p>"
    metrics = told[-1].data
    chunks = [one.data for one in told if one.name == "chunk"]
    assert (metrics["stream"], metrics["provider"], metrics["bytes"]) == ("s", "a", 22)
    assert (metrics["chunks"], metrics["complexity"]) == (len(chunks), "low")
    assert metrics["avg_chunk_size"] == round(len(document(told)) / len(chunks), 1)
    assert metrics["processing_ms"] > 0


def test_a_sign_of_life_in_every_silence() -> None:
    news, _ = told_of(Script(31.0, "one ", 14.0, "two ", 14.9, "three ", 15.1, DONE))
    assert [one == KEEP_ALIVE for one in news] == [False, True, True, False, False, False, True, False]


def test_text_that_shows_nothing_is_silence() -> None:
    """A list is not shown before it is known to be none."""
    news, _ = told_of(Script("one", *(10.0, "\u202e") * 4, DONE))
    assert news.count(KEEP_ALIVE) == 2


@pytest.mark.parametrize(
    ("script", "code", "shown"),
    [
        (Script("one **two", CUT), "upstream_failed", "<p>one **two</p>"),
        (Script(CUT), "upstream_failed", ""),
        (Script("<!-- -->", CUT), "upstream_failed", "<p>&lt;!-- --&gt;</p>"),
        (Script(" \n", DONE), "empty_content", ""),
        (Script("one ", RuntimeError("a fault")), "internal", "<p>one</p>"),
        (Script("one "), "internal", "<p>one</p>"),
    ],
    ids=["midway", "silent", "markup", "nothing to show", "fault", "no outcome"],
)
def test_ends(script: Script, code: str, shown: str) -> None:
    with caught_logs() as logs:
        _, told = told_of(script)
    assert told[-1].name == "stream_error"
    assert told[-1].data["code"] == code
    assert document(told).rstrip() == shown
    assert [entry["event"] for entry in logs.errors()] == (["writer failed"] if code == "internal" else [])


def test_a_text_too_long_for_a_document() -> None:
    _, told = told_of(Script("one ", 1.0, "x" * 100, 1.0, "never", DONE), limits=Limits(max_live_bytes=50))
    assert (told[-1].data["code"], document(told)) == ("too_large", "<p>one</p>")


def test_a_slow_reader_holds_nobody_up() -> None:
    async def read_late() -> None:
        script = Script("one ", 1.0, "two ", 1.0, "three", DONE)
        async with aclosing(telling(script)) as told:
            await anext(told)
            await asyncio.sleep(5)
            assert script.ended
            rest = [news async for news in told]
        assert document(events(b"".join(rest).decode())) == "<p>one two three</p>"

    run_virtually(read_late())


def test_a_reader_that_is_too_slow_ends_the_text() -> None:
    async def read_too_late() -> None:
        script = Script("12345678 ", 1.0, "éé", 1.0, "never", DONE)
        async with aclosing(telling(script, unread_bytes=12)) as told:
            await anext(told)
            await asyncio.sleep(5)
            assert (script.ended, script.reached) == (True, 3)
            rest = events(b"".join([news async for news in told]).decode())
        assert document(rest) == "<p>12345678</p>"
        assert rest[-1].data["code"] == "timeout"
        assert rest[-1].data["details"] == {"unread_bytes": 12}

    run_virtually(read_too_late())


def test_a_long_piece_is_no_slow_reader() -> None:
    """Nothing had waited before it."""
    _, told = told_of(Script("x" * 500, 1.0, "y" * 500, DONE), unread_bytes=100)
    assert document(told) == f"<p>{'x' * 500}{'y' * 500}</p>"
    assert told[-1].name == "stream_complete"


def test_what_waited_for_a_slow_reader_is_made_in_turns() -> None:
    async def others() -> None:
        script = Script("- one **item**\n" * 2000, DONE)
        async with aclosing(telling(script, unread_bytes=100_000)) as told:
            await anext(told)
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            counting = asyncio.create_task(count())
            rest = [news async for news in told]
            counting.cancel()
        assert document(events(b"".join(rest).decode())).count("<li>") == 2000
        assert turns > 20

    run_virtually(others())


def test_an_answer_that_must_end_keeps_what_was_written() -> None:
    async def end() -> None:
        script = Script("one ", 100.0, DONE)
        ending = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(5, ending.set_result, HubError(ErrorCode.TOKEN_EXPIRED, "over"))
        told = events(b"".join([news async for news in telling(script, ending=ending)]).decode())
        assert (document(told), told[-1].data["code"]) == ("<p>one</p>", "token_expired")
        assert script.ended
        assert asyncio.get_running_loop().time() == 5

    run_virtually(end())


def test_whoever_leaves_ends_the_text() -> None:
    async def leave() -> None:
        script = Script("one ", 100.0, DONE)
        told = telling(script)
        assert b"stream_start" in await anext(told)
        assert b"chunk" in await anext(told)
        await told.aclose()
        assert script.ended

    run_virtually(leave())
