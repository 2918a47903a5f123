"""What goes wrong with files and threads."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from hub.errors import ConfigError, ErrorCode, HubError
from hub.orgs import OrgId
from services.uploads.store import FolderStore, StoreFull
from services.uploads.store import files as seam
from tests.services.uploads.store.shelf import Seen, Shelf, some_bytes
from tests.support.waiting import until

ACME = OrgId.from_operator("acme")


@pytest.fixture
async def store(folder_store: FolderStore) -> AsyncIterator[FolderStore]:
    await folder_store.start()
    yield folder_store
    await folder_store.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


def test_files_are_nobody_elses(tmp_path: Path) -> None:
    async def scene() -> None:
        store = FolderStore(tmp_path / "uploads", durable=True, threads=1, timeout_s=30)
        await store.start()
        shelf = Shelf(store, ACME)
        await shelf.join("u1", await shelf.put("u1", "w1", b"mine"))
        await shelf.put("u1", "w2", b"mine")
        await store.close()

    asyncio.run(scene())
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "uploads").rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert stat.S_IMODE((tmp_path / "uploads").stat().st_mode) == 0o700


async def test_an_unbroken_upload_is_not_copied(shelf: Shelf, root: Path) -> None:
    parts = await shelf.put("u1", "w1", b"once")
    before = (root / parts[0].object).stat().st_ino
    await shelf.join("u1", parts)
    assert (root / "acme/u1/content").stat().st_ino == before


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: OSError, after: int = 0) -> list[Any]:
    """The system call ``name`` fails from the call ``after`` on; returns the calls."""
    calls: list[Any] = []
    real: Callable[..., Any] = getattr(os, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) > after:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(seam.os, name, call)
    return calls


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_a_full_disk_takes_nothing_and_keeps_what_it_has(
    shelf: Shelf, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    stretch, seen = shelf.store.stretch(ACME, "u1", "w1"), Seen()
    part = await stretch.write([b"safe"], seen)
    real = os.writev

    def half(file: int, pieces: list[memoryview]) -> int:
        if len(pieces[0]) < 1000:
            raise OSError(number, "full")
        return real(file, [pieces[0][:500]])

    with monkeypatch.context() as patch:
        patch.setattr(seam.os, "writev", half)
        with pytest.raises(StoreFull) as failure:
            await stretch.write([some_bytes(1000)], seen)
    assert (failure.value.code, failure.value.retry) == (ErrorCode.UNAVAILABLE, "later")
    assert seen.data == b"safe"
    assert (root / part.object).stat().st_size == 4  # what could not be stored whole takes no room
    with pytest.raises(RuntimeError):
        await stretch.write([b"more"], seen)
    await stretch.close()
    await shelf.join("u1", [part])
    assert await shelf.whole("u1") == b"safe"


async def test_a_full_disk_while_joining_leaves_no_copy(
    shelf: Shelf, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [*await shelf.put("u1", "w1", b"one"), *await shelf.put("u1", "w2", b"two")]
    with monkeypatch.context() as patch:
        failing(patch, "copy_file_range", OSError(errno.ENOSPC, "full"), after=1)
        with pytest.raises(StoreFull):
            await shelf.join("u1", parts)
    assert [path.name for path in (root / "acme/u1").iterdir()] == ["parts"]
    await shelf.join("u1", parts)
    assert await shelf.whole("u1") == b"onetwo"


async def test_a_broken_disk_is_unavailable_and_says_why_to_the_log(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "writev", OSError(errno.EIO, "broken"))
    stretch = shelf.store.stretch(ACME, "u1", "w1")
    with pytest.raises(HubError) as failure:
        await stretch.write([b"lost"], None)
    assert failure.value.code is ErrorCode.UNAVAILABLE
    assert not isinstance(failure.value, StoreFull)
    assert isinstance(failure.value.__cause__, OSError)
    await stretch.close()


@pytest.mark.parametrize("step", ["copy_file_range", "replace"])
async def test_a_join_that_broke_anywhere_is_done_again(
    shelf: Shelf, root: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The node died: what it was about to tidy up is still there."""
    data = some_bytes(1000)
    parts = [*await shelf.put("u1", "w1", data[:400]), *await shelf.put("u1", "w2", data[400:])]
    with monkeypatch.context() as patch:
        failing(patch, step, OSError(errno.EIO, "died"), after=step == "copy_file_range")
        failing(patch, "unlink", OSError(errno.EIO, "died"))
        with pytest.raises(HubError):
            await shelf.join("u1", parts)
    assert any(path.name.startswith("joining-") for path in (root / "acme/u1").iterdir())
    await shelf.join("u1", parts)
    assert await shelf.whole("u1") == data
    await shelf.store.clear(ACME, "u1")
    assert [path.name for path in (root / "acme/u1").iterdir()] == ["content"]


