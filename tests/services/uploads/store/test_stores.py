"""What every store promises, asked of each."""

from __future__ import annotations

import asyncio
import hashlib
import itertools

import pytest

from hub.errors import ErrorCode, HubError
from hub.orgs import OrgId
from services.uploads.store import BytesMissing, Part, Store
from services.uploads.store.words import READ_BYTES
from tests.services.uploads.store.shelf import Seen, Shelf, some_bytes


async def test_what_is_written_is_read(shelf: Shelf) -> None:
    data = some_bytes(1_000_003)
    await shelf.join("u1", await shelf.put("u1", "w1", data))
    assert await shelf.whole("u1") == data


async def test_pieces_of_all_sizes_stay_in_order_and_are_seen_once(shelf: Shelf) -> None:
    data = some_bytes(60_000)
    cuts = [0, 1, 1, 2, 4000, *range(4001, 4001 + 3000), 50_000, 60_000]
    pieces = [memoryview(data)[start:end] for start, end in itertools.pairwise(cuts)]
    stretch, seen = shelf.store.stretch(shelf.org, "u1", "w1"), Seen()
    first = await stretch.write(pieces[:10], seen)
    second = await stretch.write(pieces[10:], seen)
    await stretch.close()
    assert seen.data == data
    parts = [second] if shelf.store.parts_grow else [first, second]
    assert sum(part.size for part in parts) == len(data)
    await shelf.join("u1", parts)
    assert await shelf.whole("u1") == data


async def test_a_stretch_is_one_part_that_grows_or_many(shelf: Shelf) -> None:
    parts = await shelf.put("u1", "w1", some_bytes(30), block=10)
    assert [part.size for part in parts] == ([30] if shelf.store.parts_grow else [10, 10, 10])


async def test_what_was_written_may_change_afterwards(shelf: Shelf) -> None:
    buffer = bytearray(some_bytes(1000))
    before = bytes(buffer)
    stretch = shelf.store.stretch(shelf.org, "u1", "w1")
    part = await stretch.write([memoryview(buffer)], None)
    buffer[:] = bytes(1000)
    await stretch.close()
    await shelf.join("u1", [part])
    assert await shelf.whole("u1") == before


async def test_parts_of_several_writers_and_uploads_are_joined_in_order(shelf: Shelf) -> None:
    data = some_bytes(300_000)
    cuts = [0, 7, 100_000, 100_001, 220_000, 300_000]
    parts = []
    for number, (start, end) in enumerate(itertools.pairwise(cuts)):
        upload = "u1" if number % 2 else f"partial-{number}"
        parts += await shelf.put(upload, f"w{number}", data[start:end])
    digest = hashlib.sha256()
    await shelf.join("u1", parts, digest)
    assert await shelf.whole("u1") == data
    assert digest.digest() == hashlib.sha256(data).digest()


async def test_a_single_part_of_another_upload_stays_there(shelf: Shelf) -> None:
    parts = await shelf.put("partial", "w1", b"once")
    for upload in ("u1", "u2"):
        await shelf.join(upload, parts)
        assert await shelf.whole(upload) == b"once"


async def test_the_digest_of_a_join_sees_a_single_part(shelf: Shelf) -> None:
    seen = Seen()
    await shelf.join("u1", await shelf.put("u1", "w1", b"once"), seen)
    assert seen.data == b"once"


@pytest.mark.parametrize("digest", [None, Seen()], ids=["unseen", "seen"])
async def test_bytes_that_were_never_acknowledged_do_not_count(shelf: Shelf, digest: Seen | None) -> None:
    [single] = await shelf.put("u1", "w1", b"twelve bytes")
    await shelf.join("u1", [Part(single.object, 6)], digest)
    assert await shelf.whole("u1") == b"twelve"
    others = [*await shelf.put("u2", "w1", b"abcdef"), *await shelf.put("u2", "w2", b"ghijkl")]
    await shelf.join("u2", [Part(part.object, 3) for part in others])
    assert await shelf.whole("u2") == b"abcghi"


