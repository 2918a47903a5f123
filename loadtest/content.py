"""The hub with content streams under load: its database, the pages that are streamed, and whoever starts them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from hub.auth.tokens import mint_token
from hub.client import ClientError, HubClient
from hub.embedded import PostgresServer
from loadtest.hub_server import ORG, SCOPE, HubServer
from loadtest.local_hub import migrate
from loadtest.session import Bench

T = TypeVar("T")

WORDS_A_PARAGRAPH = 20
_AT_ONCE = 8
# What a user may ask for is not what is measured.
_UNLIMITED = {
    "content_session_requests": 1_000_000,
    "content_running_per_user": 1_000_000,
    "messages_per_second": 1_000_000,
    "messages_burst": 1_000_000,
}
_TEXT = (
    "a stream of words that somebody reads while it is written down and another one who follows it from far away "
    "about harbours ships weather numbers letters tables colours bridges evening light under heavy clouds near"
)
_WORDS = _TEXT.split()


@contextlib.contextmanager
def content_hub(bench: Bench, **settings: Any) -> Iterator[HubServer]:
    """A hub with the services of this deployment, over a PostgreSQL of its own beside Redis."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.folder)))
        database = PostgresServer(folder / "postgres", durable=False)
        stack.callback(database.stop)
        database.start()
        urls = {
            "database_url": database.url("hub_app"),
            "database_relay_url": database.url("hub_relay"),
            "database_owner_url": database.url(),
        }
        wanted = {**_UNLIMITED, **urls, "services": "services.main:SERVICES", **settings}
        migrate({**os.environ, **HubServer(bench.folder, bench.redis_url, **wanted).environment()})
        yield stack.enter_context(bench.hub(**wanted))


def page(size: int, seed: int) -> str:
    """About ``size`` characters of HTML as an editor has it; another ``seed``, another text."""
    rng = random.Random(seed)
    parts: list[str] = []
    length = 0
    while True:
        block = _block(rng)
        if length + len(block) > size:
            return "".join(parts)
        parts.append(block)
        length += len(block)


def script(words: int) -> str:
    """Plain paragraphs of ``WORDS_A_PARAGRAPH`` words each."""
    rng = random.Random(words)
    return "".join(f"<p>{_text(rng, WORDS_A_PARAGRAPH)}</p>" for _ in range(words // WORDS_A_PARAGRAPH))


def together(work: Callable[[HubClient], Awaitable[T]], hub: HubServer) -> T:
    """Runs ``work`` with one client in an event loop of its own. Raises ``RuntimeError`` when the hub refuses."""

    async def run() -> T:
        async with client(hub) as one:
            return await work(one)

    try:
        return uvloop.run(run())
    except ClientError as error:
        raise RuntimeError(str(error)) from error


def client(hub: HubServer, user: str = "author") -> HubClient:
    """A user of the hub."""
    token = mint_token(hub.settings, ORG, user, scope=SCOPE)
    return HubClient(f"ws://127.0.0.1:{hub.port}/ws", lambda: token)


def start_streams(hub: HubServer, names: Sequence[str], **params: Any) -> None:
    """Starts streams of these names, all with the same content."""

    async def start(one: HubClient) -> None:
        waiting = iter(names)

        async def some() -> None:
            for name in waiting:
                await one.call("content.start", {"stream": name, **params})

        await asyncio.gather(*(some() for _ in range(_AT_ONCE)))

    together(start, hub)


def _block(rng: random.Random) -> str:
    sentences = " ".join(f"{_text(rng, rng.randint(6, 14)).capitalize()}." for _ in range(6))
    table = "".join(f"<tr><td>{_text(rng, 2)}</td><td>{rng.randint(1, 999)}</td></tr>" for _ in range(3))
    return (
        f"<h2>{_text(rng, 4)}</h2><p>{_text(rng, 5)} <strong>{_text(rng, 2)}</strong>, "
        f'<a href="https://example.com/?a={rng.randint(1, 999)}&amp;b=2">{_text(rng, 2)}</a>. {sentences}</p>'
        f'<p><span style="color: #aa3300">{_text(rng, 3)}</span> &amp; {sentences}</p>'
        f"<ul><li><p>{_text(rng, 4)}</p></li><li><p>{_text(rng, 6)}</p></li></ul>"
        f"<table><tbody>{table}</tbody></table>"
    )


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words))
