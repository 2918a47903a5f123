"""Long-polling: an answer when something happens, the same again when it was lost, and whatever is asked wrongly."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hub.edge.connection import Connection
from hub.edge.gateway import Gateway
from hub.edge.http_line import Line
from hub.edge.poll_socket import PollSocket
from hub.edge.relay import settled
from hub.embedded import RedisServer
from hub.flags import FixedFlags
from hub.orgs import OrgId, session_key
from hub.protocol.cursor import Cursor
from tests.edge.exchange_hub import ORIGIN, SETTINGS, Web, webs
from tests.edge.http_hub import assert_problem
from tests.support.presence_service import presence_service
from tests.support.running_hub import SocketKind
from tests.support.servers import client as redis_client
from tests.support.waiting import until


def connections(web: Web) -> list[Any]:
    return [one for one in web.hub.gateway.connections if one.principal and one.principal.org == web.org]


async def waiting(web: Web) -> None:
    """Somebody's request waits for something to happen."""
    await until(lambda: any(one.socket._line is not None and one.socket._opened for one in connections(web)))


def data(answer: dict[str, Any]) -> list[Any]:
    return [frame["data"] for frame in answer["frames"] if frame["type"] == "event"]


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


async def test_a_client_that_stays_away_is_forgotten_and_its_cursor_is_still_good(web: Web) -> None:
    first = await web.poll()
    await until(lambda: not connections(web), what="the linger to end")
    await web.publish(1)
    back = await web.poll(first["cursor"])
    assert [frame["type"] for frame in back["frames"]] == ["event"]
    assert data(back) == [1]


async def test_another_connection_says_welcome_only_when_there_is_something_to_say(web: Web) -> None:
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
    await until(lambda: connections(web)[0].congested, what="it to be too much")
    assert connections(web)[0].socket.unsent < 2 * web.hub.settings.unsent_high_bytes
    _, frames = await web.until_polled(first["cursor"], "event", 12)
    assert [frame["seq"] for frame in frames if frame["type"] == "event"] == list(range(1, 13))


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
    token = {"Authorization": "Bearer " + web.hub.token(web.org, "short", ttl_s=1.0)}
    first = (await web.client.get("/v1/poll?topics=room:a", headers=token)).json()
    frames: list[Any] = []
    cursor = first["cursor"]
    while not frames or frames[-1]["type"] != "close":
        answer = await web.client.get("/v1/poll", params={"cursor": cursor, "wait": "5"}, headers=token)
        assert answer.status_code == 200, answer.text
        cursor = answer.json()["cursor"]
        frames += answer.json()["frames"]
    assert frames[-1]["code"] == 4401


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
    async with webs("direct", redis_server.url, drain_window_s=0.2, drain_grace_s=0.2) as web:
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
        await until(lambda: not web.hub._thread.is_alive(), 10, "the hub to stop")
    async with webs("direct", redis_server.url) as elsewhere:
        elsewhere.org = web.org
        ticket = drained["frames"][0]["ticket"]
        await elsewhere.publish(1)
        params = {"cursor": last["cursor"], "ticket": ticket}
        back = (await elsewhere.client.get("/v1/poll", params=params)).json()
        assert data(back) == [1]


async def test_nodes_that_take_turns_do_not_make_polls_spin(redis_server: RedisServer) -> None:
    """A balancer that knows nothing of sessions: an answer comes when something happened, and says only that."""
    how: dict[str, Any] = {"factories": [presence_service], "poll_linger_s": 5.0}
    async with (
        webs("direct", redis_server.url, node="n1", **how) as one,
        webs("asgi", redis_server.url, node="n2", **how) as two,
    ):
        two.org = one.org
        cursor = (await one.poll(topics="party:p,lobby:l"))["cursor"]
        while (answer := await one.poll(cursor, 0.3))["frames"]:
            cursor = answer["cursor"]  # who is present
        for node in (two, one, two, one):
            answer = await node.poll(cursor, 0.3)
            assert answer["frames"] == []
            cursor = answer["cursor"]
        for number, node in enumerate((two, one, two, one)):
            await one.publish(number, "party:p")
            answer = await node.poll(cursor)
            assert [(frame["type"], frame["data"]) for frame in answer["frames"]] == [("event", number)]
            cursor = answer["cursor"]
        # Somebody comes between two polls: that is news.
        await one.another("u2").poll(topics="party:p")
        answer = await two.poll(cursor)
        assert [frame.get("name") for frame in answer["frames"]] == ["presence"], answer["frames"]
        assert "u2" in repr(answer["frames"])
        while (answer := await one.poll(answer["cursor"], 0.3))["frames"]:
            assert "u2" in repr(answer["frames"])