async def test_a_join_can_be_repeated_with_and_without_the_parts(shelf: Shelf) -> None:
    single = await shelf.put("u1", "w1", b"one")
    several = [*await shelf.put("u2", "w1", b"one "), *await shelf.put("u2", "w2", b"and two")]
    for _ in range(2):
        await shelf.join("u1", single)
        await shelf.join("u2", several)
    for upload in ("u1", "u2"):
        await shelf.store.clear(shelf.org, upload)
    seen = Seen()
    await shelf.join("u1", single, seen)
    await shelf.join("u2", several, seen)
    assert seen.data == b"oneone and two"


async def test_a_part_that_is_shorter_than_recorded_is_no_content(shelf: Shelf) -> None:
    parts = [*await shelf.put("u1", "w1", b"some"), *await shelf.put("u1", "w2", b"more")]
    longer = [parts[0], Part(parts[1].object, 5)]
    for digest in (None, Seen()):
        with pytest.raises(HubError) as failure:
            await shelf.join("u1", longer, digest)
        assert isinstance(failure.value, BytesMissing)
        with pytest.raises(HubError) as missing:
            await shelf.whole("u1")
        assert missing.value.code is ErrorCode.NOT_FOUND
    await shelf.join("u1", parts)  # nothing is in the way of the right one
    assert await shelf.whole("u1") == b"somemore"


async def test_a_part_that_is_gone_is_no_content(shelf: Shelf) -> None:
    parts = [*await shelf.put("u1", "w1", b"some"), *await shelf.put("u2", "w1", b"more")]
    await shelf.store.remove(shelf.org, "u2")
    with pytest.raises(HubError) as failure:
        await shelf.join("u1", parts)
    assert failure.value.code is ErrorCode.UNAVAILABLE
    assert not isinstance(failure.value, BytesMissing), "it may be another disk that lies there"


async def test_ranges(shelf: Shelf) -> None:
    data = some_bytes(3 * READ_BYTES + 5)
    await shelf.join("u1", await shelf.put("u1", "w1", data))
    for start, end in [(0, 1), (5, 5), (READ_BYTES - 1, READ_BYTES + 1), (17, len(data)), (len(data) - 1, len(data))]:
        assert await shelf.content("u1", start, end) == data[start:end]
    sizes = [len(piece) async for piece in shelf.store.read(shelf.org, "u1", 0, len(data))]
    assert max(sizes) <= READ_BYTES


async def test_a_range_beyond_the_end_does_not_end_early(shelf: Shelf) -> None:
    await shelf.join("u1", await shelf.put("u1", "w1", b"short"))
    with pytest.raises(HubError) as failure:
        await shelf.content("u1", 0, 6)
    assert failure.value.code is ErrorCode.UNAVAILABLE


async def test_the_reader_reads_and_seeks(shelf: Shelf) -> None:
    data = some_bytes(500_000)
    await shelf.join("u1", await shelf.put("u1", "w1", data))

    def look() -> None:
        with shelf.store.reader(shelf.org, "u1") as file:
            assert file.seekable()
            assert file.read(10) == data[:10]
            assert file.seek(-10, 2) == 499_990
            assert file.read() == data[-10:]
            assert file.read(1) == b""
            file.seek(250_000)
            buffer = bytearray(1000)
            assert file.readinto(buffer) == 1000  # type: ignore[attr-defined]
            assert buffer == data[250_000:251_000]
            assert file.tell() == 251_000
            file.seek(0)
            assert file.read() == data

    await asyncio.to_thread(look)


async def test_what_is_not_there_is_not_found(shelf: Shelf) -> None:
    await shelf.put("u1", "w1", b"parts are no content")
    for look in (
        lambda: shelf.whole("u1"),
        lambda: shelf.content("u1", 0, 1),
        lambda: asyncio.to_thread(shelf.store.reader, shelf.org, "u1"),
    ):
        with pytest.raises(HubError) as failure:
            await look()
        assert failure.value.code is ErrorCode.NOT_FOUND


async def test_clear_removes_what_nobody_has_recorded_and_leaves_the_content(shelf: Shelf) -> None:
    recorded = await shelf.put("u1", "w1", b"recorded")
    unrecorded = await shelf.put("u1", "w2", b"lost with its node")
    await shelf.join("u1", recorded)
    for _ in range(2):
        await shelf.store.clear(shelf.org, "u1")
    assert await shelf.whole("u1") == b"recorded"
    with pytest.raises(HubError):
        await shelf.join("u2", unrecorded)


