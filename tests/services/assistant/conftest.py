"""Writers that use a fake language model over real sockets, through the official libraries."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from hub.config import Settings
from hub.fake_llm import FakeLlmServer
from services.content.assistant import Outcome, Prompt, Writer, build_providers, parse_prompt

KEY = "sk-a-key-that-nobody-may-see"
QUESTION = "a-question-that-stays-between-us"
LIBRARIES = ("openai", "anthropic")


def assistant_settings(**changes: Any) -> Settings:
    """Settings with short pauses and long time-outs: a test that is about a time-out makes that one short."""
    quick = {"backoff_base_s": 0.001, "backoff_max_s": 0.002, "connect_timeout_s": 30.0}
    quick["offline_words_per_s"] = 100_000.0
    changed = {f"assistant_{name}": value for name, value in (quick | changes).items()}
    return Settings(redis_url="", database_url="", **changed)


def fake_settings(fake: FakeLlmServer, *providers: str, model: str = "fake", **changes: Any) -> Settings:
    """Settings that lead to the fake. ``model`` may say how it behaves."""
    lead: dict[str, Any] = {
        "providers": providers,
        "openai_base_url": f"{fake.url}/v1",
        "openai_model": model,
        "openai_key": KEY,
        "anthropic_base_url": fake.url,
        "anthropic_model": model,
        "anthropic_key": KEY,
    }
    return assistant_settings(**(lead | changes))


@contextlib.asynccontextmanager
async def writing(settings: Settings) -> AsyncIterator[Writer]:
    """A writer with the providers of the settings, closed at the end."""
    writer = Writer(build_providers(settings), settings)
    try:
        yield writer
    finally:
        await writer.close()


def chat(text: str = QUESTION) -> Prompt:
    return parse_prompt({"kind": "chat", "messages": [{"role": "user", "content": text}]}, assistant_settings())


async def collected(items: AsyncGenerator[str | Outcome, None]) -> tuple[list[str], Outcome]:
    """The pieces and the outcome, which came last and once."""
    everything = [item async for item in items]
    outcomes = [item for item in everything if isinstance(item, Outcome)]
    assert outcomes == [everything[-1]]
    pieces = [item for item in everything if isinstance(item, str)]
    assert all(pieces)
    assert outcomes[0].bytes == len("".join(pieces).encode())
    return pieces, outcomes[0]


async def written(settings: Settings, prompt: Prompt | None = None) -> tuple[str, Outcome]:
    """One text by a writer of its own."""
    async with writing(settings) as writer:
        pieces, outcome = await collected(writer.write(prompt or chat()))
    return "".join(pieces), outcome
