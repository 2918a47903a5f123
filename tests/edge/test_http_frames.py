"""POST /v1/frames: what is performed at once, what is handed to the connection, and where that is."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from hub.embedded import RedisServer
from tests.edge.exchange_hub import Web, webs
from tests.edge.http_hub import assert_problem
from tests.support.running_hub import SocketKind
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("patient_nodes")

PUBLISH = {"type": "publish", "id": 1, "topic": "room:a", "name": "n", "data": 1}


def told(frames: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(frame.get("id"), frame.get("code", frame["type"])) for frame in frames]


async def test_what_needs_no_connection_is_performed_and_answered_in_order(web: Web) -> None:
    answers = await web.say(
        PUBLISH,
        {"type": "call", "id": "c", "method": "test.echo", "params": {"x": 1}},
        {"type": "ping", "id": 3},
        {"type": "call", "id": 4, "method": "no.such"},
        {"type": "call", "id": 5, "method": "test.refuse"},
        {"type": "publish", "id": 6, "topic": "nope:x", "name": "n", "data": 1},
        {"type": "nonsense", "id": 7},
        {"type": "publish", "id": 8},
        7,
    )
    assert told(answers)[:4] == [(1, "reply"), ("c", "reply"), (3, "pong"), (4, "unknown_method")]
    assert [code for _, code in told(answers)[5:]] == ["not_found", "unknown_type", "bad_request", "bad_request"]


async def test_one_frame_or_a_list_will_do(web: Web) -> None:
    for body, count in ((PUBLISH, 1), ([PUBLISH, {"type": "ping"}], 2), ([], 0)):
        answer = await web.client.post("/v1/frames", json=body, headers=web.headers())
        assert len(answer.json()["frames"]) == count
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "JSON"),
        (b"{}", ""),
        (b'{"frames":7}', "$.frames"),
        (b'{"frames":[' + b'{"type":"ping"},' * 10 + b'{"type":"ping"}]}', "at most 10"),
        (b"[" * 3000, ""),
    ],
)
async def test_bad_bodies(web: Web, body: bytes, says: str) -> None:
    answer = await web.client.post("/v1/frames", content=body, headers=web.headers())
    if answer.status_code == 200:
        assert answer.json()["frames"][0]["type"] == "error"
    else:
        assert_problem(answer, "bad_request", says=says)


async def test_what_belongs_to_a_connection_and_has_none(web: Web) -> None:
    subscribe = {"type": "subscribe", "id": 1, "topics": [{"topic": "room:a"}]}
    presence = {"type": "call", "id": 2, "method": "presence.get", "params": {"topic": "room:a"}}
    for session in ("", "s_" + "N" * 24, "garbage"):
        answers = await web.say(subscribe, PUBLISH | {"id": 9}, presence, session=session)
        assert told(answers) == [(1, "not_found"), (9, "reply"), (2, "not_found")]
        assert "/v1/sse" in answers[0]["message"]
    (hello,) = await web.say({"type": "hello", "id": 3})
    assert told([hello]) == [(3, "bad_request")]
    (intake,) = await web.say({"type": "call", "id": 4, "method": "test.intake"})
    assert "tus" in intake["message"]


async def test_a_session_of_somebody_else_is_not_found(web: Web) -> None:
    session = (await web.poll())["frames"][0]["session"]
    subscribe = {"type": "subscribe", "id": 1, "topics": [{"topic": "room:b"}]}
    for other in (web.another("u2"), web.another(org="another-org")):
        assert told(await other.say(subscribe, session=session)) == [(1, "not_found")]
    (found,) = [one for one in web.hub.gateway.connections if one.session_id == session]
    assert set(found.subscriptions) == {"room:a"}


async def test_more_calls_at_once_than_allowed(web: Web) -> None:
    slow = [{"type": "call", "id": number, "method": "test.slow"} for number in range(3)]
    asking = asyncio.create_task(web.say(*slow))
    await until(lambda: web.hub.service.running == 2, what="two to be under way")
    assert told(await web.say(slow[0])) == [(0, "rate_limited")]
    assert told(await web.another("u2").say({"type": "ping", "id": 1})) == [(1, "pong")]
    web.hub.service.release(web.hub.loop)
    assert told(await asking) == [(0, "reply"), (1, "reply"), (2, "rate_limited")]


async def test_frames_count_as_on_a_socket(redis_server: RedisServer, socket_kind: SocketKind) -> None:
    async with webs(socket_kind, redis_server.url, messages_per_second=1, messages_burst=5) as web:
        began = time.monotonic()
        answers = await web.say(*({"type": "ping", "id": number} for number in range(10)))
        passed_s = int(time.monotonic() - began)  # each has brought another one
        codes = [code for _, code in told(answers)]
        assert codes[:5] == ["pong"] * 5
        assert codes.count("pong") <= 5 + passed_s
        assert answers[codes.index("rate_limited")]["retry_after_ms"] > 0


async def test_a_connection_on_another_node_gets_its_frames(redis_server: RedisServer) -> None:
    async with webs("direct", redis_server.url, node="n1") as one, webs("asgi", redis_server.url, node="n2") as two:
        two.org = one.org
        first = await one.poll()
        session = first["frames"][0]["session"]
        topics = [{"topic": "room:b"}]
        assert await two.say({"type": "subscribe", "id": 7, "topics": topics}, PUBLISH, session=session) != []
        _, frames = await one.until_polled(first["cursor"], "reply")
        assert ("reply", 7) in [(frame["type"], frame.get("id")) for frame in frames]
        large = {"type": "subscribe", "id": 8, "topics": [{"topic": "room:" + "x" * 70_000}]}
        assert told(await two.say(large, session=session)) == [(8, "too_large")]
        for other in (two.another("u2"), two.another(org="another-org")):
            assert told(await other.say({"type": "unsubscribe", "id": 1, "topics": ["room:a"]}, session=session)) == [
                (1, "not_found")
            ]


async def test_what_another_node_refuses_is_answered_by_its_id(redis_server: RedisServer) -> None:
    async with webs("direct", redis_server.url, node="n1") as one, webs("direct", redis_server.url, node="n2") as two:
        two.org = one.org
        session = (await one.poll())["frames"][0]["session"]
        frames = [{"type": "subscribe", "id": number, "topics": [{"topic": f"room:{number}"}]} for number in (1, 2)]
        (connection,) = [link for link in one.hub.gateway.connections if link.session_id == session]
        connection.reading_paused = True
        assert told(await two.say(*frames, session=session)) == [(1, "rate_limited"), (2, "rate_limited")]
        connection.reading_paused = False
        connection.close_code = 4409  # it is about to end
        assert told(await two.say(*frames, session=session)) == [(1, "not_found"), (2, "not_found")]
        connection.close_code = 0
        assert await two.say(*frames, session=session) == []


async def test_what_goes_to_another_node_is_paid_for_before_and_once(redis_server: RedisServer) -> None:
    how = {"messages_per_second": 1, "messages_burst": 60, "max_frames_per_request": 50}
    async with (
        webs("direct", redis_server.url, **how, node="n1") as one,
        webs("direct", redis_server.url, **how, node="n2") as two,
    ):
        two.org = one.org
        first = await one.poll()
        frames = [{"type": "unsubscribe", "id": number, "topics": ["room:x"]} for number in range(50)]
        session = first["frames"][0]["session"]
        assert await two.say(*frames, session=session) == []
        _, answers = await one.until_polled(first["cursor"], "reply", 50)
        assert [frame["id"] for frame in answers] == list(range(50))
        refused = await two.say(*frames, session=session)
        assert told(refused) == [(number, "rate_limited") for number in range(50)]
        assert refused[0]["retry_after_ms"] > 0


async def test_who_subscribes_and_then_publishes_gets_the_event(redis_server: RedisServer) -> None:
    """In one request, wherever the connection is."""
    async with webs("direct", redis_server.url, node="n1") as one, webs("asgi", redis_server.url, node="n2") as two:
        two.org = one.org
        first = await one.poll()
        cursor, session = first["cursor"], first["frames"][0]["session"]
        for number, node in enumerate((one, two, one, two)):
            topic = f"big:{number}"
            subscribe = {"type": "subscribe", "id": 1, "topics": [{"topic": topic}]}
            publish = {"type": "publish", "id": 2, "topic": topic, "name": "n", "data": number}
            assert told(await node.say(subscribe, publish, session=session)) == [(2, "reply")]
            cursor, frames = await one.until_polled(cursor, "event")
            assert [frame["topic"] for frame in frames if frame["type"] == "event"] == [topic]
