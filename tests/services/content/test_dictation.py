"""Texts that are being written, and their journals: what was said is kept, and read the same way everywhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.api import ErrorCode, HubError
from services.content.dictation import Dictation
from services.content.journal import Journal
from services.content.pipeline import Chunk, Document, Pipeline, Speed, Unit
from services.content.sources import DocumentSource, Source, TakenOver
from services.content.states import State
from services.content.store import Wanted
from tests.services.content.fake_hub import ORG, FakeHub
from tests.services.content.scene import (
    CONTENT,
    JOURNAL,
    PROMPT,
    TEXT,
    FakeWriter,
    Scene,
    document,
    driven,
    end,
    shown,
    soon,
)
from tests.support.virtual_loop import run_virtually


async def dictated(writer: FakeWriter, hub: FakeHub | None = None) -> tuple[Scene, dict[str, Any]]:
    scene = Scene(assistant=True, hub=hub, writer=writer)
    await scene.drive()
    return scene, await end(scene)


def test_a_text_that_fails_keeps_what_was_written() -> None:
    error = HubError(ErrorCode.UPSTREAM_FAILED, "gone", retry_after_ms=7, details={"provider": "fake"})
    scene, result = run_virtually(dictated(FakeWriter(error)))
    assert (result["state"], result["code"], result["retry_after_ms"]) == ("failed", "upstream_failed", 7)
    assert (result["provider"], result["bytes"], result["details"]) == ("fake", len(TEXT.encode()), error.details)
    assert scene.store.finished[0][:2] == (State.FAILED, shown())


def test_a_writer_that_crashes_ends_the_stream() -> None:
    scene, result = run_virtually(dictated(FakeWriter(crash=True)))
    assert (result["state"], result["code"]) == ("failed", "internal")
    assert scene.store.finished[0][0] is State.FAILED


def test_a_text_is_asked_for_once_unless_its_driver_dies() -> None:
    async def play() -> None:
        writer = FakeWriter()
        scene = Scene(assistant=True, writer=writer)
        await driven(scene, 4)
        await scene.kill()
        await scene.drive()
        await end(scene)
        assert writer.calls == 2
        scene.check(lost=False)
        # And a text that was written to its end is not asked for again.
        scene.hub.lose(CONTENT, 3)
        scene.store.finished.clear()
        await scene.drive()
        await end(scene)
        assert writer.calls == 2
        scene.check(lost=True)

    run_virtually(play())


def test_a_text_that_was_cancelled_is_not_asked_for_again() -> None:
    """Its node died before the end was stored."""

    async def play() -> None:
        writer = FakeWriter()
        scene = Scene(assistant=True, writer=writer)
        scene.store.away = 1
        driver = await driven(scene, 4)
        driver.apply(Wanted(State.CANCELLED, Speed.FAST, 2))
        await soon(lambda: scene.ended)
        await scene.kill()
        assert scene.store.finished == []
        await scene.drive()
        assert (await end(scene))["state"] == "cancelled"
        assert writer.calls == 1
        state, html, _, _ = scene.store.finished[0]
        assert state is State.CANCELLED
        assert shown().startswith(html[:20])

    run_virtually(play())


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_source_gives_the_same_chunks_wherever_it_is_entered(data: st.DataObject) -> None:
    async def play() -> None:
        assistant = data.draw(st.booleans())
        source, whole = (await written(), await written()) if assistant else (document(), document())
        chunks: list[Chunk] = []
        while group := whole.next():
            chunks += group
        at = 0
        for index in data.draw(st.lists(st.integers(0, len(chunks)), max_size=6)):
            await source.seek(index)
            at = index
            for _ in range(data.draw(st.integers(0, 4))):
                group = source.next()
                assert group is not None
                assert list(group) == chunks[at : at + len(group)]
                assert all(chunk.op == "close" for chunk in group[1:])
                at += len(group)
        await source.seek(0)
        again: list[Chunk] = []
        while group := source.next():
            again += group
        assert again == chunks
        assert source.next() == ()
        assert source.html == whole.html

    run_virtually(play())


@pytest.mark.parametrize("assistant", [False, True], ids=["document", "assistant"])
def test_a_source_can_be_entered_again_at_every_chunk_it_has_just_given(assistant: bool) -> None:
    async def play() -> None:
        source = await written() if assistant else document()
        index = 0
        while True:
            await source.seek(index)
            group = source.next()
            if not group:
                break
            for number in range(index, index + len(group)):
                await source.seek(number)
                again = source.next()
                assert again is not None
                assert again == group[number - index :]
            index += len(group)
        assert index > 10

    run_virtually(play())


async def written() -> Dictation:
    journal = Journal(FakeHub(), ORG, "s")  # type: ignore[arg-type]
    pieces = [TEXT[at : at + 7] for at in range(0, len(TEXT), 7)]
    journal.entries = [("text", {"text": piece}) for piece in pieces]
    journal.entries.append(("end", {"provider": "fake", "bytes": 1, "error": None}))
    return Dictation(journal, FakeWriter(), PROMPT, None, Pipeline(), Unit.WORD)  # type: ignore[arg-type]


@pytest.mark.parametrize("assistant", [False, True], ids=["document", "assistant"])
def test_who_goes_far_into_a_source_lets_others_have_their_turns(assistant: bool) -> None:
    async def play() -> None:
        source: Source
        if assistant:
            journal = Journal(FakeHub(), ORG, "s")  # type: ignore[arg-type]
            journal.entries = [("text", {"text": f"Some **words** {number}.\n\n"}) for number in range(1500)]
            source = Dictation(journal, FakeWriter(), PROMPT, None, Pipeline(), Unit.WORD)  # type: ignore[arg-type]
        else:
            html = "".join(f"<p>Some <b>words</b> {number}.</p>" for number in range(1500))
            source = DocumentSource(Pipeline().document(html, "html", Unit.WORD).document)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        others = asyncio.create_task(count())
        await source.seek(5000)
        others.cancel()
        assert turns >= 5
        group = source.next()
        assert group is not None
        assert group[0].index == 5000

    asyncio.run(play())


# --- the journal


def entries(*texts: str) -> list[tuple[str, Any]]:
    return [("text", {"text": text}) for text in texts]


@pytest.mark.parametrize("fault", ["no", "lost answer", "late"])
def test_a_journal_has_each_entry_once_whatever_is_answered(fault: Any) -> None:
    async def play() -> None:
        hub = FakeHub()
        journal = Journal(hub, ORG, "s")  # type: ignore[arg-type]
        await journal.write(entries("a"))
        hub.faults.extend([fault, None, fault])  # type: ignore[list-item]
        await journal.write(entries("b", "c"))
        await journal.write(entries("d"))
        assert hub.topics[JOURNAL] == journal.entries == entries("a", "b", "c", "d")

    run_virtually(play())


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_what_a_journal_has_lost_is_written_again(lost: int) -> None:
    async def play() -> None:
        hub = FakeHub()
        journal = Journal(hub, ORG, "s")  # type: ignore[arg-type]
        await journal.write(entries("a", "b", "c"))
        hub.lose(JOURNAL, lost)
        await journal.write(entries("d"))
        assert hub.topics[JOURNAL] == entries("a", "b", "c", "d")

    run_virtually(play())


@pytest.mark.parametrize(
    "foreign", [entries("a", "x"), entries("a", "b", "x"), entries("a", "b", "c", "x"), entries("x", "y", "z", "u")]
)
def test_a_journal_that_somebody_else_writes_is_given_up(foreign: list[Any]) -> None:
    async def play() -> None:
        hub = FakeHub()
        journal = Journal(hub, ORG, "s")  # type: ignore[arg-type]
        await journal.write(entries("a"))
        hub.topics[JOURNAL] = foreign
        with pytest.raises(TakenOver):
            await journal.write(entries("b", "c"))
        other = Journal(hub, ORG, "s")  # type: ignore[arg-type]
        await other.read()
        assert other.entries == foreign

    run_virtually(play())


def test_a_long_journal_is_read_page_by_page() -> None:
    async def play() -> None:
        hub = FakeHub()
        journal = Journal(hub, ORG, "s")  # type: ignore[arg-type]
        await journal.write(entries(*(str(number) for number in range(1201))))
        other = Journal(hub, ORG, "s")  # type: ignore[arg-type]
        await other.read()
        assert other.entries == journal.entries

    run_virtually(play())


def test_a_journal_waits_for_redis_also_when_it_must_look() -> None:
    async def play() -> None:
        hub = FakeHub()
        journal = Journal(hub, ORG, "s")  # type: ignore[arg-type]
        await journal.write(entries("a"))
        hub.faults.append("lost answer")
        hub.deaf = 3
        await journal.write(entries("b"))
        assert hub.topics[JOURNAL] == entries("a", "b")

    run_virtually(play())


def test_a_text_that_redis_has_lost_is_kept_for_whoever_drives_next() -> None:
    """Also when nothing more is to be written: then nobody else would notice."""

    async def play() -> None:
        scene = Scene(assistant=True)
        await driven(scene, 4)
        await soon(lambda: any(name == "end" for name, _ in scene.hub.topics[JOURNAL]))
        assert not scene.ended
        written = list(scene.hub.topics[JOURNAL])
        scene.hub.lose(CONTENT, 1000)
        scene.hub.lose(JOURNAL, 1000)
        await soon(lambda: scene.hub.topics[JOURNAL] == written)
        await scene.kill()
        await scene.drive()
        await end(scene)
        scene.check(lost=True)

    run_virtually(play())


@pytest.mark.parametrize("gone", [1, 3, 4])
def test_a_journal_whose_beginning_is_gone_is_refused(gone: int) -> None:
    async def play() -> None:
        hub = FakeHub()
        await Journal(hub, ORG, "s").write(entries("a", "b", "c", "d"))  # type: ignore[arg-type]
        hub.forgotten[JOURNAL] = gone
        with pytest.raises(HubError, match="not kept any more") as refused:
            await Journal(hub, ORG, "s").read()  # type: ignore[arg-type]
        assert (refused.value.code, refused.value.retry) == (ErrorCode.INTERNAL, "never")

    run_virtually(play())


def test_a_step_back_makes_no_chunk_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        source = document()
        chunks = []
        for _ in range(6):
            chunks += source.next()
        monkeypatch.setattr(Document, "chunks", None)
        for index in (len(chunks) - 1, 2, 4, 0):
            await source.seek(index)
            assert source.next()[0] == chunks[index]

    run_virtually(play())
