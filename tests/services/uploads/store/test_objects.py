"""What goes wrong between a node and its bucket. The bucket is real S3 protocol, behind a proxy that hurts."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from hub.errors import ErrorCode, HubError
from hub.orgs import OrgId
from services.uploads.store import ObjectStore, Part, Store, StoreFull, open_store
from tests.services.uploads.store.conftest import settings_with
from tests.services.uploads.store.shelf import Seen, Shelf, some_bytes
from tests.support.cut_proxy import CutProxy
from tests.support.s3_server import BUCKET, S3Server
from tests.support.waiting import until

ACME = OrgId.from_operator("acme")
MIB = 1_048_576
VERBS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")


@pytest.fixture
async def proxy(s3_server: S3Server) -> AsyncIterator[CutProxy]:
    address = urlsplit(s3_server.address)
    async with CutProxy((str(address.hostname), int(address.port or 0))) as proxy:
        yield proxy


@pytest.fixture
async def shelf(s3_store: Store) -> AsyncIterator[Shelf]:
    """Straight to the bucket."""
    await s3_store.start()
    yield Shelf(s3_store, ACME)
    await s3_store.close()


def through(proxy: CutProxy, shelf: Shelf, timeout_s: float) -> Shelf:
    """The same objects, asked for through the proxy."""
    assert isinstance(shelf.store, ObjectStore)
    options = S3Server(proxy.port).options
    settings = settings_with(f"s3://{BUCKET}/{shelf.store.prefix}", *options, timeout_s=timeout_s)
    return Shelf(open_store(settings), ACME)


async def large_parts(shelf: Shelf) -> tuple[list[Part], bytes]:
    """More than is sent at once."""
    data = some_bytes(9 * MIB)
    first = await shelf.put("u1", "w1", data[: 5 * MIB], block=5 * MIB)
    return first + await shelf.put("u1", "w2", data[5 * MIB :], block=4 * MIB), data


async def test_a_large_content_is_sent_in_parts(shelf: Shelf, s3_server: S3Server) -> None:
    parts, data = await large_parts(shelf)
    digest, again = hashlib.sha256(), hashlib.sha256()
    await shelf.join("u1", parts, digest)
    await shelf.store.clear(ACME, "u1")
    await shelf.store.digest(ACME, "u1", again)
    assert digest.digest() == again.digest() == hashlib.sha256(data).digest()
    assert s3_server.unfinished() == 0


async def test_a_join_that_fails_takes_back_what_it_has_sent(shelf: Shelf, s3_server: S3Server) -> None:
    parts, _ = await large_parts(shelf)
    with pytest.raises(HubError):
        await shelf.join("u1", [*parts, *parts, Part("acme/u1/parts/gone", 5)])
    assert s3_server.unfinished() == 0
    with pytest.raises(HubError) as missing:
        await shelf.whole("u1")
    assert missing.value.code is ErrorCode.NOT_FOUND


async def test_a_join_that_is_given_up_takes_back_what_it_has_sent(shelf: Shelf, s3_server: S3Server) -> None:
    parts, _ = await large_parts(shelf)
    seen = Seen()
    joining = asyncio.create_task(shelf.join("u1", parts * 8, seen))
    await until(s3_server.unfinished)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    assert len(seen.data) < 72 * MIB
    assert s3_server.unfinished() == 0


@pytest.mark.parametrize("large", [True, False])
async def test_a_node_that_dies_at_any_request_of_a_join(shelf: Shelf, proxy: CutProxy, large: bool) -> None:
    """The next one does it again, and it is right."""
    parts, data = await large_parts(shelf) if large else ([], b"small")
    for requests in range(30):
        upload = f"u-{requests}"
        if not large:
            parts = await shelf.put(upload, "w1", data)
        died = await dies_after(requests, through(proxy, shelf, timeout_s=0.5), upload, parts, proxy)
        await shelf.join(upload, parts)
        assert await shelf.whole(upload) == data
        if not died:
            break
    assert 3 <= requests < 29


async def dies_after(requests: int, shelf: Shelf, upload: str, parts: list[Part], proxy: CutProxy) -> bool:
    """Whether the join needed more requests than that."""
    seen = 0

    def drops(direction: str, data: bytes) -> bool:
        nonlocal seen
        seen += direction == "to_target" and data.startswith(VERBS)
        return seen > requests

    proxy.drops = drops
    outcome = await asyncio.gather(shelf.join(upload, parts), return_exceptions=True)
    proxy.drops = lambda _direction, _data: False
    await shelf.store.close()
    return outcome != [None]


async def test_a_bucket_that_cannot_be_reached(shelf: Shelf, proxy: CutProxy) -> None:
    far = through(proxy, shelf, timeout_s=30)  # whoever is refused learns it at once
    await far.store.start()
    parts = await far.put("u1", "w1", b"before")
    proxy.refuse()
    proxy.cut()
    await fails_everywhere(far, parts)
    await proxy.allow()
    await far.join("u1", parts)
    assert await far.whole("u1") == b"before"
    await far.store.close()


async def test_a_bucket_that_says_nothing_any_more(shelf: Shelf, proxy: CutProxy) -> None:
    far = through(proxy, shelf, timeout_s=0.2)

    async def works(upload: str) -> bool:
        """Sooner or later: its time is short."""
        try:
            await far.join(upload, await far.put(upload, "w1", b"before"))
            return await far.whole(upload) == b"before"
        except HubError:
            return False

    await until(lambda: works("u1"), 30.0)
    proxy.stall()
    await fails_everywhere(far, [Part("acme/u1/parts/w1-0", 6)])
    proxy.resume()
    await until(lambda: works("u2"), 30.0)
    await far.store.close()


async def fails_everywhere(shelf: Shelf, parts: list[Part]) -> None:
    stretch = shelf.store.stretch(ACME, "u1", "w2")
    calls = [
        stretch.write([b"lost"], None),
        shelf.join("u1", parts),
        shelf.whole("u1"),
        shelf.content("u1", 0, 1),
        asyncio.to_thread(shelf.store.reader, ACME, "u1"),
        shelf.store.clear(ACME, "u1"),
        shelf.store.remove(ACME, "u1"),
        shelf.uploads(),
        shelf.store.probe(),
    ]
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, HubError), outcome
        assert outcome.code is ErrorCode.UNAVAILABLE
        assert outcome.__cause__ is not None
    with pytest.raises(RuntimeError):
        await stretch.write([b"more"], None)


async def test_a_write_that_is_given_up_counts_for_nothing(shelf: Shelf, proxy: CutProxy) -> None:
    far = through(proxy, shelf, timeout_s=30)
    stretch, seen = far.store.stretch(ACME, "u1", "w1"), Seen()
    part = await stretch.write([b"safe"], seen)
    proxy.stall()
    writing = asyncio.create_task(stretch.write([b"late"], seen))
    await until(lambda: proxy.connections)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    proxy.resume()
    await stretch.close()
    assert seen.data == b"safe"
    await far.join("u1", [part])
    assert await far.whole("u1") == b"safe"
    await far.store.close()


async def answering(status: str, body: str) -> asyncio.Server:
    """A bucket that has one answer to everything."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("status", "code", "full"),
    [
        ("507 Insufficient Storage", "XMinioStorageFull", True),
        ("403 Forbidden", "QuotaExceeded", True),
        ("403 Forbidden", "AccessDenied", False),
        ("404 Not Found", "NoSuchBucket", False),
    ],
)
async def test_what_a_bucket_refuses(status: str, code: str, full: bool) -> None:
    server = await answering(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>")
    options = S3Server(server.sockets[0].getsockname()[1]).options
    shelf = Shelf(open_store(settings_with("s3://b", *options, timeout_s=30)), ACME)
    with pytest.raises(HubError) as failure:
        await shelf.put("u1", "w1", b"much")
    assert isinstance(failure.value, StoreFull) is full
    assert failure.value.code is ErrorCode.UNAVAILABLE
    await shelf.store.close()
    server.close()
    await server.wait_closed()


async def test_more_parts_than_a_page_has(memory_store: Store) -> None:
    shelf = Shelf(memory_store, ACME)
    parts = await shelf.put("u1", "w1", bytes(1100), block=1)
    await shelf.join("u1", parts)
    await shelf.store.clear(ACME, "u1")
    assert await shelf.whole("u1") == bytes(1100)
    await shelf.store.remove(ACME, "u1")
    assert await shelf.uploads() == []
    await memory_store.close()


async def test_the_reader_of_a_bucket_behaves_like_a_file(shelf: Shelf) -> None:
    data = some_bytes(2 * MIB + 7)
    await shelf.join("u1", await shelf.put("u1", "w1", data, block=3 * MIB))

    def compare() -> None:
        with shelf.store.reader(ACME, "u1") as file, io.BytesIO(data) as model:
            for look in (
                lambda f: f.read(0),
                lambda f: f.read(100),
                lambda f: f.seek(-5, 1),
                lambda f: f.read(MIB + 1),
                lambda f: f.seek(10, 2),
                lambda f: f.read(1),
                lambda f: f.seek(MIB - 1),
                lambda f: f.readline(),
                lambda f: f.tell(),
                lambda f: f.read(),
            ):
                assert look(file) == look(model)
            with pytest.raises(ValueError, match="negative"):
                file.seek(-1)

    await asyncio.to_thread(compare)
