"""What is sent, and that the body is closed however it ends: on a clock that jumps, with a server that is scripted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from services.content.chat.event_stream import EventStream
from tests.support.virtual_loop import run_virtually


class Body:
    """Gives what it is told to, one a second. Somebody else holds on to it, so no collector closes it."""

    def __init__(self, *steps: bytes | Exception) -> None:
        self._steps = steps
        self.closed = False
        self.news = self._give()

    async def _give(self) -> AsyncGenerator[bytes, None]:
        try:
            for step in self._steps:
                if isinstance(step, Exception):
                    raise step
                yield step
                await asyncio.sleep(1)
        finally:
            self.closed = True


class Server:
    """The client leaves at ``leaves_s``; from the ``stuck``-th message on it takes nothing."""

    def __init__(self, leaves_s: float = 1000.0, stuck: int = 1000) -> None:
        self._leaves_s = leaves_s
        self._stuck = stuck
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        await asyncio.sleep(self._leaves_s)
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if len(self.sent) >= self._stuck:
            await asyncio.Event().wait()


def answered(body: Body, server: Server, cancelled_s: float = 1000.0) -> float:
    """Seconds that it took. The body is closed when it returns, or raises."""

    async def run() -> float:
        stream = EventStream(body.news, {"x-more": "1"}, 60.0)
        serving = asyncio.create_task(stream({}, server.receive, server.send))  # type: ignore[typeddict-item, arg-type]
        asyncio.get_running_loop().call_later(cancelled_s, serving.cancel)
        try:
            await serving
        finally:
            assert body.closed
            assert asyncio.all_tasks() == {asyncio.current_task()}
        return asyncio.get_running_loop().time()

    return run_virtually(run())


def test_everything_is_sent() -> None:
    server = Server()
    assert answered(Body(b"one", b"two"), server) == 2.0
    start, *bodies = server.sent
    assert start["status"] == 200
    assert dict(start["headers"])[b"x-more"] == b"1"
    assert [(message["body"], message["more_body"]) for message in bodies] == [
        (b"one", True),
        (b"two", True),
        (b"", False),
    ]


def test_what_fails_before_the_first_bytes_is_raised() -> None:
    server = Server()
    with pytest.raises(ValueError, match="limit"):
        answered(Body(ValueError("limit")), server)
    assert server.sent == []


def test_what_fails_later_is_raised_too() -> None:
    with pytest.raises(ValueError, match="fault"):
        answered(Body(b"one", ValueError("fault")), Server())


@pytest.mark.parametrize("stuck", [1000, 1, 2, 3])
def test_whoever_leaves_is_left(stuck: int) -> None:
    """Wherever it stands: while the next bytes are waited for, or while bytes wait to be taken."""
    assert answered(Body(*[b"more"] * 100), Server(leaves_s=10.5, stuck=stuck)) == 10.5


@pytest.mark.parametrize(("stuck", "at"), [(1, 0.0), (2, 0.0), (4, 2.0), (5, 3.0)])
def test_whoever_takes_nothing_is_given_up(stuck: int, at: float) -> None:
    """Wherever it stands: at the head, in the middle, at the mark of the end."""
    assert answered(Body(*[b"more"] * 3), Server(stuck=stuck)) == at + 60.0


@pytest.mark.parametrize("stuck", [1000, 2])
def test_a_server_that_stops(stuck: int) -> None:
    with pytest.raises(asyncio.CancelledError):
        answered(Body(*[b"more"] * 100), Server(stuck=stuck), cancelled_s=3.5)
