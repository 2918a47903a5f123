"""PROTOCOL section 2 over real sockets: the places of the token, what happens to bad ones, hello, welcome."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from hub.auth.tokens import mint_token
from hub.protocol.codec import Encoding
from hub.protocol.frames import Error, ErrorBody, Reply, Verdict, Welcome
from tests.edge.conftest import HubWith
from tests.support.peers import Peers
from tests.support.raw_client import RawClient, bearer_subprotocol
from tests.support.running_hub import hub_settings
from tests.support.waiting import until


async def ticket(peers: Peers, user: str = "u1") -> str:
    """A fresh ticket, got over HTTP."""
    async with httpx.AsyncClient(base_url=peers.hub.http_url, timeout=30) as http:
        answer = await http.post("/v1/tickets", headers={"Authorization": f"Bearer {peers.token(user)}"})
    assert answer.status_code == 200, answer.text
    assert 0 < answer.json()["expires_in_ms"] <= 30_000
    return str(answer.json()["ticket"])


async def refused_status(peers: Peers, token: str = "", **how: object) -> tuple[int, httpx.Headers, bytes]:
    with pytest.raises(InvalidStatus) as refused:
        await peers.open(token, **how)
    response = refused.value.response
    return response.status_code, httpx.Headers(list(response.headers.raw_items())), bytes(response.body or b"")


async def refused_after_opening(client: RawClient, close: int, code: str) -> Error:
    """The hub says why and closes, without being asked anything."""
    error = await client.expect(Error, code=code)
    assert await client.close_code() == close
    return error


# --- the four places


async def test_the_token_in_the_authorization_header(peers: Peers) -> None:
    client = await peers.open(peers.token("anna"))
    welcome = await client.hello()
    assert (welcome.user, welcome.org) == ("anna", peers.org)


async def test_the_token_as_a_subprotocol_which_is_not_echoed(peers: Peers) -> None:
    offered = [peers.encoding.value, bearer_subprotocol(peers.token("anna"))]
    client = await peers.open(subprotocols=offered)
    assert client.socket.subprotocol == peers.encoding.value
    assert (await client.hello()).user == "anna"


async def test_the_token_alone_as_a_subprotocol_means_json(peers: Peers) -> None:
    # Browsers fail a connection whose subprotocols were all ignored, but other clients may do this.
    client = await peers.open(subprotocols=[bearer_subprotocol(peers.token())], encoding=Encoding.JSON)
    assert client.socket.subprotocol is None
    await client.hello()


async def test_a_ticket_in_the_query(peers: Peers) -> None:
    client = await peers.open(query=f"?ticket={await ticket(peers, 'anna')}")
    assert (await client.hello()).user == "anna"


async def test_the_token_in_the_hello(peers: Peers) -> None:
    client = await peers.open()
    assert (await client.hello(token=peers.token("anna"))).user == "anna"


async def test_the_first_place_that_holds_a_token_counts(peers: Peers) -> None:
    client = await peers.open(
        peers.token("header"),
        subprotocols=[peers.encoding.value, bearer_subprotocol(peers.token("subprotocol"))],
        query=f"?ticket={await ticket(peers, 'ticket')}",
    )
    assert (await client.hello(token=peers.token("hello"))).user == "header"


# --- bad tokens


@pytest.mark.parametrize("what", ["garbage", "expired", "audience", "signature", "truncated", "none"])
async def test_a_bad_token_in_the_header_is_answered_by_401_before_the_upgrade(peers: Peers, what: str) -> None:
    status, headers, body = await refused_status(peers, bad_token(peers, what))
    assert status == 401
    assert headers["www-authenticate"].startswith("Bearer")
    assert headers["content-type"] == "application/problem+json"
    expected = "token_expired" if what == "expired" else "unauthenticated"
    assert expected.encode() in body


@pytest.mark.parametrize("what", ["garbage", "expired", "audience"])
async def test_a_bad_token_in_a_subprotocol_is_answered_on_the_open_socket(peers: Peers, what: str) -> None:
    client = await peers.open(subprotocols=[peers.encoding.value, bearer_subprotocol(bad_token(peers, what))])
    await refused_after_opening(client, 4401, "token_expired" if what == "expired" else "unauthenticated")


async def test_a_malformed_subprotocol_token_is_answered_on_the_open_socket(peers: Peers) -> None:
    client = await peers.open(subprotocols=[peers.encoding.value, "base64url.bearer.hub.!"])
    await refused_after_opening(client, 4401, "unauthenticated")


@pytest.mark.parametrize("given", ["x", "", "A" * 43])
async def test_a_bad_ticket_is_answered_on_the_open_socket(peers: Peers, given: str) -> None:
    client = await peers.open(query=f"?ticket={given}")
    await refused_after_opening(client, 4401, "unauthenticated")


async def test_a_ticket_is_good_once(peers: Peers) -> None:
    once = await ticket(peers)
    await (await peers.open(query=f"?ticket={once}")).hello()
    await refused_after_opening(await peers.open(query=f"?ticket={once}"), 4401, "unauthenticated")


@pytest.mark.parametrize("what", ["garbage", "expired", "audience", "absent"])
async def test_a_bad_token_in_the_hello_is_an_error_and_then_4401(peers: Peers, what: str) -> None:
    client = await peers.open()
    token = {} if what == "absent" else {"token": bad_token(peers, what)}
    await client.send({"type": "hello", "id": "h", **token})
    expected = "token_expired" if what == "expired" else "unauthenticated"
    error = await client.expect(Error, code=expected, id="h", retry="never")
    assert error.message
    assert await client.close_code() == 4401


def bad_token(peers: Peers, what: str) -> str:
    settings = peers.hub.settings
    if what == "expired":
        return mint_token(settings, peers.org, "u1", ttl_s=-60)
    if what == "audience":
        return mint_token(hub_settings(settings.redis_url, jwt_audience="another"), peers.org, "u1")
    if what == "signature":
        return mint_token(
            hub_settings(settings.redis_url, jwt_secret="another-secret-of-32-bytes-length"), peers.org, "u1"
        )
    if what == "me":
        return peers.token("u1")[:-2]
    if what == "none":
        _, payload, _ = peers.token("u1").split(".")
        return f"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}."
    return "garbage"


# --- origin, version, room


async def test_a_foreign_origin_is_answered_by_403(peers: Peers) -> None:
    status, _, body = await refused_status(peers, peers.token(), headers={"Origin": "https://evil.example"})
    assert status == 403
    assert b"forbidden" in body


async def test_the_hubs_own_origin_and_the_allowed_ones_may_come(hub_with: HubWith) -> None:
    peers = await hub_with(allowed_origins=("https://app.example",))
    own = f"http://127.0.0.1:{peers.hub.port}"
    for origin in ("https://app.example", own):
        await (await peers.open(peers.token(), headers={"Origin": origin})).hello()
    status, _, _ = await refused_status(peers, peers.token(), headers={"Origin": "https://app.example.evil"})
    assert status == 403


async def test_a_version_that_is_not_spoken_is_closed_with_4405(peers: Peers) -> None:
    client = await peers.open(peers.token(), subprotocols=["hub.v9.json"], encoding=Encoding.JSON)
    await refused_after_opening(client, 4405, "bad_request")


async def test_a_hub_that_is_full_closes_with_4503(hub_with: HubWith, encoding: Encoding) -> None:
    peers = await hub_with(encoding=encoding, max_connections=1)
    client = await peers.join()
    error = await refused_after_opening(await peers.open(peers.token()), 4503, "unavailable")
    assert error.retry == "later"
    assert error.retry_after_ms is not None
    await client.socket.close()
    await until(lambda: len(peers.hub.gateway.connections) == 0, what="the place to be given back")
    await peers.join()


async def test_too_many_connections_of_a_user_are_4429(hub_with: HubWith) -> None:
    peers = await hub_with(max_connections_per_user=2)
    await peers.join()
    await peers.join()
    client = await peers.open(peers.token())
    await client.send({"type": "hello", "id": 1})
    error = await client.expect(Error, code="quota_exceeded", id=1, retry="later")
    assert error.retry_after_ms is not None
    assert await client.close_code() == 4429
    await peers.join("u2")


async def test_a_plain_request_for_the_socket_is_told_to_upgrade(peers: Peers) -> None:
    async with httpx.AsyncClient(base_url=peers.hub.http_url, timeout=30) as http:
        answer = await http.get("/ws")
    assert answer.status_code == 426
    assert answer.headers["content-type"] == "application/problem+json"


# --- hello and welcome


async def test_no_hello_in_time_is_4408(hub_with: HubWith) -> None:
    peers = await hub_with(hello_timeout_s=0.2)
    client = await peers.open(peers.token())
    await refused_after_opening(client, 4408, "timeout")


async def test_the_welcome_says_what_the_client_must_know(peers: Peers) -> None:
    client = await peers.open(peers.token())
    await client.send({"type": "hello", "id": "first", "unknown": {"field": [1]}})
    welcome = await client.expect(Welcome)
    assert welcome.id == "first"
    assert welcome.session.startswith("s_")
    assert not welcome.resumed
    assert 3_590_000 < welcome.expires_in_ms <= 3_600_000
    assert welcome.heartbeat_ms == 25_000
    assert welcome.max_message_bytes == 1_048_576
    assert welcome.topics == []


async def test_a_hello_without_an_id_gets_a_welcome_without_one(peers: Peers) -> None:
    client = await peers.open(peers.token())
    await client.send({"type": "hello"})
    await client.expect(Welcome)
    assert b'"id"' not in client.raw[0]
    assert b"\xa2id" not in client.raw[0]


async def test_services_come_before_topics_in_the_verdicts(peers: Peers) -> None:
    client = await peers.open(peers.token())
    welcome = await client.hello(services=["finance", "guest"], subscribe=[{"topic": "room:7"}, {"topic": "user:me"}])
    assert [verdict.topic for verdict in welcome.topics] == ["events:finance", "events:guest", "room:7", "user:me"]
    assert all(verdict.ok and verdict.seq == 0 and verdict.epoch and verdict.recovered for verdict in welcome.topics)


async def test_a_bad_topic_does_not_spoil_the_hello(peers: Peers) -> None:
    client = await peers.open(peers.token())
    items = [{"topic": "nope:x"}, {"topic": 5}, "text", {"topic": "room:7", "last": -1}, {"topic": "room:7"}]
    welcome = await client.hello(subscribe=items)
    codes = [
        verdict.error.code if isinstance(verdict, Verdict) and not verdict.ok else "ok" for verdict in welcome.topics
    ]
    assert codes == ["not_found", "bad_request", "bad_request", "bad_request", "ok"]


async def test_frames_sent_behind_the_hello_wait_for_it(peers: Peers) -> None:
    client = await peers.open(peers.token())
    await client.send({"type": "hello", "subscribe": [{"topic": "room:7"}]})
    await client.send({"type": "publish", "id": 1, "topic": "room:7", "name": "n", "data": 1})
    await client.expect(Welcome)
    kinds = {type(await client.receive()).__name__ for _ in range(2)}
    assert kinds == {"Reply", "Event"}


@pytest.mark.parametrize("frame", ["ping", "subscribe", "publish", "ack", "auth", "call", "unsubscribe", "chunk"])
async def test_any_frame_before_the_hello_is_4400(peers: Peers, frame: str) -> None:
    client = await peers.open(peers.token())
    await client.send({"type": frame, "id": 1})
    await client.expect(Error, code="bad_request")
    assert await client.close_code() == 4400


async def test_a_second_hello_is_refused_and_the_connection_lives_on(peers: Peers) -> None:
    client = await peers.join()
    await client.refusal({"type": "hello", "id": "again"}, "bad_request")
    assert isinstance(await client.request({"type": "subscribe", "topics": []}), Reply)


async def test_a_malformed_hello_may_be_sent_again(peers: Peers) -> None:
    client = await peers.open(peers.token())
    await client.send({"type": "hello", "id": 1, "services": "finance"})
    await client.expect(Error, code="bad_request", id=1)
    await client.hello()


async def test_the_hello_takes_the_token_only_where_no_other_place_had_one(peers: Peers) -> None:
    client = await peers.open(subprotocols=[peers.encoding.value, bearer_subprotocol("bad")])
    with contextlib.suppress(ConnectionClosed):  # it may be closed already
        await client.send({"type": "hello", "id": 1, "token": peers.token()})
    await refused_after_opening(client, 4401, "unauthenticated")


def code_of(verdict: Verdict) -> str:
    assert isinstance(verdict.error, ErrorBody)
    return verdict.error.code
