"""A hundred texts that a language model writes at the same time: what the hub adds to the model's own time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import secrets
import statistics
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import uvloop

from hub.client import HubClient, Subscription
from loadtest.content import content_hub
from loadtest.hub_server import HubServer
from loadtest.machine import Watch
from loadtest.measure import Result, Sample, Target, attempted, summary_of, thousands, void_of, why_void
from loadtest.servers import ROOT, answers, free_port, python
from loadtest.service_hub import client
from loadtest.session import Bench

GENERATIONS = 100
_TOKENS_PER_S = 50.0
_FIRST_TOKEN_S = 0.3
_STAGGER_S = 0.02
_ASKED_DIRECTLY = 20
_START_S = 20.0
_EVENTS = "hub_events_published_total"
_SAYS_SOMETHING = re.compile(r'"content": ?"[^"]')
_CHAT = {"kind": "chat", "messages": [{"role": "user", "content": "Tell me."}], "speed": "superfast"}


def run(bench: Bench) -> list[Result]:
    """Through the hub, and now and then the model itself."""
    tokens = int(_TOKENS_PER_S * (bench.seconds + GENERATIONS * _STAGGER_S + 2))
    with _model(tokens) as url:
        settings = {
            "assistant_providers": "openai",
            "assistant_openai_base_url": f"{url}/v1",
            "assistant_openai_model": "fake",
        }
        with content_hub(bench, **settings) as hub:
            measured = functools.partial(_measured, hub, url, bench.seconds, tokens / _TOKENS_PER_S)
            runs = [attempted(lambda: uvloop.run(measured())) for _ in range(bench.repetitions)]
    what = f"{GENERATIONS} texts from a model at {_TOKENS_PER_S:.0f} tokens/s each"
    return [
        Result(
            row="assistant-first",
            what=f"{what}: first chunk after the model's first token, median",
            unit="ms",
            figure=summary_of(runs, "beyond"),
            void=void_of(runs),
            note=f"p99 {summary_of(runs, 'beyond_p99').median:.0f} ms; the model itself took "
            f"{summary_of(runs, 'model').median:.0f} ms to its first token",
        ),
        Result(
            row="assistant-behind",
            what=f"{what}: the last chunk after the model's last token, median",
            unit="s",
            figure=summary_of(runs, "behind"),
            void=void_of(runs),
        ),
        Result(
            row="assistant-core",
            what=f"{what}: the hub's share of its core",
            unit="cores",
            figure=summary_of(runs, "server"),
            target=Target(text="one core", at_most=1.0),
            void=void_of(runs),
            note=f"{thousands(summary_of(runs, 'events_per_s').median)} events/s; "
            f"core of model, Redis and load {summary_of(runs, 'load_core').median:.0%}",
        ),
    ]


@contextlib.contextmanager
def _model(tokens: int) -> Iterator[str]:
    """``hub fake-llm`` on the load's core; its address."""
    port = free_port()
    knobs = {"port": port, "tokens": tokens, "tokens-per-s": _TOKENS_PER_S, "first-token-s": _FIRST_TOKEN_S}
    words = [word for name, value in knobs.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen(python("hub.cli", "fake-llm", *words), cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_S
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the fake model does not start")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def _measured(hub: HubServer, url: str, seconds: float, writing_s: float) -> Sample:
    run = secrets.token_hex(4)  # others than before: a user may not ask for much
    async with contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(client(hub, f"{run}-{number}")) for number in range(GENERATIONS)]
        begun = await asyncio.gather(*(_begin(reader, number) for number, reader in enumerate(readers)))
        reading = asyncio.gather(*(_end(one) for one in begun))
        events, watch, until = await _published(hub), Watch(hub.pids), time.monotonic() + seconds
        model = [await _first_token(url) for _ in range(_ASKED_DIRECTLY)]
        await asyncio.sleep(until - time.monotonic())
        used, events = watch.end(), await _published(hub) - events
        took_s = await reading
    first, itself = [one.first_ms for one in begun], statistics.median(model)
    return Sample(
        {
            "beyond": statistics.median(first) - itself,
            "beyond_p99": statistics.quantiles(first, n=100)[98] - itself,
            "behind": statistics.median(took_s) - writing_s - itself / 1000,
            "model": itself,
            "server": used.server,
            "load_core": used.load_core,
            "events_per_s": events / used.seconds,
        },
        why_void(used),
    )


class _Begun(NamedTuple):
    """A text whose first chunk has come."""

    at: float
    """When it was asked for."""
    first_ms: float
    events: Subscription


async def _begin(reader: HubClient, number: int) -> _Begun:
    await asyncio.sleep(number * _STAGGER_S)
    at = time.perf_counter()
    begun = await reader.call("assistant.generate", _CHAT)
    events = reader.subscribe(begun["topic"], since="start")
    while (await anext(events)).name != "chunk":
        pass
    return _Begun(at, (time.perf_counter() - at) * 1000, events)


async def _end(begun: _Begun) -> float:
    """How long the whole text took, in seconds."""
    while (event := await anext(begun.events)).name != "stream_complete":
        if event.name == "stream_error":
            raise RuntimeError(f"a text ended as {event.data}")
    return time.perf_counter() - begun.at


async def _first_token(url: str) -> float:
    """How long the model itself takes to its first token, in ms."""
    asked = {"model": "fake", "stream": True, "messages": _CHAT["messages"]}
    began = time.perf_counter()
    async with httpx.AsyncClient() as asking, asking.stream("POST", f"{url}/v1/chat/completions", json=asked) as answer:
        async for line in answer.aiter_lines():
            if _SAYS_SOMETHING.search(line):
                return (time.perf_counter() - began) * 1000
    raise RuntimeError("the fake model says nothing")


async def _published(hub: HubServer) -> float:
    return await asyncio.to_thread(hub.metric, _EVENTS)