async def test_where_the_kernel_cannot_copy_the_process_does(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    data = some_bytes(3_000_000)
    parts = [*await shelf.put("u1", "w1", data[:2_500_000]), *await shelf.put("u1", "w2", data[2_500_000:])]
    refused = failing(monkeypatch, "copy_file_range", OSError(errno.EXDEV, "elsewhere"))
    await shelf.join("u1", parts)
    assert refused
    assert await shelf.whole("u1") == data


async def test_links_lead_nowhere(store: FolderStore, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "content").write_bytes(b"secret")
    (root / "acme").mkdir()
    (root / "acme" / "u1").symlink_to(tmp_path / "secret")
    (root / "acme" / "u2").mkdir()
    (root / "acme" / "u2" / "content").symlink_to(tmp_path / "secret" / "content")
    shelf = Shelf(store, ACME)
    for upload in ("u1", "u2"):
        with pytest.raises(HubError):
            await shelf.whole(upload)
    with pytest.raises(HubError):
        await shelf.put("u1", "w1", b"out")
    with pytest.raises(HubError):
        await store.remove(ACME, "u1")
    await store.remove(ACME, "u2")
    assert (tmp_path / "secret" / "content").read_bytes() == b"secret"
    assert [found async for found in store.uploads()] == []


async def test_a_token_is_used_once(shelf: Shelf, root: Path) -> None:
    await shelf.put("u1", "w1", b"first")
    with pytest.raises(HubError):
        await shelf.put("u1", "w1", b"second")
    assert (root / "acme/u1/parts/w1").read_bytes() == b"first"


async def test_what_others_have_put_there_is_no_upload(shelf: Shelf, root: Path) -> None:
    (root / "lost+found").mkdir()
    (root / "acme" / ".snapshot").mkdir(parents=True)
    await shelf.put("u1", "w1", b"mine")
    assert await shelf.uploads() == [("acme", "u1")]


class StuckDisk:
    """Writing hangs until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hangs = threading.Event()
        self.go = threading.Event()
        self.files: list[int] = []
        real = os.writev

        def stuck(file: int, pieces: list[memoryview]) -> int:
            self.files.append(file)
            self.hangs.set()
            self.go.wait(60)
            return real(file, pieces)

        monkeypatch.setattr(seam.os, "writev", stuck)

    def is_open(self) -> bool:
        try:
            os.fstat(self.files[0])
        except OSError:
            return False
        return True


async def test_who_gives_up_a_write_waits_for_its_thread(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = StuckDisk(monkeypatch)
    stretch = store.stretch(ACME, "u1", "w1")
    writing = asyncio.create_task(stretch.write([b"late"], None))
    await until(disk.hangs.is_set)
    for _ in range(2):
        writing.cancel()
        await asyncio.sleep(0)
    assert not writing.done()
    disk.go.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert (root / "acme/u1/parts/w1").read_bytes() == b"late"
    await stretch.close()
    assert not disk.is_open()


async def test_a_write_that_has_not_begun_is_never_begun(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = StuckDisk(monkeypatch)
    stretches = [store.stretch(ACME, f"u{number}", "w1") for number in range(3)]  # one more than there are threads
    writing = [asyncio.create_task(stretch.write([b"late"], None)) for stretch in stretches]
    await until(lambda: len(disk.files) == 2)
    writing[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing[2]
    disk.go.set()
    await asyncio.gather(*writing[:2])
    for stretch in stretches:
        await stretch.close()
    assert sorted(path.name for path in (root / "acme").iterdir()) == ["u0", "u1"]


async def test_who_waits_when_the_store_is_closed_is_told_so(
    folder_store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not cancelled: nobody has."""
    await folder_store.start()
    disk = StuckDisk(monkeypatch)
    stretches = [folder_store.stretch(ACME, f"u{number}", "w1") for number in range(3)]
    writing = [asyncio.create_task(stretch.write([b"late"], None)) for stretch in stretches]
    await until(lambda: len(disk.files) == 2)
    closing = asyncio.create_task(folder_store.close())
    await until(writing[2].done)
    disk.go.set()
    await closing
    outcomes = await asyncio.gather(*writing, folder_store.clear(ACME, "u1"), return_exceptions=True)
    assert [isinstance(outcome, HubError) for outcome in outcomes] == [False, False, True, True]
    for stretch in stretches:
        stretch._file.close()


async def test_a_disk_that_hangs_is_unavailable_and_its_file_stays_open_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path, durable=False, threads=2, timeout_s=0.05)
    disk = StuckDisk(monkeypatch)
    stretch = store.stretch(ACME, "u1", "w1")
    real = asyncio.wait

    async def begun(*args: Any, **options: Any) -> Any:
        await until(disk.hangs.is_set)
        return await real(*args, **options)

    monkeypatch.setattr(asyncio, "wait", begun)
    with pytest.raises(HubError) as failure:
        await stretch.write([b"late"], None)
    assert failure.value.code is ErrorCode.UNAVAILABLE
    store._threads._timeout_s = 30  # what follows does not hang
    await stretch.close()
    assert disk.is_open()
    disk.go.set()
    await until(lambda: not disk.is_open())
    await store.close()


async def test_a_folder_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = FolderStore(tmp_path / "file" / "uploads", durable=False, threads=1, timeout_s=30)
    with pytest.raises(ConfigError, match="HUB_UPLOADS_STORE"):
        await store.start()
    with pytest.raises(HubError):
        await store.probe()
    await store.close()


async def test_a_large_file_leaves_the_cache_behind_its_end(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told to the kernel is below what was written, in whole steps, and twice: to be written, to be dropped."""
    monkeypatch.setattr(seam, "_BEHIND_STEP_BYTES", 1000)
    monkeypatch.setattr(seam, "_BEHIND_BYTES", 3000)
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(
        seam.os, "posix_fadvise", lambda _file, start, count, _advice: told.append((start, start + count))
    )
    data = some_bytes(5500)
    parts = await shelf.put("u1", "w1", data[:5200], block=700)
    steps = [(start, start + 1000) for start in range(0, 5000, 1000)]
    assert sorted(set(told)) == steps
    assert [told.count(step) for step in steps] == [2, 2, 1, 1, 1]
    parts += await shelf.put("u1", "w2", data[5200:])
    await shelf.join("u1", parts)
    assert await shelf.whole("u1") == data
