"""The fake itself, as a plain HTTP client sees it: vocabularies, knobs, counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from hub.fake_llm import Behaviour, FakeLlmServer, fake_llm_server, fake_text
from hub.fake_llm.behaviour import ENDS, of_model
from hub.fake_llm.dialects import DIALECTS
from hub.fake_llm.text import halves
from tests.support.waiting import until

OPENAI, ANTHROPIC = "/v1/chat/completions", "/v1/messages"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[FakeLlmServer]:
    async with fake_llm_server() as running:
        yield running


@pytest.fixture
async def client(server: FakeLlmServer) -> AsyncIterator[httpx.AsyncClient]:
    server.llm.forget()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        yield client


async def ask(client: httpx.AsyncClient, path: str, model: str = "fake", **more: Any) -> httpx.Response:
    return await client.post(path, json={"model": model, "messages": [], **more})


async def test_openai_streaming(client: httpx.AsyncClient) -> None:
    answer = await ask(client, OPENAI, "fake?tokens=5", stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done = answer.text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks[1:6]) == fake_text(5)
    assert chunks[6]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert (chunks[7]["choices"], chunks[7]["usage"]["completion_tokens"]) == ([], 5)


async def test_anthropic_streaming(client: httpx.AsyncClient) -> None:
    answer = await ask(client, ANTHROPIC, "fake?tokens=2", stream=True)
    events = [event.split("\n") for event in answer.text.removesuffix("\n\n").split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in events]
    datas = [json.loads(data.removeprefix("data: ")) for _, data in events]
    begin, end = (
        ["message_start", "content_block_start", "ping"],
        ["content_block_stop", "message_delta", "message_stop"],
    )
    assert names == [*begin, "content_block_delta", "content_block_delta", *end]
    assert [data["type"] for data in datas] == names
    assert "".join(data["delta"]["text"] for data in datas[3:5]) == fake_text(2)
    assert datas[6]["delta"]["stop_reason"] == "end_turn"


async def test_whole_answers(client: httpx.AsyncClient) -> None:
    openai = (await ask(client, OPENAI, "fake?tokens=7")).json()
    assert openai["choices"][0]["message"]["content"] == fake_text(7)
    assert openai["choices"][0]["finish_reason"] == "stop"
    anthropic = (await ask(client, ANTHROPIC, "fake?tokens=7&end=length")).json()
    assert anthropic["content"] == [{"type": "text", "text": fake_text(7)}]
    assert anthropic["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("stream", [True, False])
async def test_statuses(client: httpx.AsyncClient, path: str, stream: bool) -> None:
    refused = await ask(client, path, "fake?status=429&retry_after=3&times=1", stream=stream)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert (await ask(client, path, "fake?status=429&retry_after=3&times=1", stream=stream)).status_code == 200


async def test_behaviour_for_all_and_stats(client: httpx.AsyncClient) -> None:
    put = await client.put("/fake/behaviour", json={"status": 503, "times": 2, "tokens": 1})
    assert put.status_code == 204
    statuses = [(await ask(client, path)).status_code for path in (OPENAI, ANTHROPIC, OPENAI)]
    assert statuses == [503, 503, 200]
    assert (await client.get("/fake/stats")).json() == {"requests": 3, "refused": 2, "finished": 1}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"end":"explode"}', b'{"tokens":-1}', b'{"nonsense":1}'])
async def test_a_behaviour_that_does_not_exist(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.put("/fake/behaviour", content=body)).status_code == 400


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"[]", b'{"model":"fake?end=explode"}', b'{"model":"fake?tokens"}'])
async def test_requests_that_make_no_sense(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post(OPENAI, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert (await client.get("/nothing")).status_code == 404


async def test_it_sees_who_goes(server: FakeLlmServer, client: httpx.AsyncClient) -> None:
    async with client.stream("POST", OPENAI, json={"model": "fake?end=stall", "stream": True}) as answer:
        assert await anext(answer.aiter_bytes())
        assert (server.llm.stats["gone"], server.llm.open) == (0, 1)
    await until(lambda: (server.llm.stats["gone"], server.llm.open) == (1, 0))


async def test_pace(client: httpx.AsyncClient) -> None:
    clock = asyncio.get_running_loop().time
    before = clock()
    await ask(client, OPENAI, "fake?tokens=10&tokens_per_s=200&first_token_s=0.05", stream=True)
    assert clock() - before >= 0.05 + 10 / 200 - 0.01  # no sooner; how much later is not its doing


async def test_stopping_does_not_wait_for_stalled_answers() -> None:
    async with fake_llm_server(Behaviour(end="stall")) as running, httpx.AsyncClient(timeout=30) as client:
        request = client.build_request("POST", running.url + OPENAI, json={"model": "m", "stream": True})
        answer = await client.send(request, stream=True)
        running.stop()
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()


def test_models_ask_for_behaviours() -> None:
    assert of_model("gpt") is None
    assert of_model("any?end=cut&after=5&tokens_per_s=2.5&halves=true") == Behaviour(
        end="cut", after=5, tokens_per_s=2.5, halves=True
    )
    for end in ENDS:
        assert of_model(f"?end={end}") is not None
    for wrong in ("a?end", "a?end=x", "a?status=99", "a?what=1"):
        with pytest.raises(ValueError):  # noqa: PT011 - of whatever kind
            of_model(wrong)


def test_halves_are_halves() -> None:
    assert list(halves("plain é")) == ["plain é"]
    first, second = halves("a🎉b")
    assert (first[:-1], second[1:]) == ("a", "b")
    assert (first + second).encode("utf-16", "surrogatepass").decode("utf-16") == "a🎉b"
