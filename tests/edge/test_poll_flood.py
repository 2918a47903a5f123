"""Many more clients poll than there is room for: those inside notice nothing, all others are told when to come back."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from tests.support.raw_http import Head, HttpLine
from tests.support.running_hub import RunningHub, running_hub
from tests.support.waiting import until

ROOM = 100
MANY = 1500
AT_ONCE = 200


class Poller:
    """One client: a user of its own, on the topic that all listen to."""

    def __init__(self, line: HttpLine, token: str) -> None:
        self.head: Head
        self.answer: dict[str, object]
        self._line = line
        self._token = {"Authorization": f"Bearer {token}"}

    async def ask(self, target: str) -> int:
        self.head = await self._line.ask("GET", target, self._token)
        self.answer = msgspec.json.decode(await self._line.body())
        return self.head.status

    async def wait(self) -> list[object]:
        """The next answer's frames."""
        assert await self.ask(f"/v1/poll?cursor={quote(str(self.answer['cursor']))}&wait=20") == 200
        frames = self.answer["frames"]
        assert isinstance(frames, list)
        return frames


@contextlib.asynccontextmanager
async def pollers(hub: RunningHub, count: int) -> AsyncIterator[list[Poller]]:
    """So many, each with a connection; they have not asked yet."""
    lines: list[HttpLine] = []
    try:
        for begin in range(0, count, AT_ONCE):
            some = min(AT_ONCE, count - begin)
            lines += await asyncio.gather(*(HttpLine.opened(hub.port) for _ in range(some)))
        yield [Poller(line, hub.token("crowd", f"u{number}")) for number, line in enumerate(lines)]
    finally:
        for line in lines:
            line.close()
        await asyncio.gather(*(line.closed() for line in lines))


async def test_far_more_polls_than_there_is_room_for(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Who is answered first waits for the others, and nobody is cut off meanwhile.
    monkeypatch.setattr("hub.edge.side_door._IDLE_S", 120.0)
    settings: dict[str, Any] = {"max_connections": ROOM, "poll_linger_s": 120.0, "http_head_s": 120.0}
    async with running_hub("direct", redis_url, **settings) as hub, pollers(hub, MANY) as crowd:
        statuses = await asyncio.gather(*(one.ask("/v1/poll?topics=room:a") for one in crowd))
        assert Counter(statuses) == {200: ROOM, 503: MANY - ROOM}
        inside = [one for one in crowd if one.head.status == 200]
        for one in crowd:
            if one.head.status == 503:
                assert one.answer["code"] == "unavailable"
                assert int(one.head.headers["retry-after"]) >= 1
        assert len(hub.gateway.connections) == ROOM
        # Who is inside goes on: also while all others try again and again.
        waiting = [asyncio.create_task(one.wait()) for one in inside]
        again = [asyncio.create_task(one.ask("/v1/poll?topics=room:a")) for one in crowd if one not in inside]
        await until(lambda: len(hub.gateway.connections) == ROOM, what="nobody to be let in besides")
        assert set(await asyncio.gather(*again)) == {503}
        await publish(hub)
        for frames in await asyncio.gather(*waiting):
            (event,) = frames
            assert isinstance(event, dict)
            assert (event["type"], event["seq"]) == ("event", 1)


async def test_where_somebody_left_without_a_word_others_find_room(redis_url: str) -> None:
    settings: dict[str, Any] = {"max_connections": 1, "poll_linger_s": 0.2}
    async with running_hub("direct", redis_url, **settings) as hub, pollers(hub, 2) as (first, second):
        assert await first.ask("/v1/poll?topics=room:a") == 200
        async with asyncio.timeout(30):
            while await second.ask("/v1/poll?topics=room:a") != 200:
                assert second.head.status == 503


async def publish(hub: RunningHub) -> None:
    """By HTTP, for which there is always room."""
    line = await HttpLine.opened(hub.port)
    body = b'{"topic":"room:a","name":"n","data":1}'
    head = await line.ask("POST", "/v1/publish", {"Authorization": f"Bearer {hub.token('crowd', 'writer')}"}, body)
    assert head.status == 200, await line.body()
    line.close()
    await line.closed()
