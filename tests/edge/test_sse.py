"""Server-sent events: frames and positions, going on by the last of them, silence, and the end."""

from __future__ import annotations

import asyncio
import json
import secrets

import pytest

from hub.edge import sse_socket
from hub.embedded import RedisServer
from hub.protocol.codec import Encoding, Packet
from tests.edge.exchange_hub import ORIGIN, Stream, Web, expire, webs
from tests.edge.http_hub import assert_problem
from tests.support.running_hub import SocketKind
from tests.support.waiting import until


async def welcomed(stream: Stream) -> str:
    """The session."""
    assert stream.answer.status_code == 200, stream.answer.text
    welcome = await stream.frame()
    assert welcome["type"] == "welcome"
    return str(welcome["session"])


def test_a_frame_is_one_block_whatever_its_json_looks_like() -> None:
    packet = Packet(Encoding.JSON, (b'{"a":\n 1}', b'{"b":\r\n2}'))
    assert packet.sse == b'data: {"a":  1}\n\ndata: {"b":  2}\n\n'
    assert packet.sse is packet.sse, "made once"


async def test_frames_and_positions_by_which_everything_goes_on(web: Web) -> None:
    async with web.stream("?topics=room:a,room:b") as stream:
        head = stream.answer.headers
        assert head["content-type"].startswith("text/event-stream")
        assert (head["cache-control"], head["x-accel-buffering"]) == ("no-store", "no")
        session = await welcomed(stream)
        before = await stream.position()
        await web.publish(1)
        await web.publish(2, "room:b")
        assert sorted([(await stream.frame("event"))["data"] for _ in range(2)]) == [1, 2]
        last = await stream.position(before)
    await web.publish(3)
    await web.publish(4, "room:b")
    for query, headers in (("?topics=room:a,room:b", {"Last-Event-ID": last}), (f"?cursor={last}", {})):
        async with web.stream(query, headers) as stream:
            welcome = await stream.frame()
            assert (welcome["session"], welcome["resumed"]) == (session, True)
            assert sorted([(await stream.frame("event"))["data"] for _ in range(2)]) == [3, 4]
    async with web.stream("?topics=room:a", {"Last-Event-ID": before}) as stream:
        assert [one["topic"] for one in (await stream.frame())["topics"]] == ["room:a"]
        assert [(await stream.frame("event"))["data"] for _ in range(2)] == [1, 3]


async def test_a_hello_as_the_body(web: Web) -> None:
    await web.publish(1, "room:h")
    hello = {"type": "hello", "id": 9, "subscribe": [{"topic": "room:h", "since": "start", "ack": True}]}
    async with web.client.stream("POST", "/v1/sse", json=hello, headers=web.headers()) as answer:
        stream = Stream(answer)
        welcome = await stream.frame()
        assert (welcome["type"], welcome["id"]) == ("welcome", 9)
        assert (await stream.frame("event"))["data"] == 1
    token = {"token": web.hub.token(web.org, web.user)}
    async with web.client.stream("POST", "/v1/sse", json=hello | token) as answer:
        assert (await Stream(answer).frame())["user"] == web.user


async def test_what_was_changed_on_the_way_stands_in_the_positions_too(web: Web) -> None:
    async with web.stream() as stream:
        session = await welcomed(stream)
        await web.say({"type": "subscribe", "id": 1, "topics": [{"topic": "room:c"}]}, session=session)
        assert (await stream.frame("reply"))["id"] == 1
        await web.publish("c", "room:c")
        assert (await stream.frame("event"))["data"] == "c"
        last = await stream.position(stream.last_id)
        await web.publish("d", "room:c")
    async with web.stream("?topics=room:a", {"Last-Event-ID": last}) as stream:
        assert {one["topic"] for one in (await stream.frame())["topics"]} == {"room:a", "room:c"}
        assert (await stream.frame("event"))["data"] == "d"


