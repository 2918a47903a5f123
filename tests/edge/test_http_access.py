"""The gate, tickets and kicks: who gets in, who does not, and how it is told."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
import pytest
from websockets.asyncio import client as websocket
from websockets.exceptions import ConnectionClosed

from hub.auth.tokens import mint_token
from hub.fanout.control import Kick
from tests.edge.http_hub import HttpHub, assert_problem
from tests.support.waiting import until

connect = partial(websocket.connect, open_timeout=30)
GUARDED = [
    ("POST", "/v1/publish"),
    ("POST", "/v1/publish/events:a"),
    ("GET", "/v1/topics/events:a/events"),
    ("POST", "/v1/tickets"),
    ("POST", "/v1/admin/kick"),
    ("GET", "/v1/stats"),
    ("POST", "/v1/frames"),
    ("GET", "/v1/flags"),
    ("GET", "/v1/flags/audit"),
    ("GET", "/v1/flags/chat"),
    ("PATCH", "/v1/flags"),
    ("PATCH", "/v1/flags/chat"),
]
OFREP = [("POST", "/ofrep/v1/evaluate/flags"), ("POST", "/ofrep/v1/evaluate/flags/chat")]  # with errors of its own
OPEN = ["/", "/health/live", "/health/ready", "/metrics", "/openapi.json", "/asyncapi.json"]


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_no_route_without_a_token(http_hub: HttpHub, method: str, path: str) -> None:
    async def ask(**headers: str) -> Any:
        return await http_hub.client.request(method, path, headers=headers)

    answer = await ask()
    assert_problem(answer, "unauthenticated", says="Authorization: Bearer")
    assert answer.headers["www-authenticate"] == 'Bearer realm="hub"'
    bad = await ask(Authorization="Bearer not.a.token")
    assert_problem(bad, "unauthenticated")
    assert bad.headers["www-authenticate"] == 'Bearer realm="hub", error="invalid_token"'
    assert "not.a.token" not in bad.text
    expired = mint_token(http_hub.settings, "acme", "u1", ttl_s=-60)
    assert_problem(await ask(Authorization=f"Bearer {expired}"), "token_expired")
    other_secret = msgspec.structs.replace(http_hub.settings, jwt_secret="y" * 32)
    forged = mint_token(other_secret, "acme", "u1")
    assert_problem(await ask(Authorization=f"Bearer {forged}"), "unauthenticated")
    assert_problem(await ask(Authorization="Basic dTpw"), "unauthenticated")
    assert_problem(await ask(Authorization="Bearer"), "unauthenticated")


async def test_every_route_under_v1_is_guarded_unless_it_says_otherwise(http_hub: HttpHub) -> None:
    document = (await http_hub.client.get("/openapi.json")).json()
    methods = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    names = {"{topic}": "events:a", "{name}": "chat", "{key}": "chat"}
    guarded = set()
    for method, path in methods:
        if path.startswith(("/v1/", "/ofrep/")):
            for placeholder, name in names.items():
                path = path.replace(placeholder, name)
            guarded.add((method, path))
    assert guarded == {*GUARDED, *OFREP}
    for method, path in guarded:
        assert (await http_hub.client.request(method, path)).status_code == 401


@pytest.mark.parametrize("path", OPEN)
async def test_open_routes(http_hub: HttpHub, path: str) -> None:
    assert (await http_hub.client.get(path)).status_code == 200


async def test_a_body_is_not_waited_for_from_strangers(http_hub: HttpHub) -> None:
    host, port = http_hub.base_url.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    async with asyncio.timeout(30):
        assert b" 401 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_ticket_opens_one_connection_and_no_route(http_hub: HttpHub) -> None:
    answer = await http_hub.post("/v1/tickets", "ticket-user")
    assert answer.status_code == 200
    body = answer.json()
    assert 29_000 < body["expires_in_ms"] <= 30_000
    ticket = body["ticket"]
    assert_problem(await http_hub.client.get(f"/v1/stats?ticket={ticket}"), "unauthenticated")
    async with connect(f"ws://{http_hub.base_url}/ws?ticket={ticket}") as socket:
        await socket.send('{"type":"hello","id":1}')
        welcome = msgspec.json.decode(await socket.recv())
        assert (welcome["type"], welcome["user"], welcome["org"]) == ("welcome", "ticket-user", "acme")


async def test_a_ticket_never_outlives_the_token(http_hub: HttpHub) -> None:
    headers = {"Authorization": f"Bearer {http_hub.token(ttl_s=10)}"}
    answer = await http_hub.client.post("/v1/tickets", headers=headers)
    assert answer.json()["expires_in_ms"] <= 10_000


async def closed_with(socket: Any) -> int | None:
    """The close code, when the connection has ended."""
    async with asyncio.timeout(30):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None


async def test_a_kick_closes_connections_and_refuses_tokens(http_hub: HttpHub) -> None:
    old = http_hub.headers("mallory")
    ticket = (await http_hub.client.post("/v1/tickets", headers=old)).json()["ticket"]
    async with (
        connect(f"ws://{http_hub.base_url}/ws", additional_headers=old) as socket,
        connect(f"ws://{http_hub.base_url}/ws", additional_headers=http_hub.headers("mallory", "globex")) as namesake,
    ):
        for each in (socket, namesake):
            await each.send('{"type":"hello","id":1}')
            assert msgspec.json.decode(await each.recv())["type"] == "welcome"
        answer = await http_hub.post("/v1/admin/kick", json={"user": "mallory"})
        assert answer.status_code == 200
        assert answer.json()["user"] == "mallory"
        assert await closed_with(socket) == 4401
        await namesake.send('{"type":"ping","id":2}')
        assert msgspec.json.decode(await namesake.recv())["type"] == "pong"
    refused = await http_hub.client.get("/v1/stats", headers=old)
    assert_problem(refused, "unauthenticated", says="withdrawn")
    assert (await http_hub.client.get("/v1/stats", headers=http_hub.headers("mallory", "globex"))).status_code == 200
    async with connect(f"ws://{http_hub.base_url}/ws?ticket={ticket}") as late:
        await late.send('{"type":"hello","id":1}')
        assert await closed_with(late) == 4401, "a ticket of the old token"
    fresh = http_hub.headers("mallory")
    assert (await http_hub.client.get("/v1/stats", headers=fresh)).status_code == 200


async def test_a_kick_needs_the_scope(http_hub: HttpHub) -> None:
    headers = http_hub.headers(scope="subscribe:* publish:* call:*")
    answer = await http_hub.client.post("/v1/admin/kick", json={"user": "x"}, headers=headers)
    assert_problem(answer, "forbidden", says="admin")


async def test_the_kick_says_until_when(http_hub: HttpHub, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    real = http_hub.gateway.control.send

    async def watched(message: Any, node: str | None = None) -> None:
        sent.append(message)
        await real(message, node)

    monkeypatch.setattr(http_hub.gateway.control, "send", watched)
    body = (await http_hub.post("/v1/admin/kick", json={"user": "nobody"})).json()
    assert sent == [Kick("acme", "nobody", body["refused_before"])]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"user":7}',
        b'{"user":""}',
        b'{"user":"' + b"x" * 257 + b'"}',
        b'{"user":"\xff"}',
        b'{"user":"x","a":' + b"[" * 100_000,
    ],
    ids=lambda body: str(body[:30]),
)
async def test_malformed_kicks(http_hub: HttpHub, body: bytes) -> None:
    assert_problem(await http_hub.post("/v1/admin/kick", content=body), "bad_request")


async def test_kick_bodies_are_bounded(http_hub: HttpHub) -> None:
    huge = b'{"user":"' + b"x" * http_hub.settings.max_message_bytes + b'"}'
    assert_problem(await http_hub.post("/v1/admin/kick", content=huge), "too_large")
    odd = await http_hub.post("/v1/admin/kick", content=b"user=x", headers={"Content-Type": "text/plain"})
    assert_problem(odd, "content_type")


async def test_stats(http_hub: HttpHub) -> None:
    async with connect(f"ws://{http_hub.base_url}/ws", additional_headers=http_hub.headers("watcher")) as socket:
        await socket.send('{"type":"hello","id":1,"subscribe":[{"topic":"events:stats"}]}')
        assert msgspec.json.decode(await socket.recv())["type"] == "welcome"
        await http_hub.publish("events:stats")
        assert msgspec.json.decode(await socket.recv())["type"] == "event"

        async def counted() -> bool:
            stats = (await http_hub.get("/v1/stats")).json()
            return bool(
                stats["activeConnections"] == 1
                and stats["eventsDelivered"] >= 1
                and stats["eventsByService"]["stats"] == 1
                and stats["p99LatencyMs"] >= stats["avgLatencyMs"] >= 0
            )

        await until(counted, what="the event to be counted")

    async def gone() -> bool:
        return bool((await http_hub.get("/v1/stats")).json()["activeConnections"] == 0)

    await until(gone, what="the connection to be gone")