async def test_a_cursor_that_comes_to_another_node_acknowledges_there(redis_server: RedisServer) -> None:
    """At once: soon it may be at yet another one. Nothing is published any more, so no request would say it again."""
    rarely = {"session_save_s": 3600}
    async with (
        webs("direct", redis_server.url, node="n1", **rarely) as one,
        webs("asgi", redis_server.url, node="n2", **rarely) as two,
    ):
        two.org = one.org
        first = await one.poll()
        session = first["frames"][0]["session"]
        await one.publish(1)
        second = await one.poll(first["cursor"])
        assert data(second) == [1]
        assert data(await two.poll(second["cursor"], 0)) == []
        hello = {"type": "hello", "resume": {"session": session}, "subscribe": [{"topic": "room:a"}]}

        with redis_client(redis_server) as link:
            key = session_key(OrgId.from_claim(one.org), session)
            await until(lambda: link.hexists(key, "room:a"), what="what was acknowledged to be stored")
        taken = (await one.client.post("/v1/poll", json=hello, headers=one.headers())).json()
        assert taken["frames"][0]["resumed"] is True
        assert data(taken) + data(await one.poll(taken["cursor"], 0.3)) == []


async def test_a_lost_answer_between_nodes_that_take_turns_ends_nothing(redis_server: RedisServer) -> None:
    async with webs("direct", redis_server.url, node="n1") as one, webs("asgi", redis_server.url, node="n2") as two:
        two.org = one.org
        cursor = (await one.poll())["cursor"]
        session = connections(one)[0].session_id
        await one.publish(1)
        assert data(await two.poll(cursor)) == [1]  # and is lost on its way
        await until(lambda: not connections(one), what="the older one to be told")
        again = await one.poll(cursor)
        assert [frame["type"] for frame in again["frames"]] == ["event"], again
        assert connections(one)[0].session_id == session
        await until(lambda: not connections(two), what="the older one to be told")
        # Somebody else who takes it over: whoever had it before must not take it back.
        hello = {"type": "hello", "resume": {"session": session}, "subscribe": [{"topic": "room:a"}]}
        taken = await two.client.post("/v1/poll", json=hello, headers=two.headers())
        assert taken.json()["frames"][0]["resumed"] is True
        await until(lambda: not connections(one), what="the older one to be told")
        last = await one.poll(again["cursor"])
        assert [(frame["type"], frame["code"]) for frame in last["frames"]] == [("close", 4409)]


async def test_what_is_kept_of_connections_that_have_ended_is_bounded(
    redis_server: RedisServer, socket_kind: SocketKind
) -> None:
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


async def test_what_was_said_between_two_polls_goes_along_to_the_next_node(redis_server: RedisServer) -> None:
    """Answers that the client has not got, and the topics as they are by then."""
    async with webs("direct", redis_server.url, node="n1") as one, webs("asgi", redis_server.url, node="n2") as two:
        two.org = one.org
        first = await one.poll(topics="room:a,room:b")
        session = first["frames"][0]["session"]
        said = [
            {"type": "subscribe", "id": 1, "topics": [{"topic": "room:new", "filter": {"room": "x"}}]},
            {"type": "unsubscribe", "id": 2, "topics": ["room:a"]},
            {"type": "call", "id": 3, "method": "presence.get", "params": {"topic": "room:b"}},
        ]
        assert await two.say(*said, session=session) == []
        event = {"topic": "room:new", "name": "n", "data": "before", "tags": {"room": "x"}}
        await one.client.post("/v1/publish", json=event, headers=one.headers())
        await until(lambda: b"before" in b"".join(connections(one)[0].socket._frames), what="the event to wait")
        lost = await two.poll(first["cursor"])
        again = await one.poll(first["cursor"])  # the answer before was lost
        for answer in (lost, again):
            told = [(frame["type"], frame.get("id")) for frame in answer["frames"]]
            assert set(told[:3]) == {("reply", 1), ("reply", 2), ("error", 3)}, told
            assert data(answer) == ["before"]
        await one.publish("not for it", "room:a")
        await one.publish("nor this", "room:new")
        await one.client.post("/v1/publish", json=event | {"data": "after"}, headers=one.headers())
        await until(lambda: b"after" in b"".join(connections(one)[0].socket._frames), what="the event to wait")
        answer = await two.poll(again["cursor"])
        assert data(answer) == ["after"], answer
        await one.publish("b", "room:b")
        assert data(await two.poll(answer["cursor"])) == ["b"]


