"""Messages: sent once, in order, edited, deleted, reacted to; told to everybody alike."""

from __future__ import annotations

import asyncio
from typing import Any

from hub.errors import ErrorCode
from tests.services.rooms.parlour import Parlour, parlour
from tests.support.hub_database import HubDatabase


async def test_a_message_reaches_everybody_as_its_sender_sees_it(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", members=["bob"])
    heard, own = await bob.listen("chat:r"), await ada.listen("chat:r")
    sent = await ada.send("r", "Hello *you*\nthere", format="markdown")
    assert (sent["author"], sent["text"], sent["format"]) == ("ada", "Hello *you*\nthere", "markdown")
    assert "<em>you</em>" in sent["html"]
    for listener in (heard, own):
        event = await listener.heard("message.created")
        assert event == {"number": sent["number"], "message": sent}
    page = await bob.do("history", "r")
    assert page["messages"] == [sent]
    assert page["as_of"] == sent["number"]


async def test_the_same_key_is_the_same_message(house: Parlour) -> None:
    ada = await house.person()
    await ada.do("create", "r", name="Room")
    heard = await ada.listen("chat:r")
    answers = await asyncio.gather(*(ada.do("send", "r", text=f"try {n}", key="one") for n in range(10)))
    assert {answer["message"]["number"] for answer in answers} == {answers[0]["message"]["number"]}
    assert sorted(answer["duplicate"] for answer in answers) == [False] + [True] * 9
    other = await ada.send("r", "another")
    await heard.heard("message.created", 2)
    assert [data["number"] for data in heard.named("message.created")] == [
        answers[0]["message"]["number"],
        other["number"],
    ]


async def test_a_key_is_its_authors_own(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", public=True)
    first = await ada.do("send", "r", text="mine", key="k")
    second = await bob.do("send", "r", text="mine too", key="k")
    assert not second["duplicate"]
    assert first["message"]["number"] < second["message"]["number"]


async def test_many_senders_and_one_order(house: Parlour) -> None:
    people = [await house.person(f"u{n}") for n in range(4)]
    await people[0].do("create", "r", name="Room", public=True)
    listeners = [await person.listen("chat:r") for person in people]
    await asyncio.gather(*(person.send("r", f"{n}") for person in people for n in range(10)))
    for listener in listeners:
        await listener.heard("message.created", 40)
    orders = [[data["number"] for data in listener.named("message.created")] for listener in listeners]
    assert orders[0] == sorted(orders[0])
    assert orders == [orders[0]] * 4
    page = await people[3].do("history", "r", limit=200)
    assert [message["number"] for message in page["messages"]] == orders[0]


async def test_an_edit_replaces_the_text_for_everybody(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", public=True)
    sent = await ada.send("r", "wrogn")
    heard = await bob.listen("chat:r")
    edited = (await ada.do("edit", "r", message=sent["number"], text="right"))["message"]
    assert edited["text"] == "right"
    assert edited["edited_at"] >= sent["created_at"]
    told = await heard.heard("message.edited")
    assert told["message"] | {"reactions": {}} == edited
    assert told["number"] > sent["number"]
    assert (await bob.do("history", "r"))["messages"] == [edited]
    again = await ada.do("edit", "r", message=sent["number"], text="right")
    assert again["message"] == edited


async def test_only_the_author_edits_and_only_author_or_owner_deletes(house: Parlour) -> None:
    ada, bob, cyd = [await house.person(user) for user in ("ada", "bob", "cyd")]
    await ada.do("create", "r", name="Room", members=["bob", "cyd"])
    sent = await bob.send("r", "mine")
    for other in (ada, cyd):
        assert (await other.refused("edit", "r", message=sent["number"], text="no")).code == ErrorCode.FORBIDDEN
    assert (await cyd.refused("delete", "r", message=sent["number"])).code == ErrorCode.FORBIDDEN
    gone = (await ada.do("delete", "r", message=sent["number"]))["message"]
    assert gone["deleted"]
    assert gone["reason"] == "owner"
    assert "text" not in gone
    assert (await bob.refused("edit", "r", message=sent["number"], text="back")).code == ErrorCode.CONFLICT
    assert (await bob.do("delete", "r", message=sent["number"]))["message"] == gone
    assert (await bob.refused("delete", "r", message=10_000)).code == ErrorCode.NOT_FOUND


async def test_a_deleted_message_leaves_a_tombstone(house: Parlour) -> None:
    ada = await house.person()
    await ada.do("create", "r", name="Room")
    sent = await ada.send("r", "secret")
    await ada.do("react", "r", message=sent["number"], emoji="👍")
    heard = await ada.listen("chat:r")
    await ada.do("delete", "r", message=sent["number"])
    told = await heard.heard("message.deleted")
    assert (told["messages"], told["reason"], told["by"]) == ([sent["number"]], "author", "ada")
    (kept,) = (await ada.do("history", "r"))["messages"]
    assert kept["deleted"]
    assert kept["reactions"] == {}
    assert (await ada.do("rooms"))["rooms"][0]["last"] == kept
    (row,) = await house.rows("SELECT text, html, words FROM hub.chat_messages")
    assert (row["text"], row["html"], row["words"]) == (None, None, "")


async def test_reactions_are_put_and_taken_back(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", public=True)
    sent = await ada.send("r", "like it?")
    heard = await ada.listen("chat:r")
    for person in (ada, bob, bob):
        answer = await person.do("react", "r", message=sent["number"], emoji="👍")
    assert answer["reactions"] == {"👍": ["ada", "bob"]}
    assert (await bob.do("history", "r"))["messages"][0]["reactions"] == {"👍": ["ada", "bob"]}
    answer = await bob.do("react", "r", message=sent["number"], emoji="👍", on=False)
    assert answer["reactions"] == {"👍": ["ada"]}
    await heard.heard("reaction", 3)
    assert [(data["user"], data["on"]) for data in heard.named("reaction")] == [
        ("ada", True),
        ("bob", True),
        ("bob", False),
    ]


async def test_reactions_have_a_limit(house: Parlour) -> None:
    ada = await house.person()
    await ada.do("create", "r", name="Room")
    sent = await ada.send("r", "x")
    for n in range(house.hubs[0].settings.chat_max_reactions):
        await ada.do("react", "r", message=sent["number"], emoji=chr(0x1F600 + n))
    refused = await ada.refused("react", "r", message=sent["number"], emoji="👍")
    assert refused.code == ErrorCode.QUOTA_EXCEEDED


async def test_replies_mentions_and_attachments_travel_along(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", members=["bob"])
    inbox = await bob.listen("user:me")
    first = await ada.send("r", "first")
    sent = await ada.send(
        "r", "@bob see this", reply_to=first["number"], mentions=["bob", "ada", "stranger", "bob"], attachments=["up1"]
    )
    assert (sent["reply_to"], sent["mentions"], sent["attachments"]) == (first["number"], ["bob"], ["up1"])
    told = await inbox.heard("chat.mention")
    assert told == {"room": "r", "room_name": "Room", "number": sent["number"], "by": "ada"}
    assert (await ada.refused("send", "r", text="x", key="x", reply_to=9999)).code == ErrorCode.NOT_FOUND


async def test_what_is_no_message_is_refused(house: Parlour) -> None:
    ada = await house.person()
    await ada.do("create", "r", name="Room")
    wrong: list[tuple[dict[str, Any], ErrorCode]] = [
        ({"text": ""}, ErrorCode.EMPTY_CONTENT),
        ({"text": " \n\t"}, ErrorCode.EMPTY_CONTENT),
        ({"text": "x" * 8193}, ErrorCode.TOO_LARGE),
        ({"text": "x" * 900_000}, ErrorCode.TOO_LARGE),
        ({"text": "a\x00b"}, ErrorCode.BAD_REQUEST),
        ({"text": "a\x1b[2Jb"}, ErrorCode.BAD_REQUEST),
        ({"text": "x", "format": "html"}, ErrorCode.BAD_REQUEST),
        ({"text": "x", "key": ""}, ErrorCode.BAD_REQUEST),
        ({"text": "x", "key": "a\x00"}, ErrorCode.BAD_REQUEST),
        ({"text": "x", "mentions": [""]}, ErrorCode.BAD_REQUEST),
        ({"text": "x", "mentions": [f"u{n}" for n in range(21)]}, ErrorCode.TOO_LARGE),
        ({"text": "x", "attachments": ["../etc"]}, ErrorCode.BAD_REQUEST),
        ({"text": "x", "attachments": [f"u{n}" for n in range(11)]}, ErrorCode.TOO_LARGE),
        ({"text": 5}, ErrorCode.BAD_REQUEST),
        ({"text": "x", "reply_to": -1}, ErrorCode.BAD_REQUEST),
    ]
    for params, code in wrong:
        assert (await ada.refused("send", "r", **({"key": "k"} | params))).code == code, params
    assert (await ada.do("history", "r"))["messages"] == []


async def test_too_many_messages_in_one_room(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_messages_per_second=0.01, chat_messages_burst=2) as house:
        ada, bob = await house.person("ada"), await house.person("bob")
        for room in ("r", "s"):
            await ada.do("create", room, name="Room", public=True)
        for room in ("r", "r", "s"):
            await ada.send(room, "hello")
        refused = await ada.refused("send", "r", text="one more", key="k")
        assert refused.code == ErrorCode.RATE_LIMITED
        assert refused.retry_after_ms
        await bob.send("r", "others may")


async def test_reactions_do_not_keep_a_message_from_being_edited(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", public=True)
    sent = await ada.send("r", "before")
    users = [f"{n:0128}" for n in range(499)]
    await house.rows(
        "INSERT INTO hub.chat_reactions (org, room, number, emoji, member)"
        " SELECT 'acme', 'r', $1, '👍', member FROM unnest($2::text[]) AS member",
        sent["number"],
        users,
    )
    await house.rows("UPDATE hub.chat_messages SET reactions = 499 RETURNING 1")
    heard = await bob.listen("chat:r")
    edited = (await ada.do("edit", "r", message=sent["number"], text="after"))["message"]
    assert len(edited["reactions"]["👍"]) == 499
    told = (await heard.heard("message.edited"))["message"]
    assert told == {field: value for field, value in edited.items() if field != "reactions"}


async def test_what_no_event_can_carry_is_refused_in_our_own_words(house: Parlour) -> None:
    ada = await house.person()
    users = [f"{n:02}" + "\U00010348" * 250 for n in range(20)]
    await ada.do("create", "r", name="Room", members=users)
    refused = await ada.refused("send", "r", text="&" * 8192, key="k", mentions=users)
    assert refused.code == ErrorCode.TOO_LARGE
    assert "hub_publish" not in refused.message
    assert refused.details is not None
    assert refused.details["limit"] == 65_536
    assert (await ada.do("history", "r"))["messages"] == []


async def test_a_repeated_edit_is_no_failure(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", members=["bob"])
    sent = await bob.send("r", "before")
    edited = await bob.do("edit", "r", message=sent["number"], text="after")
    await ada.do("mute", "r", user="bob", for_s=3600)
    assert await bob.do("edit", "r", message=sent["number"], text="after") == edited
    assert (await bob.refused("edit", "r", message=sent["number"], text="more")).code == ErrorCode.FORBIDDEN


async def test_later_messages_are_not_older(house: Parlour) -> None:
    people = [await house.person(f"u{n}") for n in range(3)]
    await people[0].do("create", "r", name="Room", public=True)
    await asyncio.gather(*(person.send("r", f"{n}") for person in people for n in range(20)))
    rows = await house.rows("SELECT created_at FROM hub.chat_messages ORDER BY number")
    times = [row["created_at"] for row in rows]
    assert times == sorted(times)
    (room,) = await house.rows("SELECT last_at FROM hub.chat_rooms")
    assert room["last_at"] == times[-1]


async def test_in_a_public_room_nobody_unknown_is_mentioned(house: Parlour) -> None:
    ada, bob = await house.person("ada"), await house.person("bob")
    await ada.do("create", "r", name="Room", public=True)
    await bob.do("create", "own", name="Somewhere else")
    sent = await ada.send("r", "@bob @nobody", mentions=["bob", "nobody"])
    assert sent["mentions"] == ["bob"]
