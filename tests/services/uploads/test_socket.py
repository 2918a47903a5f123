"""Uploads over the socket: bytes arrive in order, are acknowledged, and go on where they were, on any node."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.orgs import OrgId
from hub.protocol.codec import Encoding
from hub.protocol.frames import Credit, Error, Event
from tests.services.uploads.depot import Depot, depot, sha256, some_text
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

MANY = some_text(3_000_000)


@pytest.mark.parametrize("encoding", Encoding)
async def test_a_file_arrives_as_it_was_sent(house: Depot, encoding: Encoding) -> None:
    ada = await house.person(encoding=encoding)
    opened = await ada.create(MANY)
    assert opened["offset"] == 0
    await ada.send(opened, MANY)
    state = await ada.ended(opened["upload"])
    assert (state["offset"], state["size"], state["sha256"]) == (len(MANY), len(MANY), sha256(MANY))


async def test_it_is_resumed_on_another_node_at_what_was_acknowledged(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path
) -> None:
    async with depot(redis_url, hub_database, tmp_path, nodes=2) as house:
        ada = await house.person()
        opened = await ada.create(MANY)
        await ada.send(opened, MANY, until=1_500_000)
        await ada.taken(opened)
        again = await house.person(node=1)
        resumed = await again.call("resume", upload=opened["upload"])
        assert resumed["offset"] == 1_500_000  # the first writer was asked to finish, and did
        told = await ada.client.await_kind(Error)
        assert (told.code, told.details) == ("conflict", {"handle": opened["handle"], "offset": 1_500_000})
        parts = await house.rows("SELECT first, size FROM hub.upload_parts ORDER BY first")
        assert [tuple(part) for part in parts] == [(0, 1_500_000)]
        await again.send(resumed, MANY)
        await again.ended(opened["upload"])
        assert house.content(opened["upload"]) == MANY


async def test_a_wrong_offset_is_told_once(house: Depot) -> None:
    ada = await house.person()
    opened = await ada.create(MANY)
    await ada.chunk(opened["handle"], 0, MANY[:1000])
    for offset in (2000, 3000, 999):
        await ada.chunk(opened["handle"], offset, b"x" * 10)
    told = await ada.client.await_kind(Error)
    assert (told.code, told.details) == ("offset_mismatch", {"handle": opened["handle"], "offset": 1000})
    await ada.send({**opened, "offset": 1000, "window": opened["window"] - 1000}, MANY)
    await ada.ended(opened["upload"])
    assert [frame.code for frame in ada.client.came if isinstance(frame, Error)] == ["offset_mismatch"]


async def test_who_pauses_goes_on_later(house: Depot) -> None:
    ada = await house.person()
    opened = await ada.create(MANY)
    await ada.send(opened, MANY, until=700_000)
    await ada.acknowledged(opened, 700_000)
    state = await ada.call("pause", upload=opened["upload"])
    assert (state["state"], state["paused"], state["offset"]) == ("receiving", True, 700_000)
    resumed = await ada.call("resume", upload=opened["upload"])
    assert resumed["handle"] != opened["handle"]
    await ada.send(resumed, MANY)
    assert (await ada.ended(opened["upload"]))["paused"] is False


async def test_what_comes_while_a_writer_finishes_is_not_taken(house: Depot) -> None:
    """It would wait for a writer that has left, and the writer for it."""
    ada, other = await house.person(), await house.person()
    opened = await ada.create(MANY)
    async with house.database.connect("postgres") as link, link.transaction():
        await link.execute("SELECT FROM hub.uploads FOR UPDATE")  # so it cannot be acknowledged, and goes on finishing
        await ada.chunk(opened["handle"], 0, MANY[:1000])
        await until(house.stored, what="the first chunk to be stored")
        await other.client.send({"type": "call", "id": "p", "method": "upload.pause", "params": opened})
        for offset in range(1000, 1100):
            await ada.chunk(opened["handle"], offset, MANY[offset : offset + 1])
            await ada.call("status", upload=opened["upload"])
    told = await ada.client.await_kind(Error)
    assert (told.code, (told.details or {})["state"]) == ("conflict", "paused")
    await other.client.answer_to("p")
    resumed = await ada.call("resume", upload=opened["upload"])
    await ada.send(resumed, MANY)
    assert (await ada.ended(opened["upload"]))["sha256"] in (None, sha256(MANY))


async def test_what_was_cancelled_leaves_nothing(house: Depot) -> None:
    ada = await house.person()
    opened = await ada.create(MANY)
    await ada.send(opened, MANY, until=700_000)
    await ada.acknowledged(opened, 700_000)
    assert (await ada.call("cancel", upload=opened["upload"]))["state"] == "cancelled"
    await until(lambda: not house.stored(), 30.0, "the parts to be removed")
    await ada.refused("resume", "conflict", upload=opened["upload"])


async def test_credit_is_repeated_while_the_client_may_send(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path
) -> None:
    async with depot(redis_url, hub_database, tmp_path, uploads_credit_s=0.05) as house:
        ada = await house.person()
        opened = await ada.create(MANY)
        for _ in range(3):
            credit = await ada.client.await_kind(Credit)
            assert (credit.handle, credit.offset, credit.window) == (opened["handle"], 0, len(MANY))


async def test_who_sends_is_told_of_a_cancellation_on_another_node(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path
) -> None:
    async with depot(redis_url, hub_database, tmp_path, nodes=2, uploads_clear_s=60) as house:
        ada, beside = await house.person(), await house.person(node=1)
        opened = await ada.create(MANY)
        await ada.send(opened, MANY, until=500_000)
        await ada.acknowledged(opened, 500_000)
        await beside.call("cancel", upload=opened["upload"])
        told = await ada.client.await_kind(Error)
        assert (told.code, told.details) == (
            "conflict",
            {"handle": opened["handle"], "offset": 500_000, "state": "cancelled"},
        )
        await until(lambda: not house.stored(), 30.0, "the parts to be removed")


async def test_word_for_a_writer_that_is_gone_does_not_end_the_next_one(house: Depot) -> None:
    ada = await house.person()
    opened = await ada.create(MANY)
    await ada.send(opened, MANY, until=100_000)
    late = {"token": "of the one before", "code": "conflict", "message": "gone on", "details": None}
    hub = house.hubs[0]
    await house.nodes[0].within(
        lambda: hub.broadcasts.send("uploads", OrgId.from_operator("acme"), opened["upload"], late)
    )
    await ada.send({**opened, "offset": 100_000, "window": opened["window"] - 100_000}, MANY)
    await ada.ended(opened["upload"])


async def test_a_create_that_finds_no_room_begins_nothing(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path
) -> None:
    async with depot(redis_url, hub_database, tmp_path, uploads_writers=1) as house:
        ada = await house.person()
        await ada.create(MANY)
        await ada.refused("create", "unavailable", filename="b.csv", size=5, document_type="csv")
        assert len((await ada.call("list"))["uploads"]) == 1


async def test_a_pause_is_told_to_who_watches_and_to_who_sends(house: Depot) -> None:
    ada, beside = await house.person(), await house.person()
    opened = await ada.create(MANY)
    await beside.client.joined({"topic": opened["topic"]})
    await ada.send(opened, MANY, until=100_000)
    await ada.taken(opened)
    await beside.call("pause", upload=opened["upload"])
    told = await ada.client.await_kind(Error)
    assert told.details == {"handle": opened["handle"], "offset": 100_000, "state": "paused"}
    while True:
        progress = await beside.client.await_kind(Event)
        if progress.data["paused"]:
            assert progress.data["offset"] == 100_000
            break


async def test_a_chunk_is_never_larger_than_a_message_may_be(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path
) -> None:
    async with depot(redis_url, hub_database, tmp_path, max_message_bytes=150_000) as house:
        ada = await house.person(encoding=Encoding.MSGPACK)
        opened = await ada.create(MANY)
        assert 140_000 < opened["chunk_bytes"] < 150_000
        await ada.send(opened, MANY, step=opened["chunk_bytes"])
        await ada.ended(opened["upload"])
