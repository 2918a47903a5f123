"""``hub publish``, ``hub tail``, ``hub call`` and ``hub kick`` as processes, against a scripted hub."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hub.auth.tokens import TokenVerifier
from hub.config import Settings
from tests.cli.conftest import SECRET, Commands
from tests.client.scripted_front import scripted_front
from tests.client.scripted_hub import Peer, ScriptedHub, eventually


async def test_publish(hub: ScriptedHub, hub_command: Commands) -> None:
    arguments = (
        "publish",
        "events:a",
        "invoice.paid",
        '{"amount": 12}',
        "--key",
        "k",
        "--tag",
        "p=456",
        "--tag",
        "s=open",
    )
    first = await hub_command(*arguments, "--url", hub.url)
    assert (first.out, first.err, first.process.returncode) == ("e1:1\n", "", 0)
    again = await hub_command(*arguments, HUB_URL=hub.url)
    assert again.out == "e1:1 duplicate\n"
    frame = hub.peers[0].got("publish")[0]
    assert frame["data"] == {"amount": 12}
    assert frame["tags"] == {"p": 456, "s": "open"}
    ephemeral = await hub_command("publish", "chat:a", "typing", "true", "--ephemeral", HUB_URL=hub.url)
    assert ephemeral.out == "ephemeral\n"


async def test_the_token_made_in_a_dev_folder(hub: ScriptedHub, hub_command: Commands) -> None:
    await hub_command("publish", "events:a", "n", "1", "--org", "globex", HUB_URL=hub.url)
    bearer = (hub.peers[0].authorization or "").removeprefix("Bearer ")
    settings = Settings(redis_url="", database_url="", jwt_secret=SECRET)
    principal = await TokenVerifier(settings).verify(bearer)
    assert (principal.org, principal.user) == ("globex", "cli")
    assert principal.allows("publish", "events:a")
    assert not principal.allows("admin")
    await hub_command("publish", "events:a", "n", "1", HUB_URL=hub.url, HUB_TOKEN="given")
    assert hub.peers[1].authorization == "Bearer given"


async def test_call(hub: ScriptedHub, hub_command: Commands) -> None:
    run = await hub_command("call", "assistant.generate", '{"kind": "script", "topic": "Zürich"}', "--url", hub.url)
    assert (run.out, run.err, run.process.returncode) == ('{"kind":"script","topic":"Zürich"}\n', "", 0)
    assert hub.peers[0].got("call")[0]["method"] == "assistant.generate"
    assert (await hub_command("call", "presence.get", HUB_URL=hub.url)).out == "{}\n"


async def test_a_call_that_is_refused(hub: ScriptedHub, hub_command: Commands) -> None:
    async def refuse(peer: Peer, frame: dict[str, Any]) -> bool:
        if frame["type"] != "call":
            return False
        refusal = {"code": "not_found", "message": "no such stream", "retry": "never"}
        await peer.send({"type": "error", "id": frame["id"], **refusal})
        return True

    hub.script = refuse
    run = await hub_command("call", "content.pause", '{"stream": "s"}', HUB_URL=hub.url)
    assert (run.out, run.err, run.process.returncode) == ("", "hub: not_found: no such stream\n", 1)


async def stream_of(hub: ScriptedHub, *events: tuple[str, dict[str, Any]]) -> None:
    """The hub answers a call with a stream that has these events."""
    for name, data in events:
        await hub.publish("content:s", data)
        hub.log("content:s").events[-1]["name"] = name

    async def begin(peer: Peer, frame: dict[str, Any]) -> bool:
        if frame["type"] != "call":
            return False
        await peer.send({"type": "reply", "id": frame["id"], "result": {"stream": "s", "topic": "content:s"}})
        return True

    hub.script = begin


def chunk(index: int, op: str, text: str) -> tuple[str, dict[str, Any]]:
    return "chunk", {"index": index, "op": op, "block": 0, "html": text, "text": text, "depth": 1}


async def test_a_stream_is_shown_as_it_unfolds(hub: ScriptedHub, hub_command: Commands, tmp_path: Path) -> None:
    result = {"chunks": 4, "avg_chunk_size": 3.5, "complexity": "low"}
    shown = [
        chunk(0, "open", "One"),
        chunk(1, "append", " two"),
        chunk(2, "replace_tail", "One, 2"),
        chunk(3, "close", "\n"),
    ]
    await stream_of(hub, *shown, ("stream_complete", result))
    source = tmp_path / "page.md"
    source.write_text("One two")
    run = await hub_command("stream", str(source), "--speed", "slow", HUB_URL=hub.url)
    assert (run.out, run.process.returncode) == ("One two\nOne, 2\n", 0)
    assert "complete: 4 chunks of 3.5 characters, low" in run.err
    assert hub.peers[0].got("call")[0]["params"] == {"content": "One two", "speed": "slow", "chunk_by": "auto"}


async def test_a_stream_that_fails(hub: ScriptedHub, hub_command: Commands) -> None:
    error = {"state": "failed", "code": "upstream_failed", "message": "openai failed (unreachable); try again"}
    await stream_of(hub, chunk(0, "open", "Towels"), ("stream_error", error))
    run = await hub_command("stream", "--script", "Towels", HUB_URL=hub.url)
    assert (run.out, run.process.returncode) == ("Towels", 1)
    assert "hub: failed: upstream_failed: openai failed" in run.err
    assert hub.peers[0].got("call")[0]["method"] == "assistant.generate"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["publish", "events:a", "n", "nonsense"], 2, "DATA is not JSON"),
        (["publish", "events:a", "n", "1", "--tag", "x"], 2, "write key=value"),
        (["publish", "events:a", "n", "1", "--url", "http://x"], 2, "write ws://host:port/ws"),
        (["publish", "events:a", "n", "1", "--url", "ws://127.0.0.1:9/ws"], 1, "give --url or HUB_URL"),
        (["call", "m", "nonsense"], 2, "PARAMS is not JSON"),
        (["call", "m", "[1]"], 2, "PARAMS is a JSON object"),
        (["stream"], 2, "one of them only"),
        (["stream", "a", "--chat", "b"], 2, "one of them only"),
        (["stream", "no-such-file"], 2, "cannot be read as text"),
        (["call", "m", "--url", "ws://127.0.0.1:9/ws"], 1, "give --url or HUB_URL"),
        (["tail", "a:b", "--since", "start", "--last", "1"], 2, "not both"),
        (["tail", "a:b", "c:d", "--since", "e:1"], 2, "one topic"),
        (["kick", "al", "--org", "acme", "--url", "ws://127.0.0.1:9/ws"], 1, "no hub answers at http://127.0.0.1:9/v1"),
    ],
)
async def test_mistakes(hub_command: Commands, arguments: list[str], code: int, message: str) -> None:
    run = await hub_command(*arguments)
    assert run.process.returncode == code
    assert message in " ".join(run.err.split())
    assert run.out == ""


async def test_a_token_the_hub_refuses(hub: ScriptedHub, hub_command: Commands) -> None:
    hub.reject = lambda _: 401
    run = await hub_command("tail", "events:a", HUB_URL=hub.url, HUB_TOKEN="wrong")
    assert run.process.returncode == 1
    last = run.err.splitlines()[-1]
    assert last.startswith("hub: the connection was closed for good: 4401")
    assert last.endswith("; give --token or HUB_TOKEN")


async def test_tail(hub: ScriptedHub, hub_command: Commands) -> None:
    await hub.publish("events:a", {"n": 1}, tags={"p": 1})
    await hub.publish("events:a", {"n": 2})
    run = await hub_command.start("tail", "events:a", "chat:r", "--since", "start", HUB_URL=hub.url)
    await run.shows('events:a 1 n {"n":1} {"p":1}')
    await run.shows('events:a 2 n {"n":2}')
    await eventually(lambda: len(hub.peers[0].live) == 2)
    await hub.publish("chat:r", "\x1b[31mred")
    await run.shows("chat:r 1 n")
    assert "\x1b" not in run.out, "what others wrote reaches no terminal unescaped"

    hub.peers[0].drop()
    log = hub.log("events:a")
    log.events += [{**log.events[0], "seq": seq} for seq in (3, 4)]
    log.first = 4
    await run.shows("events:a GAP: events 3–3 will not come (expired)")
    await run.shows("not connected", where="err")
    await run.shows("events:a 4 n")
    assert "connected" not in run.out

    run.signal(signal.SIGINT)
    assert await run.ends() == 130


async def test_tail_as_json(hub: ScriptedHub, hub_command: Commands) -> None:
    for number in range(4):
        await hub.publish("events:a", number, tags={"p": number % 2})
    run = await hub_command.start("tail", "events:a", "--last", "9", "--filter", "p=1", "--json", HUB_URL=hub.url)
    await run.shows('"seq":4')
    await hub.peers[0].send(
        {"type": "gap", "topic": "events:a", "epoch": "e1", "reason": "overflow", "from": 5, "to": 6}
    )
    await run.shows('"gap"')
    lines: list[dict[str, Any]] = [msgspec.json.decode(line) for line in run.out.splitlines()]
    assert [(line["type"], line.get("seq"), line.get("data")) for line in lines] == [
        ("event", 2, 1), ("event", 4, 3), ("gap", None, None),
    ]  # fmt: skip
    run.signal(signal.SIGINT)
    assert await run.ends() == 130


async def test_tail_ends_when_every_topic_is_taken_away(hub: ScriptedHub, hub_command: Commands) -> None:
    run = await hub_command.start("tail", "events:a", HUB_URL=hub.url)
    await eventually(lambda: hub.peers and hub.peers[0].live)
    frame = {"type": "unsubscribed", "topic": "events:a", "code": "forbidden", "message": "not yours", "retry": "never"}
    await hub.peers[0].send(frame)
    assert await run.ends() == 1
    assert "events:a: forbidden: not yours" in run.err


async def test_kick(hub_command: Commands) -> None:
    async with http_server(b"204 No Content", b"") as (port, requests):
        run = await hub_command("kick", "al", "--org", "acme", "--url", f"ws://127.0.0.1:{port}/ws")
    assert (run.process.returncode, run.out) == (0, "kicked al\n")
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/admin/kick HTTP/1.1")
    assert msgspec.json.decode(body) == {"user": "al"}
    bearer = next(line for line in head.decode().splitlines() if line.lower().startswith("authorization:")).split()[-1]
    principal = await TokenVerifier(Settings(redis_url="", database_url="", jwt_secret=SECRET)).verify(bearer)
    assert principal.allows("admin")


async def test_kick_without_permission(hub_command: Commands) -> None:
    problem = b'{"title": "Forbidden", "detail": "the scope admin is needed"}'
    async with http_server(b"403 Forbidden", problem) as (port, _):
        run = await hub_command("kick", "al", "--org", "acme", "--url", f"ws://127.0.0.1:{port}/ws", "--token", "t")
    assert run.process.returncode == 1
    assert run.err == "hub: 403 the scope admin is needed\n"


@asynccontextmanager
async def http_server(status: bytes, body: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers every request alike and remembers it."""
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length")
        )
        requests.append(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], requests


async def test_another_way_to_the_hub(hub_command: Commands) -> None:
    async with scripted_front() as front:
        tail = await hub_command.start("tail", "events:a", "--transport", "sse", HUB_URL=front.url)
        await tail.shows("connected over sse", where="err")
        await eventually(lambda: front.peers("sse")[0].live)
        run = await hub_command("publish", "events:a", "n", "1", HUB_URL=front.url, HUB_TRANSPORT="poll")
        assert (run.out, run.err) == ("e1:1\n", "")
        await tail.shows("events:a 1 n 1")
        assert front.upgrades == 0
        front.websockets = "swallow"
        assert (await hub_command("publish", "events:a", "n", "2", HUB_URL=front.url)).out == "e1:2\n"
    wrong = await hub_command("publish", "events:a", "n", "1", HUB_TRANSPORT="pigeon")
    assert wrong.process.returncode == 2
