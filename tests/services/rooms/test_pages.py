"""Pages that go on where the one before ended, and what they cost at most."""

from __future__ import annotations

from typing import Any

import pytest

from hub.client import RequestRefused
from hub.errors import ErrorCode
from hub.protocol.frames import Reply
from tests.services.rooms.parlour import Parlour, Person, parlour
from tests.support.hub_database import HubDatabase
from tests.support.peers import Peers
from tests.support.waiting import until

# Every message of a moment has the same time, as those of one batch may; and none is at a whole millisecond.
_SAME_MOMENT = "UPDATE hub.chat_messages SET created_at = '2026-01-01 00:00:00.000600Z' WHERE text LIKE $1"


async def walked(person: Person, **params: Any) -> list[tuple[str, int]]:
    """All results of a search, page by page."""
    found: list[tuple[str, int]] = []
    before: dict[str, Any] = {}
    for _ in range(30):
        page = await person.do("search", **params, **before)
        found += [(message["room"], message["number"]) for message in page["messages"]]
        if page["next"] is None:
            return found
        before = {"before": page["next"]}
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 50])
async def test_pages_of_a_search_give_everything_once(house: Parlour, limit: int) -> None:
    ada = await house.person()
    for room in ("one", "two"):
        await ada.do("create", room, name=room)
    early = [(room, (await ada.send(room, f"boiler {n}"))["number"]) for n in range(3) for room in ("one", "two")]
    late = [(room, (await ada.send(room, f"a late boiler {n}"))["number"]) for n in range(2) for room in ("one", "two")]
    async with house.database.connect("postgres") as link:
        await link.execute(_SAME_MOMENT, "boiler%")
    found = await walked(ada, query="boiler", limit=limit)
    assert found[:4] == late[::-1]
    assert sorted(found) == sorted(early + late)
    one = [number for room, number in early + late if room == "one"]
    assert await walked(ada, query="boiler", room="one", limit=limit) == [("one", number) for number in one[::-1]]


async def test_a_search_goes_on_from_what_it_gave_alone(house: Parlour) -> None:
    ada = await house.person()
    await ada.do("create", "r", name="Room")
    for before in ("", "1", "1:2", "1:2:", "1:2:a b", "-1:2:r", "1:2:r:s", f"{10**30}:2:r", f"1:{10**30}:r", "٣:2:r"):
        assert (await ada.refused("search", query="x", before=before)).code == ErrorCode.BAD_REQUEST, before


def numbers_of(page: dict[str, Any]) -> list[int]:
    return [message["number"] for message in page["messages"]]


async def test_a_page_of_messages_ends_where_it_is_large_enough(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_page_bytes=10_000) as house:
        ada = await house.person()
        await ada.do("create", "r", name="Room")
        numbers = [(await ada.send("r", "&" * 500))["number"] for _ in range(9)]  # 500 + 2 500 bytes and some more
        large = (await ada.send("r", "&" * 4000))["number"]  # more than a page alone

        async def page(**params: Any) -> tuple[list[int], bool, bool]:
            found = await ada.do("history", "r", **params)
            return numbers_of(found), found["more_before"], found["more_after"]

        assert await page() == ([large], True, False), "one there is always"
        assert await page(before=large) == (numbers[-3:], True, True), "those next to it"
        assert await page(after=0) == (numbers[:3], False, True)
        assert await page(around=numbers[4]) == (numbers[3:6], True, True)
        assert await page(around=numbers[0]) == (numbers[:3], False, True)
        assert await page(around=large) == ([large], True, False)
        assert await page(around=2**53) == ([large], True, False)
        assert await page(after=large) == ([], True, False)
        walked_down: list[int] = []
        found = await ada.do("history", "r")
        while True:
            walked_down = numbers_of(found) + walked_down
            if not found["more_before"]:
                break
            found = await ada.do("history", "r", before=walked_down[0])
        assert walked_down == [*numbers, large]


