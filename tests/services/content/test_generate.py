"""What a language model writes as a stream: through the official libraries, a fake model, and the whole hub."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hub.client import RequestRefused
from hub.fake_llm import FakeLlmServer, fake_llm_server, fake_text
from hub.protocol.frames import Reply
from services.content.pipeline import Pipeline
from tests.services.content.studio import Studio, studio
from tests.support.hub_database import HubDatabase
from tests.support.peers import Peers
from tests.support.waiting import until

CHAT = {"kind": "chat", "messages": [{"role": "user", "content": "Tell me."}], "speed": "superfast"}
SCRIPT = {"kind": "script", "topic": "Towels", "platform": "tiktok", "duration_s": 20}
TOKENS = 40


def of_fake(fake: FakeLlmServer, model: str = "fake", providers: tuple[str, ...] = ("openai",)) -> dict[str, Any]:
    """Settings that lead to the fake."""
    return {
        "assistant_providers": providers,
        "assistant_openai_base_url": f"{fake.url}/v1",
        "assistant_openai_model": model,
        "assistant_openai_key": "no-key",
        "assistant_anthropic_base_url": fake.url,
        "assistant_anthropic_model": model,
        "assistant_anthropic_key": "no-key",
        "assistant_backoff_base_s": 0.001,
        "assistant_backoff_max_s": 0.002,
        "assistant_connect_timeout_s": 30.0,
        # A fake that falls silent waits for the end of this. The others have time, on a busy machine too.
        "assistant_token_timeout_s": 1.0 if "end=stall" in model else 30.0,
    }


@pytest.fixture
async def fake() -> AsyncIterator[FakeLlmServer]:
    async with fake_llm_server() as server:
        yield server


def shown(markdown: str) -> str:
    """What the pipeline makes of a text that is complete."""
    live = Pipeline().live()
    live.feed(markdown)
    live.finish()
    return live.html


async def generated(house: Studio, params: dict[str, Any] = CHAT) -> tuple[Any, dict[str, Any]]:
    """An editor that has seen a text to its end, and the stream as it is kept."""
    client = await house.client()
    begun = await client.call("assistant.generate", params)
    assert begun == {"stream": begun["stream"], "topic": f"content:{begun['stream']}"}
    editor = await house.watch(begun["stream"], client=client)
    await editor.ended()

    async def stored() -> Any:
        row = await client.call("content.get", {"stream": begun["stream"]})
        return row if row["finished_ms"] else None

    return editor, await until(stored, what="the end to be stored")


async def test_a_script_without_a_key(redis_url: str, hub_database: HubDatabase) -> None:
    async with studio(redis_url, hub_database, assistant_offline_words_per_s=1000.0) as house:
        editor, row = await generated(house, SCRIPT)
    assert editor.events[-1].name == "stream_complete"
    assert editor.result["provider"] == "offline"
    assert editor.result["chunks"] == len(editor.chunks) > 10
    assert "Towels" in editor.document.html
    assert row["html"] == editor.document.html
    assert (row["kind"], row["state"]) == ("assistant", "complete")
    assert editor.named("stream_start")[0]["kind"] == "assistant"


@pytest.mark.parametrize("library", ["openai", "anthropic"])
async def test_a_models_text_becomes_safe_html(
    redis_url: str, hub_database: HubDatabase, fake: FakeLlmServer, library: str
) -> None:
    async with studio(redis_url, hub_database, **of_fake(fake, providers=(library,))) as house:
        editor, row = await generated(house)
    assert editor.document.html == shown(fake_text(TOKENS)) == row["html"]
    assert editor.result["provider"] == library
    assert editor.result["bytes"] == len(fake_text(TOKENS).encode())
    await until(lambda: fake.llm.stats == {"requests": 1, "finished": 1}, what="the answer to end")


@pytest.mark.parametrize(
    ("knobs", "code", "written"),
    [
        ("end=cut", "upstream_failed", 3),
        ("end=stall", "timeout", 3),
        ("end=error", "upstream_failed", 3),
        ("end=unfinished", "upstream_failed", 3),
        ("end=bad_json", "upstream_failed", 3),
        ("end=bad_text", "upstream_failed", 3),
        ("end=endless_line", "upstream_failed", 3),
        ("end=endless_event", "upstream_failed", 3),
        ("end=length", "too_large", 3),
        ("end=withheld", "upstream_failed", 3),
        ("end=cut&after=0", "upstream_failed", 0),
        ("status=500", "upstream_failed", 0),
        ("status=429", "upstream_failed", 0),
        ("status=401", "upstream_failed", 0),
        ("end=bad_type", "upstream_failed", 0),
        ("tokens=0", "upstream_failed", 0),
    ],
)
@pytest.mark.parametrize("library", ["openai", "anthropic"])
async def test_a_provider_that_fails_ends_in_stream_error_with_what_was_written(
    redis_url: str, hub_database: HubDatabase, fake: FakeLlmServer, library: str, knobs: str, code: str, written: int
) -> None:
    async with studio(redis_url, hub_database, **of_fake(fake, f"fake?{knobs}", (library,))) as house:
        editor, row = await generated(house)
    assert editor.events[-1].name == "stream_error"
    assert (editor.result["state"], editor.result["code"]) == ("failed", code)
    assert editor.result["details"]["provider"] == library
    assert editor.document.html == (shown(fake_text(written)) if written else "")
    assert row["html"] == editor.document.html
    assert (row["state"], row["result"]["code"]) == ("failed", code)


async def test_the_next_provider_goes_on_where_the_first_one_failed(
    redis_url: str, hub_database: HubDatabase, fake: FakeLlmServer
) -> None:
    settings = of_fake(fake, "fake?end=cut", ("openai", "anthropic")) | {"assistant_anthropic_model": "fake"}
    async with studio(redis_url, hub_database, **settings) as house:
        editor, _ = await generated(house)
    assert editor.events[-1].name == "stream_complete"
    assert editor.result["provider"] == "anthropic"
    assert editor.document.html == shown(fake_text(3) + fake_text(TOKENS))


async def test_cancel_stops_the_providers_call(redis_url: str, hub_database: HubDatabase, fake: FakeLlmServer) -> None:
    async with studio(redis_url, hub_database, **of_fake(fake, "fake?tokens=100000&tokens_per_s=50")) as house:
        client = await house.client()
        stream = (await client.call("assistant.generate", CHAT))["stream"]
        editor = await house.watch(stream, client=client)
        await until(lambda: editor.chunks, what="the first chunk")
        await client.call("content.cancel", {"stream": stream})
        assert (await editor.ended())["code"] == "cancelled"
        await until(lambda: fake.llm.stats.get("gone") == 1, what="the call to end")


async def test_a_stream_that_is_written_can_be_paused_and_slowed(
    redis_url: str, hub_database: HubDatabase, fake: FakeLlmServer
) -> None:
    async with studio(redis_url, hub_database, **of_fake(fake, "fake?tokens=200&tokens_per_s=200")) as house:
        client = await house.client()
        stream = (await client.call("assistant.generate", CHAT))["stream"]
        editor = await house.watch(stream, client=client)
        await until(lambda: editor.chunks, what="the first chunk")
        assert (await client.call("content.pause", {"stream": stream}))["state"] == "paused"
        await until(lambda: fake.llm.stats.get("finished") == 1, what="the model to write on while nobody looks")
        assert editor.result is None
        assert (await client.call("content.resume", {"stream": stream}))["state"] == "running"
        await editor.ended()
        assert editor.document.html == shown(fake_text(200))


async def test_so_many_texts_at_once_for_one_user(
    redis_url: str, hub_database: HubDatabase, fake: FakeLlmServer
) -> None:
    settings = of_fake(fake, "fake?tokens=100000&tokens_per_s=20") | {"assistant_max_per_user": 2}
    async with studio(redis_url, hub_database, **settings) as house, Peers(house.nodes[0], org="acme") as peers:
        ask = {"type": "call", "method": "assistant.generate", "params": CHAT}
        client = await peers.join("ada")  # who does not wait and try again by itself
        streams = [(await client.result(dict(ask)))["stream"] for _ in range(2)]
        await client.refusal(dict(ask), "rate_limited")
        await client.result({"type": "call", "method": "content.cancel", "params": {"stream": streams[0]}})

        async def another() -> bool:
            return isinstance(await client.request(dict(ask)), Reply)

        await until(another, what="room for another text")


async def test_what_may_not_be_asked(redis_url: str, hub_database: HubDatabase) -> None:
    async with studio(redis_url, hub_database) as house:
        client = await house.client()
        for params, code in (
            ({"kind": "poem"}, "bad_request"),
            (CHAT | {"provider": "openai"}, "bad_request"),
            (CHAT | {"provider": 7}, "bad_request"),
            (CHAT | {"speed": "warp"}, "bad_request"),
            (CHAT | {"messages": []}, "empty_content"),
            (SCRIPT | {"platform": "papyrus"}, "bad_request"),
        ):
            with pytest.raises(RequestRefused) as refused:
                await client.call("assistant.generate", params)
            assert refused.value.code == code, params
