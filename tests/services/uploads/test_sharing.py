"""With whom an upload is shared: who learns of it, how it is taken back, and what ends with it."""

from __future__ import annotations

import base64
from pathlib import Path

from hub.protocol.frames import Event, Unsubscribed
from services.chat.service import chat
from tests.services.uploads.depot import Depot, Person, depot, some_text
from tests.services.uploads.tus_client import TusClient
from tests.support.hub_database import HubDatabase

FEW = some_text(20_000)
ROOM = "chat:secret-plans"


async def test_only_its_owner_learns_with_whom_it_is_shared(house: Depot) -> None:
    ada, bob = await house.person(), await house.person("bob")
    opened = await ada.create(FEW, shares=["events:finance", "events:guest"])
    upload = opened["upload"]
    assert (await ada.call("status", upload=upload))["shares"] == ["events:finance", "events:guest"]
    assert [one["shares"] for one in (await ada.call("list"))["uploads"]] == [["events:finance", "events:guest"]]
    assert "shares" not in await bob.call("status", upload=upload)
    await bob.client.joined({"topic": opened["topic"], "since": "start"})
    created = await bob.client.await_kind(Event)
    assert (created.name, created.data["upload"]) == ("created", upload)
    assert "shares" not in created.data
    finance = base64.b64encode(b"events:finance events:guest").decode()
    for user, knows in (("ada", True), ("bob", False)):
        async with house.http(user) as http:
            assert ("shares" in (await http.get(f"/v1/uploads/{upload}")).json()) is knows
            head = await TusClient(http).ask("HEAD", f"/v1/uploads/{upload}")
            assert (finance in head.headers["upload-metadata"]) is knows


async def test_nothing_is_shared_with_the_topic_of_an_upload(house: Depot) -> None:
    ada, bob = await house.person(), await house.person("bob")
    first, second = await ada.create(FEW), await ada.create(FEW)
    await ada.refused("share", "bad_request", upload=first["upload"], topics=[second["topic"]])
    # As earlier versions had them: round and round.
    for one, other in ((first, second), (second, first)):
        shares = [other["topic"]]
        await house.rows("UPDATE hub.uploads SET shares = $2 WHERE id = $1 RETURNING 1", one["upload"], shares)
    await bob.refused("status", "not_found", upload=first["upload"])


async def watching(house: Depot, topic: str, user: str, scope: str = "subscribe:* call:*", node: int = 0) -> Person:
    person = await house.person(user, scope=scope, node=node)
    await person.client.joined(topic)
    return person


async def out(person: Person, topic: str) -> None:
    told = await person.client.await_kind(Unsubscribed)
    assert (told.topic, told.code) == (topic, "not_found")


async def heard_the_end(person: Person) -> None:
    """Of an upload that was cancelled, and was never out before."""
    while (await person.client.await_kind(Event)).name != "cancelled":
        pass
    assert not any(isinstance(frame, Unsubscribed) for frame in person.client.came)


async def may_join(person: Person, topic: str) -> bool:
    (verdict,) = await person.client.subscribe({"topic": topic})
    return verdict.ok


async def test_sharing_is_taken_back(redis_url: str, hub_database: HubDatabase, tmp_path: Path) -> None:
    async with depot(redis_url, hub_database, tmp_path, nodes=2) as house:
        ada = await house.person()
        opened = await ada.create(FEW, shares=["events:finance", "events:guest"])
        upload, topic = opened["upload"], opened["topic"]
        owner = await watching(house, topic, "ada", node=1)
        bob = await watching(house, topic, "bob", "subscribe:upload:* subscribe:events:finance call:*", node=1)
        carl = await watching(house, topic, "carl")
        await bob.refused("unshare", "not_found", upload=upload, topics=["events:finance"])
        left = await ada.call("unshare", upload=upload, topics=["events:finance", "events:never"])
        assert left["shares"] == ["events:guest"]
        for person in (bob, carl):
            await out(person, topic)
        assert not await may_join(bob, topic)
        assert await may_join(carl, topic)
        await bob.refused("status", "not_found", upload=upload)
        await ada.call("cancel", upload=upload)
        await heard_the_end(owner)


async def test_who_leaves_the_room_leaves_what_is_shared_with_it(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path
) -> None:
    async with depot(redis_url, hub_database, tmp_path, others=[chat], recheck_subscriptions_s=0.2) as house:
        ada = await house.person()
        made = {"room": "secret-plans", "name": "Plans", "public": False, "members": ["bob", "carl"]}
        await ada.client.result({"type": "call", "method": "chat.create", "params": made})
        opened = await ada.create(FEW, shares=[ROOM])
        upload, topic = opened["upload"], opened["topic"]
        auditor = await watching(house, topic, "eve", "subscribe:upload:* uploads:read")
        owner, bob, carl = [await watching(house, topic, user) for user in ("ada", "bob", "carl")]
        away = {"room": "secret-plans", "user": "bob"}
        await ada.client.result({"type": "call", "method": "chat.remove", "params": away})
        await out(bob, topic)
        # A whole look at everybody later the others are still there.
        await ada.client.result({"type": "call", "method": "chat.remove", "params": {**away, "user": "carl"}})
        await out(carl, topic)
        await ada.call("cancel", upload=upload)
        await heard_the_end(owner)
        await heard_the_end(auditor)
