"""Rooms: who sees them, who is in them, what each role may do."""

from __future__ import annotations

from typing import Any

import pytest

from hub.client import RequestRefused, SubscriptionEnded
from hub.errors import ErrorCode
from tests.services.rooms.parlour import Parlour, parlour
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

ROOM_METHODS: dict[str, dict[str, Any]] = {
    "get": {},
    "rename": {"name": "Mine now"},
    "archive": {},
    "unarchive": {},
    "members": {},
    "join": {},
    "invite": {"user": "eve"},
    "remove": {"user": "ada"},
    "leave": {},
    "mute": {"user": "ada", "for_s": 5},
    "send": {"text": "x", "key": "k"},
    "edit": {"message": 1, "text": "x"},
    "delete": {"message": 1},
    "react": {"message": 1, "emoji": "x"},
    "history": {},
    "search": {"query": "x"},
    "read": {"message": 1},
    "readers": {"message": 1},
    "typing": {},
}


async def test_a_room_is_made_and_found(house: Parlour) -> None:
    ada = await house.person()
    room = (await ada.do("create", name="  Flat 7  ", room="flat-7", tags={"property_id": 7}))["room"]
    assert room["room"] == "flat-7"
    assert room["name"] == "Flat 7"
    assert (room["public"], room["archived"], room["role"], room["members"]) == (False, False, "owner", 1)
    assert (room["unread"], room["last"], room["tags"]) == (0, None, {"property_id": 7})
    got = await ada.do("get", "flat-7")
    assert got["room"] == room
    assert got["position"]["seq"] == 0
    assert (await ada.do("rooms"))["rooms"] == [room]
    other = (await ada.do("create", name="Nameless"))["room"]
    assert other["room"] != "flat-7"
    bob = await house.person("bob")
    assert (await bob.refused("create", name="Again", room="flat-7")).code == ErrorCode.CONFLICT


async def test_a_room_that_is_not_there_and_one_that_is_not_mine_answer_alike(house: Parlour) -> None:
    ada, eve = await house.person("ada"), await house.person("eve")
    foreign = await house.person("eve", org="globex")
    await ada.do("create", "secret", name="Secret")
    await ada.send("secret", "x")
    for method, params in ROOM_METHODS.items():
        answers = []
        for person, room in ((eve, "secret"), (eve, "nowhere"), (foreign, "secret")):
            refused = await person.refused(method, room, **params)
            answers.append((refused.code, refused.message, refused.details))
        assert answers == [answers[1]] * 3, method
        assert answers[0][0] == ErrorCode.NOT_FOUND, method
    for topic in ("chat:secret", "chat:nowhere"):
        with pytest.raises(RequestRefused) as caught:
            async with eve.client.subscribe(topic):
                pass
        assert caught.value.code == ErrorCode.NOT_FOUND


async def test_a_scope_that_hides_a_room_hides_it_everywhere(house: Parlour) -> None:
    ada = await house.person()
    await ada.do("create", "r", name="Room")
    blind = await house.person(scope="subscribe:events:* call:*")
    for method, params in ROOM_METHODS.items():
        refused = await blind.refused(method, "r", **params)
        assert refused.code == ErrorCode.NOT_FOUND, method
    assert (await blind.do("rooms"))["rooms"] == []


