"""Drivers in virtual time: pace, wishes, ends; and whatever is lost, every chunk comes once and in order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.client.content import ContentAssembler
from services.content.assistant import Outcome
from services.content.pipeline import Speed
from services.content.sources import TakenOver
from services.content.states import State
from services.content.store import Stored, Wanted
from services.content.track import Track
from tests.services.content.fake_hub import EARLIER, LATER, ORG, FakeHub, new_stream
from tests.services.content.scene import (
    CONTENT,
    JOURNAL,
    TEXT,
    FakeWriter,
    Scene,
    Watched,
    all_chunks,
    driven,
    end,
    soon,
    times,
)
from tests.support.virtual_loop import run_virtually

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["rest", "no", "lost answer", "late", "kill", "second", "first goes", "lose", "lose journal", "deaf"]
        ),
        st.integers(1, 12),
    ),
    max_size=14,
)


@pytest.mark.parametrize("assistant", [False, True], ids=["document", "assistant"])
@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_every_chunk_comes_once_and_in_order(assistant: bool, steps: list[tuple[str, int]]) -> None:
    async def play() -> None:
        scene, lost = Scene(assistant=assistant), False
        await scene.drive()
        for number, (what, count) in enumerate(steps, 1):
            await asyncio.sleep(0.03 * count)
            if what in ("no", "lost answer", "late"):
                scene.hub.faults.extend([what] * count)  # type: ignore[list-item]
            elif what == "deaf":
                scene.hub.deaf += count
            elif what == "kill":
                await scene.kill()
                await scene.drive()
            elif what == "second" and len(scene.drivers) < 3:
                await scene.drive()
            elif what == "first goes":
                await scene.kill(but=1)
            elif what == "lose" and not scene.ended:
                scene.hub.lose(CONTENT, count)
                lost = True
            elif what == "lose journal" and len(scene.drivers) == 1 and number == len(steps):
                # Not followed by a death: what nobody has is lost for good.
                scene.hub.lose(JOURNAL, count)
        await scene.finish()
        scene.check(lost=lost)

    run_virtually(play())


def test_chunks_come_at_their_pace_and_a_close_with_the_chunk_before() -> None:
    async def play() -> None:
        scene = Scene(assistant=False, hub=Watched())
        await scene.drive()
        await end(scene)
        assert isinstance(scene.hub, Watched)
        at = times(scene.hub.when)
        gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
        assert all(45 <= gap <= 60 for gap in gaps), gaps

    run_virtually(play())


def test_a_new_speed_counts_at_once_and_an_older_wish_never() -> None:
    async def play() -> None:
        scene = Scene(assistant=False, hub=Watched())
        driver = await driven(scene, 4)
        driver.apply(Wanted(State.RUNNING, Speed.SLOW, 3))
        driver.apply(Wanted(State.CANCELLED, Speed.FAST, 2))  # overtaken on its way
        assert (await end(scene))["state"] == "complete"
        assert isinstance(scene.hub, Watched)
        at = times(scene.hub.when)
        assert at[-1] - at[-2] >= 290
        assert [told["interval_ms"] for told in scene.hub.told] == [300]

    run_virtually(play())


def test_what_is_paused_waits_and_ends_when_nobody_resumes_it() -> None:
    async def play() -> None:
        scene = Scene(assistant=False, hub=FakeHub(content_session_idle_s=20))
        driver = await driven(scene, 4)
        driver.apply(Wanted(State.PAUSED, Speed.FAST, 2))
        await asyncio.sleep(19)
        there = list(scene.hub.topics[CONTENT])
        driver.apply(Wanted(State.RUNNING, Speed.FAST, 3))
        await asyncio.sleep(0.1)
        assert len(scene.hub.topics[CONTENT]) > len(there), "it goes on"
        driver.apply(Wanted(State.PAUSED, Speed.FAST, 4))
        await asyncio.sleep(19)
        driver.apply(Wanted(State.PAUSED, Speed.SLOW, 5))  # a wish that is none to go on
        await asyncio.sleep(0.9)
        assert not scene.ended, "every pause has its own time"
        await asyncio.sleep(0.3)
        assert scene.ended
        result = await end(scene)
        assert (result["state"], result["code"]) == ("failed", "timeout")
        assert scene.store.finished[0][0] is State.FAILED
        assert scene.store.finished[0][1] == "", "of a document that was not shown nothing is kept"

    run_virtually(play())


def test_a_stream_ends_with_its_session() -> None:
    async def play() -> None:
        scene = Scene(assistant=False, hub=FakeHub(content_session_s=2))
        scene.stored = new_stream(speed=Speed.SLOW)
        await driven(scene, 5)
        await scene.kill()
        scene.stored = new_stream(speed=Speed.SLOW, age_s=500.0)
        await scene.drive()
        result = await end(scene)
        assert (result["state"], result["code"]) == ("failed", "timeout")
        assert 5 <= result["chunks"] < len(all_chunks())

    run_virtually(play())


@pytest.mark.parametrize("paused", [False, True])
def test_cancel_ends_it_also_while_it_is_paused(paused: bool) -> None:
    async def play() -> None:
        scene = Scene(assistant=False)
        driver = await driven(scene, 4)
        if paused:
            driver.apply(Wanted(State.PAUSED, Speed.FAST, 2))
            await asyncio.sleep(5)
        driver.apply(Wanted(State.CANCELLED, Speed.FAST, 3))
        result = await end(scene)
        assert (result["state"], result["code"], result["retry"]) == ("cancelled", "cancelled", "never")
        assert [name for name, _ in scene.hub.topics[CONTENT]].count("stream_error") == 1

    run_virtually(play())


def test_more_chunks_than_a_stream_may_have_end_it() -> None:
    async def play() -> None:
        scene = Scene(assistant=False, hub=FakeHub(content_max_chunks=16))
        scene.stored = new_stream(first_index=8, first_block=2)
        await scene.drive()
        result = await end(scene)
        assert (result["code"], result["chunks"]) == ("too_large", 8)
        assert scene.hub.topics[CONTENT][1][1]["index"] == 8
        assert scene.hub.topics[CONTENT][1][1]["block"] == 2

    run_virtually(play())


def test_a_stream_that_had_ended_is_only_written_down() -> None:
    async def play() -> None:
        scene = Scene(assistant=False)
        scene.store.away = 3
        await scene.drive()
        await soon(lambda: scene.ended)
        assert scene.store.finished == []
        there = list(scene.hub.topics[CONTENT])
        await scene.kill()
        await scene.drive()
        await scene.drivers[-1][1]
        assert scene.hub.topics[CONTENT] == there
        scene.check(lost=False)

    run_virtually(play())


def test_what_is_lost_after_the_last_chunk_comes_again_before_the_end() -> None:
    async def play() -> None:
        scene = Scene(assistant=False)
        driver = await driven(scene, len(all_chunks()))
        assert not scene.ended
        scene.hub.lose(CONTENT, 3)
        driver.stir()
        await end(scene)
        scene.check(lost=True)

    run_virtually(play())


def test_of_a_part_that_follows_the_chunks_before_it_say_nothing() -> None:
    async def play() -> None:
        scene = Scene(assistant=False)
        await scene.drive()
        await end(scene)
        first = len(all_chunks())
        blocks = 4
        wanted = Wanted(State.RUNNING, Speed.FAST, 3)
        scene.stored = Stored(ORG, "s", "ada", 2, scene.stored.plan, LATER, "", wanted, first, blocks)
        scene.store.finished.clear()
        scene._begun = False
        await driven(scene, 2 * first)
        await scene.kill()
        await scene.drive()
        result = await end(scene)
        assert (result["part"], result["chunks"]) == (2, first)
        starts = [data for name, data in scene.hub.topics[CONTENT] if name == "stream_start"]
        assert [(start["part"], start["index"]) for start in starts] == [(1, 0), (2, first)]
        chunks = [data for name, data in scene.hub.topics[CONTENT] if name == "chunk"]
        assert [chunk["index"] for chunk in chunks] == list(range(2 * first))
        assert chunks[-1]["block"] == 2 * blocks - 1
        assert scene.store.finished[0][2] == (2 * first, 2 * blocks)

    run_virtually(play())


@pytest.mark.parametrize("ended", [False, True])
def test_a_new_stream_in_a_topic_with_events_of_another_one_of_its_name_has_its_own_end(ended: bool) -> None:
    """The row of that one was lost, or deleted."""

    async def play() -> None:
        scene = Scene(assistant=False)
        scene.stored, mine = msgspec.structs.replace(scene.stored, run=EARLIER), scene.stored
        await driven(scene, 8)
        if ended:
            await end(scene)
        await scene.kill()
        there = list(scene.hub.topics[CONTENT])
        scene.stored = mine
        scene.store.finished.clear()
        scene._begun = False
        await scene.drive()
        await scene.drivers[-1][1]
        events = scene.hub.topics[CONTENT]
        assert events[: len(there)] == there
        assert [data for name, data in events[len(there) :] if name == "chunk"] == all_chunks()
        assert [name for name, _ in events[len(there) :] if name != "chunk"] == ["stream_start", "stream_complete"]
        assert scene.store.finished[0][2][0] == len(all_chunks())
        document = ContentAssembler()
        for name, data in events:
            if name == "stream_start":
                assert document.begin(data) == (data["run"] == mine.run)
            elif name == "chunk":
                document.apply(data)
        assert document.html == scene.store.finished[0][1]
        for name, data in events:
            assert name != "chunk" or not document.apply(data), "they are known by run and index"

    run_virtually(play())


def test_a_driver_that_wakes_up_in_a_later_part_does_nothing() -> None:
    async def play() -> None:
        scene = Scene(assistant=False)
        await driven(scene, 4)
        hung, _ = scene.drivers[-1]
        await scene.kill()
        await scene.drive()
        await end(scene)
        first = scene.stored
        scene.stored = msgspec.structs.replace(first, part=2, run=LATER, first_index=len(all_chunks()), first_block=4)
        scene._begun = False
        await driven(scene, len(all_chunks()) + 8)
        await scene.kill()
        there = list(scene.hub.topics[CONTENT])
        for track in (hung._track, Track(scene.hub, first)):  # type: ignore[arg-type]
            with pytest.raises(TakenOver):
                await track.append([("chunk", all_chunks()[5])])
        assert scene.hub.topics[CONTENT] == there

    run_virtually(play())


def test_somebody_who_lags_slows_the_stream_down() -> None:
    async def play() -> None:
        scene = Scene(assistant=False, hub=Watched())
        await driven(scene, 4)
        scene.hub.lag = 500
        await asyncio.sleep(3)
        slowest = len(scene.hub.topics[CONTENT])
        assert 6 <= slowest <= 10, "one chunk a second"
        scene.hub.lag = 0
        await end(scene)
        scene.check(lost=False)
        assert isinstance(scene.hub, Watched)
        at = times(scene.hub.when)
        assert at[-1] - at[-2] <= 60, "and it recovers"

    run_virtually(play())


def test_lost_chunks_come_again_at_once() -> None:
    async def play() -> None:
        scene = Scene(assistant=False, hub=Watched())
        await driven(scene, 9)
        scene.hub.lose(CONTENT, 100)
        started = asyncio.get_running_loop().time()
        await soon(lambda: len(scene.hub.topics[CONTENT]) >= 9)
        assert asyncio.get_running_loop().time() - started < 0.2, "nobody waits for what he has had"
        await end(scene)
        scene.check(lost=True)

    run_virtually(play())


def test_time_that_it_is_slowed_down_or_paused_is_not_counted() -> None:
    async def play() -> None:
        scene = Scene(assistant=False, hub=FakeHub(content_session_s=3, content_session_idle_s=20))
        driver = await driven(scene, 4)
        scene.hub.lag = 500
        await asyncio.sleep(5)
        scene.hub.lag = 0
        driver.apply(Wanted(State.PAUSED, Speed.FAST, 2))
        await asyncio.sleep(15)
        driver.apply(Wanted(State.RUNNING, Speed.FAST, 3))
        assert (await end(scene))["state"] == "complete"

    run_virtually(play())


def test_a_model_that_thinks_is_not_late_and_no_burst_follows() -> None:
    class Thinker(FakeWriter):
        async def _write(self, text: str) -> AsyncGenerator[str | Outcome, None]:
            for piece in (text[:10], text[10:34]):
                await asyncio.sleep(10)
                yield piece
            yield Outcome("fake", len(TEXT.encode()), None, ())

    async def play() -> None:
        scene = Scene(assistant=True, hub=Watched(), writer=Thinker())
        await scene.drive()
        await end(scene)
        assert isinstance(scene.hub, Watched)
        gaps = [later - earlier for earlier, later in itertools.pairwise(times(scene.hub.when))]
        assert min(gaps) >= 45
        late = scene.metrics._late._sum.get()  # type: ignore[attr-defined]
        assert late < 0.1

    run_virtually(play())


@pytest.mark.parametrize("state", [State.CANCELLED, State.RUNNING])
def test_a_model_is_not_called_for_a_text_that_is_not_wanted_any_more(state: State) -> None:
    async def play() -> None:
        scene = Scene(assistant=True, hub=FakeHub(content_session_s=1))
        await driven(scene, 8)
        await scene.kill()
        calls = scene.writer.calls
        wanted = Wanted(state, Speed.SLOW, 2)
        scene.stored = msgspec.structs.replace(scene.stored, wanted=wanted, age_s=3600.0)
        await scene.drive()
        await end(scene)
        assert scene.writer.calls == calls

    run_virtually(play())


def test_the_end_is_stored_whatever_the_database_says_and_the_log_stays_short() -> None:
    async def play() -> None:
        scene = Scene(assistant=False)
        finish, tries = scene.store.finish, 0

        async def failing(*args: Any) -> None:
            nonlocal tries
            tries += 1
            if tries <= 20:
                raise RuntimeError("nobody expected this")
            await finish(*args)

        scene.store.finish = failing  # type: ignore[method-assign]
        started = asyncio.get_running_loop().time()
        with structlog.testing.capture_logs() as logs:
            await scene.drive()
            await end(scene)
        scene.check(lost=False)
        took = asyncio.get_running_loop().time() - started
        assert 60 < took < 200
        assert 1 <= len([log for log in logs if "not stored" in log["event"]]) <= 1 + took / 60

    run_virtually(play())


def test_of_a_document_that_is_cancelled_no_more_is_made_than_was_shown() -> None:
    async def play() -> None:
        scene = Scene(assistant=False)
        driver = await driven(scene, 4)
        driver._source._document._segments = None  # type: ignore[attr-defined]
        driver.apply(Wanted(State.CANCELLED, Speed.FAST, 2))
        result = await end(scene)
        shown = [len(data["html"]) for name, data in scene.hub.topics[CONTENT] if name == "chunk"]
        assert result["state"] == "cancelled"
        assert result["avg_chunk_size"] == pytest.approx(sum(shown) / len(shown), abs=1.5)

    run_virtually(play())
