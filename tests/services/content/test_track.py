"""Where a stream stands in its topic."""

from __future__ import annotations

from typing import Any

import pytest

from hub.api import ErrorCode, HubError
from services.content.states import State
from services.content.track import Track
from tests.services.content.fake_hub import FakeHub, new_stream
from tests.services.content.scene import CONTENT, all_chunks
from tests.support.virtual_loop import run_virtually


@pytest.mark.parametrize("lost", range(6))
def test_a_track_stands_where_its_topic_ends(lost: int) -> None:
    async def play() -> None:
        hub, stored = FakeHub(), new_stream()
        track = Track(hub, stored)  # type: ignore[arg-type]
        events = [("stream_start", {"part": 1}), *(("chunk", data) for data in all_chunks()[:4])]
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
        assert await track.append([("stream_complete", {"part": 1, "state": "complete"})])
        assert track.ended is State.COMPLETE

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
