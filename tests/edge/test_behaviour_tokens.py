"""What happens to open connections when tokens change, expire or are withdrawn (PROTOCOL sections 2, 4, 8)."""

from __future__ import annotations

import asyncio
import time

import httpx
import jwt
import pytest

from hub.edge import keeper
from hub.protocol.frames import Error, Event, Expiring, Unsubscribed
from tests.edge.conftest import HubWith
from tests.edge.conversation import code_of, live_marker, older
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.running_hub import EVERYTHING, SECRET

# --- auth


async def test_a_fresh_token_of_the_same_user_prolongs_the_connection(peers: Peers) -> None:
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    result = await client.result({"type": "auth", "token": peers.token(ttl_s=7200)})
    assert set(result) == {"expires_in_ms"}
    assert 7_190_000 < result["expires_in_ms"] <= 7_200_000
    await live_marker(client, client, "room:a")


@pytest.mark.parametrize(("org", "user"), [("", "u2"), ("another", "u1")])
async def test_a_token_of_somebody_else_is_4401(peers: Peers, org: str, user: str) -> None:
    client = await peers.join()
    await client.send({"type": "auth", "id": "a", "token": peers.token(user, org=org)})
    await client.expect(Error, id="a", code="unauthenticated")
    assert await client.close_code() == 4401


async def test_a_bad_token_is_an_error_and_the_old_one_stays_good(peers: Peers) -> None:
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    await client.refusal({"type": "auth", "token": "garbage"}, "unauthenticated")
    await client.refusal({"type": "auth", "token": peers.token(ttl_s=-60)}, "token_expired")
    await live_marker(client, client, "room:a")


async def test_less_scope_ends_what_it_does_not_allow_any_more(peers: Peers) -> None:
    writer, client = await peers.join("u2"), await peers.join(services=["finance"])
    await client.joined("room:a", "user:me")
    answer = await client.request({"type": "auth", "token": peers.token(scope="subscribe:room:* publish:room:*")})
    assert not isinstance(answer, Error)
    ended = [await client.expect(Unsubscribed) for _ in range(2)]
    assert {(frame.topic, frame.code) for frame in ended} == {("events:finance", "forbidden"), ("user:me", "forbidden")}
    await writer.publish("events:finance", "unseen")
    await writer.publish("user:u1", "unseen")
    await live_marker(writer, client, "room:a")
    (verdict,) = await client.subscribe("events:finance")
    assert code_of(verdict) == "not_found"
    await client.refusal({"type": "publish", "topic": "big:a", "name": "n", "data": 1}, "not_found")


async def test_more_scope_allows_more_at_once(peers: Peers) -> None:
    client = await peers.join(scope="subscribe:room:*")
    await client.result({"type": "auth", "token": peers.token(scope="subscribe:* publish:*")})
    await client.joined("big:a")
    await live_marker(client, client, "big:a")


