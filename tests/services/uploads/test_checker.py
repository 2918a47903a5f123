"""From received to available or rejected: by whichever node, once, and nothing is served before."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from hub.orgs import OrgId
from hub.protocol.frames import Event
from services.uploads import checker
from services.uploads.checker import Checker
from services.uploads.checking import Facts
from services.uploads.endings import Endings
from services.uploads.shapes import Upload
from services.uploads.store import FolderStore
from services.uploads.store.words import store_unavailable
from tests.services.uploads.checking import samples
from tests.services.uploads.depot import Depot, Person, depot, sha256, some_text
from tests.services.uploads.fake_clamd import EICAR, fake_clamd
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

TABLE = some_text(100_000)
OFTEN: dict[str, Any] = {"uploads_janitor_s": 0.1}
QUICK: dict[str, Any] = OFTEN | {"uploads_check_lease_s": 0.6}  # a check that is held up longer is done by another
DUE = "UPDATE hub.uploads SET due_at = now() WHERE id = $1 RETURNING id"


async def sent(person: Person, data: bytes, filename: str, document_type: str = "document", **more: Any) -> str:
    opened = await person.create(data, filename, document_type, **more)
    await person.send(opened, data)
    return str(opened["upload"])


async def told(person: Person, name: str) -> Any:
    """What the next event of this name says."""
    while (event := await person.client.await_kind(Event)).name != name:
        pass
    return event.data


def tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be checked again is due at once, so that a claim can be longer than any machine stands still."""
    real = Endings.postpone

    async def postpone(self: Endings, upload: Upload, token: str, after_s: float, *, counts: bool) -> None:
        await real(self, upload, token, min(after_s, 0.1), counts=counts)

    monkeypatch.setattr(Endings, "postpone", postpone)


async def watched(house: Depot, user: str = "gus") -> Person:
    person = await house.person(user)
    await person.client.joined("events:guest")
    return person


async def test_a_document_becomes_available(house: Depot) -> None:
    ada, gus = await house.person(), await watched(house)
    data = samples.workbook()
    opened = await ada.create(data, "guests.xlsx", "excel", sha256=sha256(data), metadata={"guest_id": "g-7"})
    await ada.client.joined(opened["topic"])
    await ada.send(opened, data)
    completed = await told(ada, "completed")
    state = await ada.ended(opened["upload"])
    assert completed | {"shares": []} == state
    assert (state["sha256"], state["error"]) == (sha256(data), None)
    assert state["media_type"] == samples.look(data, "guests.xlsx").media_type
    assert state["facts"]["table"]["header"] == ["guest", "first name"]
    assert state["facts"]["archive"]["entries"] == 6
    document = await told(gus, "document.uploaded")
    assert (document["upload"], document["media_type"]) == (opened["upload"], state["media_type"])
    assert house.content(opened["upload"]) == data
    await until(lambda: house.stored() == [f"acme/{opened['upload']}/content"], 30.0, "the parts to be cleared")


@pytest.mark.parametrize(
    ("data", "filename", "document_type", "more", "code"),
    [
        (samples.image("PNG"), "a.pdf", "passport", {}, "unsupported_media"),
        (b"%PDF-1.4 and no more", "a.pdf", "passport", {}, "unsupported_media"),
        (TABLE, "a.csv", "csv", {"sha256": "0" * 64}, "checksum_mismatch"),
        (samples.archive({"a": bytes(10_000_000)}), "a.zip", "document", {}, "too_large"),
        (b"\n\n\n", "a.csv", "csv", {}, "empty_content"),
    ],
)
async def test_rejected(
    house: Depot, data: bytes, filename: str, document_type: str, more: dict[str, Any], code: str
) -> None:
    ada = await house.person()
    opened = await ada.create(data, filename, document_type, **more)
    await ada.client.joined(opened["topic"])
    await ada.send(opened, data)
    state = await ada.ended(opened["upload"], "rejected")
    assert state["error"]["code"] == code
    assert state["sha256"] == sha256(data)
    failed = await told(ada, "failed")
    assert failed | {"shares": []} == state
    await until(lambda: not house.stored(), 30.0, "the bytes to be removed")
    async with house.http() as http:
        answer = await http.get(f"/v1/uploads/{opened['upload']}/content")
        assert answer.status_code in (404, 409)


