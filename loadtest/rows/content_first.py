"""How long after its request the first chunk of a large page is on the same socket."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time

from hub.client import HubClient, RequestRefused
from loadtest.content import content_hub, page
from loadtest.hub_server import HubServer
from loadtest.machine import Watch
from loadtest.measure import Result, Sample, Target, attempted, summary_of, void_of, why_void
from loadtest.service_hub import together
from loadtest.session import Bench

_BYTES = 100_000
_ROUNDS, _FULL_ROUNDS = 40, 150
_SHAPES = {"flat": "", "in one element": "article"}
_TARGET = Target(text="≤ 10 ms", at_most=10.0)


def run(bench: Bench) -> list[Result]:
    """Flat and wrapped, with a cold and a warm cache, and a request that is refused, in turns."""
    rounds = _FULL_ROUNDS if bench.full else _ROUNDS
    with content_hub(bench) as hub:
        runs = [attempted(lambda: _measured(hub, rounds)) for _ in range(bench.repetitions)]
    return [
        Result(
            row="content-first",
            what=f"100 KB of HTML, {shape}, {cache} cache: request → first chunk, median",
            unit="ms",
            figure=summary_of(runs, f"{shape} {cache}"),
            target=_TARGET,
            references={"a refused request of that size": summary_of(runs, "refused")},
            against="a refused request of that size",
            void=void_of(runs),
            note=f"p99 {summary_of(runs, f'{shape} {cache} p99').median:.1f} ms",
        )
        for shape in _SHAPES
        for cache in ("cold", "warm")
    ]


def _measured(hub: HubServer, rounds: int) -> Sample:
    watch = Watch(hub.pids)
    times = together(lambda client: _times(client, rounds), hub)
    figures: dict[str, float] = {}
    for name, values in times.items():
        figures[name] = statistics.median(values)
        figures[f"{name} p99"] = statistics.quantiles(values, n=100)[98]
    return Sample(figures, why_void(watch.end()))


async def _times(client: HubClient, rounds: int) -> dict[str, list[float]]:
    """Milliseconds, by what was asked."""
    times: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        text = page(_BYTES, secrets.randbits(64))  # that the cache does not have yet
        for shape, element in _SHAPES.items():
            content = f"<{element}>{text}</{element}>" if element else text
            for cache in ("cold", "warm"):
                took = await _first_chunk(client, content)
                if number:  # the first round warms up
                    times.setdefault(f"{shape} {cache}", []).append(took)
        times.setdefault("refused", []).append(await _refused(client, text))
    return times


async def _first_chunk(client: HubClient, content: str) -> float:
    stream = secrets.token_hex(8)
    asked = {"stream": stream, "content": content, "content_type": "html", "chunk_by": "sentence", "speed": "superfast"}
    async with client.subscribe(f"content:{stream}") as events:
        began = time.perf_counter()
        answer = asyncio.create_task(client.call("content.start", asked))
        async for event in events:
            if event.name == "chunk":
                took = (time.perf_counter() - began) * 1000
                break
        await answer
        await client.call("content.cancel", {"stream": stream})
    return took


async def _refused(client: HubClient, content: str) -> float:
    """The way to the hub and back, with everything that costs by the byte, and no stream."""
    began = time.perf_counter()
    try:
        await client.call("content.start", {"content": content, "speed": "none"})
    except RequestRefused:
        return (time.perf_counter() - began) * 1000
    raise RuntimeError("an unknown speed was not refused")