async def test_what_is_said_while_the_session_moves_is_performed(redis_server: RedisServer) -> None:
    async with webs("direct", redis_server.url, node="n1") as one, webs("direct", redis_server.url, node="n2") as two:
        two.org = one.org
        first = await one.poll()
        cursor, session = first["cursor"], first["frames"][0]["session"]
        wanted, got = set(range(40)), set()

        async def say() -> None:
            for number in wanted:
                subscribe = {"type": "subscribe", "id": number, "topics": [{"topic": f"room:{number}"}]}
                assert await (one, two)[number // 2 % 2].say(subscribe, session=session) == []

        saying = asyncio.create_task(say())
        async with asyncio.timeout(20):
            while got != wanted:
                for node in (two, one):
                    answer = await node.poll(cursor)
                    cursor = answer["cursor"]
                    assert {frame["type"] for frame in answer["frames"]} == {"reply"}
                    got |= {frame["id"] for frame in answer["frames"]}
                    if got == wanted:
                        break
        await saying
        (connection,) = [*connections(one), *connections(two)]
        assert len(connection.subscriptions) == 1 + len(wanted)


async def test_what_was_said_goes_along_although_the_node_hears_of_it_by_a_save(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the claim of the session and the message that asks for what is left."""
    async with webs("direct", redis_server.url, node="n1") as one, webs("direct", redis_server.url, node="n2") as two:
        two.org = one.org
        first = await one.poll()
        session = first["frames"][0]["session"]
        subscribe = {"type": "subscribe", "id": 7, "topics": [{"topic": "room:b"}]}
        assert await one.say(subscribe, session=session) == []
        ask = two.hub.gateway.inquiries.ask

        async def after_a_save(*what: Any) -> bytes | None:
            older = connections(one)[0]
            one.hub.gateway.saver.changed(older)
            await one.hub.within(one.hub.gateway.saver.save)
            return await ask(*what)

        monkeypatch.setattr(two.hub.gateway.inquiries, "ask", after_a_save)
        answer = await two.poll(first["cursor"])
        assert [(frame["type"], frame.get("id")) for frame in answer["frames"]] == [("reply", 7)]


async def test_a_poll_that_is_cut_while_the_session_moves_loses_nothing(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older node has given everything away by then, so the newer one keeps it for the client."""
    async with webs("direct", redis_server.url, node="n1") as one, webs("direct", redis_server.url, node="n2") as two:
        two.org = one.org
        first = await one.poll()
        subscribe = {"type": "subscribe", "id": 7, "topics": [{"topic": "room:b"}]}
        assert await one.say(subscribe, session=first["frames"][0]["session"]) == []
        ask, here = two.hub.gateway.inquiries.ask, asyncio.get_running_loop()

        async def cut_meanwhile(*what: Any) -> bytes | None:
            answer = await ask(*what)
            here.call_soon_threadsafe(asking.cancel)
            await until(lambda: connections(two)[0].socket._line is None, what="the hub to notice")
            return answer

        monkeypatch.setattr(two.hub.gateway.inquiries, "ask", cut_meanwhile)
        asking = asyncio.create_task(two.poll(first["cursor"]))
        await asyncio.gather(asking, return_exceptions=True)
        again = await one.poll(first["cursor"], 1)
        assert [(frame["type"], frame.get("id")) for frame in again["frames"]] == [("reply", 7)]
        await one.publish(1, "room:b")
        assert data(await one.poll(again["cursor"])) == [1]


async def test_what_is_said_to_a_session_that_moves_is_answered_when_it_has_moved(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what is said next could come to the older connection, and take effect first."""
    async with webs("direct", redis_server.url, node="n1") as one, webs("direct", redis_server.url, node="n2") as two:
        two.org = one.org
        first = await one.poll()
        session = first["frames"][0]["session"]
        ask, moves_on, waits = two.hub.gateway.inquiries.ask, asyncio.Event(), []

        async def slow(*what: Any) -> bytes | None:
            await moves_on.wait()
            return await ask(*what)

        async def noted(connection: Any, within_s: float) -> None:
            waits.append(connection)
            two.hub.loop.call_soon_threadsafe(moves_on.set)
            await settled(connection, within_s)

        monkeypatch.setattr(two.hub.gateway.inquiries, "ask", slow)
        monkeypatch.setattr("hub.edge.relay.settled", noted)
        polling = asyncio.create_task(two.poll(first["cursor"]))
        await until(lambda: bool(connections(two)) and connections(two)[0].session_id == session, what="the claim")
        await two.say({"type": "subscribe", "id": 1, "topics": [{"topic": "room:b"}]}, session=session)
        assert waits
        assert not connections(one)
        await one.say({"type": "unsubscribe", "id": 2, "topics": ["room:b"]}, session=session)
        answer = await polling
        ids = [frame["id"] for frame in answer["frames"]]
        while len(ids) < 2:
            answer = await two.poll(answer["cursor"])
            ids += [frame["id"] for frame in answer["frames"]]
        assert ids == [1, 2]


async def test_what_is_said_while_an_older_connection_waits_for_its_calls_goes_along(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with webs("direct", redis_server.url, node="n1") as one, webs("direct", redis_server.url, node="n2") as two:
        two.org = one.org
        first = await one.poll()
        older, called, join = connections(one)[0], asyncio.Event(), one.hub.gateway.membership.join

        async def call() -> None:
            older.calls = {asyncio.create_task(called.wait())}

        async def ends_the_call(*what: Any) -> Any:
            called.set()
            older.calls.clear()
            return await join(*what)

        await one.hub.within(call)
        monkeypatch.setattr(one.hub.gateway.membership, "join", ends_the_call)
        asking = asyncio.create_task(two.poll(first["cursor"]))
        await until(lambda: bool(one.hub.gateway.inquiries._answering), what="it to be asked")
        subscribe = {"type": "subscribe", "id": 7, "topics": [{"topic": "room:b"}]}
        assert await one.say(subscribe, session=first["frames"][0]["session"]) == []
        assert [(frame["type"], frame.get("id")) for frame in (await asking)["frames"]] == [("reply", 7)]


async def test_who_has_the_session_before_he_knows_it_hands_it_on(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis gave it to one connection and then to another, which asks the first one before that has heard of it."""
    async with webs("direct", redis_server.url, node="n1") as one, webs("direct", redis_server.url, node="n2") as two:
        two.org = one.org
        first = await one.poll()
        subscribe = {"type": "subscribe", "id": 7, "topics": [{"topic": "room:b"}]}
        assert await one.say(subscribe, session=first["frames"][0]["session"]) == []
        resume, heard, claims = two.hub.gateway.sessions.resume, asyncio.Event(), []

        async def late(*what: Any) -> Any:
            resumed = await resume(*what)
            claims.append(resumed)
            if len(claims) == 1:
                await heard.wait()
            else:
                asyncio.get_running_loop().call_soon(heard.set)
            return resumed

        monkeypatch.setattr(two.hub.gateway.sessions, "resume", late)
        older = asyncio.create_task(two.asked(first["cursor"]))
        await until(lambda: len(claims) == 1, what="the session to be claimed")
        answer = await two.poll(first["cursor"], 1)
        assert [(frame["type"], frame.get("id")) for frame in answer["frames"]] == [("reply", 7)]
        await older
        assert len(connections(two)) == 1


async def test_a_poll_that_is_cut_before_its_hello_takes_nothing_over() -> None:
    """Not in the next turn of the event loop: by then it may have claimed the session."""
    lost: list[int] = []
    line, connection = SimpleNamespace(), SimpleNamespace(principal=None, close_code=0, lost=lost.append)
    connection.receive = lambda _: None
    cursor = Cursor(b"", "s_1", "c1", 1, 1, 0, ())
    socket = PollSocket(cast(Gateway, None), cast(Line, line), 1.0, 1, cursor)
    socket.run(cast(Connection, connection), "{}")
    socket.line_lost(cast(Line, line))
    assert lost == [1006]


async def test_of_two_polls_on_two_nodes_the_newer_one_is_answered(redis_server: RedisServer) -> None:
    """The older one may be the newer attempt of the same client, so nobody is sent away for good."""
    async with webs("direct", redis_server.url, node="n1") as one, webs("direct", redis_server.url, node="n2") as two:
        two.org = one.org
        first = await one.poll()
        older = asyncio.create_task(one.asked(first["cursor"]))
        await waiting(one)
        newer = asyncio.create_task(two.poll(first["cursor"]))
        assert_problem(await older, "conflict", says="only the newest")
        await one.publish(1)
        assert data(await newer) == [1]


async def test_a_connection_that_is_not_open_yet_takes_no_topics_away(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with webs("direct", redis_server.url, node="n1") as one, webs("direct", redis_server.url, node="n2") as two:
        two.org = one.org
        first = await one.poll()

        async def for_ever(*_: Any) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(two.hub.gateway.membership, "join", for_ever)
        stuck = asyncio.create_task(two.asked(first["cursor"]))
        await until(lambda: not connections(one) and bool(connections(two)), what="the session to move")
        asking = asyncio.create_task(one.poll(first["cursor"]))
        await until(lambda: not connections(two), what="it to move back")
        await one.publish(1)
        assert data(await asking) == [1]
        assert_problem(await stuck, "conflict", says="newer connection")


async def test_a_topic_that_was_left_and_subscribed_anew_begins_anew_on_another_node(redis_server: RedisServer) -> None:
    async with webs("direct", redis_server.url, node="n1") as one, webs("asgi", redis_server.url, node="n2") as two:
        two.org = one.org
        first = await one.poll()
        session = first["frames"][0]["session"]
        await one.say({"type": "unsubscribe", "id": 1, "topics": ["room:a"]}, session=session)
        await until(lambda: not connections(one)[0].subscriptions, what="it to be left")
        await one.publish("not for it")
        await one.say({"type": "subscribe", "id": 2, "topics": [{"topic": "room:a"}]}, session=session)
        await until(lambda: bool(connections(one)[0].subscriptions), what="it to be subscribed")
        await one.publish("for it")
        await until(lambda: b"for it" in b"".join(connections(one)[0].socket._frames), what="the event to wait")
        answer = await two.poll(first["cursor"])
        assert [frame.get("id") for frame in answer["frames"][:2]] == [1, 2]
        assert data(answer) == ["for it"]
        await one.publish("more")
        assert data(await two.poll(answer["cursor"])) == ["more"]


async def test_flags_of_the_older_node_do_not_go_along(redis_server: RedisServer) -> None:
    """The newer one says in its welcome what is so there; if it has heard of more, nobody would correct the rest."""
    nodes: list[Any] = [{"node": name, "flags": FixedFlags({"extra": True})} for name in ("n1", "n2")]
    async with (
        webs("direct", redis_server.url, **nodes[0]) as one,
        webs("direct", redis_server.url, **nodes[1]) as two,
    ):
        two.org = one.org
        first = await one.poll()
        subscribe = {"type": "subscribe", "id": 7, "topics": [{"topic": "room:b"}]}
        assert await one.say(subscribe, session=first["frames"][0]["session"]) == []
        one.hub.flip(extra=False)
        await until(lambda: b"extra" in b"".join(connections(one)[0].socket._frames), what="the frame to wait")
        answer = await two.poll(first["cursor"])
        assert [frame["type"] for frame in answer["frames"]] == ["reply"]


async def test_what_goes_along_is_permitted_anew(web: Web) -> None:
    first = await web.poll(topics="big:b")
    session = first["frames"][0]["session"]
    await web.say({"type": "subscribe", "id": 1, "topics": [{"topic": "room:n"}]}, session=session)
    await until(lambda: "room:n" in connections(web)[0].subscriptions, what="it to be subscribed")
    await web.publish("secret by now", "room:n")
    narrow = web.headers(scope="subscribe:big:*")
    answer = await web.client.get("/v1/poll", params={"cursor": first["cursor"]}, headers=narrow)
    frames = answer.json()["frames"]
    assert {one["topic"]: one["ok"] for one in frames[0]["topics"]} == {"big:b": True, "room:n": False}
    assert [frame["type"] for frame in frames] == ["welcome", "reply"]
