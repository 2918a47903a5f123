"""Where a stream stands in its topic."""

from __future__ import annotations

from typing import Any

import pytest

from hub.api import ErrorCode, HubError
from services.content.sources import TakenOver
from services.content.states import State
from services.content.track import Track
from tests.services.content.fake_hub import EARLIER, LATER, RUN, FakeHub, new_stream
from tests.services.content.scene import CONTENT, all_chunks
from tests.support.virtual_loop import run_virtually


@pytest.mark.parametrize("lost", range(6))
def test_a_track_stands_where_its_topic_ends(lost: int) -> None:
    async def play() -> None:
        hub, stored = FakeHub(), new_stream()
        track = Track(hub, stored)  # type: ignore[arg-type]
        events = [("stream_start", {"run": RUN}), *(("chunk", data) for data in all_chunks()[:4])]
        assert await track.append(events)
        hub.lose(CONTENT, lost)
        again = Track(hub, stored)  # type: ignore[arg-type]
        for one in (track, again):
            await one.locate()
            left = max(0, 4 - lost)
            assert (one.index, one.started, one.ended) == (left, lost < 5, None)
            assert one.block == sum(data["op"] == "close" for data in all_chunks()[:left])
            assert one.progress == (all_chunks()[left - 1]["progress"] if left else None)
        assert track.reached == 4
        assert await track.append([("stream_complete", {"run": RUN, "state": "complete"})])
        assert track.ended is State.COMPLETE

    run_virtually(play())


def test_a_track_reads_on_when_its_events_do_not_fit_into_one_answer() -> None:
    async def play() -> None:
        hub, stored = FakeHub(), new_stream()
        await Track(hub, stored).append([("chunk", data) for data in all_chunks()[:8]])  # type: ignore[arg-type]
        hub.page = 1
        track = Track(hub, stored)  # type: ignore[arg-type]
        await track.locate()
        assert track.index == 8

    run_virtually(play())


@pytest.mark.parametrize("event", ["chunk", "stream_start", "stream_complete"])
def test_what_began_earlier_says_nothing_and_what_began_later_goes_on_alone(event: str) -> None:
    async def play() -> None:
        hub, stored = FakeHub(), new_stream()
        data = {**all_chunks()[3], "part": 1, "state": "complete"}
        hub.topics[CONTENT] = [(event, {**data, "run": EARLIER})]
        track = Track(hub, stored)  # type: ignore[arg-type]
        await track.locate()
        assert (track.index, track.started, track.ended) == (0, False, None)
        assert await track.append([("chunk", all_chunks()[0])])
        assert len(hub.topics[CONTENT]) == 2
        hub.topics[CONTENT].append((event, {**data, "run": LATER}))
        with pytest.raises(TakenOver):
            await track.append([("chunk", all_chunks()[1])])

    run_virtually(play())


def test_a_refusal_of_another_kind_is_not_tried_again() -> None:
    async def play() -> None:
        class Strict(FakeHub):
            async def append(self, *_: Any, **__: Any) -> int:
                raise HubError(ErrorCode.TOO_LARGE, "too large an event")

        track = Track(Strict(), new_stream())  # type: ignore[arg-type]
        with pytest.raises(HubError, match="too large"):
            await track.append([("chunk", all_chunks()[0])])

    run_virtually(play())
