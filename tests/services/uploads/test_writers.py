"""Who takes over from whom, when several want to write an upload at the same time."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from services.uploads.records import Records
from services.uploads.writers import Writers
from tests.services.uploads.depot import Depot, some_text
from tests.services.uploads.tus_client import hanging, tus
from tests.support.waiting import until

DATA = some_text(10_000)


async def test_of_two_requests_the_one_that_came_later_goes_on(house: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older one is of a connection that broke; its way to the database takes longer."""
    came: list[str] = []
    released = threading.Event()
    opens, seize = Writers.open, Records.seize

    async def counted(self: Writers, *given: Any, **options: Any) -> Any:
        came.append("open")
        return await opens(self, *given, **options)

    async def held(self: Records, *given: Any) -> Any:
        came.append("seize")
        if came.count("seize") == 1:
            await asyncio.to_thread(released.wait)
        return await seize(self, *given)

    monkeypatch.setattr(Writers, "open", counted)
    monkeypatch.setattr(Records, "seize", held)
    ada = tus(house)
    async with ada.http:
        url = await ada.create(len(DATA))
        async with hanging(house, url, 0, len(DATA)):
            await until(lambda: came == ["open", "seize"], what="the older one to be under way")
        async with hanging(house, url, 0, len(DATA)) as newer:
            await until(lambda: came.count("open") == 2, what="the newer one")
            await ada.ask("GET", url)  # time enough for it to come as far as it may
            released.set()
            await newer.send(DATA)
            assert (await newer.answer())[0] == 204
        assert await ada.offset(url) == len(DATA)
