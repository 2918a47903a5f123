"""Whoever leaves a room, or is removed: what ends with it, whatever else fails, and what is remembered."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from hub.client import SubscriptionEnded
from hub.errors import ErrorCode, unavailable
from tests.services.rooms.parlour import Parlour
from tests.support.waiting import until


class Announcements:
    """Between the chat service and what ends subscriptions, on the loop of the hub."""

    def __init__(self, house: Parlour, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = house.hubs[0].expulsions.announce
        self._loop = house.nodes[0].loop
        self._may_go = asyncio.Event()
        self.begun = 0
        self.fail = False
        self.failed = 0
        monkeypatch.setattr(house.hubs[0].expulsions, "announce", self._announce)

    async def _announce(self, *args: Any) -> None:
        self.begun += 1
        await self._may_go.wait()
        if self.fail:
            self.failed += 1
            raise unavailable("Redis")
        await self._real(*args)

    def go(self) -> None:
        """Until then they wait."""
        self._loop.call_soon_threadsafe(self._may_go.set)


@pytest.mark.parametrize("method", ["remove", "leave"])
async def test_who_asked_may_be_gone_before_it_has_ended(
    house: Parlour, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", members=["bob"])
    heard = await bob.listen("chat:r")
    announcements = Announcements(house, monkeypatch)
    asking = await house.person("ada" if method == "remove" else "bob")
    call = asyncio.create_task(asking.do(method, "r", **({"user": "bob"} if method == "remove" else {})))
    await until(lambda: announcements.begun == 1, what="the removal to be committed")
    await asking.client.close()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: len(house.nodes[0].gateway.connections) == 2, what="the node to notice")
    announcements.go()
    await until(lambda: isinstance(heard.ended, SubscriptionEnded), what="the end of the subscription")


async def test_a_refusal_of_which_nobody_is_told_is_no_fault(house: Parlour, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await house.person("ada")
    await ada.do("create", "r", name="Room")
    gc.collect()  # what others have left behind is told of now, and not below
    house.nodes[0].logs.entries.clear()
    announcements = Announcements(house, monkeypatch)
    announcements.fail = True
    call = asyncio.create_task(ada.do("leave", "r"))
    await until(lambda: announcements.begun == 1, what="the change to be committed")
    await ada.client.close()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: not len(house.nodes[0].gateway.connections), what="the node to notice")
    announcements.go()
    await until(lambda: announcements.failed == 1, what="the refusal")
    await asyncio.to_thread(gc.collect)  # what nobody has looked at is told of now
    assert house.nodes[0].logs.errors() == []


@pytest.mark.parametrize("method", ["remove", "leave"])
async def test_a_second_call_does_what_the_first_could_not(
    house: Parlour, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", members=["bob"])
    heard = await bob.listen("chat:r")
    announcements = Announcements(house, monkeypatch)
    announcements.fail = True
    announcements.go()
    asking, params = (ada, {"user": "bob"}) if method == "remove" else (bob, {})
    assert (await asking.refused(method, "r", **params)).code == ErrorCode.UNAVAILABLE
    assert heard.ended is None
    announcements.fail = False
    assert (await asking.refused(method, "r", **params)).code == ErrorCode.NOT_FOUND
    await until(lambda: isinstance(heard.ended, SubscriptionEnded), what="the end of the subscription")


async def test_who_was_removed_comes_back_by_invitation_only(house: Parlour) -> None:
    ada, eve = await house.person("ada"), await house.person("eve")
    await ada.do("create", "r", name="Room", public=True)
    sent = await eve.send("r", "x")
    await ada.do("remove", "r", user="eve")
    tries: list[tuple[str, dict[str, Any]]] = [
        ("join", {}),
        ("send", {"text": "x", "key": "again"}),
        ("react", {"message": sent["number"], "emoji": "x"}),
        ("read", {"message": sent["number"]}),
    ]
    for method, params in tries:
        assert (await eve.refused(method, "r", **params)).code == ErrorCode.FORBIDDEN, method
    assert (await ada.do("get", "r"))["room"]["members"] == 1
    await ada.do("invite", "r", user="eve")
    await eve.send("r", "back")
    await eve.do("leave", "r")
    await eve.send("r", "by myself, as nothing is held against me any more")


async def test_leaving_ends_no_mute_and_gives_no_role(house: Parlour) -> None:
    ada, eve = await house.person("ada"), await house.person("eve")
    await ada.do("create", "r", name="Room", public=True)
    await eve.do("join", "r")
    until_ms = (await ada.do("mute", "r", user="eve", for_s=3600))["muted_until"]
    await eve.do("leave", "r")
    refused = await eve.refused("send", "r", text="x", key="1")
    assert (refused.code, refused.details) == (ErrorCode.FORBIDDEN, {"muted_until": until_ms})
    assert (await eve.do("get", "r"))["room"]["role"] is None, "who may not write does not come in by it"
    room = (await eve.do("join", "r"))["room"]
    assert (room["role"], room["muted_until"]) == ("member", until_ms)
    await ada.do("mute", "r", user="eve", for_s=0)
    await ada.do("invite", "r", user="eve", role="reader")
    await eve.do("leave", "r")
    assert (await eve.refused("send", "r", text="x", key="2")).code == ErrorCode.FORBIDDEN
    assert (await eve.do("join", "r"))["room"]["role"] == "reader"
    await eve.do("leave", "r")
    await ada.do("invite", "r", user="eve")
    await eve.send("r", "as a member")
    assert await house.rows("SELECT * FROM hub.chat_former_members") == []