class Later:
    """For the hub's keeper it is ``seconds`` later by the clock that tokens go by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(keeper, "time", self)

    def time(self) -> float:
        return time.time() + self.seconds

    def monotonic(self) -> float:
        return time.monotonic()


def token_by_hand(peers: Peers, ends_in_s: float, **claims: float) -> str:
    """One that need not say when it was issued; or that says anything."""
    user = {"sub": "u1", "org": peers.org, "aud": peers.hub.settings.jwt_audience, "scope": EVERYTHING}
    return jwt.encode({**user, "exp": time.time() + ends_in_s, **claims}, SECRET, algorithm="HS256")


async def test_the_end_of_a_token_is_announced_and_then_closes(
    hub_with: HubWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers, later = await hub_with(expiring_notice_s=60), Later(monkeypatch)
    client = await peers.open(token_by_hand(peers, 61))
    await client.hello()
    frame = await client.expect(Expiring)
    assert 0 < frame.expires_in_ms <= 60_000
    later.seconds = 61.0
    await older(peers)
    await client.expect(Error, code="token_expired", id=None)
    assert await client.close_code() == 4401


async def test_a_fresh_token_in_time_keeps_the_connection(hub_with: HubWith, monkeypatch: pytest.MonkeyPatch) -> None:
    peers, later = await hub_with(expiring_notice_s=60), Later(monkeypatch)
    client = await peers.open(peers.token(ttl_s=600))
    await client.hello(subscribe=[{"topic": "room:a"}])
    later.seconds = 550.0
    await older(peers)
    assert 0 < (await client.expect(Expiring)).expires_in_ms <= 50_000
    await client.result({"type": "auth", "token": peers.token(ttl_s=1200)})
    later.seconds = 601.0
    await older(peers)
    await client.nothing_came()  # when the first one ended
    later.seconds = 1150.0
    await older(peers)
    # Announced again for the fresh one.
    assert 0 < (await client.expect(Expiring)).expires_in_ms <= 50_000
    await live_marker(client, client, "room:a")


async def test_tokens_with_a_short_life_are_not_announced_again_and_again(hub_with: HubWith) -> None:
    """With each fresh one inside the notice, hub and client would keep one another busy."""
    peers = await hub_with(expiring_notice_s=3600)
    client = await peers.open(peers.token(ttl_s=600))
    await client.hello()
    await client.nothing_came()  # half of its life is before it
    for _ in range(3):
        await client.result({"type": "auth", "token": peers.token(ttl_s=600)})
        await client.nothing_came()
    # More than half of its life is over.
    await client.result({"type": "auth", "token": token_by_hand(peers, 80, iat=time.time() - 100)})
    await client.nothing_came()


# --- kick


async def kick(peers: Peers, user: str, org: str = "") -> httpx.Response:
    async with httpx.AsyncClient(base_url=peers.hub.http_url, timeout=30) as http:
        token = peers.token("root", scope="admin", org=org)
        return await http.post("/v1/admin/kick", json={"user": user}, headers={"Authorization": f"Bearer {token}"})


async def old_token_is_refused(peers: Peers, token: str) -> None:
    again = await peers.open(token)
    await again.send({"type": "hello", "id": 1})
    await again.expect(Error, id=1, code="unauthenticated")
    assert await again.close_code() == 4401


async def test_a_kick_closes_the_users_connections_on_all_nodes_and_refuses_their_tokens(hub_with: HubWith) -> None:
    here = await hub_with(node="here")
    there = await hub_with(node="there", org=here.org)
    kicked: list[RawClient] = [await here.join("anna"), await here.join("anna"), await there.join("anna")]
    bystander = await here.join("bert", subscribe=[{"topic": "room:a"}])
    namesake = await here.join("anna", org="other-" + here.org, subscribe=[{"topic": "room:a"}])
    ticket = await new_ticket(here, kicked[0].token)

    assert (await kick(here, "anna")).status_code == 200
    for client in kicked:
        await client.expect(Error, code="unauthenticated")
        assert await client.close_code() == 4401
    for peers in (here, there):
        await old_token_is_refused(peers, kicked[0].token)
    # A ticket stands for its token.
    by_ticket = await here.open(query=f"?ticket={ticket}")
    await by_ticket.send({"type": "hello", "id": 1})
    await by_ticket.expect(Error, id=1, code="unauthenticated")
    # The open connection of a kicked user cannot be refreshed with an old token either; a fresh one is welcome.
    await here.join("anna")
    for other in (bystander, namesake):
        await live_marker(other, other, "room:a")


async def new_ticket(peers: Peers, token: str) -> str:
    async with httpx.AsyncClient(base_url=peers.hub.http_url, timeout=30) as http:
        answer = await http.post("/v1/tickets", headers={"Authorization": f"Bearer {token}"})
    return str(answer.json()["ticket"])


async def test_a_kick_needs_the_scope_admin(peers: Peers) -> None:
    client = await peers.join("anna", subscribe=[{"topic": "room:a"}])
    async with httpx.AsyncClient(base_url=peers.hub.http_url, timeout=30) as http:
        headers = {"Authorization": f"Bearer {peers.token('bert')}"}
        answer = await http.post("/v1/admin/kick", json={"user": "anna"}, headers=headers)
    assert answer.status_code == 403
    await live_marker(client, client, "room:a")


async def test_a_token_from_before_the_kick_does_not_refresh_a_connection_from_after_it(peers: Peers) -> None:
    old = peers.token("anna")
    assert (await kick(peers, "anna")).status_code == 200
    client = await peers.join("anna", subscribe=[{"topic": "room:a"}])
    await client.refusal({"type": "auth", "token": old}, "unauthenticated")
    await live_marker(client, client, "room:a")


async def test_two_users_whose_tokens_expire_do_not_disturb_each_other(hub_with: HubWith) -> None:
    peers = await hub_with(expiring_notice_s=1)
    short = await peers.open(peers.token("short", ttl_s=0.5))
    await short.hello(subscribe=[{"topic": "room:a"}])
    long = await peers.join("long", subscribe=[{"topic": "room:a"}])
    async with asyncio.timeout(30):
        assert await short.close_code() == 4401
    await long.publish("room:a", "still here")
    await long.expect(Event, data="still here")
