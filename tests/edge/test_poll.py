"""Long-polling: an answer when something happens, the same again when it was lost, and whatever is asked wrongly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from hub.embedded import RedisServer
from tests.edge.exchange_hub import ORIGIN, SETTINGS, Web, connections, data, expire, waiting, webs
from tests.edge.http_hub import assert_problem
from tests.support.running_hub import SocketKind
from tests.support.waiting import until


async def test_the_first_answer_is_the_welcome_and_the_next_comes_when_something_happens(web: Web) -> None:
    first = await web.poll(topics="room:a,nope:x")
    (welcome,) = first["frames"]
    assert welcome["type"] == "welcome"
    assert [verdict["ok"] for verdict in welcome["topics"]] == [True, False]
    asking = asyncio.create_task(web.poll(first["cursor"]))
    await waiting(web)
    await web.publish(1)
    second = await asking
    assert data(second) == [1]
    await web.publish(2)
    await web.publish(3)
    third = await web.poll(second["cursor"])
    assert data(third)[0] == 2
    assert data(third) + data(await web.poll(third["cursor"], 0)) == [2, 3]


async def test_no_heartbeat_answers_a_poll_and_its_end_is_an_empty_answer(web: Web) -> None:
    first = await web.poll()
    began = time.monotonic()
    second = await web.poll(first["cursor"], 0.5)
    assert second["frames"] == []
    assert time.monotonic() - began >= 0.4
    assert (await web.poll(second["cursor"], 0))["frames"] == []
    # Nothing was lost with it, so the cursor before is as good.
    assert (await web.poll(first["cursor"], 0))["frames"] == []


async def test_an_answer_that_was_lost_comes_again_byte_for_byte(web: Web) -> None:
    first = await web.poll()
    await web.publish(1)
    second = await web.asked(first["cursor"])
    await web.publish(2)
    assert (await web.asked(first["cursor"])).content == second.content
    assert (await web.asked(first["cursor"])).content == second.content
    third = await web.poll(second.json()["cursor"])
    assert data(third) == [2]
    # Much older: not kept any more, but history has it.
    again = await web.poll(first["cursor"])
    assert [frame["type"] for frame in again["frames"]] == ["event", "event"]
    assert data(again) == [1, 2]


async def test_asking_acknowledges(web: Web) -> None:
    session = (first := await web.poll())["frames"][0]["session"]
    await web.publish(1)
    second = await web.poll(first["cursor"])
    assert connections(web)[0].acked is None
    await web.poll(second["cursor"], 0)
    hello = {"type": "hello", "resume": {"session": session}, "subscribe": [{"topic": "room:a"}]}

    async def resumed_after_it() -> bool:
        answer = await web.client.post("/v1/poll", json=hello, headers=web.headers())
        frames = answer.json()["frames"]
        return bool(frames[0]["resumed"] and not data(answer.json()))

    await until(resumed_after_it, what="the acknowledged position to be stored")


async def test_a_window_goes_on_as_its_answers_are_acknowledged(web: Web) -> None:
    hello = {"type": "hello", "subscribe": [{"topic": "room:w", "ack": True}]}
    first = (await web.client.post("/v1/poll", json=hello, headers=web.headers())).json()
    window = web.hub.settings.ack_window
    numbers = range(window + 30)
    for start in range(0, len(numbers), 500):
        events = [{"topic": "room:w", "name": "n", "data": n} for n in numbers[start : start + 500]]
        assert (await web.client.post("/v1/publish", json=events, headers=web.headers())).status_code == 200
    _, frames = await web.until_polled(first["cursor"], "event", len(numbers))
    assert [frame["data"] for frame in frames] == list(numbers)


async def test_of_two_polls_the_newer_one_is_answered(web: Web) -> None:
    first = await web.poll()
    older = asyncio.create_task(web.asked(first["cursor"]))
    await waiting(web)
    newer = asyncio.create_task(web.poll(first["cursor"]))
    assert_problem(await older, "conflict", says="only the newest")
    await web.publish(1)
    assert data(await newer) == [1]


async def test_a_client_that_gives_up_waiting_may_come_back(web: Web) -> None:
    first = await web.poll()
    given_up = asyncio.create_task(web.poll(first["cursor"]))
    await waiting(web)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    await until(lambda: connections(web)[0].socket._line is None, what="the hub to notice")
    await web.publish(1)
    assert data(await web.poll(first["cursor"])) == [1]
    assert len(connections(web)) == 1


@pytest.fixture
async def impatient(redis_server: RedisServer, socket_kind: SocketKind) -> AsyncIterator[Web]:
    """A client of a node that soon forgets whoever does not ask."""
    async with webs(socket_kind, redis_server.url, poll_linger_s=0.2) as web:
        yield web


async def test_a_client_that_stays_away_is_forgotten_and_its_cursor_is_still_good(impatient: Web) -> None:
    web = impatient
    first = await web.poll()
    await until(lambda: not connections(web), what="the linger to end")
    await web.publish(1)
    back = await web.poll(first["cursor"])
    assert [frame["type"] for frame in back["frames"]] == ["event"]
    assert data(back) == [1]


async def test_another_connection_says_welcome_only_when_there_is_something_to_say(impatient: Web) -> None:
    web = impatient
    first = await web.poll(topics="small:s")
    await until(lambda: not connections(web), what="the linger to end")
    for number in range(10):
        await web.publish(number, "small:s")
    back = await web.poll(first["cursor"])
    assert [frame["type"] for frame in back["frames"][:2]] == ["welcome", "gap"]
    assert back["frames"][0]["topics"][0]["recovered"] is False
    more = await web.client.get(
        "/v1/poll", params={"cursor": back["cursor"], "topics": "small:s,room:new"}, headers=web.headers()
    )
    assert [one["topic"] for one in more.json()["frames"][0]["topics"]] == ["small:s", "room:new"]


async def test_the_same_topics_may_stand_beside_every_cursor(web: Web) -> None:
    """Those that were refused are not asked for again and again."""
    first = await web.poll(topics="room:a,nope:x")
    params = {"cursor": first["cursor"], "topics": "nope:x,room:a", "wait": "0"}
    again = await web.client.get("/v1/poll", params=params, headers=web.headers())
    assert again.json()["frames"] == []
    assert len(connections(web)) == 1


async def test_what_comes_while_nobody_asks_is_kept_until_it_is_too_much(web: Web) -> None:
    first = await web.poll(topics="room:a")
    events = [{"topic": "room:a", "name": "n", "data": "x" * 50_000} for _ in range(12)]
    assert (await web.client.post("/v1/publish", json=events, headers=web.headers())).status_code == 200
    (connection,) = connections(web)
    await until(lambda: connection.congested, what="it to be too much")
    kept = connection.socket.unsent
    onlooker = await web.poll(topics="room:a")
    assert (await web.client.post("/v1/publish", json=events, headers=web.headers())).status_code == 200
    await web.until_polled(onlooker["cursor"], "event", 12)
    assert connection.socket.unsent == kept, "whoever has too much gets no more"
    _, frames = await web.until_polled(first["cursor"], "event", 24)
    assert [frame["seq"] for frame in frames if frame["type"] == "event"] == list(range(1, 25))


async def test_frames_for_the_connection_are_answered_by_the_next_poll(web: Web) -> None:
    first = await web.poll()
    session = first["frames"][0]["session"]
    assert await web.say({"type": "subscribe", "id": 7, "topics": [{"topic": "room:b"}]}, session=session) == []
    second = await web.poll(first["cursor"])
    assert [(frame["type"], frame["id"]) for frame in second["frames"]] == [("reply", 7)]
    await web.publish("b", "room:b")
    assert data(await web.poll(second["cursor"])) == ["b"]


async def test_a_kick_answers_the_poll_that_waits(web: Web) -> None:
    first = await web.poll()
    asking = asyncio.create_task(web.poll(first["cursor"]))
    await waiting(web)
    admin = {"Authorization": "Bearer " + web.hub.token(web.org, "root", scope="admin")}
    assert (await web.client.post("/v1/admin/kick", json={"user": web.user}, headers=admin)).status_code == 200
    frames = (await asking)["frames"]
    assert [(frame["type"], frame["code"]) for frame in frames] == [("error", "unauthenticated"), ("close", 4401)]


async def test_a_token_that_ends_while_a_poll_waits(web: Web) -> None:
    first = await web.poll()
    asking = asyncio.create_task(web.poll(first["cursor"]))
    await waiting(web)
    await expire(web, web.user)
    frames = (await asking)["frames"]
    assert [(frame["type"], frame["code"]) for frame in frames] == [("error", "token_expired"), ("close", 4401)]


async def test_a_poll_with_a_fresh_token_keeps_the_connection(web: Web) -> None:
    short = {"Authorization": "Bearer " + web.hub.token(web.org, web.user, ttl_s=30)}
    first = (await web.client.get("/v1/poll?topics=room:a", headers=short)).json()
    before = connections(web)[0].principal.expires_at
    await web.poll(first["cursor"], 0)
    assert connections(web)[0].principal.expires_at > before + 1000


async def test_a_connection_that_was_taken_over_is_told_so_by_its_next_poll(web: Web) -> None:
    first = await web.poll()
    hello = {"type": "hello", "resume": {"session": first["frames"][0]["session"]}, "topics": ["room:a"]}
    assert (await web.client.post("/v1/poll", json=hello, headers=web.headers())).json()["frames"][0]["resumed"]
    await until(lambda: any(one.close_code for one in connections(web)) or len(connections(web)) == 1)
    frames = (await web.poll(first["cursor"]))["frames"]
    assert [(frame["type"], frame["code"]) for frame in frames] == [("close", 4409)]


# --- asked wrongly


BAD_QUERIES = [
    ("topics=room:a&wait=-1", "'wait'"),
    ("topics=room:a&wait=nan", "'wait'"),
    ("topics=room:a&wait=inf", "'wait'"),
    ("topics=room:a&wait=soon", "'wait'"),
    ("", "topics="),
    ("topics=,,&services=", "topics="),
    ("topics=" + "a," * 10_001, "at most 10000"),
    ("topics=room:a&cursor=!!", "leave it out"),
    ("topics=room:a&cursor=AQID", "leave it out"),
]


@pytest.mark.parametrize(("query", "says"), BAD_QUERIES, ids=[query[:30] for query, _ in BAD_QUERIES])
async def test_bad_queries(web: Web, query: str, says: str) -> None:
    assert_problem(await web.client.get(f"/v1/poll?{query}", headers=web.headers()), "bad_request", says=says)


async def test_a_huge_wait_is_the_longest_there_is(web: Web) -> None:
    first = await web.poll()
    asking = asyncio.create_task(web.poll(first["cursor"], 1e300))
    await waiting(web)
    assert connections(web)[0].socket._until <= time.monotonic() + SETTINGS["poll_wait_s"]
    await web.publish(1)
    await asking


BAD_BODIES: list[tuple[bytes, str]] = [
    (b"no json", "not valid JSON"),
    (b"[]", "object"),
    (b'{"wait":"5"}', "$.wait"),
    (b'{"type":"publish","topic":"room:a"}', "POST /v1/frames"),
    (b'{"topics":"room:a"}', "$.topics"),
    (b'{"cursor":7}', "$.cursor"),
    (b'{"subscribe":{}}', "$.subscribe"),
    (b'{"subscribe":' + b"[" * 5000, "JSON"),
    (b"\xff{}", "JSON"),
]


@pytest.mark.parametrize(("body", "says"), BAD_BODIES, ids=[repr(body[:20]) for body, _ in BAD_BODIES])
async def test_bad_bodies(web: Web, body: bytes, says: str) -> None:
    assert_problem(await web.client.post("/v1/poll", content=body, headers=web.headers()), "bad_request", says=says)


async def test_a_body_that_is_too_large(web: Web) -> None:
    body = b'{"cursor":"' + b"x" * web.hub.settings.max_message_bytes + b'"}'
    assert_problem(await web.client.post("/v1/poll", content=body, headers=web.headers()), "too_large")


async def test_other_methods_are_named(web: Web) -> None:
    answer = await web.client.delete("/v1/poll", headers=web.headers())
    assert_problem(answer, "bad_request", 405)
    assert answer.headers["allow"] == "GET, POST"


async def test_cursors_of_others_are_refused(web: Web) -> None:
    cursor = (await web.poll())["cursor"]
    for other in (web.another("u2"), web.another(org="another-org")):
        assert_problem(await other.asked(cursor), "bad_request", says="of another user or organisation")


async def test_a_narrower_token_gets_what_it_allows_and_no_more(web: Web) -> None:
    first = await web.poll(topics="room:a,big:b")
    narrow = web.headers(scope="subscribe:big:*")
    answer = await web.client.get("/v1/poll", params={"cursor": first["cursor"]}, headers=narrow)
    verdicts = {one["topic"]: one["ok"] for one in answer.json()["frames"][0]["topics"]}
    assert verdicts == {"room:a": False, "big:b": True}


async def test_tokens_and_origins(web: Web) -> None:
    assert_problem(await web.client.get("/v1/poll?topics=room:a"), "unauthenticated", says="Authorization")
    bad = await web.client.get("/v1/poll?topics=room:a", headers={"Authorization": "Bearer x"})
    assert_problem(bad, "unauthenticated")
    foreign = await web.client.get("/v1/poll?topics=room:a", headers=web.headers() | {"Origin": "https://evil.example"})
    assert_problem(foreign, "forbidden", says="HUB_ALLOWED_ORIGINS")
    assert "access-control-allow-origin" not in foreign.headers
    good = await web.client.get("/v1/poll?topics=room:a", headers=web.headers() | {"Origin": ORIGIN})
    assert good.headers["access-control-allow-origin"] == ORIGIN
    assert good.headers["vary"] == "Origin"
    preflight = await web.client.options(
        "/v1/poll", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 204


async def test_neither_tokens_nor_cursors_are_logged(web: Web) -> None:
    ticket = (await web.client.post("/v1/tickets", headers=web.headers())).json()["ticket"]
    first = (await web.client.get(f"/v1/poll?topics=room:a&ticket={ticket}")).json()
    assert_problem(await web.client.get(f"/v1/poll?topics=room:a&ticket={ticket}"), "unauthenticated", says="used")
    await web.poll(first["cursor"], 0)
    logged = repr(web.hub.logs.entries)
    assert "http_request" in logged
    assert ticket not in logged
    assert first["cursor"] not in logged


# --- nodes that are full or leave


async def test_a_full_node_says_when_to_come_back(redis_server: RedisServer, socket_kind: SocketKind) -> None:
    async with webs(socket_kind, redis_server.url, max_connections=1) as web:
        first = await web.poll()
        refused = await web.another("u2").asked()
        assert_problem(refused, "unavailable", says="full")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await web.poll(first["cursor"], 0))["frames"] == [], "who is in stays in"


async def test_drain_answers_the_polls_that_wait(redis_server: RedisServer) -> None:
    async with webs("direct", redis_server.url, drain_window_s=0.2, drain_grace_s=1.0) as web:
        first = await web.poll()
        await web.another("u2").poll()
        asking = asyncio.create_task(web.poll(first["cursor"]))
        await waiting(web)
        web.hub.leave()
        drained = await asking
        assert [frame["type"] for frame in drained["frames"]] == ["drain"]
        last = await web.poll(drained["cursor"])
        assert [(frame["type"], frame["code"]) for frame in last["frames"]] == [("close", 4504)]
        # The other one does not come back, and nobody waits for that.
        await until(lambda: not web.hub._thread.is_alive(), 30, "the hub to stop")
    async with webs("direct", redis_server.url) as elsewhere:
        elsewhere.org = web.org
        ticket = drained["frames"][0]["ticket"]
        await elsewhere.publish(1)
        params = {"cursor": last["cursor"], "ticket": ticket}
        back = (await elsewhere.client.get("/v1/poll", params=params)).json()
        assert data(back) == [1]


async def test_what_is_kept_of_connections_that_have_ended_is_bounded(
    redis_server: RedisServer, socket_kind: SocketKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.edge.poll_socket.CLOSING_S", 600.0)
    async with webs(socket_kind, redis_server.url, max_connections=3) as web:
        registry = web.hub.gateway.connections
        admin = {"Authorization": "Bearer " + web.hub.token(web.org, "root", scope="admin")}
        cursors = {}
        for user in ("u1", "u2", "u3", "u4"):
            cursors[user] = (await web.another(user).poll())["cursor"]
            await web.client.post("/v1/admin/kick", json={"user": user}, headers=admin)
            await until(lambda: not connections(web), what="the connection to end")
        assert len(registry._last_words) == 3
        (frame,) = (await web.another("u4").poll(cursors["u4"]))["frames"][-1:]
        assert (frame["type"], frame["code"]) == ("close", 4401)
        assert len(registry._last_words) == 2
