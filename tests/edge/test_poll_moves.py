"""Polls of one session that come to two nodes in turn: what was said, acknowledged and not yet fetched goes along."""

from __future__ import annotations

import asyncio
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
from tests.edge.exchange_hub import Web, connections, data, two_webs, waiting, webs
from tests.edge.http_hub import assert_problem
from tests.support.presence_service import presence_service
from tests.support.servers import client as redis_client
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("patient_nodes")


async def test_nodes_that_take_turns_do_not_make_polls_spin(redis_server: RedisServer) -> None:
    """A balancer that knows nothing of sessions: an answer comes when something happened, and says only that."""
    how: dict[str, Any] = {"factories": [presence_service]}
    async with two_webs(redis_server.url, "asgi", **how) as (one, two):
        cursor = (await one.poll(topics="party:p,lobby:l"))["cursor"]
        joined: list[str] = []
        while len(joined) < 2:  # who is present
            answer = await one.poll(cursor)
            cursor = answer["cursor"]
            joined += [frame["topic"] for frame in answer["frames"] if frame["data"]["action"] == "join"]
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
    async with two_webs(redis_server.url, "asgi", **rarely) as (one, two):
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
    async with two_webs(redis_server.url, "asgi") as (one, two):
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


async def test_what_was_said_between_two_polls_goes_along_to_the_next_node(redis_server: RedisServer) -> None:
    """Answers that the client has not got, and the topics as they are by then."""
    async with two_webs(redis_server.url, "asgi") as (one, two):
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
            told = [(frame["type"], frame.get("id", 0)) for frame in answer["frames"]]
            answers, kinds = [one for one in told if one[0] != "event"], [kind for kind, _ in told]
            assert sorted(answers) == [("error", 3), ("reply", 1), ("reply", 2)], told
            # A call may be answered after the event; the topic's verdict comes before it.
            assert told.index(("reply", 1)) < kinds.index("event"), told
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
    async with two_webs(redis_server.url) as (one, two):
        first = await one.poll()
        cursor, session = first["cursor"], first["frames"][0]["session"]
        wanted, got = set(range(40)), set()

        async def say() -> None:
            for number in wanted:
                subscribe = {"type": "subscribe", "id": number, "topics": [{"topic": f"room:{number}"}]}
                assert await (one, two)[number // 2 % 2].say(subscribe, session=session) == []

        saying = asyncio.create_task(say())
        async with asyncio.timeout(30):
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
    async with two_webs(redis_server.url) as (one, two):
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
    async with two_webs(redis_server.url) as (one, two):
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
        again = await one.poll(first["cursor"])
        assert [(frame["type"], frame.get("id")) for frame in again["frames"]] == [("reply", 7)]
        await one.publish(1, "room:b")
        assert data(await one.poll(again["cursor"])) == [1]


async def test_what_is_said_to_a_session_that_moves_is_answered_when_it_has_moved(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what is said next could come to the older connection, and take effect first."""
    async with two_webs(redis_server.url) as (one, two):
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
    async with two_webs(redis_server.url) as (one, two):
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
    async with two_webs(redis_server.url) as (one, two):
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
        answer = await two.poll(first["cursor"])
        assert [(frame["type"], frame.get("id")) for frame in answer["frames"]] == [("reply", 7)]
        await older
        await until(lambda: len(connections(two)) == 1, what="the older one to be gone")


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
    async with two_webs(redis_server.url) as (one, two):
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
    monkeypatch.setattr("hub.edge.takeover.SETTLE_S", 0.5)  # it never settles
    async with two_webs(redis_server.url) as (one, two):
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
    async with two_webs(redis_server.url, "asgi") as (one, two):
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
