"""Bad input over the socket and by tus, with everything real: each thing is refused with its code, and leaves nothing.

The same table is tried on both ways, because both lead to the same rules. Everybody here is a user of his own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from hub.edge import handles
from hub.embedded import PostgresServer
from hub.nodes.broadcasts import Broadcasts
from hub.protocol.codec import Encoding
from hub.protocol.frames import Credit, Error
from services.uploads.store import Digest, Part, Piece, StoreFull
from services.uploads.store.folder import FolderStretch
from tests.services.uploads.checking import samples
from tests.services.uploads.depot import Depot, Person, depot, sha256, some_text
from tests.services.uploads.tus_client import TusClient
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.servers import running_redis, temporary_folder
from tests.support.waiting import until

CHUNK = 4096
WINDOW = 4 * CHUNK
PER_DAY = 3_000_000
FEW = some_text(3000)
MANY = some_text(200_000)
SETTINGS: dict[str, Any] = {
    "chunk_free_bytes": CHUNK,
    "uploads_chunk_bytes": CHUNK,
    "uploads_window_bytes": WINDOW,
    "uploads_block_bytes": WINDOW // 2,
    "uploads_flush_s": 0.02,
    "uploads_release_s": 0.3,
    "uploads_open_per_user": 4,
    "uploads_org_bytes_per_day": PER_DAY,
    "uploads_creates_burst": 80,
    "uploads_creates_per_minute": 0.1,
    "max_handles": 3,
}


@pytest.fixture(scope="module")
async def house(postgres_server: PostgresServer, migrated_template: HubDatabase) -> AsyncIterator[Depot]:
    """Two nodes, with small windows and small quotas."""
    with running_redis() as redis, temporary_folder() as folder:
        async with (
            empty_database(postgres_server, migrated_template.name) as database,
            depot(redis.url, database, folder, nodes=2, **SETTINGS) as house,
        ):
            yield house


@pytest.fixture
def user() -> str:
    """Nobody else's limits are touched."""
    return f"u-{secrets.token_hex(4)}"


@contextlib.asynccontextmanager
async def by_tus(house: Depot, user: str, **more: Any) -> AsyncIterator[TusClient]:
    """The same person by tus."""
    async with house.http(user, **more) as http:
        yield TusClient(http)


def stored(house: Depot, upload: str) -> list[str]:
    """What the store has of an upload."""
    return [name for name in house.stored() if f"/{upload}/" in name]


async def trouble(person: Person, handle: int) -> Error:
    """The next error about a handle."""
    while (error := await person.client.await_kind(Error)).details is None or error.details["handle"] != handle:
        pass
    return error


# --- what is asked for

NAMES = ["", "../a.csv", "a/b.csv", "a\\b.csv", "C:a.csv", "..", "a\x00.csv", "a\n.csv", "a\u202evsc.csv"]
NAMES += ["\u2066a.csv", " a.csv", "a.csv.", "con.csv", "ü" * 126 + ".csv"]
CREATES: list[tuple[dict[str, Any], str]] = [
    *(({"filename": name}, "bad_request") for name in NAMES),
    ({"size": 0}, "empty_content"),
    ({"size": -1}, "bad_request"),
    ({"size": 26 * 2**20, "document_type": "passport", "filename": "a.pdf"}, "too_large"),
    ({"size": 2**50}, "too_large"),
    ({"size": PER_DAY + 1}, "quota_exceeded"),
    ({"document_type": "secret"}, "bad_request"),
    ({"sha256": "abc"}, "bad_request"),
]


async def test_creates_that_are_refused(house: Depot, user: str) -> None:
    """With the same code on both ways; nothing begins."""
    person = await house.person(user)
    async with by_tus(house, user) as tus:
        for changes, code in CREATES:
            asked = {"filename": "a.csv", "size": 10, "document_type": "csv", **changes}
            await person.refused("create", code, **asked)
            size = asked.pop("size")
            answer = await tus.post(size, asked)
            assert answer.json()["code"] == code, (changes, answer.text)
            assert 400 <= answer.status_code < 500
    for changes in ({"size": "10"}, {"metadata": {"a": [1]}}, {"metadata": {"a b": 1}}, {"key": ""}, {"shares": "x"}):
        await person.refused("create", "bad_request", **{"filename": "a.csv", "size": 10, **changes})
    assert (await person.call("list"))["uploads"] == []