async def test_pages_of_a_search_and_of_rooms_end_so_too(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_page_bytes=4000) as house:
        ada = await house.person()
        rooms = [f"r{n}" for n in range(8)]
        for room in rooms:
            await ada.do("create", room, name=room, tags={f"tag{n}": "x" * 100 for n in range(8)})
            await ada.send(room, "boiler " + "&" * 300)
        assert 1 <= len((await ada.do("search", query="boiler"))["messages"]) < 8
        assert [room for room, _ in await walked(ada, query="boiler")] == rooms[::-1]
        listed: list[str] = []
        after: dict[str, Any] = {}
        while True:
            page = await ada.do("rooms", **after)
            assert 1 <= len(page["rooms"]) < 8
            listed += [room["room"] for room in page["rooms"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert listed == rooms[::-1]


async def test_a_list_of_rooms_has_little_of_what_was_said_last(house: Parlour) -> None:
    ada = await house.person()
    await ada.do("create", "r", name="Room")
    sent = await ada.send("r", "long " * 200)
    for room in (*(await ada.do("rooms"))["rooms"], (await ada.do("get", "r"))["room"]):
        assert room["last"] == {**{k: v for k, v in sent.items() if k != "html"}, "text": sent["text"][:500]}
    await ada.do("delete", "r", message=sent["number"])
    assert (await ada.do("get", "r"))["room"]["last"]["deleted"]


async def test_who_reads_too_often_is_told_to_wait(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_reads_per_second=0.01, chat_reads_burst=5) as house:
        ada, bob = await house.person(), await house.person("bob")
        await ada.do("create", "r", name="Room", public=True)
        await ada.do("rooms")
        await ada.do("members", "r")
        await ada.do("get", "r")
        await ada.do("readers", "r", message=1)
        await ada.do("history", "r")
        for method, room in (("rooms", None), ("members", "r"), ("get", "r"), ("history", "r")):
            assert (await ada.refused(method, room)).code == ErrorCode.RATE_LIMITED
        await bob.do("history", "r")


# What searches look at cannot be looked at while this is held, and everything else of the chat goes on.
_HOLD = "LOCK TABLE hub.chat_messages IN ACCESS EXCLUSIVE MODE"


async def test_a_search_that_takes_too_long_is_given_up(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, chat_search_timeout_s=0.2) as house:
        ada = await house.person()
        await ada.do("create", "r", name="Room")
        await ada.send("r", "boiler")
        async with house.database.connect("postgres") as link, link.transaction():
            await link.execute(_HOLD)
            for where in ({}, {"room": "r"}):
                refused = await ada.refused("search", query="boiler", **where)
                assert (refused.code, refused.retry) == (ErrorCode.TIMEOUT, "never")

        async def found() -> Any:
            try:
                return await walked(ada, query="boiler")
            except RequestRefused as refused:
                if refused.code != ErrorCode.TIMEOUT:  # which a busy machine may take as well
                    raise
                return None

        assert len(await until(found, 30, "a search that is quick enough")) == 1


async def test_few_search_at_once(redis_url: str, hub_database: HubDatabase) -> None:
    limits = {"chat_searches_at_once": 2, "chat_searches_waiting": 3, "chat_search_timeout_s": 30, "database_pool": 3}
    async with parlour(redis_url, hub_database, **limits) as house, Peers(house.nodes[0], org="acme") as peers:
        ada = await house.person()
        client = await peers.join("ada")  # who does not wait and try again by itself
        await ada.do("create", "r", name="Room")
        await ada.send("r", "boiler")
        async with house.database.connect("postgres") as link, house.database.connect("postgres") as other:
            hold = link.transaction()
            await hold.start()
            await link.execute(_HOLD)
            search = {"type": "call", "method": "chat.search", "params": {"query": "boiler"}}
            for n in range(5):
                await client.send(search | {"id": n})

            async def waiting() -> bool:
                return bool(await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") == 2)

            await until(waiting, what="two searches")
            await client.refusal(search | {"id": 5}, ErrorCode.RATE_LIMITED)
            await ada.do("members", "r")  # the third connection is not taken
            assert await waiting()
            await hold.rollback()
        for n in range(5):
            answer = await client.answer_to(n, 30)
            assert isinstance(answer, Reply), answer
            assert len(answer.result["messages"]) == 1


async def test_who_is_in_many_rooms_finds_the_same(house: Parlour) -> None:
    """With few rooms the search begins with those, with many it looks at what it has found."""
    ada, eve = await house.person(), await house.person("eve")
    await ada.do("create", "open", name="Open", public=True)
    await ada.do("create", "closed", name="Closed")
    sent = [(room, (await ada.send(room, "boiler"))["number"]) for room in ("open", "closed")]
    assert sorted(await walked(ada, query="boiler")) == sorted(sent)
    assert await walked(eve, query="boiler") == sent[:1]
    async with house.database.connect("postgres") as link:
        await link.execute(
            "INSERT INTO hub.chat_rooms (org, id, name, public, created_by) "
            "SELECT 'acme', 'more-' || i, 'More', true, 'x' FROM generate_series(1, 300) AS i"
        )
    assert sorted(await walked(ada, query="boiler")) == sorted(sent)
    assert await walked(eve, query="boiler") == sent[:1]
    assert await walked(ada, query="boiler", room="closed") == sent[1:]


async def test_a_page_of_public_rooms_comes_in_order_from_its_index(house: Parlour) -> None:
    async with house.database.connect("postgres") as link, link.transaction():
        await link.execute("SET LOCAL enable_seqscan = off")
        plan = await link.fetch(
            "EXPLAIN SELECT id FROM hub.chat_rooms WHERE org = 'acme' AND public "
            "AND (last_at, id) < (now(), 'x') ORDER BY last_at DESC, id DESC LIMIT 50"
        )
    text = "\n".join(row[0] for row in plan)
    assert "chat_rooms_public" in text
    assert "Sort" not in text