async def test_positions_of_many_topics_cost_little(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse_socket, "_MOST_PAUSE_S", 3600.0)
    names = [f"room:{number}-{secrets.token_hex(16)}" for number in range(100)]
    async with web.client.stream(
        "POST", "/v1/sse", json={"type": "hello", "topics": names}, headers=web.headers()
    ) as answer:
        stream = Stream(answer)
        session = await welcomed(stream)
        first = await stream.position()
        for number in range(5):
            await web.publish(number, names[0])
            await stream.frame("event")
        assert stream.last_id == first, "a position as long as twenty events after each"
        await web.publish("x" * 50_000, names[1])
        after_much = await stream.position(first)
        # A change of what is subscribed is told at once.
        await web.say({"type": "unsubscribe", "id": 1, "topics": names[:1]}, session=session)
        changed = await stream.position(after_much)
        await web.publish("last", names[2])
        assert (await stream.frame("event"))["data"] == "last"
        monkeypatch.setattr(sse_socket, "_MOST_PAUSE_S", 0.1)
        await stream.position(changed)  # when the last is long ago
    sizes = {len(one) for one in (first, after_much, changed)}
    assert min(sizes) > 1024


async def test_silence_has_comments_and_heartbeats(web: Web) -> None:
    async with web.stream() as stream:
        await welcomed(stream)
        await stream.frame("heartbeat")
        while not stream.comments:  # none between two heartbeats if the hub looks after it too late
            await stream.frame("heartbeat")


async def test_a_client_that_leaves_leaves_its_session(web: Web) -> None:
    async with web.stream() as stream:
        session = await welcomed(stream)
        position = await web.publish(1)
        await stream.frame("event")
        ack = {"room:a": {"epoch": position["epoch"], "seq": 1}}
        await web.say({"type": "ack", "positions": ack}, session=session)
        gauge = web.hub.gateway.metrics.registry.get_sample_value("hub_connections", {"transport": "sse"})
        assert gauge is not None
        assert gauge >= 1
    await until(lambda: web.hub.gateway.connections.of_session(session) is None, what="the hub to notice")
    await web.hub.within(web.hub.gateway.saver.save)
    await web.publish(2)
    hello = {"type": "hello", "resume": {"session": session}, "subscribe": [{"topic": "room:a"}]}
    async with web.client.stream("POST", "/v1/sse", json=hello, headers=web.headers()) as answer:
        stream = Stream(answer)
        assert (await stream.frame())["resumed"] is True
        assert (await stream.frame("event"))["data"] == 2


async def test_the_newest_connection_of_a_session_wins(web: Web) -> None:
    async with web.stream() as stream:
        await welcomed(stream)
        last = await stream.position()
        async with web.stream("", {"Last-Event-ID": last}) as newer:
            await welcomed(newer)
            close = await stream.frame("close")
            assert close["code"] == 4409
            with pytest.raises(EOFError):
                await stream.frame()


async def test_a_kick_and_a_token_that_ends(web: Web) -> None:
    async with web.stream() as stream, web.another("short").stream() as short:
        await welcomed(stream)
        await welcomed(short)
        admin = {"Authorization": "Bearer " + web.hub.token(web.org, "root", scope="admin")}
        assert (await web.client.post("/v1/admin/kick", json={"user": web.user}, headers=admin)).status_code == 200
        assert (await stream.frame("error"))["code"] == "unauthenticated"
        assert (await stream.frame("close"))["code"] == 4401
        await expire(web, "short")
        assert (await short.frame("error"))["code"] == "token_expired"
        assert (await short.frame("close"))["code"] == 4401


async def test_a_ticket_opens_one_stream(web: Web) -> None:
    ticket = (await web.client.post("/v1/tickets", headers=web.headers())).json()["ticket"]
    async with web.client.stream("GET", f"/v1/sse?topics=room:a&ticket={ticket}") as answer:
        assert (await Stream(answer).frame())["user"] == web.user
    again = await web.client.get(f"/v1/sse?topics=room:a&ticket={ticket}")
    assert_problem(again, "unauthenticated", says="POST /v1/tickets")
    assert ticket not in repr(web.hub.logs.entries)


@pytest.mark.parametrize(
    ("query", "headers", "code"),
    [
        ("", {}, "bad_request"),
        ("?topics=", {}, "bad_request"),
        ("?topics=room:a", {"Last-Event-ID": "garbage"}, "bad_request"),
        ("?topics=room:a", {"Authorization": "Bearer x"}, "unauthenticated"),
        ("?topics=room:a", {"Origin": "https://evil.example"}, "forbidden"),
    ],
)
async def test_refusals_are_problems_and_no_streams(web: Web, query: str, headers: dict[str, str], code: str) -> None:
    assert_problem(await web.client.get(f"/v1/sse{query}", headers=web.headers() | headers), code)


async def test_a_page_of_an_allowed_origin_may_read(web: Web) -> None:
    async with web.stream(headers={"Origin": ORIGIN}) as stream:
        await welcomed(stream)
        assert stream.answer.headers["access-control-allow-origin"] == ORIGIN


