"""POST /v1/chat/stream over real sockets: what is answered, what is refused, and what happens to those who leave."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from hub.fake_llm.behaviour import Behaviour
from hub.fake_llm.text import fake_text
from services.content.assistant import Prompt
from tests.edge.http_hub import assert_problem
from tests.services.chat.conftest import PATH, ChatHub, ChatHubWith, ask
from tests.services.chat.reading import blocks, document, events, parts
from tests.support.waiting import until

AI_SDK = f"{PATH}?format=ai-sdk"
UI_BODY = {
    "id": "c",
    "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "hello"}]}],
    "trigger": "submit-message",
}
FOR_EVER: dict[str, Any] = {"tokens": 1_000_000, "tokens_per_s": 50.0}


async def test_an_answer(chat_hub_with: ChatHubWith) -> None:
    async with chat_hub_with() as chat:
        answer = await chat.post()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    told = events(answer.text)
    assert [told[0].name, told[-1].name] == ["stream_start", "stream_complete"]
    assert {one.name for one in told[1:-1]} == {"chunk"}
    assert "<strong>written</strong>" in document(told)
    assert told[-1].data["stream"] == told[0].data["stream"]
    assert told[-1].data["provider"] == "openai"
    assert chat.fake.llm.requests[0].body["messages"][-1] == ask()["messages"][0]


async def test_an_answer_for_use_chat(chat_hub_with: ChatHubWith) -> None:
    """The shape that the library (ai 5 and 6, @ai-sdk/react 2 and 3) was seen to read."""
    async with chat_hub_with() as chat:
        answer = await chat.post(AI_SDK, json=UI_BODY)
        with_chunks = await chat.post(f"{AI_SDK}&chunks=1", json=UI_BODY)
    assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    told = parts(answer.text)
    deltas = [part for part in told if part["type"] == "text-delta"]
    kinds = [part["type"] for part in told if part["type"] != "text-delta"]
    assert kinds == ["start", "start-step", "text-start", "text-end", "finish-step", "finish"]
    assert "".join(part["delta"] for part in deltas) == fake_text(40)
    assert {part["id"] for part in told if part["type"].startswith("text-")} == {deltas[0]["id"]}
    chunks = [part["data"] for part in parts(with_chunks.text) if part["type"] == "data-chunk"]
    assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
    assert chunks
    assert chat.fake.llm.requests[0].body["messages"][-1] == {"role": "user", "content": "hello"}


async def test_it_comes_while_it_is_written(chat_hub_with: ChatHubWith) -> None:
    async with chat_hub_with() as chat:
        chat.fake.llm.behave(Behaviour(**FOR_EVER))
        async with chat.streaming() as response:
            came = blocks(response)
            while "stream_start" in (block := await anext(came)):
                pass
            assert block.startswith("event: chunk\nid: 0\ndata: ")
            assert chat.fake.llm.open == 1


class Thinker:
    """A provider that thinks until it is told to write."""

    name = "thinker"

    def __init__(self) -> None:
        self.done = asyncio.Event()

    async def generate(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        await self.done.wait()
        yield "At last."

    async def close(self) -> None:
        pass


async def test_signs_of_life(chat_hub_with: ChatHubWith) -> None:
    thinker = Thinker()
    async with chat_hub_with(providers=[thinker], sse_keepalive_s=0.05) as chat, chat.streaming() as response:
        came: list[str] = []
        async for block in blocks(response):
            came.append(block)
            if came.count(": keep-alive") == 2:
                chat.hub.loop.call_soon_threadsafe(thinker.done.set)
    told = events("".join(f"{block}\n\n" for block in came))
    assert [told[0].name, told[-1].name] == ["stream_start", "stream_complete"]
    assert document(told) == "<p>At last.</p>"


@pytest.mark.parametrize("path", [PATH, AI_SDK])
async def test_a_provider_that_fails_midway(chat_hub_with: ChatHubWith, path: str) -> None:
    async with chat_hub_with(model="fake?end=cut&after=6") as chat:
        answer = await chat.post(path, json=UI_BODY if path == AI_SDK else ask())
    assert answer.status_code == 200
    if path == AI_SDK:
        told = parts(answer.text)
        assert "".join(part.get("delta", "") for part in told) == fake_text(6)
        assert told[-1] == {"type": "error", "errorText": "openai failed (unreachable); try again"}
        assert told[-2]["data"]["code"] == "upstream_failed"
    else:
        ended = events(answer.text)
        assert document(ended) == "<h2>A fake answer</h2><p>This is</p>"
        assert ended[-1].name == "stream_error"
        assert ended[-1].data["details"] == {"provider": "openai", "fault": "unreachable"}
        assert ended[-1].data["retry"] == "later"


# --- what is wrong before the first byte


async def test_refusals(chat_hub_with: ChatHubWith) -> None:
    async with chat_hub_with(
        assistant_max_prompt_bytes=1000,
        max_message_bytes=20_000,
        max_event_bytes=20_000,
        content_max_bytes=5000,
        content_max_chunk_chars=256,
    ) as chat:
        post = chat.post
        assert_problem(await chat.client.post(PATH, json=ask()), "unauthenticated")
        narrow = chat.headers(scope="subscribe:* call:chat.*")
        forbidden = await chat.client.post(PATH, headers=narrow, json=ask())
        assert_problem(forbidden, "forbidden", says="call:assistant.generate")
        assert_problem(await post(content=b"x", headers={"content-type": "text/plain"}), "content_type")
        assert_problem(await post(json=ask("x" * 1001)), "too_large", says="messages together")
        assert_problem(await post(json=ask("x" * 21_000)), "too_large")
        assert_problem(await post(content=b"{"), "bad_request", says="JSON")
        assert_problem(await post(json={}), "bad_request", says="messages")
        assert_problem(await post(json={"messages": []}), "empty_content")
        assert_problem(await post(json=ask(" ")), "empty_content")
        assert_problem(await post(json=ask(provider="nobody")), "bad_request", says="one of openai")
        system = {"messages": [{"role": "system", "content": "x"}]}
        assert_problem(await post(json=system), "bad_request", says="$.messages[0].role")
        assert_problem(await post(f"{PATH}?format=other", json=ask()), "bad_request", says="format:")
        assert_problem(await post(AI_SDK, json=ask()), "bad_request", says="parts")
        assert chat.fake.llm.stats["requests"] == 0


async def test_requests_are_counted(chat_hub_with: ChatHubWith) -> None:
    async with chat_hub_with(assistant_requests_burst=2, assistant_requests_per_minute=1) as chat:
        for _ in range(2):
            assert (await chat.post(user="often")).status_code == 200
        refused = await chat.post(user="often")
        assert_problem(refused, "rate_limited")
        assert 0 < int(refused.headers["retry-after"]) <= 60
        assert (await chat.post(user="seldom")).status_code == 200
        assert chat.fake.llm.stats["requests"] == 3


async def test_addresses_are_counted(chat_hub_with: ChatHubWith) -> None:
    changes = {"assistant_ip_requests_per_minute": 1, "assistant_ip_requests_burst": 1}
    async with chat_hub_with(client_ip_header="X-Forwarded-For", **changes) as chat:

        async def status(forwarded: str) -> int:
            return (await chat.post(json=ask(), headers={"x-forwarded-for": forwarded})).status_code

        assert await status("192.0.2.1") == 200
        assert await status("198.51.100.9, 192.0.2.1") == 429
        assert await status("192.0.2.1, 192.0.2.2") == 200
        assert await status("2001:db8:1:2::1") == 200
        assert await status("2001:db8:1:2:ffff::") == 429
        assert await status("2001:db8:1:3::") == 200


async def test_texts_at_once_are_counted(chat_hub_with: ChatHubWith) -> None:
    async with chat_hub_with(assistant_max_per_user=1, assistant_requests_burst=10_000) as chat:
        chat.fake.llm.behave(Behaviour(**FOR_EVER))
        async with chat.streaming(user="one"):
            refused = await chat.post(user="one")
            assert_problem(refused, "rate_limited", says="wait for one to end")
            assert refused.headers["retry-after"] == "1"
            async with chat.streaming(user="two"):
                pass
        chat.fake.llm.behave(Behaviour())

        async def again() -> bool:
            return (await chat.post(user="one")).status_code == 200

        await until(again, 30, "the node to notice that he left")


# --- those who leave, and those who do not read


@pytest.mark.parametrize("kind", ["direct", "asgi"])
@pytest.mark.parametrize(
    "how", [{"first_token_s": 60.0}, FOR_EVER, {"end": "stall", "after": 3}], ids=["before", "midway", "silent"]
)
async def test_whoever_leaves_ends_the_call(chat_hub_with: ChatHubWith, kind: str, how: dict[str, Any]) -> None:
    async with chat_hub_with(kind) as chat:
        chat.fake.llm.behave(Behaviour(**how))
        async with chat.streaming() as response:
            came = blocks(response)  # whoever lets go of it closes the connection
            assert "stream_start" in await anext(came)
            await until(lambda: chat.fake.llm.open == 1, what="the call to begin")
        await until(lambda: chat.fake.llm.stats["gone"] == 1, what="the call to be ended")


def raw_request(chat: ChatHub) -> bytes:
    body = json.dumps(ask()).encode()
    token = chat.headers()["Authorization"]
    head = f"POST {PATH} HTTP/1.1\r\nhost: hub\r\nauthorization: {token}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def unread_connection(chat: ChatHub) -> socket.socket:
    """A client that asks and does not read; its buffer is small."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.settimeout(30)
    link.connect(("127.0.0.1", chat.hub.port))
    link.sendall(raw_request(chat))
    return link


