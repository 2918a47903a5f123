"""Beginning, sharing and ending uploads: who may, how many, and what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hub.protocol.frames import Error
from services.uploads.intake import UploadIntake
from tests.services.uploads.depot import Depot, depot, sha256, some_text
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

FEW = some_text(200_000)
FORGOTTEN = """
UPDATE hub.uploads SET touched_at = now() - interval '3 days', due_at = now() - interval '5 s' WHERE id = $1
RETURNING id
"""


async def test_the_same_key_is_the_same_upload(house: Depot) -> None:
    ada = await house.person()
    opened = await ada.create(FEW, key="k1", sha256=sha256(FEW))
    await ada.send(opened, FEW, until=100_000)
    await ada.taken(opened)
    again = await (await house.person()).create(FEW, key="k1")
    assert (again["upload"], again["offset"]) == (opened["upload"], 100_000)
    for changes in ({"size": 200_001}, {"filename": "other.csv"}, {"document_type": "document"}, {"sha256": "0" * 64}):
        wanted = {"filename": "guests.csv", "size": len(FEW), "document_type": "csv", "key": "k1"} | changes
        refused = await ada.refused("create", "conflict", **wanted)
        assert refused.details == {"upload": opened["upload"]}
    other = await (await house.person("bob")).create(FEW, key="k1")
    assert other["upload"] != opened["upload"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"note": "x" * 257},
        {"note": "a\0b"},
        {"n": 2**64},
        {"n": 1e300},
        {"n": 1e-300},
        {f"m{index}": "語" * 256 for index in range(32)},
    ],
)
async def test_metadata_that_no_event_could_carry(house: Depot, metadata: dict[str, Any]) -> None:
    ada = await house.person()
    await ada.refused("create", "bad_request", filename="a.csv", size=5, document_type="csv", metadata=metadata)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"guest id": 7}, "metadata: 'guest id' is no name; write 1 to 64 of the characters A-Z a-z 0-9 _ . -"),
        ({"ok": 1, "note": {"a": 1}}, "metadata: 'note' has to be a text of up to 256 characters without zeros, "),
        ({f"m{index}": 1 for index in range(33)}, "metadata: there are 33 names; at most 32 are allowed"),
    ],
)
async def test_what_is_wrong_with_metadata_is_named(house: Depot, metadata: dict[str, Any], says: str) -> None:
    ada = await house.person()
    refused = await ada.refused(
        "create", "bad_request", filename="a.csv", size=5, document_type="csv", metadata=metadata
    )
    assert refused.message.startswith(says)


async def test_sharing_with_a_room_that_is_not_there(house: Depot) -> None:
    ada = await house.person()
    wanted = {"filename": "a.csv", "size": 5, "document_type": "csv", "shares": ["chat:nowhere"]}
    refused = await ada.refused("create", "bad_request", **wanted)
    assert refused.message.endswith("'chat:nowhere'; a room has to be there, and you in it")


async def test_metadata_as_large_as_it_may_be(house: Depot) -> None:
    ada = await house.person()
    metadata: dict[str, Any] = {f"m{index}": "x" * 256 for index in range(29)}
    metadata |= {"a": 2**64 - 1, "b": -1e18, "c": 1e-100}
    opened = await ada.create(FEW, metadata=metadata)
    await ada.send(opened, FEW)
    assert (await ada.ended(opened["upload"]))["metadata"] == metadata


async def test_others_see_only_what_is_shared_with_them(house: Depot) -> None:
    ada = await house.person()
    opened = await ada.create(FEW, shares=["events:finance"])
    upload, topic = opened["upload"], opened["topic"]
    bob = await house.person("bob")
    assert (await bob.call("status", upload=upload))["owner"] == "ada"
    await bob.client.joined({"topic": topic, "since": "start"})
    for method in ("resume", "pause", "cancel"):
        await bob.refused(method, "not_found", upload=upload)
    assert (await bob.call("list"))["uploads"] == []
    strangers = [
        await house.person("eve", scope="subscribe:upload:* call:*"),
        await house.person("ada", org="globex"),
        await house.person("ada", scope="subscribe:events:* call:*"),
    ]
    for stranger in strangers:
        await stranger.refused("status", "not_found", upload=upload)
        verdicts = await stranger.client.subscribe({"topic": topic})
        assert [verdict.ok for verdict in verdicts] == [False]
    auditor = await house.person("eve", scope="subscribe:upload:* call:* uploads:read")
    assert (await auditor.call("status", upload=upload))["upload"] == upload


async def test_nobody_shares_with_a_topic_he_may_not_read(house: Depot) -> None:
    ada = await house.person(scope="subscribe:upload:* subscribe:events:guest call:*")
    await ada.refused("create", "bad_request", filename="a.csv", size=5, document_type="csv", shares=["events:finance"])
    opened = await ada.create(FEW)
    for topic in ("events:finance", "user:me", "user:bob", "nonsense", "chat:nobody-knows"):
        await ada.refused("share", "bad_request", upload=opened["upload"], topics=[topic])
    shared = await ada.call("share", upload=opened["upload"], topics=["events:guest"])
    assert shared["shares"] == ["events:guest"]


async def test_quotas(redis_url: str, hub_database: HubDatabase, tmp_path: Path) -> None:
    bounds = {"uploads_open_per_user": 2, "uploads_org_bytes_per_day": 500_000, "uploads_max_bytes": 400_000}
    async with depot(redis_url, hub_database, tmp_path, **bounds) as house:
        ada, bob = await house.person(), await house.person("bob")
        opened = await ada.create(FEW)
        refused = await ada.refused("create", "too_large", filename="a.csv", size=400_001, document_type="csv")
        assert refused.details == {"limit": 400_000}
        refused = await ada.refused("create", "quota_exceeded", filename="a.csv", size=300_001, document_type="csv")
        assert refused.details == {"limit": 500_000}
        await ada.create(FEW)
        refused = await ada.refused("create", "quota_exceeded", filename="a.csv", size=1, document_type="csv")
        assert refused.details == {"limit": 2}
        await bob.refused("create", "quota_exceeded", filename="a.csv", size=200_000, document_type="csv")
        await ada.send(opened, FEW, until=50_000)
        await ada.acknowledged(opened, 50_000)
        await ada.call("cancel", upload=opened["upload"])  # gives back what was not sent
        await bob.create(FEW)


async def test_who_begins_too_often_is_told_before_anything_is_asked(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path
) -> None:
    async with depot(redis_url, hub_database, tmp_path, uploads_creates_burst=1, uploads_creates_per_minute=1) as house:
        ada = await house.person()
        await ada.create(FEW)
        secret = {"filename": "a.csv", "size": 5, "document_type": "csv", "shares": ["chat:nobody-knows"]}
        await ada.refused("create", "rate_limited", **secret)


async def test_an_upload_that_nobody_follows_is_closed_and_later_expires(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, passed_s = UploadIntake.tick, [0.0]
    monkeypatch.setattr(UploadIntake, "tick", lambda self, now: real(self, now + passed_s[0]))
    quick = {"uploads_idle_s": 1000.0, "uploads_credit_s": 0.1, "uploads_clear_s": 0.2}
    async with depot(redis_url, hub_database, tmp_path / "store", **quick) as house:
        ada = await house.person()
        opened = await ada.create(FEW)
        await ada.send(opened, FEW, until=1000)
        await ada.acknowledged(opened, 1000)
        passed_s[0] = 1000.0
        told = await ada.client.await_kind(Error)
        assert (told.code, told.details) == ("timeout", {"handle": opened["handle"], "offset": 1000})
        passed_s[0] = 0.0
        assert (await ada.call("resume", upload=opened["upload"]))["offset"] == 1000
        await house.rows(FORGOTTEN, opened["upload"])
        state = await ada.ended(opened["upload"], "expired")
        assert state["error"] is None
        await until(lambda: not house.stored(), 30.0, "the parts to be removed")


async def test_only_bytes_keep_it_from_expiring(redis_url: str, hub_database: HubDatabase, tmp_path: Path) -> None:
    async with depot(redis_url, hub_database, tmp_path, uploads_expire_s=2) as house:
        ada = await house.person()
        opened = await ada.create(FEW)
        call = {"type": "call", "method": "upload.resume", "params": {"upload": opened["upload"]}}

        async def is_over() -> bool:
            answer = await ada.client.request(call)
            return isinstance(answer, Error) and (answer.details or {}).get("state") == "expired"

        await until(is_over, 30.0, "the upload to expire, however often it is resumed")


async def test_nothing_is_kept_for_ever(redis_url: str, hub_database: HubDatabase, tmp_path: Path) -> None:
    quick = {"uploads_clear_s": 0.2, "uploads_keep_records_s": 1}
    async with depot(redis_url, hub_database, tmp_path, **quick) as house:
        await house.rows("INSERT INTO hub.upload_days VALUES ('acme', current_date - 30, 5)")
        ada = await house.person()
        opened = await ada.create(FEW)
        days = await house.rows("SELECT day < current_date - 7 AS old FROM hub.upload_days")
        assert [row["old"] for row in days] == [False]
        await ada.call("cancel", upload=opened["upload"])
        cleared = "SELECT 1 FROM hub.uploads WHERE cleared AND due_at < now() AND looks > 0"

        async def is_due() -> bool:
            return bool(await house.rows(cleared))

        await until(is_due, 30.0, "the record to be looked at; the outbox has its events")
        async with house.database.connect("postgres") as link:
            counters = "SELECT count(*) FROM hub.topic_counters WHERE topic = $1"
            assert await link.fetchval(counters, opened["topic"]) == 1
            await link.execute("DELETE FROM hub.outbox WHERE topic = $1", opened["topic"])

            async def is_forgotten() -> bool:
                return await link.fetchval("SELECT count(*) FROM hub.uploads") == 0

            await until(is_forgotten, 30.0, "the record to be forgotten")
            assert await link.fetchval(counters, opened["topic"]) == 0


async def test_it_is_listed_in_pages_newest_first(house: Depot) -> None:
    ada = await house.person()
    names = [(await ada.create(FEW, filename=f"{n}.csv"))["upload"] for n in range(3)]
    await ada.call("cancel", upload=names[0])
    page = await ada.call("list", limit=2)
    assert [one["upload"] for one in page["uploads"]] == [names[2], names[1]]
    rest = await ada.call("list", limit=2, after=page["next"])
    assert ([one["upload"] for one in rest["uploads"]], rest["next"]) == ([names[0]], None)
    gone = await ada.call("list", state="cancelled")
    assert [one["upload"] for one in gone["uploads"]] == [names[0]]