async def test_remove_leaves_nothing_and_nothing_else_goes(shelf: Shelf) -> None:
    other = Shelf(shelf.store, OrgId.from_operator("acme-2"))
    for one, upload in ((shelf, "u1"), (shelf, "u11"), (other, "u1")):
        await one.join(upload, await one.put(upload, "w1", b"kept"))
        await one.put(upload, "w2", b"not recorded")
    assert await shelf.uploads() == [("acme", "u1"), ("acme", "u11"), ("acme-2", "u1")]
    for _ in range(2):
        await shelf.store.remove(shelf.org, "u1")
    assert await shelf.uploads() == [("acme", "u11"), ("acme-2", "u1")]
    assert await shelf.whole("u11") == await other.whole("u1") == b"kept"


async def test_what_is_being_read_may_be_removed_but_is_never_cut(shelf: Shelf) -> None:
    data = some_bytes(5 * READ_BYTES)
    await shelf.join("u1", await shelf.put("u1", "w1", data))
    seen = b""
    try:
        async for piece in shelf.store.read(shelf.org, "u1", 0, len(data)):
            if not seen:
                await shelf.store.remove(shelf.org, "u1")
            seen += piece
    except HubError:
        assert len(seen) < len(data)
    else:
        assert seen == data


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../u2", "/etc", ".hidden", "a\0b", "ä", "a b", "x" * 129])
async def test_names_that_are_no_names(shelf: Shelf, name: str) -> None:
    store, org = shelf.store, shelf.org
    with pytest.raises(ValueError, match="no name"):
        store.stretch(org, name, "w1")
    with pytest.raises(ValueError, match="no name"):
        store.stretch(org, "u1", name)
    with pytest.raises(ValueError, match="no name"):
        store.reader(org, name)
    for call in (store.clear(org, name), store.remove(org, name), store.join(org, name, [], None)):
        with pytest.raises(ValueError, match="no name"):
            await call


@pytest.mark.parametrize("path", ["other/u1/parts/w1", "acme/u1/content", "acme/u1/parts/../content", "w1", "/etc/x/y"])
async def test_parts_of_others_and_of_nobody_are_refused(store: Store, path: str) -> None:
    with pytest.raises(ValueError, match="no "):
        await store.join(OrgId.from_operator("acme"), "u1", [Part(path, 1)], None)


async def test_a_plain_string_is_no_organisation(store: Store) -> None:
    with pytest.raises(TypeError):
        store.stretch("acme", "u1", "w1")  # type: ignore[arg-type]


async def test_a_stretch_that_was_closed_writes_nothing(shelf: Shelf) -> None:
    stretch = shelf.store.stretch(shelf.org, "u1", "w1")
    for _ in range(2):
        await stretch.close()
    with pytest.raises(RuntimeError):
        await stretch.write([b"late"], None)
    assert await shelf.uploads() == []


async def test_what_was_not_recorded_can_be_taken_back(shelf: Shelf) -> None:
    kept = await shelf.put("u1", "w1", b"kept")
    stretch = shelf.store.stretch(shelf.org, "u1", "w2")
    parts = [await stretch.write([piece], None) for piece in (b"one", b"two", b"three")]
    await stretch.close()
    await stretch.discard()
    await stretch.discard()
    empty = shelf.store.stretch(shelf.org, "u1", "w3")
    await empty.close()
    await empty.discard()
    for part in (parts[0], parts[-1]):
        with pytest.raises(HubError):
            await shelf.join("u2", [part])
    await shelf.join("u1", kept)
    assert await shelf.whole("u1") == b"kept"


async def test_a_probe_leaves_nothing(shelf: Shelf) -> None:
    for _ in range(2):
        await shelf.store.probe()
    assert await shelf.uploads() == []


async def test_many_writers_at_once(shelf: Shelf) -> None:
    contents = {f"u{number}": some_bytes(200_000, number) for number in range(12)}

    async def upload(name: str, data: bytes) -> None:
        await shelf.join(name, await shelf.put(name, "w1", data))

    await asyncio.gather(*(upload(name, data) for name, data in contents.items()))
    for name, data in contents.items():
        assert await shelf.whole(name) == data
