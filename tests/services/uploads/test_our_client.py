"""``client.upload`` against real nodes, also over a line that is cut: the file is there, byte for byte."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hub.client import ClientOptions, HubClient, RequestRefused, UploadFailed, UploadState
from hub.flags import FixedFlags
from tests.services.uploads.depot import Depot, depot, sha256, some_text
from tests.support.cut_proxy import CutProxy
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

FILE = some_text(6_000_000)
QUICK = ClientOptions(
    backoff_base_s=0.02, backoff_max_s=0.1, backoff_floor_s=0.005, now_jitter_s=0.01, use_system_proxy=False
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "guests.csv"
    path.write_bytes(FILE)
    return path


@asynccontextmanager
async def connected(house: Depot, line: CutProxy | None = None, **more: Any) -> AsyncIterator[HubClient]:
    node = house.nodes[0]
    url = node.url if line is None else f"ws://127.0.0.1:{line.port}/ws"
    async with HubClient(url, lambda: node.token("acme", "ada"), options=QUICK, **more) as client:
        yield client


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_over_a_line_that_is_cut_and_leads_elsewhere(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, file: Path, encoding: Any
) -> None:
    dice = random.Random(encoding)
    async with depot(redis_url, hub_database, tmp_path / "store", nodes=2) as house, CutProxy(("", 0)) as line:
        line.target = ("127.0.0.1", house.nodes[0].port)
        left, came, cut_at = 8, 0, dice.randrange(700_000)

        def drops(direction: str, data: bytes) -> bool:
            nonlocal left, came, cut_at
            came += len(data) if direction == "to_target" else 0
            if not left or came < cut_at:
                return False
            left, cut_at = left - 1, came + dice.randrange(1_400_000)
            line.target = ("127.0.0.1", house.nodes[left % 2].port)
            return True

        line.drops = drops
        async with connected(house, line, encoding=encoding) as client, asyncio.timeout(60):
            first = client.upload(file, document_type="csv", metadata={"guest_id": 7}, sha256=True)
            second = client.upload(FILE[::-1], document_type="document", filename="backwards.txt")
            info, other = await asyncio.gather(first, second)
        assert left == 0
        assert (info.sha256, info.size) == (sha256(FILE), len(FILE))
        assert house.content(first.id) == FILE
        assert hashlib.sha256(house.content(second.id)).hexdigest() == other.sha256 == sha256(FILE[::-1])


async def test_paused_here_and_finished_there(house: Depot, file: Path) -> None:
    async with connected(house) as one, connected(house) as two:
        upload = one.upload(file, document_type="csv")
        async for progress in upload:
            if progress.offset > 0 or progress.state is UploadState.CHECKING:
                break
        await upload.pause()
        status = await two.call("upload.status", {"upload": upload.id})
        if status["state"] == "receiving":  # else it was too quick for us
            assert status["paused"] is True
        info = await asyncio.wait_for(two.resume_upload(upload.id, file), 60)
        assert (info.sha256, info.owner) == (sha256(FILE), "ada")
        assert house.content(upload.id) == FILE
        with pytest.raises(UploadFailed) as caught:
            await two.upload(b"%PDF-1.7 no table", filename="a.csv", document_type="csv")
        assert caught.value.upload
        with pytest.raises(UploadFailed) as caught:
            await two.upload(FILE, filename="a.csv", document_type="no_such_type")
        assert caught.value.code == "bad_request"


async def test_the_same_key_is_the_same_upload(house: Depot, file: Path) -> None:
    async with connected(house) as client:
        first = client.upload(file, document_type="csv", key="passport-7")
        await until(lambda: first.id, what="an id")
        await first.stop()
        again = client.upload(file, document_type="csv", key="passport-7")
        await asyncio.wait_for(again.done(), 60)
        assert again.id == first.id
        assert house.content(first.id) == FILE
        afterwards = await asyncio.wait_for(client.upload(file, document_type="csv", key="passport-7").done(), 60)
        assert afterwards.upload == first.id
        with pytest.raises(UploadFailed) as caught:
            await client.upload(file, filename="other.csv", document_type="csv", key="passport-7")
        assert (caught.value.code, caught.value.upload) == ("conflict", ""), "another file is not that one"


async def test_where_there_is_no_socket_it_goes_by_requests(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, file: Path
) -> None:
    """Over a line that is cut, too; the same file with the same sum is there."""
    options = msgspec.structs.replace(QUICK, transports=("poll",), tus_chunk_bytes=500_000)
    async with depot(redis_url, hub_database, tmp_path / "store") as house, CutProxy(("", 0)) as line:
        node = house.nodes[0]
        line.target, left = ("127.0.0.1", node.port), 4

        def drops(direction: str, data: bytes) -> bool:
            nonlocal left
            cut = direction == "to_target" and left > 0 and dice.random() < 0.05
            left -= cut
            return cut

        dice = random.Random(4)
        url = f"ws://127.0.0.1:{line.port}/ws"
        async with HubClient(url, lambda: node.token("acme", "ada"), options=options) as client, asyncio.timeout(60):
            line.drops = drops
            about: dict[str, Any] = {"document_type": "csv", "metadata": {"guest_id": 7}, "key": "passport-7"}
            upload = client.upload(file, **about, sha256=True)
            info = await upload
            assert (info.sha256, info.size, info.metadata) == (sha256(FILE), len(FILE), {"guest_id": 7})
            assert (await client.upload(file, **about)).upload == upload.id, "the same key is the same upload"
            assert house.content(upload.id) == FILE
            assert left < 4
            with pytest.raises(UploadFailed) as caught:
                await client.resume_upload("01ARZ3NDEKTSV4RRFFQ69G5FAV", file)
            assert caught.value.code == "not_found"


async def test_what_was_begun_over_a_socket_goes_on_without_one(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, file: Path
) -> None:
    """The flag of the socket goes off in the middle: nothing is sent twice that was acknowledged."""
    flags = FixedFlags({"realtime_v2": True})
    more: dict[str, Any] = {"flags": flags, "flags_drain_window_s": 0.0}
    async with (
        depot(redis_url, hub_database, tmp_path / "store", **more) as house,
        connected(house) as client,
        asyncio.timeout(60),
    ):
        upload = client.upload(file, document_type="csv", metadata={"guest_id": 7})
        await until(lambda: upload.progress.offset > 0, 30, "the first bytes")
        house.nodes[0].flip(realtime_v2=False)
        info = await upload
        await until(lambda: client.transport == "sse", 30, "the move")
        assert (info.sha256, info.metadata) == (sha256(FILE), {"guest_id": 7})


async def test_begun_by_request_it_needs_what_creating_needs(house: Depot) -> None:
    node, params = house.nodes[0], {"filename": "a.csv", "size": 4, "document_type": "csv"}

    async def begin(scope: str) -> Any:
        options = msgspec.structs.replace(QUICK, transports=("sse",))
        client = HubClient(node.url, lambda: node.token("acme", "ada", scope=scope), options=options)
        async with client, asyncio.timeout(60):
            return await client.call("upload.begin", params)

    with pytest.raises(RequestRefused, match=r"call:upload\.create"):
        await begin("call:upload.begin")
    begun = await begin("call:upload.*")
    assert (begun["state"], begun["offset"], begun["size"]) == ("receiving", 0, 4)
