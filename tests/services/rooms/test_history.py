"""Pages, search, receipts, typing: what is asked of a room, and what lasts no longer than it should."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from hub.client import RequestRefused
from hub.errors import ErrorCode
from hub.orgs import OrgId
from hub.protocol.frames import Position
from services.chat import typing_notices
from services.chat.erasing import Eraser
from services.chat.gate import Gate
from services.chat.metrics import ChatMetrics
from services.chat.receipts import Receipts
from services.chat.retention import Janitor
from tests.services.rooms.parlour import Parlour, Person, parlour
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

ORG = OrgId.from_operator("acme")


async def filled(house: Parlour, count: int = 10) -> tuple[Person, list[int]]:
    """A room with messages, and their numbers."""
    ada = await house.person()
    await ada.do("create", "r", name="Room", public=True)
    return ada, [(await ada.send("r", f"message {n}"))["number"] for n in range(count)]


async def test_pages_before_after_and_around(house: Parlour) -> None:
    ada, numbers = await filled(house)

    async def page(**params: Any) -> tuple[list[int], bool, bool]:
        found = await ada.do("history", "r", **params)
        return [item["number"] for item in found["messages"]], found["more_before"], found["more_after"]

    assert await page() == (numbers, False, False)
    assert await page(limit=4) == (numbers[6:], True, False)
    assert await page(limit=4, before=numbers[6]) == (numbers[2:6], True, True)
    assert await page(limit=4, before=numbers[2]) == (numbers[:2], False, True)
    assert await page(limit=4, after=0) == (numbers[:4], False, True)
    assert await page(limit=4, after=numbers[3]) == (numbers[4:8], True, True)
    assert await page(limit=4, after=numbers[7]) == (numbers[8:], True, False)
    assert await page(limit=4, around=numbers[5]) == (numbers[3:7], True, True)
    assert await page(limit=4, around=numbers[0]) == (numbers[:2], False, True)
    assert await page(limit=1, around=numbers[5]) == ([numbers[5]], True, True)
    assert await page(after=numbers[-1]) == ([], True, False)
    assert await page(before=2**53) == (numbers, False, False), "nothing is after that"
    assert await page(before=numbers[0]) == ([], False, True)
    assert await page(after=numbers[0] - 1, limit=4) == (numbers[:4], False, True), "nothing is before that"
    assert await page(after=2**53) == ([], True, False)
    assert await page(around=2**53, limit=4) == (numbers[8:], True, False)
    assert await page(around=1, limit=4) == (numbers[:2], False, True)
    assert (await ada.refused("history", "r", before=3, after=1)).code == ErrorCode.BAD_REQUEST
    assert (await ada.refused("history", "r", limit=1000)).code == ErrorCode.BAD_REQUEST


async def test_a_page_and_what_comes_live_have_no_seam(house: Parlour) -> None:
    ada, _ = await filled(house, 3)
    bob = await house.person("bob")
    sending = asyncio.create_task(_send_many(ada, 30))
    page = await bob.do("history", "r", limit=200)
    position = Position(page["position"]["epoch"], page["position"]["seq"])
    heard = await bob.listen("chat:r", since=position)
    numbers = await sending
    await until(
        lambda: any(data["number"] == numbers[-1] for data in heard.named("message.created")), what="the last message"
    )
    assert not heard.gaps
    live = [data["number"] for data in heard.named("message.created") if data["number"] > page["as_of"]]
    whole = [message["number"] for message in (await bob.do("history", "r", limit=200))["messages"]]
    assert [message["number"] for message in page["messages"]] + live == whole


async def _send_many(person: Person, count: int) -> list[int]:
    return [(await person.send("r", f"live {n}"))["number"] for n in range(count)]


async def test_what_redis_has_lost_comes_from_postgresql(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_history_count=10) as house:
        ada, numbers = await filled(house, 30)

        async def relayed() -> bool:
            return (await ada.do("get", "r"))["position"]["seq"] == numbers[-1]

        await until(relayed, 30, "the relay to bring everything")
        heard = await ada.listen("chat:r", since="start")
        await heard.heard("message.created", 10)
        assert heard.named("message.created")[0]["number"] > numbers[0]
        assert [m["number"] for m in (await ada.do("history", "r", limit=200))["messages"]] == numbers


async def test_search_finds_words_where_one_may_read(house: Parlour) -> None:
    ada, eve = await house.person("ada"), await house.person("eve")
    foreign = await house.person("ada", org="globex")
    await ada.do("create", "open", name="Open", public=True)
    await ada.do("create", "closed", name="Closed")
    sent = [await ada.send(room, f"the boiler {n} leaks in {room}") for n in range(3) for room in ("open", "closed")]
    await ada.send("open", "nothing of the kind")

    async def found(person: Person, query: str, **params: Any) -> list[tuple[str, int]]:
        page = await person.do("search", query=query, **params)
        return [(item["room"], item["number"]) for item in page["messages"]]

    assert sorted(await found(ada, "boiler leaks")) == sorted(
        ("open" if n % 2 == 0 else "closed", message["number"]) for n, message in enumerate(sent)
    )
    assert len(await found(eve, "boiler")) == 3
    assert await found(ada, "boiler", room="closed") == [("closed", sent[n]["number"]) for n in (5, 3, 1)]
    assert await found(ada, '"boiler 1"') == [("closed", sent[3]["number"]), ("open", sent[2]["number"])]
    assert await found(ada, "boiler -open", room="open") == []
    assert await found(ada, "-boiler") == [], "what there is no word for is not searched for"
    assert await found(ada, "kind or -boiler") == []
    assert await found(foreign, "boiler") == []
    assert (await eve.refused("search", query="x", room="closed")).code == ErrorCode.NOT_FOUND
    assert (await eve.refused("search", query="")).code == ErrorCode.BAD_REQUEST
    await ada.do("delete", "closed", message=sent[5]["number"])
    assert await found(ada, "boiler", room="closed") == [("closed", sent[n]["number"]) for n in (3, 1)]
    page = await ada.do("search", query="boiler", limit=2)
    assert len(page["messages"]) == 2
    assert page["next"] is not None


async def test_reading_goes_forward_only_and_the_room_is_told(house: Parlour) -> None:
    ada, numbers = await filled(house, 5)
    bob = await house.person("bob")
    twin = await house.person("bob")
    await bob.do("join", "r")
    more = [(await ada.send("r", f"more {n}"))["number"] for n in range(4)]
    heard = await ada.listen("chat:r")
    own = await twin.listen("chat:r")
    assert (await bob.do("rooms"))["rooms"][0]["unread"] == 4
    assert await bob.do("read", "r", message=more[1]) == {"read": more[1], "unread": 2}
    assert await twin.do("read", "r", message=numbers[0]) == {"read": more[1], "unread": 2}
    for listener in (heard, own):
        assert (await listener.heard("read"))["readers"] == {"bob": more[1]}
    assert await bob.do("read", "r", message=2**50) == {"read": more[3], "unread": 0}
    assert (await heard.heard("read", 2))["readers"] == {"bob": more[3]}
    assert (await ada.do("readers", "r", message=more[0]))["readers"] == ["ada", "bob"]
    assert (await ada.do("history", "r"))["reads"] == {"ada": more[3], "bob": more[3]}
    await bob.send("r", "to write is to have read")
    assert (await bob.do("rooms"))["rooms"][0]["unread"] == 0
    assert (await ada.do("rooms"))["rooms"][0]["unread"] == 1


async def test_receipts_of_a_room_are_told_together(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_read_batch_ms=1000) as house:
        ada, _ = await filled(house, 5)
        people = [await house.person(f"u{n}") for n in range(5)]
        for person in people:
            await person.do("join", "r")
        last = await ada.send("r", "read this")
        heard = await ada.listen("chat:r")
        await asyncio.gather(*(person.do("read", "r", message=last["number"]) for person in people))
        read: dict[str, int] = {}

        def all_read() -> bool:
            for data in heard.named("read"):
                read.update(data["readers"])
            return len(read) == 5

        await until(all_read, 30, "everybody's receipt")
        assert set(read.values()) == {last["number"]}
        assert len(heard.named("read")) < 5


async def test_in_large_rooms_nobody_is_told_but_oneself(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_receipts_max_members=2) as house:
        ada, bob = await house.person("ada"), await house.person("bob")
        await ada.do("create", "r", name="Room", members=["bob", "cyd"])
        sent = await ada.send("r", "x")
        inbox, heard = await bob.listen("user:me"), await ada.listen("chat:r")
        await bob.do("read", "r", message=sent["number"])
        assert await inbox.heard("chat.read") == {"room": "r", "number": sent["number"]}
        assert (await ada.refused("readers", "r", message=sent["number"])).code == ErrorCode.TOO_LARGE
        assert (await ada.do("history", "r"))["reads"] == {}
        await bob.send("r", "the end")
        await heard.heard("message.created")
        assert heard.named("read") == []


async def test_what_a_dead_node_has_not_told_another_tells(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_read_batch_ms=3_600_000) as house:
        ada, _ = await filled(house, 1)
        bob = await house.person("bob")
        await bob.do("join", "r")
        sent = await ada.send("r", "x")
        heard = await ada.listen("chat:r")
        await bob.do("read", "r", message=sent["number"])
        hub = house.hubs[0]
        await house.nodes[0].within(lambda: Receipts(hub, Gate(hub)).look_after())
        assert (await heard.heard("read"))["readers"] == {"bob": sent["number"]}


async def test_typing_is_told_to_the_others_and_not_too_often(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, nodes=2, chat_typing_pause_s=3600) as house:
        ada, bob = await house.person("ada"), await house.person("bob", node=1)
        twin = await house.person("ada", node=1)
        await ada.do("create", "r", name="Room", members=["bob"])
        heard, own, device = await bob.listen("chat:r"), await ada.listen("chat:r"), await twin.listen("chat:r")
        answers = await asyncio.gather(*(ada.do("typing", "r") for _ in range(50)))
        answers += [await twin.do("typing", "r")]
        assert sum(answer["sent"] for answer in answers) == 1
        told = await heard.heard("typing")
        assert (told["user"], told["on"], told["expires_in_ms"]) == ("ada", True, 6000)
        assert (await ada.do("typing", "r", on=False))["sent"]
        assert not (await heard.heard("typing", 2))["on"]
        await ada.send("r", "done")
        for listener in (own, device):
            await listener.heard("message.created")
            assert listener.named("typing") == []
        assert len(heard.named("typing")) == 2


async def redis_history(house: Parlour) -> str:
    page = await house.nodes[0].within(lambda: house.hubs[0].read(ORG, "chat:r"))
    return json.dumps([event.data for event in page.events])


@pytest.mark.parametrize("way", ["delete", "edit"])
async def test_an_erased_text_is_nowhere_any_more(house: Parlour, way: str) -> None:
    ada, numbers = await filled(house, 5)
    sent = await ada.send("r", "unforgettable")
    await ada.do("edit", "r", message=sent["number"], text="unspeakable")
    if way == "delete":
        await ada.do("delete", "r", message=sent["number"])
    else:
        await ada.do("edit", "r", message=sent["number"], text="harmless")
    await ada.send("r", "afterwards")

    async def gone() -> bool:
        kept = await redis_history(house)
        return "afterwards" in kept and not any(word in kept for word in ("unforgettable", "unspeakable"))

    await until(gone, 30, "the text to leave Redis")
    async with house.database.connect("hub_relay") as relay:
        rows = await relay.fetch("SELECT data::text FROM hub.outbox")
    everything = " ".join(row["data"] for row in rows)
    assert "message 3" in everything
    assert "unforgettable" not in everything
    assert "unspeakable" not in everything
    late = await (await house.person("late")).listen("chat:r", since="start")
    await until(lambda: any("afterwards" in str(data) for data in late.named("message.created")), what="the replay")
    assert not late.gaps
    assert [data["number"] for data in late.named("message.created")][:5] == numbers
    (message,) = [m for m in (await ada.do("history", "r"))["messages"] if m["number"] == sent["number"]]
    assert message.get("text") == (None if way == "delete" else "harmless")


def _rows(house: Parlour, table: str, condition: str) -> Any:
    async def there() -> bool:
        return bool(await house.rows(f"SELECT 1 FROM hub.{table} WHERE {condition}"))

    return there


async def test_what_redis_has_forgotten_to_erase_is_erased_again(redis_url: str, hub_database: HubDatabase) -> None:
    """By a node that died before it could, or because Redis failed over to a replica that had not heard of it."""
    async with parlour(redis_url, hub_database) as house:
        ada, _ = await filled(house, 2)
        sent = await ada.send("r", "unforgettable")
        hub = house.hubs[0]
        eraser = Eraser(hub, ChatMetrics(CollectorRegistry()))
        await ada.do("delete", "r", message=sent["number"])

        async def erased() -> bool:
            kept = await redis_history(house)
            return "message.deleted" not in kept and '"deleted": true' in kept

        await until(erased, 30, "the text to leave Redis")
        await until(_rows(house, "chat_erasures", "done"), what="the note to be done")
        page = await house.nodes[0].within(lambda: hub.read(ORG, "chat:r"))
        (kept,) = [event for event in page.events if event.data["number"] == sent["number"]]
        text = {**kept.data, "message": {**sent, "text": "unforgettable"}}
        await house.nodes[0].within(lambda: hub.redact(ORG, "chat:r", page.epoch, {kept.seq: text}))
        await house.nodes[0].within(eraser.look_after)
        assert "unforgettable" in await redis_history(house), "it is too early to look again"
        async with house.database.connect("postgres") as link:
            await link.execute("UPDATE hub.chat_erasures SET due_at = now() - interval '1 s'")
        await house.nodes[0].within(eraser.look_after)
        assert "unforgettable" not in await redis_history(house)
        assert not await house.rows("SELECT 1 FROM hub.chat_erasures"), "it is forgotten"


async def test_what_a_dead_node_has_not_erased_another_erases(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database) as house:
        ada, _ = await filled(house, 3)
        hub = house.hubs[0]
        eraser = Eraser(hub, ChatMetrics(CollectorRegistry()))
        # Something that is no event of a room's, by whoever may publish anything: it stands in nobody's way.
        await house.nodes[0].within(lambda: hub.publish(ORG, "chat:r", "strange", ["unforgettable"]))
        sent = await ada.send("r", "unforgettable")
        await ada.do("delete", "r", message=sent["number"])
        await until(_rows(house, "chat_erasures", "done"), what="the note to be done")
        async with house.database.connect("postgres") as link:
            await link.execute("UPDATE hub.chat_erasures SET done = false, due_at = now() - interval '1 s'")
        await house.nodes[0].within(eraser.look_after)
        (row,) = await house.rows("SELECT done, due_at > now() AS later FROM hub.chat_erasures")
        assert row["done"]
        assert row["later"]


async def test_old_texts_go_and_the_tombstones_say_why(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_retention_days=30) as house:
        ada, numbers = await filled(house, 6)
        other = await house.person("ada", org="globex")
        await other.do("create", "r", name="Room")
        await other.send("r", "of another organisation")
        admin = await house.person("boss", org="globex", scope="subscribe:* call:* admin")
        assert (await ada.refused("retention", days=3)).code == ErrorCode.FORBIDDEN
        assert await admin.do("retention", days=400) == {"days": 400}
        heard = await ada.listen("chat:r")
        async with house.database.connect("postgres") as link:
            await link.execute(
                "UPDATE hub.chat_messages SET created_at = now() - interval '31 days' WHERE number <= $1", numbers[3]
            )
        hub = house.hubs[0]
        metrics = ChatMetrics(CollectorRegistry())
        eraser = Eraser(hub, metrics)
        janitor = Janitor(hub, eraser, Receipts(hub, Gate(hub)), metrics)
        for _ in range(2):
            assert not await house.nodes[0].within(janitor.delete_outdated)
        told = await heard.heard("message.deleted")
        assert (told["messages"], told["reason"], told["by"]) == (numbers[:4], "retention", None)
        page = (await ada.do("history", "r"))["messages"]
        assert [message["deleted"] for message in page] == [True] * 4 + [False] * 2
        assert page[0]["reason"] == "retention"
        assert not (await other.do("history", "r"))["messages"][0]["deleted"]

        async def gone() -> bool:
            return "message 3" not in await redis_history(house)

        await until(gone, 30, "the texts to leave Redis")
        assert "message 4" in await redis_history(house)
        await house.nodes[0].within(eraser.close)


async def test_typing_in_rooms_that_are_not_there_costs_no_statements(
    redis_url: str, hub_database: HubDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typing_notices, "_NOTICES_PER_S", 0.001)  # or more may be asked while a busy machine asks
    async with parlour(redis_url, hub_database) as house:
        ada = await house.person()
        answers = []
        for n in range(40):
            try:
                answers.append(await ada.do("typing", f"nowhere-{n}"))
            except RequestRefused as refused:
                answers.append(refused.code)
        assert answers == [ErrorCode.NOT_FOUND] * 20 + [{"sent": False}] * 20
        assert await _refused_again(house)


async def _refused_again(house: Parlour) -> bool:
    """What was refused is not remembered as told."""
    bob = await house.person("bob")
    return [(await bob.refused("typing", "nowhere")).code for _ in range(2)] == [ErrorCode.NOT_FOUND] * 2
