"""``client.upload`` over a scripted hub: byte for byte, whatever is lost, closed, refused or moved meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hub.client import (
    ClientOptions,
    ConnectionLost,
    HubClient,
    RequestTimeout,
    Upload,
    UploadFailed,
    UploadInfo,
    UploadProgress,
    UploadState,
)
from tests.client.scripted_hub import Peer, ScriptedHub, eventually
from tests.client.scripted_uploads import Data, Document, Refused, ScriptedUploads

BYTES = random.Random(6).randbytes(50_000)


@pytest.fixture
def uploads(hub: ScriptedHub) -> ScriptedUploads:
    return ScriptedUploads(hub)


@pytest.fixture
def options(options: ClientOptions) -> ClientOptions:
    return msgspec.structs.replace(options, upload_stall_s=0.3, upload_patience_s=20.0, upload_ask_s=0.3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "guests.csv"
    path.write_bytes(BYTES)
    return path


async def end_of(upload: Upload) -> UploadInfo:
    async with asyncio.timeout(30):
        return await upload


async def failure_of(upload: Upload) -> UploadFailed:
    with pytest.raises(UploadFailed) as caught:
        await end_of(upload)
    return caught.value


def append(file: Path) -> None:
    with file.open("ab") as log:
        log.write(b"more")


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_a_file_arrives(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path, encoding: Any
) -> None:
    seen: list[UploadProgress] = []
    patient = msgspec.structs.replace(options, upload_ask_s=1000)
    async with HubClient(hub.url, encoding=encoding, options=patient) as client:
        upload = client.upload(
            file, document_type="csv", metadata={"guest_id": 7}, sha256=True, shares=["chat:a"], on_progress=seen.append
        )
        info = await end_of(upload)
        assert (info.state, info.offset, info.media_type) == ("available", len(BYTES), "text/csv")
        assert upload.id == "up0"
    document = uploads.only
    assert document.content == BYTES
    assert document.params.pop("key")
    assert document.params == {
        "filename": "guests.csv",
        "size": len(BYTES),
        "document_type": "csv",
        "metadata": {"guest_id": 7},
        "sha256": hashlib.sha256(BYTES).hexdigest(),
        "shares": ["chat:a"],
    }
    states = list(dict.fromkeys(progress.state for progress in seen))
    assert states == ["hashing", "waiting", "sending", "checking", "available"]
    offsets = [progress.offset for progress in seen if progress.state == "sending"]
    assert offsets == sorted(offsets)
    assert len(offsets) > 5
    assert uploads.wrongs == []


async def test_bytes_and_open_files(hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions) -> None:
    memory = io.BytesIO(b"skip" + BYTES)
    memory.seek(4)
    async with HubClient(hub.url, options=options) as client:
        await asyncio.gather(
            end_of(client.upload(BYTES, filename="a")), end_of(client.upload(memory, filename="b", key="k"))
        )
        assert not memory.closed
    assert [document.content == BYTES for document in uploads.documents.values()] == [True, True]
    assert {document.params["filename"] for document in uploads.documents.values()} == {"a", "b"}


class Ordeal:
    """Hurts an upload at random places, in every way that is to be made good."""

    def __init__(self, uploads: ScriptedUploads, seed: int) -> None:
        self.rng = random.Random(seed)
        self.uploads = uploads
        self.left = 6
        self.next_at = self.rng.randrange(10_000)

    async def __call__(self, peer: Peer, document: Document, chunk: Data) -> bool:
        if not self.left or document.accepted + len(chunk["data"]) < self.next_at:
            return False
        self.left -= 1
        self.next_at += self.rng.randrange(12_000)
        return bool(await getattr(self, self.rng.choice(["cut", "lose", "idle", "wrong", "silence", "move", "full"]))(
            peer, document, chunk
        ))  # fmt: skip

    async def cut(self, peer: Peer, document: Document, chunk: Data) -> bool:
        """In the middle of a chunk; what was not acknowledged may be gone."""
        if self.rng.random() < 0.5:
            document.taken.clear()
        document.writer = None
        peer.drop()
        return True

    async def lose(self, *_: Any) -> bool:
        return True

    async def wrong(self, _: Peer, document: Document, __: Data) -> bool:
        document.taken.clear()
        return False

    async def idle(self, _: Peer, document: Document, __: Data) -> bool:
        await self.uploads.close(document, "timeout", "no byte has come")
        return True

    async def full(self, _: Peer, document: Document, __: Data) -> bool:
        document.taken.clear()
        await self.uploads.close(document, "unavailable", "the store is full")
        self.uploads.refuse["upload.resume"] = [Refused("unavailable", "full", "later", retry_after_ms=10)]
        return True

    async def silence(self, _: Peer, document: Document, __: Data) -> bool:
        """No credit comes for this handle any more."""
        if document.writer is not None:
            self.uploads._handles.pop(document.writer)
        document.writer = None
        return True

    async def move(self, peer: Peer, *_: Any) -> bool:
        await peer.send({"type": "drain", "after_ms": 1, "ticket": "t"})
        return False


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_it_arrives(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path, seed: int
) -> None:
    uploads.faults = ordeal = Ordeal(uploads, seed)
    async with HubClient(hub.url, options=options, encoding="json" if seed % 2 else "msgpack") as client:
        async with asyncio.timeout(30):
            await asyncio.gather(*(client.upload(file) for _ in range(2)))
    assert [document.content == BYTES for document in uploads.documents.values()] == [True, True]
    assert uploads.wrongs == []
    assert ordeal.left == 0


async def test_the_lost_answer_of_create(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path
) -> None:
    uploads.lose = ["upload.create", "upload.status"]
    async with HubClient(hub.url, options=options) as client:
        await end_of(client.upload(file))
    first, second = uploads.called("upload.create")
    assert first["key"] == second["key"]
    assert uploads.only.content == BYTES


async def test_the_same_key_goes_on_with_the_same_upload(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path
) -> None:
    uploads.tells = False
    async with HubClient(hub.url, options=msgspec.structs.replace(options, upload_ask_s=0.5)) as client:
        first = client.upload(file, key="k")
        await eventually(lambda: first.id)
        await first.stop()
        assert (await failure_of(client.upload(BYTES[1:], filename="f", key="k"))).code == "wrong_file"
        assert (await end_of(client.upload(file, key="k"))).upload == "up0"
    async with HubClient(hub.url, options=msgspec.structs.replace(options, upload_ask_s=1000)) as client:
        assert (await end_of(client.upload(file, key="k"))).upload == "up0"  # it is there already
    assert uploads.only.content == BYTES


async def test_it_goes_where_the_hub_says(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path
) -> None:
    async def lost(_: Peer, document: Document, __: Data) -> bool:
        lose = document.accepted > 9000
        if lose:
            uploads.faults = None
        return lose

    uploads.faults = lost
    async with HubClient(hub.url, options=msgspec.structs.replace(options, upload_stall_s=1000)) as client:
        await end_of(client.upload(file))
    assert uploads.only.content == BYTES
    assert not uploads.called("upload.resume")


async def test_a_planned_move(hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path) -> None:
    async def move(peer: Peer, document: Document, _: Data) -> bool:
        if peer is hub.peers[0] and document.accepted > 9000:
            uploads.ack_every = 1 << 30  # whoever stays gets no credit any more
            await peer.send({"type": "drain", "after_ms": 1, "ticket": "t"})
        elif peer is not hub.peers[0]:
            uploads.ack_every = 2048
        return False

    uploads.faults = move
    patient = msgspec.structs.replace(options, upload_stall_s=1000)
    async with HubClient(hub.url, options=patient) as client:
        await end_of(client.upload(file))
    assert uploads.only.content == BYTES
    assert len(uploads.called("upload.resume")) == 1


async def test_credit_is_kept_to(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path
) -> None:
    uploads.ack_every = 1 << 30
    async with HubClient(hub.url, options=msgspec.structs.replace(options, upload_stall_s=20)) as client:
        upload = client.upload(file)
        await eventually(lambda: uploads.documents and uploads.only.accepted == uploads.window, "a full window")
        await client.call("other.method", {"x": 1})  # it has gone out behind whatever was to be sent
        assert uploads.only.accepted == uploads.window
        assert upload.progress.offset == 0
        uploads.ack_every = 1024
        uploads._acknowledge(uploads.only)
        await uploads.credit(uploads.only)
        await end_of(upload)
    assert uploads.only.content == BYTES
    assert uploads.wrongs == []


async def test_taken_over_and_gone_on_with_elsewhere(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path
) -> None:
    async with HubClient(hub.url, options=options) as one, HubClient(hub.url, options=options) as two:

        async def half(_: Peer, document: Document, __: Data) -> bool:
            return document.accepted > 20_000  # nothing more arrives

        uploads.faults = half
        first = one.upload(file)
        await eventually(lambda: first.progress.offset > 10_000)
        uploads.faults = None
        second = two.resume_upload(first.id, file)
        failure = await failure_of(first)
        assert (failure.code, failure.retry, failure.upload) == ("conflict", "later", "up0")
        assert failure.message.endswith("of 50000 bytes are safe; upload up0 can be resumed")
        assert (await end_of(second)).state == "available"
        assert uploads.only.content == BYTES
        assert (await end_of(two.resume_upload(first.id, file))).state == "available"  # nothing is left to be done
        assert (await failure_of(two.resume_upload("nope", file))).code == "not_found"
        assert (await failure_of(two.resume_upload(first.id, BYTES[1:]))).code == "wrong_file"


async def test_what_cannot_be_made_good(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    async with HubClient(hub.url, options=options) as client:
        uploads.refuse["upload.create"] = [Refused("too_large", "25 MB at most", details={"limit": 26_214_400})]
        failure = await failure_of(client.upload(file))
        assert (failure.code, failure.message, failure.retry) == ("too_large", "25 MB at most", "never")
        assert failure.details == {"limit": 26_214_400}
        assert (await failure_of(client.upload(tmp_path / "empty"))).code == "empty_content"
        assert (await failure_of(client.upload(tmp_path / "missing"))).code == "file"
        assert (await failure_of(client.upload(b"x"))).message.endswith("give filename")
        assert not uploads.documents
        uploads.verdict = {"code": "unsupported_media", "message": "it is a PNG"}
        failure = await failure_of(client.upload(file))
        assert (failure.code, failure.message, failure.upload) == ("unsupported_media", "it is a PNG", "up0")


async def test_patience_ends(hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path) -> None:
    async def full(_: Peer, document: Document, __: Data) -> bool:
        if document.accepted > 9000:
            uploads.refuse["upload.resume"] = [Refused("unavailable", "the store is full", "later")] * 1000
            await uploads.close(document, "unavailable", "the store is full")
        return False

    uploads.faults = full
    async with HubClient(hub.url, options=msgspec.structs.replace(options, upload_patience_s=1.0)) as client:
        upload = client.upload(file)
        failure = await failure_of(upload)
        assert (failure.code, failure.retry) == ("unavailable", "later")
        assert f"{upload.progress.offset} of 50000 bytes are safe" in failure.message
        assert 0 < upload.progress.offset <= len(uploads.only.content)
        uploads.faults = None
        uploads.refuse.clear()
        await end_of(client.resume_upload(upload.id, file))
    assert uploads.only.content == BYTES


async def test_pause_resume_cancel(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path
) -> None:
    reached = asyncio.Event()

    async def slow(_: Peer, document: Document, __: Data) -> bool:
        await asyncio.sleep(0.001)
        if document.accepted > 10_000:
            reached.set()
        return False

    uploads.faults = slow
    async with HubClient(hub.url, options=options) as client:
        upload = client.upload(file)
        await reached.wait()
        await upload.pause()
        assert upload.progress.state is UploadState.PAUSED
        assert uploads.only.paused
        at = uploads.only.accepted
        await client.call("other.method")
        assert uploads.only.accepted == at < len(BYTES)
        await upload.resume()
        assert (await end_of(upload)).state == "available"
        assert uploads.only.content == BYTES
        assert await upload.cancel() is False
        await upload.pause()  # nothing

        reached.clear()
        second = client.upload(file, filename="second")
        await reached.wait()
        await second.pause()
        assert await second.cancel() is True
        assert (await failure_of(second)).code == "cancelled"
        assert uploads.documents["up1"].state == "cancelled"

        third = client.upload(file, filename="third")
        await eventually(lambda: third.id)
        uploads.documents["up2"].state = "cancelled"  # from elsewhere
        await uploads.close(uploads.documents["up2"], "conflict", state="cancelled")
        assert (await failure_of(third)).code == "cancelled"


async def test_a_file_that_changes(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path
) -> None:
    def change(how: Any) -> Any:
        async def changed(_: Peer, document: Document, __: Data) -> bool:
            if 10_000 < document.accepted < 20_000:
                how()
            return False

        return changed

    async with HubClient(hub.url, options=options) as client:
        uploads.faults = change(lambda: file.write_bytes(BYTES[:12_000]))
        failure = await failure_of(client.upload(file))
        assert failure.code == "file_changed"
        assert "smaller" in failure.message
        assert uploads.only.state == "cancelled"
        file.write_bytes(BYTES)  # noqa: ASYNC240 - small
        uploads.faults = change(lambda: append(file))
        assert "guests.csv had 50000 bytes, and has 50" in (await failure_of(client.upload(file))).message
        assert uploads.documents["up1"].state == "cancelled"


async def test_many_at_once_share_the_line(hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions) -> None:
    at_once = 0

    async def count(*_: Any) -> bool:
        nonlocal at_once
        at_once = max(at_once, len([one for one in uploads.documents.values() if one.writer]))
        return False

    uploads.faults = count
    async with HubClient(hub.url, options=msgspec.structs.replace(options, max_uploads=3)) as client:
        async with asyncio.timeout(30):
            await asyncio.gather(*(client.upload(BYTES, filename=f"f{n}") for n in range(5)))
    assert at_once == 3
    # Of the first three none gets far ahead while the others still have something to send.
    first = [name for name, _ in uploads.chunks if name in ("up0", "up1", "up2")][:120]
    assert min(first.count(name) for name in ("up0", "up1", "up2")) > 20


async def test_events_get_through_meanwhile(hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions) -> None:
    published = 0

    async def publish(*_: Any) -> bool:
        nonlocal published
        published += 1
        if published % 20 == 0:
            await hub.publish("events:a", published)
        return False

    uploads.faults = publish
    async with HubClient(hub.url, options=options) as client, client.subscribe("events:a") as events:
        upload = client.upload(BYTES * 4, filename="f")
        offsets = []
        for _ in range(5):
            await anext(events)
            offsets.append(upload.progress.offset)
        assert offsets[-1] < 4 * len(BYTES)
        await end_of(upload)


@pytest.mark.parametrize("how", ["silent", "refused", "watched"])
async def test_the_end_is_asked_for_when_it_is_not_told(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, how: str
) -> None:
    uploads.tells = how == "watched"
    scripted = hub.script
    assert scripted is not None

    async def refuse(peer: Peer, frame: Data) -> bool:
        if frame["type"] != "subscribe" or how != "refused":
            return await scripted(peer, frame)
        error = {"code": "forbidden", "message": "no", "retry": "never"}
        verdict = {"topic": "upload:up0", "ok": False, "error": error}
        await peer.send({"type": "reply", "id": frame["id"], "result": {"topics": [verdict]}})
        return True

    hub.script = refuse
    asking = msgspec.structs.replace(options, upload_ask_s=0.3 if how == "silent" else 1000)
    async with HubClient(hub.url, options=asking) as client:
        if how == "watched":
            async with client.subscribe("upload:up0"):
                await end_of(client.upload(BYTES, filename="f"))
        else:
            await end_of(client.upload(BYTES, filename="f"))


async def test_the_block_and_the_loop(hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions) -> None:
    async with HubClient(hub.url, options=options) as client:
        async with client.upload(BYTES, filename="f") as upload:
            states = [progress.state async for progress in upload]
        assert states[-1] == "available"
        assert "sending" in states

        async def never(*_: Any) -> bool:
            return True

        uploads.faults = never
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with client.upload(BYTES, filename="g") as upload:
                await eventually(lambda: upload.id)
                raise ZeroDivisionError
        with pytest.raises(ConnectionLost, match="up1"):
            await upload
        left = client.upload(BYTES, filename="h")
        await eventually(lambda: left.id)
    with pytest.raises(ConnectionLost):
        await left
    assert not uploads.called("upload.cancel")


async def test_a_hub_that_never_answers(hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions) -> None:
    async def silent(_: Peer, frame: Data) -> bool:
        return bool(frame["type"] == "call")

    hub.script = silent
    quick = msgspec.structs.replace(options, request_timeout_s=0.1, upload_patience_s=0.2)
    async with HubClient(hub.url, options=quick) as client:
        failure = await failure_of(client.upload(BYTES, filename="f"))
        assert failure.code == "timeout"
        with pytest.raises(RequestTimeout):
            await client.call("upload.status", {"upload": "x"})


async def test_it_is_stopped_before_it_has_begun(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions
) -> None:
    async with HubClient(hub.url, options=options) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.upload(BYTES, filename="f") as upload:
                raise ZeroDivisionError
        with pytest.raises(ConnectionLost):
            await end_of(upload)
        async with asyncio.timeout(30):
            await upload.pause()
            assert await upload.cancel() is False
    with pytest.raises(ConnectionLost):
        await end_of(client.upload(BYTES, filename="f"))  # the client is closed
    assert not uploads.calls


def cut_off(hub: ScriptedHub) -> list[float]:
    """The hub is away until ``hub.reject`` is taken back. Returns when somebody tried to connect, as it happens."""
    tried: list[float] = []

    def reject(_: Any) -> int:
        tried.append(asyncio.get_running_loop().time())
        return 503

    hub.reject = reject
    for peer in hub.peers:
        peer.drop()
    return tried


def hasty(options: ClientOptions) -> ClientOptions:
    """Patience that is shorter than the outages here."""
    return msgspec.structs.replace(options, request_timeout_s=0.5, upload_patience_s=1.0, upload_stall_s=1000)


def longer_than_patience(tried: list[float]) -> bool:
    return len(tried) > 1 and tried[-1] - tried[0] > 2.5


async def test_time_without_a_connection_does_not_count(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions
) -> None:
    tried: list[float] = []

    async def away(_: Peer, document: Document, __: Data) -> bool:
        nonlocal tried
        if document.accepted > 9000:
            uploads.faults = None
            tried = cut_off(hub)
        return False

    uploads.faults = away
    async with HubClient(hub.url, options=hasty(options)) as client:
        upload = client.upload(BYTES, filename="f")
        await eventually(lambda: longer_than_patience(tried))
        hub.reject = lambda _: None
        assert (await end_of(upload)).state == "available"
    assert uploads.only.content == BYTES


async def test_cancelled_without_a_connection(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions
) -> None:
    async def never(*_: Any) -> bool:
        return True

    uploads.faults = never
    async with HubClient(hub.url, options=hasty(options)) as client:
        upload = client.upload(BYTES, filename="f")
        await eventually(lambda: upload.id)
        assert await upload.pause() is True
        await upload.resume()
        tried = cut_off(hub)
        async with asyncio.timeout(30):
            assert await upload.pause() is False
        cancelling = asyncio.create_task(upload.cancel())
        await eventually(lambda: longer_than_patience(tried))
        assert not cancelling.done()
        hub.reject = lambda _: None
        async with asyncio.timeout(30):
            assert await cancelling is True
    assert uploads.only.state == "cancelled"


async def test_a_cancel_that_is_refused(hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions) -> None:
    async def never(*_: Any) -> bool:
        return True

    uploads.faults = never
    async with HubClient(hub.url, options=msgspec.structs.replace(options, upload_patience_s=0.5)) as client:
        for refusal in (Refused("unavailable", "the database is away", "later"), Refused("forbidden", "no", "never")):
            upload = client.upload(BYTES, filename="f")
            await eventually(lambda upload=upload: upload.id)
            uploads.refuse["upload.cancel"] = [refusal] * 1000
            with pytest.raises(UploadFailed) as caught:
                await upload.cancel()
            assert (caught.value.code, caught.value.retry) == (refusal.body["code"], "later")
    assert [document.state for document in uploads.documents.values()] == ["receiving"] * 2


async def test_a_key_is_one_files(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path
) -> None:
    uploads.sums = True
    other = BYTES[::-1]
    async with HubClient(hub.url, options=options) as client:
        await end_of(client.upload(file, key="k"))
        again = (client.upload(other, filename="guests.csv", key="k"), client.resume_upload("up0", other))
        for failure in [await failure_of(upload) for upload in again]:
            assert (failure.code, failure.retry, failure.upload) == ("wrong_file", "never", "up0")
        assert (await failure_of(client.upload(BYTES[1:], filename="f", key="k"))).retry == "never"
        said = hashlib.sha256(other).hexdigest()
        assert (await failure_of(client.upload(file, key="k", sha256=said))).code == "wrong_file"
        assert (await end_of(client.upload(file, key="k"))).upload == "up0"
        assert (await end_of(client.resume_upload("up0", file))).upload == "up0"
    assert uploads.only.content == BYTES


async def test_what_cannot_be_read_or_sent(
    hub: ScriptedHub, uploads: ScriptedUploads, options: ClientOptions, file: Path, tmp_path: Path
) -> None:
    class Broken(io.BytesIO):
        def readinto(self, _: Any) -> int:
            raise EOFError("no more")

    os.mkfifo(tmp_path / "pipe")
    broken: Any = Broken(BYTES)
    unnamed: Any = b"\xff.csv".decode(errors="surrogateescape")
    async with HubClient(hub.url, options=options) as client:
        wrong: list[Any] = [None, 7, io.StringIO("text"), memoryview(BYTES)[::2]]
        for source in wrong:
            with pytest.raises(TypeError, match="uploaded"):
                client.upload(source, filename="f")
            with pytest.raises(TypeError, match="uploaded"):
                client.resume_upload("up0", source)
        metadatas: list[Any] = [{"a": None}, {"a": b"x"}, {7: "a"}]
        for metadata in metadatas:
            with pytest.raises(TypeError, match="metadata: "):
                client.upload(file, metadata=metadata)
        with pytest.raises(TypeError, match="shares"):
            client.upload(file, shares="chat:lobby")
        failure = await failure_of(client.upload(tmp_path / "pipe"))
        assert failure.code == "file"
        assert failure.message.endswith("write it to a file first")
        assert "a folder" in (await failure_of(client.upload(tmp_path))).message
        assert (await failure_of(client.upload(broken, filename="f", sha256=True))).code == "file"
        assert (await failure_of(client.upload(file, filename=unnamed))).code == "bad_request"
        assert not uploads.calls
        assert (await failure_of(client.upload(broken, filename="f"))).code == "file_changed"
        assert uploads.only.state == "cancelled"