async def test_more_than_one_may_have(house: Depot, user: str) -> None:
    """Handles of a connection, uploads of a user, creates in a minute, over all ways and nodes."""
    person = await house.person(user)
    opened = [await person.create(FEW) for _ in range(3)]
    other = await house.person(user, node=1)
    fourth = await other.create(FEW)
    refused = await person.refused("resume", "quota_exceeded", upload=fourth["upload"])
    assert refused.details == {"limit": SETTINGS["max_handles"]}
    await person.refused("create", "quota_exceeded", filename="a.csv", size=1)
    assert len((await person.call("list"))["uploads"]) == 4, "nothing was begun, and nobody can know its name"
    await other.chunk(fourth["handle"], 0, FEW[:10])
    await other.acknowledged(fourth, 10)  # nor taken away from who had it
    refused = await other.refused("create", "quota_exceeded", filename="a.csv", size=1)
    assert refused.details == {"limit": SETTINGS["uploads_open_per_user"]}
    async with by_tus(house, user) as tus:
        answer = await tus.post(1)
        assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded"), answer.text
    codes = [
        (await other.client.request({"type": "call", "method": "upload.create", "params": {}})).code for _ in range(90)
    ]
    assert set(codes) == {"bad_request"}, "who asks for nonsense has not spent what he may begin"
    for _ in range(90):
        params = {"filename": "a.csv", "size": 1}
        codes.append((await other.client.request({"type": "call", "method": "upload.create", "params": params})).code)
    assert codes[-1] == "rate_limited"
    # Whoever was refused has lost nothing: what was begun goes on.
    await person.send(opened[0], FEW)
    await person.ended(opened[0]["upload"])


# --- chunks


@pytest.mark.parametrize("encoding", Encoding)
async def test_chunks_that_are_refused(house: Depot, user: str, encoding: Encoding) -> None:
    """Each is told once with the right offset, nothing of it is kept, and the upload goes on."""
    person = await house.person(user, encoding=encoding)
    opened = await person.create(FEW, sha256=sha256(FEW))
    handle = opened["handle"]
    wrong = [(100, b"!", "offset_mismatch"), (2**63, b"!", "offset_mismatch"), (0, b"!" * 3001, "too_large")]
    for offset, data, code in wrong:
        for _ in range(3):
            await person.chunk(handle, offset, data)
        error = await trouble(person, handle)
        assert (error.code, error.details) == (code, {"handle": handle, "offset": 0})
        # A right one ends that it goes astray; it may be sent again as often as one likes.
        again = await person.call("resume", upload=opened["upload"])
        assert again["offset"] == 0
        assert (await trouble(person, handle)).code == "conflict"
        handle = again["handle"]
    await person.chunk(handle, 0, FEW[:1000])
    await person.chunk(handle, 0, FEW[:1000])  # twice
    error = await trouble(person, handle)
    assert (error.code, error.details) == ("offset_mismatch", {"handle": handle, "offset": 1000})
    await person.chunk(handle, 1000, FEW[1000:] + b"!")
    assert not [frame for frame in person.client.came[-1:] if isinstance(frame, Error) and frame.code == "too_large"]
    await person.chunk(handle, 1000, FEW[1000:])
    assert (await person.ended(opened["upload"]))["sha256"] == sha256(FEW)
    assert house.content(opened["upload"]) == FEW


@pytest.mark.parametrize("encoding", Encoding)
async def test_a_handle_of_another_connection(house: Depot, user: str, encoding: Encoding) -> None:
    person, other = [await house.person(user, encoding=encoding) for _ in range(2)]
    opened = await person.create(FEW)
    await other.chunk(opened["handle"], 0, b"!" * len(FEW))
    error = await trouble(other, opened["handle"])
    assert (error.code, error.details) == ("not_found", {"handle": opened["handle"]})
    mine = await other.create(FEW)
    assert mine["handle"] == opened["handle"], "the same number of another connection; else this proves little"
    await other.chunk(mine["handle"], 0, FEW[:10])
    await other.acknowledged(mine, 10)
    assert (await person.call("status", upload=opened["upload"]))["offset"] == 0


