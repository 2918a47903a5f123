"""Who leaves together for a Redis server, who goes first, and what becomes of those who cannot leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hub.config import Settings
from hub.errors import HubError
from hub.redis import Command, Redis
from hub.redis.departures import Departures
from hub.redis.exchange import NotSent, Try
from tests.support.waiting import until


class Station:
    """Departures to servers that answer when they are told to."""

    def __init__(self, **changes: Any) -> None:
        self.sent: list[list[str]] = []
        self.may_answer = asyncio.Semaphore(0)
        self.fault: Exception | None = None
        settings = Settings(redis_url="redis://x", database_url="x", jwt_secret="x" * 32, **changes)
        self.departures = Departures(settings, self._send)

    async def _send(self, address: str, tries: list[Try]) -> None:
        self.sent.append([item.call.key for item in tries])
        await self.may_answer.acquire()
        if self.fault is not None:
            raise self.fault
        for item in tries:
            item.outcome = f"{address}:{item.call.key}"

    def call(self, names: str, address: str = "a") -> asyncio.Task[list[Any]]:
        """One call for each letter, as one group."""
        return asyncio.create_task(self._call(names, address))

    async def _call(self, names: str, address: str) -> list[Any]:
        tries = [Try(Command(name, ())) for name in names]
        await self.departures.join(address, tries)
        return [item.outcome for item in tries]

    async def sent_are(self, *groups: str) -> None:
        await until(lambda: len(self.sent) >= len(groups), what="departures")
        assert ["".join(group) for group in self.sent] == list(groups)

    def answer(self, times: int = 1) -> None:
        for _ in range(times):
            self.may_answer.release()


async def test_calls_of_one_turn_share_a_write_and_have_their_own_answers() -> None:
    station = Station()
    calls = [station.call("x"), station.call("yz"), station.call("w", "b")]
    station.answer(2)
    assert await asyncio.gather(*calls) == [["a:x"], ["a:y", "a:z"], ["b:w"]]
    assert sorted(map(sorted, station.sent)) == [["w"], ["x", "y", "z"]]


async def test_calls_under_way_to_a_server_are_bounded() -> None:
    station = Station(redis_departures=2, redis_departure_calls=3)
    calls = [station.call(name) for name in "abcdefgh"]
    await station.sent_are("abc", "def")
    station.answer()
    await station.sent_are("abc", "def", "gh")
    station.answer(2)
    await asyncio.gather(*calls)
    assert station.departures._lines == {}, "a server that nobody wants anything of is forgotten"


async def test_one_server_that_does_not_answer_keeps_nobody_from_another() -> None:
    station = Station(redis_departures=1)
    stuck = station.call("x", "deaf")
    await station.sent_are("x")
    others = station.call("y", "b")
    await until(lambda: ["y"] in station.sent, what="the other server")
    station.answer(2)
    await asyncio.gather(stuck, others)


async def test_single_calls_pass_lists_that_wait_and_cannot_hold_them_back() -> None:
    station = Station(redis_departures=1, redis_departure_calls=4)
    calls = [station.call("0")]
    await station.sent_are("0")
    # Many turns of lists wait, then somebody wants one thing.
    calls += [station.call(names) for names in ("aaa", "bbb", "ccc")]
    await asyncio.sleep(0)
    calls += [station.call(name) for name in "12345"]
    await asyncio.sleep(0)
    station.answer()
    await station.sent_are("0", "aaa1")
    station.answer()
    await station.sent_are("0", "aaa1", "bbb2")
    station.answer(5)
    await asyncio.gather(*calls)
    assert ["".join(group) for group in station.sent] == ["0", "aaa1", "bbb2", "ccc3", "45"]


async def test_there_is_a_way_past_lists_that_are_under_way() -> None:
    station = Station(redis_departures=2, redis_departure_calls=4)
    calls = [station.call("aaa")]
    await station.sent_are("aaa")
    calls += [station.call("bbb"), station.call("ccc")]
    await asyncio.sleep(0)
    calls.append(station.call("1"))
    await station.sent_are("aaa", "1")
    calls.append(station.call("2"))
    station.answer(2)
    await station.sent_are("aaa", "1", "bbb2")
    station.answer(2)
    await asyncio.gather(*calls)
    assert ["".join(group) for group in station.sent] == ["aaa", "1", "bbb2", "ccc"]


async def test_whoever_leaves_takes_nothing_from_the_others() -> None:
    station = Station(redis_departures=1)
    first, together, alone = station.call("x"), station.call("y"), None
    await station.sent_are("xy")
    alone = station.call("z")
    await asyncio.sleep(0)
    first.cancel()
    alone.cancel()
    await asyncio.gather(first, alone, return_exceptions=True)
    station.answer()
    assert await together == ["a:y"]
    await station.departures.close()
    assert station.sent == [["x", "y"]], "who has left before is not sent"


async def test_what_has_waited_too_long_is_not_sent() -> None:
    station = Station(redis_departures=1, redis_timeout_s=0.5)
    stuck = station.call("x")
    await station.sent_are("x")
    late = station.call("y")
    await asyncio.sleep(0.6)  # longer than redis_timeout_s
    station.answer()
    (outcome,) = await late
    assert isinstance(outcome, NotSent)
    assert await stuck == ["a:x"]
    assert station.sent == [["x"]]


async def test_nothing_leaves_after_the_stop() -> None:
    station = Station(redis_departures=1)
    first = station.call("x")
    await station.sent_are("x")
    waiting = station.call("y")
    await asyncio.sleep(0)
    station.departures.stop()
    station.answer()
    assert await first == ["a:x"]
    outcomes = [*await waiting, *await station.call("zz")]
    assert all(isinstance(outcome, NotSent) for outcome in outcomes)
    assert station.sent == [["x"]]


async def test_a_fault_is_heard_by_all_who_wait_for_it() -> None:
    station = Station()
    station.fault = ZeroDivisionError()
    station.answer(2)
    assert list(await asyncio.gather(station.call("x"), station.call("y"))) == [[station.fault], [station.fault]]
    station.fault = None
    assert await station.call("z") == ["a:z"]


@pytest.mark.parametrize("size", [1, 2])
async def test_close_lets_nobody_wait(redis_url: str, size: int) -> None:
    redis = Redis(Settings(redis_url=redis_url, database_url="x", jwt_secret="x" * 32))
    await redis.start()
    calls = asyncio.create_task(redis.batch([Command("k", ("GET", "k"))] * size))
    await asyncio.sleep(0)
    await redis.close()
    async with asyncio.timeout(30):
        outcomes = await calls
    assert all(outcome is None or isinstance(outcome, HubError) for outcome in outcomes)
