"""Who makes rooms: once each, however often it is asked for, and not without end."""

from __future__ import annotations

import asyncio
from typing import Any

from hub.errors import ErrorCode
from tests.services.rooms.parlour import Parlour, parlour
from tests.support.hub_database import HubDatabase


async def test_the_same_key_is_the_same_room(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    inbox = await bob.listen("user:me")
    wanted: dict[str, Any] = {"name": "Room", "key": "k", "members": ["bob"]}
    answers = await asyncio.gather(*(ada.do("create", **wanted) for _ in range(5)))
    assert len({answer["room"]["room"] for answer in answers}) == 1
    assert sorted(answer["duplicate"] for answer in answers) == [False] + [True] * 4
    other = await bob.do("create", name="Bob's", key="k")
    assert not other["duplicate"]
    assert (await ada.do("create", name="Another", key="k2"))["duplicate"] is False
    assert len((await ada.do("rooms"))["rooms"]) == 2
    await ada.do("create", name="Last", members=["bob"])
    assert (await inbox.heard("chat.invited", 2))["name"] == "Last", "of one room one is told once"
    assert (await ada.refused("create", name="Room", key="\n")).code == ErrorCode.BAD_REQUEST


async def test_the_same_id_is_the_same_room_for_its_creator_alone(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    room = (await ada.do("create", "r", name="Room"))["room"]
    assert await ada.do("create", "r", name="Room") == {"room": room, "duplicate": True}
    assert (await bob.refused("create", "r", name="Room")).code == ErrorCode.CONFLICT
    await ada.do("invite", "r", user="bob", role="owner")
    await ada.do("leave", "r")
    assert (await ada.refused("create", "r", name="Room")).code == ErrorCode.CONFLICT, "hers no more"


async def test_a_retry_at_the_limit_gets_its_room(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_max_rooms_created=1) as house:
        ada, bob = await house.person("ada"), await house.person("bob")
        first = (await ada.do("create", name="One", key="1"))["room"]
        assert (await ada.do("create", name="One", key="1"))["room"] == first
        assert (await ada.refused("create", name="Two", key="2")).code == ErrorCode.QUOTA_EXCEEDED
        await bob.do("create", "of-bob", name="Bob's", public=True)
        await ada.do("join", "of-bob")


async def test_invitations_take_nothing_from_who_is_invited(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_max_rooms_per_user=2) as house:
        eve, ada = await house.person("eve"), await house.person("ada")
        await eve.do("create", "e1", name="Trap", members=["ada"], public=True)
        await eve.do("create", "e2", name="Trap", members=["ada"])
        bob = await house.person("bob")
        await bob.do("create", "b", name="Room", public=True)
        for refused in (
            await bob.refused("create", name="Third", members=["ada"]),
            await bob.refused("invite", "b", user="ada"),
        ):
            assert refused.code == ErrorCode.QUOTA_EXCEEDED
            assert "ada" not in refused.message
            assert refused.details is None
        await ada.do("create", "own", name="Hers")
        await ada.do("join", "b")
        assert (await ada.refused("create", name="Third of hers")).code == ErrorCode.QUOTA_EXCEEDED
        await ada.do("leave", "e1")
        assert (await ada.refused("join", "e1")).code == ErrorCode.QUOTA_EXCEEDED
        await bob.do("create", name="One more", members=["ada"])


async def test_rooms_are_changed_at_a_rate_and_people_count(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_changes_per_minute=0.001, chat_changes_burst=12) as house:
        ada, bob = await house.person("ada"), await house.person("bob")
        await ada.do("create", "r", name="Room", public=True, members=["x", "y"])
        await ada.do("invite", "r", user="z")
        calls: list[tuple[str, dict[str, Any]]] = [
            ("rename", {"name": "Hall"}),
            ("archive", {}),
            ("unarchive", {}),
            ("join", {}),
            ("mute", {"user": "x", "for_s": 1}),
            ("remove", {"user": "x"}),
            ("invite", {"user": "bob", "role": "owner"}),
            ("leave", {}),
        ]
        for method, params in calls:
            await ada.do(method, "r", **params)
        for method, params in (*calls, ("create", {"name": "x"})):
            assert (await ada.refused(method, "r", **params)).code == ErrorCode.RATE_LIMITED, method
        assert (await bob.refused("create", name="x", members=list("abcdefghijkl"))).code == ErrorCode.TOO_LARGE
        await bob.do("rename", "r", name="His own bucket")
