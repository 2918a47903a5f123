"""Pages of a room of a million messages, wherever they are, and search in it."""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import Any

from hub.client import HubClient
from loadtest.chat_fill import FREQUENT, RARE, SELDOM, fill
from loadtest.hub_server import HubServer
from loadtest.machine import Watch
from loadtest.measure import Result, Sample, Target, attempted, summary_of, thousands, void_of, why_void
from loadtest.rows.chat_send import UNLIMITED
from loadtest.service_hub import call_times, client, quantiles, service_hub, together
from loadtest.session import Bench

MESSAGES, LIMIT = 1_000_000, 50
_ROOM = "big-1"
_ROUNDS, _FULL_ROUNDS = 60, 300
_SEARCHES = 8  # of one user, who has a limit
_TARGET = Target(text="≤ 10 ms", at_most=10.0)
_WORDS = {"rare": RARE, "seldom": SELDOM, "frequent": FREQUENT, "two words": f"{SELDOM} weather"}


def run(bench: Bench) -> list[Result]:
    """Every page is another one, but for the newest, which everybody who opens the room asks for."""
    rounds = _FULL_ROUNDS if bench.full else _ROUNDS
    with service_hub(bench, durable=False, **UNLIMITED) as (hub, database):
        asyncio.run(fill(database, "small-", 50, 200))
        asyncio.run(fill(database, "big-", 1, MESSAGES, mine=1, public=True))
        bench.say(f"a room of {thousands(MESSAGES)} messages is there")
        runs = [attempted(lambda: _pages(hub, rounds)) for _ in range(bench.repetitions)]
        searches = [attempted(lambda: _searches(hub)) for _ in range(bench.repetitions)]
    pages = [
        Result(
            row=f"chat-history-{name}",
            what=f"chat.history, {LIMIT} of {thousands(MESSAGES)} messages, {name}: median",
            unit="ms",
            figure=summary_of(runs, name),
            target=_TARGET,
            void=void_of(runs),
            note=f"p99 {summary_of(runs, f'{name} p99').median:.1f} ms",
        )
        for name in _asked(random.Random(1), 1)
    ]
    found = [
        Result(
            row=f"chat-search-{name.replace(' ', '-')}",
            what=f"chat.search, {name}: median",
            unit="ms",
            figure=summary_of(searches, name),
            void=void_of(searches),
            note=f"at most {summary_of(searches, f'{name} max').median:.1f} ms",
        )
        for name in _WORDS
    ]
    return [*pages, *found]


def _asked(dice: random.Random, rounds: int) -> dict[str, list[dict[str, Any]]]:
    def of(**where: Any) -> dict[str, Any]:
        return {"room": _ROOM, "limit": LIMIT, **where}

    middle = [dice.randrange(LIMIT, MESSAGES - LIMIT) for _ in range(rounds)]
    return {
        "newest": [of()] * rounds,
        "oldest": [of(after=dice.randrange(0, 1000)) for _ in range(rounds)],
        "before any": [of(before=number) for number in middle],
        "after any": [of(after=number) for number in middle],
        "around any": [of(around=number) for number in middle],
    }


def _pages(hub: HubServer, rounds: int) -> Sample:
    watch = Watch(hub.pids)

    async def ask(one: HubClient) -> dict[str, float]:
        figures: dict[str, float] = {}
        for name, params in _asked(random.Random(rounds), rounds).items():
            page = await one.call("chat.history", params[0])
            if len(page["messages"]) != LIMIT or page["as_of"] != MESSAGES:
                raise RuntimeError(f"chat.history gave {len(page['messages'])} messages as of {page['as_of']}")
            figures[name], figures[f"{name} p99"] = quantiles(await call_times(one, "chat.history", params))
        return figures

    return Sample(together(ask, hub, client(hub, "reader")), why_void(watch.end()))


def _searches(hub: HubServer) -> Sample:
    """Each by users of their own, because searching often is refused."""
    watch = Watch(hub.pids)
    figures: dict[str, float] = {}
    for name, words in _WORDS.items():
        asked = [{"query": words, "limit": 20}] * _SEARCHES

        async def ask(one: HubClient, asked: list[dict[str, Any]] = asked) -> list[float]:
            return await call_times(one, "chat.search", asked)

        times = together(ask, hub, client(hub, f"reader-{secrets.token_hex(8)}"))
        figures[name], figures[f"{name} max"] = sorted(times)[len(times) // 2], max(times)
    return Sample(figures, why_void(watch.end()))
