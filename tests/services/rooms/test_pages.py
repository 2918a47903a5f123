"""Pages that go on where the one before ended, and what they cost at most."""

from __future__ import annotations

from typing import Any

import pytest

from hub.errors import ErrorCode
from tests.services.rooms.parlour import Parlour, Person

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
