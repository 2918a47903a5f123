"""What has to be looked at is looked at, whatever else cannot be done at the moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.uploads.checker import Checker
from services.uploads.store import FolderStore
from services.uploads.store.words import store_unavailable
from tests.services.uploads.depot import depot, some_text
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

FEW = some_text(20_000)
# Joined to the upload $1, which is not checked: their bytes cannot be removed yet.
JOINED = """
INSERT INTO hub.uploads (org, id, owner, state, filename, document_type, size, received, partial, finished_at, due_at)
SELECT 'acme', 'P' || n, 'ada', 'joined', 'a', 'csv', 1, 1, true, now() - interval '70 s', now() - interval '10 s'
FROM generate_series(1, 250) AS n
"""
PARTS = """
INSERT INTO hub.upload_parts (org, upload, first, size, object)
SELECT 'acme', $1, 10000000 + n, 1, 'acme/P' || n || '/parts/x' FROM generate_series(1, 250) AS n
"""
FORGOTTEN = """
UPDATE hub.uploads SET touched_at = now() - interval '3 days', due_at = now() - interval '5 s' WHERE id = $1
RETURNING id
"""


async def test_nothing_stands_in_the_way_of_others(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checker, "begin", lambda *_: None)
    async with depot(redis_url, hub_database, tmp_path) as house:
        ada = await house.person()
        opened = await ada.create(FEW)
        await ada.send(opened, FEW)
        await ada.ended(opened["upload"], "received")
        await house.rows(JOINED)
        await house.rows(PARTS, opened["upload"])
        forgotten = await ada.create(FEW)
        await ada.call("pause", upload=forgotten["upload"])
        await house.rows(FORGOTTEN, forgotten["upload"])
        await ada.ended(forgotten["upload"], "expired")


async def test_a_fault_with_one_leaves_the_others(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FolderStore.remove
    tried: list[str] = []

    async def remove(self: FolderStore, org: str, upload: str) -> None:
        tried.append(upload)
        if upload == faults[0]:
            raise RuntimeError("a fault of ours")
        if upload == faults[1]:
            raise store_unavailable()
        await real(self, org, upload)  # type: ignore[arg-type]

    async with depot(redis_url, hub_database, tmp_path, allowed_errors=["upload_not_looked_after"]) as house:
        ada = await house.person()
        uploads = [await ada.create(FEW) for _ in range(3)]
        faults = [one["upload"] for one in uploads]
        monkeypatch.setattr(FolderStore, "remove", remove)
        for one in uploads:
            await ada.send(one, FEW, until=1000)
            await ada.acknowledged(one, 1000)
            await ada.call("pause", upload=one["upload"])
            await house.rows(FORGOTTEN, one["upload"])
        for one in uploads:
            await ada.ended(one["upload"], "expired")
        await until(lambda: not [name for name in house.stored() if faults[2] in name], 30.0, "its bytes to be removed")
