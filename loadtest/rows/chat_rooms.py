"""A user's list of two hundred rooms, with what is unread and what was said last, in an organisation of a thousand."""

from __future__ import annotations

import asyncio

from hub.client import HubClient
from loadtest.chat_fill import fill
from loadtest.hub_server import HubServer
from loadtest.machine import Watch
from loadtest.measure import Result, Sample, Target, attempted, summary_of, void_of, why_void
from loadtest.rows.chat_send import UNLIMITED
from loadtest.service_hub import call_times, client, quantiles, service_hub, together
from loadtest.session import Bench

ORGANISATION, MINE, MESSAGES = 1000, 200, 200
_ROUNDS, _FULL_ROUNDS = 100, 400
_TARGET = Target(text="≤ 10 ms", at_most=10.0)


def run(bench: Bench) -> list[Result]:
    """The first page is all of them; then a page of fifty, as an application that scrolls asks for it."""
    rounds = _FULL_ROUNDS if bench.full else _ROUNDS
    with service_hub(bench, durable=False, **UNLIMITED) as (hub, database):
        asyncio.run(fill(database, "room-", ORGANISATION, MESSAGES, mine=MINE))
        runs = [attempted(lambda: _measured(hub, rounds)) for _ in range(bench.repetitions)]
    return [
        Result(
            row=f"chat-rooms-{limit}",
            what=f"chat.rooms, {limit} of a user's {MINE} rooms, median",
            unit="ms",
            figure=summary_of(runs, f"{limit}"),
            target=_TARGET,
            void=void_of(runs),
            note=f"p99 {summary_of(runs, f'{limit} p99').median:.1f} ms",
        )
        for limit in (MINE, 50)
    ]


def _measured(hub: HubServer, rounds: int) -> Sample:
    watch = Watch(hub.pids)

    async def ask(one: HubClient) -> dict[str, float]:
        figures: dict[str, float] = {}
        for limit in (MINE, 50):
            listed = await one.call("chat.rooms", {"limit": limit})
            if len(listed["rooms"]) != limit or not any(room["unread"] and room["last"] for room in listed["rooms"]):
                raise RuntimeError(f"chat.rooms gave {len(listed['rooms'])} rooms")
            times = await call_times(one, "chat.rooms", [{"limit": limit}] * rounds)
            figures[f"{limit}"], figures[f"{limit} p99"] = quantiles(times)
        return figures

    return Sample(together(ask, hub, client(hub, "reader")), why_void(watch.end()))
