"""The turnstile: nobody waits where few come, the loop gets its turn where many do, and who is nearly in goes first."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from hub.fanout.turnstile import Step, Turnstile
from hub.telemetry import Metrics
from tests.support.fan_out import REPLAY, FakeConnection, FanOut, settings
from tests.support.waiting import until

PER_TURN = 3


@pytest.fixture
def turnstile() -> Turnstile:
    return Turnstile(settings(newcomer_steps_per_turn=PER_TURN), Metrics())


async def next_turn() -> None:
    await asyncio.sleep(0)


async def test_few_do_not_wait(turnstile: Turnstile) -> None:
    for _ in range(10):
        assert [turnstile.wait(Step.HANDSHAKE) for _ in range(PER_TURN)] == [None] * PER_TURN
        await next_turn()
    assert turnstile.waiting == 0


async def test_of_many_a_few_pass_in_each_turn_of_the_loop(turnstile: Turnstile) -> None:
    came: list[str] = []

    async def newcomer(number: int) -> None:
        await turnstile.turn(Step.HELLO)
        came.append(str(number))

    def event() -> None:
        came.append("-")
        if len(came) < 14:
            asyncio.get_running_loop().call_soon(event)

    newcomers = [asyncio.create_task(newcomer(number)) for number in range(8)]
    asyncio.get_running_loop().call_soon(event)
    await asyncio.gather(*newcomers)
    # What has nothing to do with newcomers comes between any two handfuls of them.
    handfuls = [handful for handful in "".join(came).split("-") if handful]
    assert "".join(handfuls) == "01234567"
    assert max(map(len, handfuls)) == PER_TURN


async def test_there_is_never_more_room_for_having_waited(turnstile: Turnstile) -> None:
    for _ in range(10):
        await next_turn()
    assert sum(turnstile.wait(Step.HELLO) is None for _ in range(10)) == PER_TURN
    assert turnstile.waiting == 10 - PER_TURN


async def test_who_is_nearly_in_goes_first(turnstile: Turnstile) -> None:
    came: list[Step] = []
    for _ in range(PER_TURN):
        turnstile.wait(Step.HANDSHAKE)
    steps = [Step.LAG, Step.HANDSHAKE, Step.HELLO, Step.CATCH_UP] * 2
    for step in steps:
        waiter = turnstile.wait(step)
        assert waiter is not None
        waiter.add_done_callback(partial(lambda step, _: came.append(step), step))
    await until(lambda: len(came) == len(steps))
    assert came == sorted(steps)


async def test_who_leaves_gives_the_place_in_line_to_the_next(turnstile: Turnstile) -> None:
    waiters = [turnstile.wait(Step.HELLO) for _ in range(PER_TURN * 3)]
    line = [waiter for waiter in waiters if waiter is not None]
    for waiter in line[:PER_TURN]:
        waiter.cancel()
    await next_turn()
    await next_turn()
    assert all(waiter.done() for waiter in line)
    assert turnstile.waiting == 0


async def test_those_who_wait_for_the_same_page_of_history_go_on_a_few_per_turn() -> None:
    hub = FanOut(newcomer_steps_per_turn=PER_TURN, replay_page_events=2)
    missed = 6
    hub.publish(REPLAY, missed)
    newcomers = [FakeConnection(hub) for _ in range(10)]
    joining = [asyncio.create_task(newcomer.join(REPLAY, "start")) for newcomer in newcomers]
    most = 0
    # First each gets its verdict and a page, then catches up page by page.
    while any(len(newcomer.frames) < missed for newcomer in newcomers):
        before = [len(newcomer.frames) for newcomer in newcomers]
        await next_turn()
        most = max(most, sum(len(new.frames) > old for new, old in zip(newcomers, before, strict=True)))
    # Who passed at the end of one turn may go on together with those who pass in the next.
    assert most < 2 * PER_TURN
    await asyncio.gather(*joining)
    await hub.close()