async def test_nothing_is_served_before(house: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, go_on = threading.Event(), threading.Event()
    real = checker.inspect

    def held(*args: Any) -> Facts:
        looked.set()
        assert go_on.wait(60)
        return real(*args)

    monkeypatch.setattr(checker, "inspect", held)
    ada = await house.person()
    upload = await sent(ada, TABLE, "a.csv")
    await until(looked.is_set, 30.0, "the check to begin")
    assert (await ada.call("status", upload=upload))["state"] == "checking"
    async with house.http() as http:
        assert (await http.get(f"/v1/uploads/{upload}/content")).status_code == 409
        go_on.set()
        await ada.ended(upload)
        answer = await http.get(f"/v1/uploads/{upload}/content")
        assert (answer.status_code, answer.content) == (200, TABLE)


@pytest.mark.parametrize("step", ["received", "claimed", "joined"])
async def test_a_node_that_died_in_the_middle(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The row and the store are left as they were at that moment; another node finishes."""
    with monkeypatch.context() as patched:
        patched.setattr(Checker, "begin", lambda *_: None)
        async with depot(redis_url, hub_database, tmp_path) as house:
            ada = await house.person()
            opened = await ada.create(TABLE)
            await ada.send(opened, TABLE, until=60_000)
            await ada.acknowledged(opened, 60_000)
            resumed = await ada.call("resume", upload=opened["upload"])
            await ada.send(resumed, TABLE)
            await ada.ended(opened["upload"], "received")
    async with depot(redis_url, hub_database, tmp_path, **OFTEN, uploads_check_attempts=2) as house:
        gus, bob = await watched(house), await house.person()
        if step == "received":
            await house.rows(DUE, opened["upload"])
        else:
            if step == "joined":
                folder = tmp_path / "acme" / opened["upload"]
                (folder / "content").write_bytes(TABLE)
            dead = "state = 'checking', checker = 'dead', attempts = 1, due_at = now() + interval '0.5 seconds'"
            await house.rows(f"UPDATE hub.uploads SET {dead} WHERE id = $1 RETURNING id", opened["upload"])
        state = await bob.ended(opened["upload"])
        assert state["sha256"] == sha256(TABLE)
        assert house.content(opened["upload"]) == TABLE
        events = await gus.client.events(1)
        assert [event.data["upload"] for event in events] == [opened["upload"]]
        await until(lambda: len(house.stored()) == 1, 30.0, "the parts to be cleared")


async def test_a_node_that_hangs_and_comes_back(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim ended meanwhile: another one has finished, and it changes nothing."""
    looked, go_on = threading.Semaphore(0), threading.Event()
    real, real_renew, hung = checker.inspect, Endings.renew, []

    def first_hangs(*args: Any) -> Facts:
        looked.release()
        if not hung:
            hung.append(threading.current_thread())
            assert go_on.wait(60)
        return real(*args)

    async def never_heard(self: Endings, *args: Any) -> bool:
        return True if not go_on.is_set() else await real_renew(self, *args)

    monkeypatch.setattr(checker, "inspect", first_hangs)
    monkeypatch.setattr(Endings, "renew", never_heard)
    async with depot(redis_url, hub_database, tmp_path, nodes=2, **QUICK) as house:
        gus, ada = await watched(house), await house.person()
        upload = await sent(ada, TABLE, "a.csv")
        finished = (await ada.ended(upload))["finished_at"]
        go_on.set()
        second = await sent(ada, TABLE, "b.csv")
        await ada.ended(second)
        events = await gus.client.events(2)
        assert [event.data["upload"] for event in events] == [upload, second], "nothing twice"
        assert (await ada.call("status", upload=upload))["finished_at"] == finished
        assert house.content(upload) == TABLE


async def test_a_check_whose_claim_is_lost_may_fail(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is being ended; whoever has the claim then goes on. Nothing of it is in the log."""
    real, begun = FolderStore.join, []

    async def fails_at_the_end(*args: Any) -> None:
        begun.append(args)
        if len(begun) > 1:
            return await real(*args)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise store_unavailable() from None

    async def lost(*_: Any) -> bool:
        return len(begun) > 1

    monkeypatch.setattr(FolderStore, "join", fails_at_the_end)
    monkeypatch.setattr(Endings, "renew", lost)
    async with depot(redis_url, hub_database, tmp_path, **QUICK) as house:
        ada = await house.person()
        await ada.ended(await sent(ada, TABLE, "a.csv"))
        assert len(begun) == 2


async def test_faults_of_ours_are_tried_again_and_end(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    real = checker.inspect

    def fails(file: Any, size: int, kind: Any, filename: str, bounds: Any) -> Facts:
        tries.append(filename)
        if filename == "always.csv" or tries.count(filename) < 3:
            raise RuntimeError("a fault of ours")
        return real(file, size, kind, filename, bounds)

    monkeypatch.setattr(checker, "inspect", fails)
    tried_at_once(monkeypatch)
    faults = ("upload_check_failed", "upload_given_up")
    settings = {**OFTEN, "uploads_check_attempts": 3}
    async with depot(redis_url, hub_database, tmp_path, allowed_errors=faults, **settings) as house:
        ada = await house.person()
        good, bad = await sent(ada, TABLE, "later.csv"), await sent(ada, TABLE, "always.csv")
        await ada.ended(good)
        state = await ada.ended(bad, "rejected")
        assert state["error"]["code"] == "internal"
        assert (tries.count("later.csv"), tries.count("always.csv")) == (3, 3)


async def test_a_part_that_is_gone_is_not_waited_for_and_a_store_is(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, away = tmp_path / "store", tmp_path / "away"
    settings = {**OFTEN, "uploads_check_attempts": 2}
    tried_at_once(monkeypatch)
    faults = ("upload_check_failed", "upload_given_up")
    begin = Checker.begin
    monkeypatch.setattr(Checker, "begin", lambda *_: None)
    async with depot(redis_url, hub_database, store, allowed_errors=faults, **settings) as house:
        ada = await house.person()
        broken, whole = await sent(ada, TABLE, "a.csv"), await sent(ada, TABLE, "b.csv")
        for upload in (broken, whole):
            await ada.ended(upload, "received")
        for part in (store / "acme" / broken / "parts").iterdir():
            part.unlink()
        store.rename(away)
        store.mkdir()
        monkeypatch.setattr(Checker, "begin", begin)
        for upload in (broken, whole):
            await house.rows(DUE, upload)
        logs = house.nodes[0].logs
        await until(lambda: len(logs.named("upload_checked_again")) > 6, 30.0, "several attempts of both")
        assert not logs.named("upload_check_failed")
        store.rmdir()
        away.rename(store)
        await ada.ended(whole)
        assert (await ada.ended(broken, "rejected"))["error"]["code"] == "internal"


async def test_a_scanner_that_is_away_and_back(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing passes without it, and its absence is not counted against the file."""
    tried_at_once(monkeypatch)
    async with fake_clamd() as clamd:
        url = f"tcp://127.0.0.1:{clamd.port}"
        settings = {**OFTEN, "uploads_check_attempts": 1, "uploads_scan_url": url}
        async with depot(redis_url, hub_database, tmp_path, **settings) as house:
            ada = await house.person()
            clamd.mood = "breaks_off"
            clean = await sent(ada, TABLE, "clean.csv")
            logs = house.nodes[0].logs
            await until(lambda: len(logs.named("upload_checked_again")) > 3, 30.0, "several attempts")
            assert (await ada.call("status", upload=clean))["state"] == "checking"
            clamd.mood = "well"
            await ada.ended(clean)
            infected = await sent(ada, EICAR + b"\n" + TABLE, "infected.txt")
            state = await ada.ended(infected, "rejected")
            assert state["error"] == {
                "code": "unsupported_media",
                "message": "the virus scanner has found Eicar-Test-Signature in the file",
            }
            await until(lambda: len(house.stored()) == 1, 30.0, "the bytes to be removed")


async def test_what_finds_no_room_is_found_in_the_table(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path
) -> None:
    settings = {**QUICK, "uploads_checks": 1, "uploads_checks_waiting": 1, "uploads_check_attempts": 100}
    async with depot(redis_url, hub_database, tmp_path, **settings) as house:
        ada = await house.person()
        uploads = [await sent(ada, TABLE, f"{index}.csv") for index in range(12)]
        for upload in uploads:
            await ada.ended(upload)


async def test_organisations_take_turns(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has sent many waits for itself, and leaves others their places in the line."""
    looked, go_on = [], threading.Event()
    real, real_begin, begun = checker.inspect, Checker.begin, []

    def held(file: Any, size: int, kind: Any, filename: str, bounds: Any) -> Facts:
        assert go_on.wait(60)
        looked.append(filename)
        return real(file, size, kind, filename, bounds)

    def begin(self: Checker, org: OrgId, upload: str) -> None:
        real_begin(self, org, upload)
        begun.append(upload)

    async def in_line(person: Person, filename: str) -> str:
        upload = await sent(person, TABLE, filename)
        await until(lambda: upload in begun, what="it to be in the line")
        return upload

    monkeypatch.setattr(checker, "inspect", held)
    monkeypatch.setattr(Checker, "begin", begin)
    settings = {"uploads_checks": 1, "uploads_checks_waiting": 4, "uploads_janitor_s": 1000.0}
    async with depot(redis_url, hub_database, tmp_path, **settings) as house:
        ada, bob = await house.person(), await house.person("bob", org="globex")
        for index in range(5):
            await in_line(ada, f"a{index}.csv")
        uploads = [await in_line(bob, f"b{index}.csv") for index in range(2)]
        go_on.set()
        for upload in uploads:
            await bob.ended(upload)
        await until(lambda: len(looked) == 5, 30.0, "the line to be empty")
        assert looked == ["a0.csv", "a1.csv", "b0.csv", "a2.csv", "b1.csv"]


async def test_a_node_that_leaves_hands_its_checks_over(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once and not after the lease, and not counted against the file."""
    looked = threading.Event()
    real, readers = checker.inspect, []

    def first_reads_on(file: Any, *args: Any) -> Facts:
        readers.append(file)
        if len(readers) == 1:
            looked.set()
            while True:
                file.read(1)
                file.seek(0)
        return real(file, *args)

    monkeypatch.setattr(checker, "inspect", first_reads_on)
    settings = {**QUICK, "uploads_check_lease_s": 100.0, "uploads_check_attempts": 1}
    async with depot(redis_url, hub_database, tmp_path, **settings) as house:
        ada = await house.person()
        upload = await sent(ada, TABLE, "a.csv")
        await until(looked.is_set, 30.0, "the check to begin")
    async with depot(redis_url, hub_database, tmp_path, **settings) as house:
        ada = await house.person()
        await ada.ended(upload)