async def test_a_user_who_has_too_many_is_told_when_to_come_back(
    redis_server: RedisServer, socket_kind: SocketKind
) -> None:
    async with webs(socket_kind, redis_server.url, max_connections_per_user=1) as web, web.stream() as stream:
        await welcomed(stream)
        refused = await web.asked()
        assert_problem(refused, "quota_exceeded")
        assert int(refused.headers["retry-after"]) >= 1


async def test_drain_ends_the_stream_and_the_node_stops(redis_server: RedisServer) -> None:
    async with webs("direct", redis_server.url, drain_window_s=0.1, drain_grace_s=0.1) as web:
        async with web.stream() as stream:
            await welcomed(stream)
            web.hub.leave()
            assert (await stream.frame("drain"))["ticket"]
            assert (await stream.frame("close"))["code"] == 4504
            with pytest.raises(EOFError):
                await stream.frame()
        await until(lambda: not web.hub._thread.is_alive(), 30, "the hub to stop")


# --- on the hub's own server: what clients of HTTP do to a connection


async def talk(web: Web, *pieces: bytes, until_seen: bytes) -> bytes:
    """Writes pieces one by one and reads until something has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.hub.port)
    came = b""
    try:
        async with asyncio.timeout(30):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)  # a segment of its own
            while until_seen not in came and (more := await reader.read(65536)):
                came += more
    finally:
        writer.close()
    return came


def request(web: Web, line: str, body: bytes = b"", *more: str) -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    head = [f"{line} HTTP/1.1", "Host: hub", f"Authorization: {web.headers()['Authorization']}", *length, *more]
    return "\r\n".join([*head, "", ""]).encode() + body


async def test_requests_in_pieces_in_pipelines_and_of_both_kinds_on_one_connection(web: Web) -> None:
    poll = request(web, "GET /v1/poll?topics=room:a")
    other = request(web, "GET /health/live")
    body = json.dumps({"type": "hello", "topics": ["room:a"]}).encode()
    post = request(web, "POST /v1/poll", body)
    end = request(web, "GET /nowhere")
    for pieces in (
        [poll, end],
        [poll + end],
        [poll[:20], poll[20:], end],
        [poll[:5], poll[5:], end],
        [post[:-10], post[-10:], end],
        [post[: -len(body)], body, end],
        [other, poll, post, other, poll, end],
        [other + poll + post + other + end],
        [poll + other, end],
    ):
        came = await talk(web, *pieces, until_seen=b"404 Not Found")
        assert came.count(b"HTTP/1.1 200") == sum(piece.count(b" HTTP/1.1") for piece in [b"".join(pieces)]) - 1
        assert came.count(b"HTTP/1.1 404") == 1


async def test_odd_requests_are_answered_all_the_same(web: Web) -> None:
    body = json.dumps({"type": "hello", "topics": ["room:a"]}).encode()
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    poll = request(web, "POST /v1/poll", b"", "Transfer-Encoding: chunked") + chunked
    assert b'"welcome"' in await talk(web, poll, until_seen=b"]}")
    expecting = request(web, "POST /v1/poll", body, "Expect: 100-continue")
    assert b'"welcome"' in await talk(web, expecting, until_seen=b"]}")
    old = request(web, "GET /v1/poll?topics=room:a").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert b'"welcome"' in await talk(web, old, until_seen=b"]}")
    assert b" 400 " in await talk(web, b"GET /v1/poll?x HTTP/1.1\r\nHost hub\r\n\r\n", until_seen=b"400")
    if web.hub.kind == "direct":
        huge = request(web, "GET /v1/poll?topics=room:a", b"", "X-Padding: " + "x" * 70_000)
        assert b" 431 " in await talk(web, huge, until_seen=b"431")
    twice = request(web, "POST /v1/poll", body, f"Content-Length: {len(body)}")
    assert b" 400 " in await talk(web, twice, until_seen=b"400")


async def test_a_client_that_leaves_before_its_welcome_leaves_nothing(web: Web) -> None:
    before = len(web.hub.gateway.connections)
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", web.hub.port)
        writer.write(request(web, "GET /v1/sse?topics=room:a"))
        writer.transport.abort()
    await web.poll()
    await until(lambda: len(web.hub.gateway.connections) <= before + 1, what="them to be forgotten")
