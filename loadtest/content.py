"""The hub with content streams under load: the pages that are streamed, and whoever starts them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

from hub.client import HubClient
from loadtest.hub_server import HubServer
from loadtest.service_hub import service_hub, together
from loadtest.session import Bench

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
    """A hub with content streams; what is measured is not the disk."""
    with service_hub(bench, durable=False, **{**_UNLIMITED, **settings}) as (hub, _):
        yield hub


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