class Torrent:
    """A provider that writes until it is ended: faster than a client that does not read, not than a busy pipeline."""

    name = "torrent"

    def __init__(self) -> None:
        self.calls = 0
        self.ended = 0

    async def generate(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        self.calls += 1
        try:
            while True:
                await asyncio.sleep(0.01)
                yield "many words in a row " * 100
        finally:
            self.ended += 1

    async def close(self) -> None:
        pass


ROOM: dict[str, Any] = {"assistant_max_output_bytes": 4_000_000, "assistant_unread_bytes": 65_536}


async def test_whoever_does_not_read_ends_the_call_and_is_told(chat_hub_with: ChatHubWith) -> None:
    torrent = Torrent()
    async with chat_hub_with(providers=[torrent], **ROOM) as chat:
        with unread_connection(chat) as link:
            await until(lambda: torrent.ended == 1, 30, "the call to be ended")
            read = await asyncio.to_thread(read_all, link)
        last = read.rpartition(b"event: ")[2]
        assert last.startswith(b"stream_error")
        assert b'"code":"timeout"' in last


def read_all(link: socket.socket) -> bytes:
    found = bytearray()
    while not found.endswith(b"0\r\n\r\n"):
        piece = link.recv(1_000_000)
        assert piece, "the stream did not end in order"
        found += piece
    return bytes(found)


async def test_whoever_leaves_without_having_read_ends_everything(chat_hub_with: ChatHubWith) -> None:
    """The bytes that wait for him hold up the sending; it is not there that the end is waited for."""
    torrent = Torrent()
    async with chat_hub_with(providers=[torrent], assistant_max_per_user=1, **ROOM) as chat:
        with unread_connection(chat):
            await until(lambda: torrent.ended == 1, 30, "the call to be ended")
            assert event_streams(chat)
        await until(lambda: not event_streams(chat), what="the sending to be ended")


async def test_whoever_takes_no_byte_is_given_up(chat_hub_with: ChatHubWith) -> None:
    async with chat_hub_with(providers=[Torrent()], no_progress_s=0.3, **ROOM) as chat:
        with unread_connection(chat) as link:
            await until(lambda: bool(chat.hub.logs.named("event_stream_stalled")), 30, "the client to be given up")
            await until(lambda: not event_streams(chat), what="the sending to be ended")
            with pytest.raises((ConnectionError, AssertionError)):
                await asyncio.to_thread(read_all, link)


async def last_told(response: httpx.Response) -> Any:
    """The data of the last event of an answer."""
    return events((await response.aread()).decode())[-1].data


async def test_an_answer_ends_when_the_node_leaves(chat_hub_with: ChatHubWith) -> None:
    async with chat_hub_with() as chat:
        chat.fake.llm.behave(Behaviour(**FOR_EVER))
        async with chat.streaming() as response:
            await until(lambda: chat.fake.llm.open == 1, what="the call to begin")
            chat.hub.leave()
            told = await last_told(response)
        assert (told["code"], told["retry"]) == ("unavailable", "now")


async def test_an_answer_ends_with_its_token_and_after_a_kick(chat_hub_with: ChatHubWith) -> None:
    async with chat_hub_with() as chat:
        chat.fake.llm.behave(Behaviour(**FOR_EVER))
        for ttl_s in (2, 10, 30):
            short = {"Authorization": f"Bearer {chat.hub.token(user='short', ttl_s=ttl_s)}"}
            async with chat.client.stream("POST", PATH, headers=short, json=ask()) as response:
                if response.status_code == 401:
                    continue  # it was over before the node had read it
                assert (await last_told(response))["code"] == "token_expired"
                break
        else:
            pytest.fail("no token lived long enough")
        async with chat.streaming(user="kicked") as response:
            await until(lambda: chat.fake.llm.open == 1, what="the call to begin")
            admin = chat.headers(user="boss", scope="admin")
            kicked = await chat.client.post("/v1/admin/kick", headers=admin, json={"user": "kicked"})
            assert kicked.status_code == 200
            assert (await last_told(response))["code"] == "unauthenticated"
        await until(lambda: chat.fake.llm.open == 0, what="the calls to be ended")


def event_streams(chat: ChatHub) -> list[str]:
    tasks = (task.get_name() for task in asyncio.all_tasks(chat.hub.loop))
    return [name for name in tasks if name.startswith("event-stream")]


async def test_metrics(chat_hub_with: ChatHubWith) -> None:
    async with chat_hub_with(model="fake?end=cut&after=6") as chat:
        await chat.post()
        scraped = (await chat.client.get("/metrics")).text
    assert 'hub_assistant_texts_total{outcome="upstream_failed",provider="openai"} 1.0' in scraped
    assert 'hub_assistant_failures_total{fault="unreachable",provider="openai"} 1.0' in scraped
    assert 'hub_assistant_first_text_seconds_count{provider="openai"} 1.0' in scraped


async def test_documents(chat_hub_with: ChatHubWith) -> None:
    async with chat_hub_with() as chat:
        document = (await chat.client.get("/openapi.json")).json()
    operation = document["paths"][PATH]["post"]
    assert operation["security"] == [{"bearer": []}]
    assert set(operation["responses"]) == {"200", "400", "401", "403", "413", "415", "429", "503"}
    assert "text/event-stream" in operation["responses"]["200"]["content"]
    assert set(operation["requestBody"]["content"]["application/json"]["examples"]) == {"hub", "ai-sdk"}