async def test_a_client_that_ignores_its_credit(house: Depot, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told once, then it has no handle, then no connection; nothing beyond its credit is held or kept."""
    monkeypatch.setattr(handles, "CLOSED_S", 0.1)  # what comes after that was not under way
    person = await house.person(user)
    opened = await person.create(MANY * 5)

    async def flood() -> None:
        with contextlib.suppress(ConnectionClosed):
            for number in itertools.count():
                offset = number * CHUNK
                await person.client.socket.send(opened["handle"].to_bytes(4) + offset.to_bytes(8) + bytes(CHUNK))
                if not number % 100:
                    await asyncio.sleep(0)

    flooding = asyncio.create_task(flood())
    assert await person.client.close_code(20) == 4400
    await flooding
    errors = [frame for frame in person.client.came if isinstance(frame, Error)]
    assert [error.code for error in errors[:2]] == ["rate_limited", "rate_limited"]
    assert {error.code for error in errors[2:]} == {"not_found"}
    allowed = [opened["offset"] + opened["window"]]
    allowed += [frame.offset + frame.window for frame in person.client.came if isinstance(frame, Credit)]
    back = await (await house.person(user)).call("resume", upload=opened["upload"])
    assert back["offset"] <= max(allowed)
    assert back["offset"] == (errors[0].details or {})["offset"], "what came when it had been told was taken"


async def test_the_newest_of_many_writers_wins(house: Depot, user: str) -> None:
    """On the same node, on another, by tus and back; whoever was there before is told, and writes nothing any more."""
    person, second = await house.person(user), await house.person(user, node=1)
    opened = await person.create(FEW, sha256=sha256(FEW))
    await person.chunk(opened["handle"], 0, FEW[:100])
    resumed = await second.call("resume", upload=opened["upload"])
    assert resumed["offset"] == 100, "what the older one had taken before counts"
    error = await trouble(person, opened["handle"])
    assert (error.code, (error.details or {})["offset"]) == ("conflict", 100)
    await person.chunk(opened["handle"], 100, b"!" * 100)  # it had not heard yet
    async with by_tus(house, user) as tus:
        answer = await tus.patch(f"/v1/uploads/{opened['upload']}", 100, FEW[100:200])
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, "200")
    assert (await trouble(second, resumed["handle"])).code == "conflict"
    await second.chunk(resumed["handle"], 100, b"!" * 100)
    last = await person.call("resume", upload=opened["upload"])
    assert last["offset"] == 200
    assert last["handle"] != opened["handle"]
    await person.send(last, FEW)
    await person.ended(opened["upload"])
    assert house.content(opened["upload"]) == FEW


async def test_a_writer_that_nobody_could_tell_writes_nothing(
    house: Depot, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node hears nothing of the others, and goes on taking bytes: none of them counts."""

    async def lost(*_: Any) -> None:
        """On its way."""

    monkeypatch.setattr(Broadcasts, "send", lost)
    person, second = await house.person(user), await house.person(user, node=1)
    opened = await person.create(FEW, sha256=sha256(FEW))
    await person.chunk(opened["handle"], 0, FEW[:100])
    await person.acknowledged(opened, 100)
    resumed = await second.call("resume", upload=opened["upload"])
    await person.chunk(opened["handle"], 100, b"!" * 100)
    error = await trouble(person, opened["handle"])
    assert (error.code, (error.details or {})["offset"]) == ("conflict", 100)
    assert (await second.call("status", upload=opened["upload"]))["offset"] == resumed["offset"] == 100
    await second.send(resumed, FEW)
    await second.ended(opened["upload"])
    assert house.content(opened["upload"]) == FEW


# --- what the bytes are

PICTURE = samples.image("PNG")
FILES: Sequence[tuple[bytes, str, str, str]] = [
    (PICTURE, "a.jpg", "image", "unsupported_media"),
    (b"MZ" + bytes(4000), "a.pdf", "passport", "unsupported_media"),
    (b"<!doctype html><script>alert(1)</script>", "a.csv", "csv", "unsupported_media"),
    (PICTURE + samples.archive({"a.txt": b"a"}), "a.png", "image", "unsupported_media"),
    (b"%PDF-1.7\n" + samples.archive({"a.txt": b"a"}), "a.pdf", "document", "unsupported_media"),
]


async def test_files_that_are_not_what_they_say(house: Depot, user: str) -> None:
    """By both ways, node after node: rejected, never served, and nothing is kept."""
    person = await house.person(user)
    async with by_tus(house, user) as tus:
        for turn, (data, filename, document_type, code) in enumerate(FILES):
            if turn % 2:
                opened = await person.create(data, filename, document_type)
                await person.send(opened, data)
                upload = opened["upload"]
            else:
                url = await tus.create(len(data), {"filename": filename, "document_type": document_type})
                assert (await tus.patch(url, 0, data)).status_code == 204
                upload = url.rpartition("/")[2]
            shape = await person.ended(upload, "rejected")
            assert shape["error"]["code"] == code, (filename, shape["error"])
            await until(lambda upload=upload: not stored(house, upload), what="its bytes to be removed")
            refused = await tus.http.get(f"/v1/uploads/{upload}/content")
            assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
            await person.refused("link", "conflict", upload=upload)


# --- a full store


async def test_a_full_store_keeps_what_was_acknowledged(
    house: Depot, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways say that it is later one has to come; and when there is room again, nothing is missing."""
    full = False
    write = FolderStretch.write

    async def measured(stretch: FolderStretch, pieces: Sequence[Piece], digest: Digest | None) -> Part:
        if full:
            raise StoreFull
        return await write(stretch, pieces, digest)

    monkeypatch.setattr(FolderStretch, "write", measured)
    person = await house.person(user)
    opened = await person.create(FEW, sha256=sha256(FEW))
    await person.chunk(opened["handle"], 0, FEW[:1000])
    await person.acknowledged(opened, 1000)
    full = True
    await person.chunk(opened["handle"], 1000, FEW[1000:2000])
    error = await trouble(person, opened["handle"])
    assert (error.code, error.retry) == ("unavailable", "later")
    assert error.details == {"handle": opened["handle"], "offset": 1000}
    async with by_tus(house, user) as tus:
        url = f"/v1/uploads/{opened['upload']}"
        answer = await tus.patch(url, 1000, FEW[1000:2000])
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert await tus.offset(url) == 1000
        full = False
        assert (await tus.patch(url, 1000, FEW[1000:])).status_code == 204
    await person.ended(opened["upload"])
    assert house.content(opened["upload"]) == FEW


# --- who may

ONE = ("resume", "pause", "cancel", "status", "link")
REQUESTS = [("HEAD", ""), ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/content"), ("POST", "/links")]


async def test_everybody_else_is_told_that_there_is_none(house: Depot, user: str) -> None:
    """Another user, the same one of another organisation, and one whose token lacks the word for it."""
    owner = await house.person(user)
    done, opened = await owner.create(FEW), await owner.create(FEW)
    await owner.send(done, FEW)
    await owner.ended(done["upload"])
    for more in ({"org": "acme"}, {"org": "globex"}):
        name = user if more["org"] == "globex" else f"not-{user}"
        stranger = await house.person(name, **more)
        async with by_tus(house, name, **more) as tus:
            for upload in (done["upload"], opened["upload"]):
                for method in ONE:
                    await stranger.refused(method, "not_found", upload=upload)
                await stranger.refused("share", "not_found", upload=upload, topics=[])
                for method, path in REQUESTS:
                    head = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
                    answer = await tus.http.request(
                        method,
                        f"/v1/uploads/{upload}{path}",
                        headers={"Tus-Resumable": "1.0.0", **(head if method == "PATCH" else {})},
                        content=b"!" if method == "PATCH" else None,
                    )
                    assert answer.status_code == 404, (method, path, answer.text)
                assert not (await stranger.client.subscribe(f"upload:{upload}"))[0].ok
    powerless = await house.person(user, scope="subscribe:* call:chat.*")
    for method in (*ONE, "share", "list", "create"):
        await powerless.refused(method, "forbidden", upload=done["upload"])
    assert (await owner.call("status", upload=opened["upload"]))["offset"] == 0