async def test_a_public_room_is_open_to_the_organisation(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", public=True)
    heard = await ada.listen("chat:r")
    assert (await bob.do("get", "r"))["room"]["role"] is None
    assert (await bob.do("rooms"))["rooms"] == []
    assert [room["room"] for room in (await bob.do("rooms", scope="public"))["rooms"]] == ["r"]
    await bob.listen("chat:r")
    assert (await bob.refused("typing", "r")).code == ErrorCode.FORBIDDEN
    await bob.send("r", "here I am")
    joined = await heard.heard("member.joined")
    assert (joined["user"], joined["role"]) == ("bob", "member")
    assert (await heard.heard("message.created"))["number"] == joined["number"] + 1
    room = (await bob.do("rooms"))["rooms"][0]
    assert (room["role"], room["members"]) == ("member", 2)
    assert (await bob.do("join", "r"))["room"]["members"] == 2


async def test_roles_and_what_they_may(house: Parlour) -> None:
    ada, bob, cyd = [await house.person(user) for user in ("ada", "bob", "cyd")]
    await ada.do("create", "r", name="Room", members=["bob", {"user": "cyd", "role": "reader"}])
    sent = await ada.send("r", "x")
    assert [room["role"] for room in (await cyd.do("rooms"))["rooms"]] == ["reader"]
    for method, params in (("send", {"text": "x", "key": "k"}), ("react", {"message": sent["number"], "emoji": "x"})):
        assert (await cyd.refused(method, "r", **params)).code == ErrorCode.FORBIDDEN
    assert (await cyd.refused("typing", "r")).code == ErrorCode.FORBIDDEN
    assert (await cyd.do("read", "r", message=sent["number"]))["unread"] == 0
    for method, params in (
        ("rename", {"name": "x"}),
        ("archive", {}),
        ("invite", {"user": "dan"}),
        ("remove", {"user": "cyd"}),
        ("mute", {"user": "cyd", "for_s": 1}),
    ):
        assert (await bob.refused(method, "r", **params)).code == ErrorCode.FORBIDDEN, method
    heard = await bob.listen("chat:r")
    await ada.do("invite", "r", user="cyd", role="member")
    assert (await heard.heard("member.changed"))["role"] == "member"
    await cyd.send("r", "now I may")


async def test_names_change_and_archived_rooms_are_quiet(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", members=["bob"])
    heard = await bob.listen("chat:r")
    assert (await ada.do("rename", "r", name="Hall"))["room"]["name"] == "Hall"
    assert (await heard.heard("room.changed"))["room"]["name"] == "Hall"
    await ada.do("archive", "r")
    assert (await heard.heard("room.changed", 2))["room"]["archived"]
    assert (await bob.refused("send", "r", text="x", key="k")).code == ErrorCode.CONFLICT
    assert (await bob.do("rooms"))["rooms"] == []
    assert len((await bob.do("rooms", archived=True))["rooms"]) == 1
    assert (await bob.do("history", "r"))["messages"] == []
    await ada.do("unarchive", "r")
    await bob.send("r", "again")


async def test_who_is_removed_hears_nothing_any_more(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, nodes=2) as house:
        ada, bob, far = await house.person("ada"), await house.person("bob"), await house.person("bob", node=1)
        await ada.do("create", "r", name="Room", members=["bob"])
        listeners = [await bob.listen("chat:r"), await far.listen("chat:r")]
        inbox = await bob.listen("user:me")
        await ada.send("r", "one")
        for listener in listeners:
            await listener.heard("message.created")
        await ada.do("remove", "r", user="bob")
        await ada.send("r", "two")
        for listener in listeners:
            await until(lambda it=listener: it.ended is not None, what="the end of the subscription")
            assert isinstance(listener.ended, SubscriptionEnded), listener.ended
            assert listener.ended.code == ErrorCode.FORBIDDEN
            assert [data["message"]["text"] for data in listener.named("message.created")] == ["one"]
        assert await inbox.heard("chat.removed") == {"room": "r", "by": "ada"}
        assert (await bob.refused("history", "r")).code == ErrorCode.NOT_FOUND
        assert (await ada.do("get", "r"))["room"]["members"] == 1


async def test_owners_do_not_leave_a_room_without_one(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", members=["bob"])
    assert (await ada.refused("leave", "r")).code == ErrorCode.CONFLICT
    assert (await ada.refused("invite", "r", user="ada", role="member")).code == ErrorCode.CONFLICT
    await ada.do("invite", "r", user="bob", role="owner")
    await ada.do("leave", "r")
    assert (await ada.refused("get", "r")).code == ErrorCode.NOT_FOUND
    await bob.do("leave", "r")


async def test_an_invitation_says_so_and_never_leaves_the_organisation(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    namesake = await house.person("bob", org="globex")
    inbox, elsewhere = await bob.listen("user:me"), await namesake.listen("user:me")
    await ada.do("create", "r", name="Room")
    await ada.do("invite", "r", user="bob")
    assert await inbox.heard("chat.invited") == {"room": "r", "name": "Room", "by": "ada", "role": "member"}
    assert (await namesake.refused("get", "r")).code == ErrorCode.NOT_FOUND
    assert elsewhere.events == []


async def test_the_muted_are_told_until_when(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", members=["bob"])
    sent = await bob.do("send", "r", text="before", key="k")
    until_ms = (await ada.do("mute", "r", user="bob", for_s=3600))["muted_until"]
    refused = await bob.refused("send", "r", text="x", key="k2")
    assert refused.code == ErrorCode.FORBIDDEN
    assert refused.details == {"muted_until": until_ms}
    # What was sent before was sent; a retry of it must not look like a failure.
    assert (await bob.do("send", "r", text="before", key="k")) == sent | {"duplicate": True}
    assert (await ada.do("mute", "r", user="bob", for_s=0))["muted_until"] is None
    await bob.send("r", "free")


async def test_members_come_in_pages(house: Parlour) -> None:
    ada = await house.person()
    users = [f"u{n:02}" for n in range(5)]
    await ada.do("create", "r", name="Room", members=users)
    first = await ada.do("members", "r", limit=4)
    second = await ada.do("members", "r", limit=4, after=first["next"])
    assert [member["user"] for page in (first, second) for member in page["members"]] == ["ada", *users]
    assert second["next"] is None


async def test_rooms_come_by_what_happened_last_and_in_pages(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    for n in range(5):
        await ada.do("create", f"r{n}", name=f"Room {n}", members=["bob"])
    for n in (3, 0, 3):
        await ada.send(f"r{n}", f"in {n}")
    rooms: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": None}
    while not rooms or page["next"]:
        page = await bob.do("rooms", limit=2, **({"after": page["next"]} if page["next"] else {}))
        rooms += page["rooms"]
    assert [room["room"] for room in rooms] == ["r3", "r0", "r4", "r2", "r1"]
    assert [room["unread"] for room in rooms] == [2, 1, 0, 0, 0]
    assert rooms[0]["last"]["text"] == "in 3"
    assert [room["unread"] for room in (await ada.do("rooms"))["rooms"]] == [0] * 5
    assert (await bob.refused("rooms", after="nonsense")).code == ErrorCode.BAD_REQUEST


async def test_rooms_and_members_have_limits(redis_url: str, hub_database: HubDatabase) -> None:
    limits = {"chat_max_rooms": 3, "chat_max_members": 2, "chat_max_rooms_per_user": 2}
    async with parlour(redis_url, hub_database, **limits) as house:
        ada, bob, cyd = [await house.person(user) for user in ("ada", "bob", "cyd")]
        for room in ("a", "b"):
            await ada.do("create", room, name="Room", public=True)
        for refused in (
            await ada.refused("create", name="Third of hers"),
            await bob.refused("create", name="Too many", members=["x", "y"]),
        ):
            assert refused.code == ErrorCode.QUOTA_EXCEEDED
        await bob.do("join", "a")
        assert (await cyd.refused("join", "a")).code == ErrorCode.QUOTA_EXCEEDED
        assert (await cyd.refused("send", "a", text="x", key="k")).code == ErrorCode.QUOTA_EXCEEDED
        assert (await ada.refused("invite", "a", user="cyd")).code == ErrorCode.QUOTA_EXCEEDED
        await bob.do("create", name="Third of all")
        assert (await cyd.refused("create", name="Fourth")).code == ErrorCode.QUOTA_EXCEEDED


async def test_what_is_no_room_is_refused(house: Parlour) -> None:
    ada = await house.person()
    wrong: list[dict[str, Any]] = [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 500},
        {"name": "Room", "room": "a b"},
        {"name": "Room", "room": ""},
        {"name": "Room", "members": [""]},
        {"name": "Room", "members": [{"user": "x", "role": "king"}]},
        {"name": "Room", "tags": {"a": []}},
        {"name": "Room", "tags": {"a": "\0"}},
        {"name": "Room", "tags": {"\0": 1}},
        {"name": "Room", "tags": {"a": "x" * 257}},
        {"name": "Room", "tags": {"x" * 257: 1}},
        {"name": "Room", "tags": {str(n): n for n in range(33)}},
        {"room": "r"},
    ]
    for params in wrong:
        assert (await ada.refused("create", **params)).code == ErrorCode.BAD_REQUEST, params
    assert (await ada.do("rooms"))["rooms"] == []
    await ada.do("create", "r", name="Room", tags={"x" * 256: "x" * 256, "number": 2**64 - 1, "part": 0.5, "yes": True})
    assert (await ada.refused("members", "r", after="\0")).code == ErrorCode.BAD_REQUEST


async def test_clients_do_not_publish_to_rooms(house: Parlour) -> None:
    ada = await house.person()
    await ada.do("create", "r", name="Room")
    for name in ("message.created", "presence", "typing"):
        with pytest.raises(RequestRefused) as caught:
            await ada.client.publish("chat:r", name, {}, ephemeral=name != "message.created")
        assert caught.value.code == ErrorCode.FORBIDDEN
