"""A writer against stores and records of our own: order, windows, what is acknowledged, and how it ends."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.api import ErrorCode, HubError, Settings
from hub.orgs import OrgId
from services.uploads.shapes import State, Upload
from services.uploads.store import Part, StoreFull
from services.uploads.writer import Writer
from tests.support.virtual_loop import run_virtually
from tests.support.waiting import until

ORG = OrgId.from_operator("acme")
SETTINGS = Settings(
    redis_url="redis://127.0.0.1:1", database_url="postgresql://x/y", jwt_secret="s" * 32, uploads_flush_s=0.5
)


class FakeStore:
    """Keeps objects in memory; its stretches grow or not."""

    def __init__(self, *, grows: bool, block: int) -> None:
        self.parts_grow = grows
        self.block_bytes = block
        self.objects: dict[str, bytearray] = {}
        self.full_after: int | None = None
        self.closed = 0
        self.stuck = False

    def stretch(self, org: OrgId, upload: str, token: str) -> Any:
        store = self

        class Stretch:
            count = 0

            async def write(self, pieces: Any, digest: Any) -> Part:
                data = b"".join(pieces)
                await asyncio.sleep(0.01)
                if (
                    store.full_after is not None
                    and sum(map(len, store.objects.values())) + len(data) > store.full_after
                ):
                    raise StoreFull
                if digest is not None:
                    digest.update(data)
                name = token if store.parts_grow else f"{token}-{self.count}"
                self.count += 1
                store.objects.setdefault(name, bytearray()).extend(data)
                return Part(name, len(store.objects[name]))

            async def discard(self) -> None:
                for name in [name for name in store.objects if name.startswith(token)]:
                    del store.objects[name]

            async def close(self) -> None:
                store.closed += 1
                if store.stuck:
                    raise HubError(ErrorCode.UNAVAILABLE, "the store hangs")

        return Stretch()


class FakeRecords:
    """One row and its parts, as PostgreSQL would have them."""

    def __init__(self, size: int) -> None:
        self.offset, self.size, self.writer = 0, size, "w1"
        self.parts: dict[int, Part] = {}
        self.sha256: str | None = None
        self.failures = 0
        self.lose_answers = False
        self.released = False

    async def record(self, upload: Upload, token: str, span: Any, parts: Any, sha256: str | None) -> bool:
        await asyncio.sleep(0.02)
        if self.failures and not self.lose_answers:
            self.failures -= 1
            raise HubError(ErrorCode.UNAVAILABLE, "away")
        if token != self.writer or span[0] != self.offset:
            return False
        assert span[0] < span[1] <= self.size
        self.offset, self.sha256 = span[1], sha256
        self.parts |= {stored.first: stored.part for stored in parts}
        if self.failures:
            self.failures -= 1
            raise HubError(ErrorCode.UNAVAILABLE, "the answer was lost")
        return True

    async def get(self, org: OrgId, upload_id: str) -> Upload:
        return row(self.size, self.offset)

    async def release(self, org: OrgId, upload_id: str, token: str) -> None:
        self.released = True

    def content(self, store: FakeStore) -> bytes:
        """What the parts say; they must follow one another."""
        whole = b""
        for first, part in sorted(self.parts.items()):
            assert first == len(whole)
            whole += bytes(store.objects[part.object][: part.size])
        return whole


class Share:
    def __init__(self, window: int) -> None:
        self._window = window
        self.held = 0

    def window(self, held: int) -> int:
        return self._window


def row(size: int, offset: int = 0) -> Upload:
    return Upload(
        id="0" * 26, org=ORG, owner="ada", owner_name="", state=State.RECEIVING, filename="a.csv", document_type="csv",
        size=size, offset=offset, paused=False, partial=False, writer="w1", metadata={}, shares=(), sha256_wanted=None,
        sha256=None, media_type=None, facts=None, error_code=None, error_message=None, attempts=0, created_at=0,
        expires_at=None, finished_at=None,
    )  # fmt: skip


class Scene:
    """A writer, what it has acknowledged, and how it ended."""

    def __init__(self, size: int, *, grows: bool = True, window: int = 1000, block: int = 100, hold: bool = False):
        self.store, self.records = FakeStore(grows=grows, block=block), FakeRecords(size)
        self.window, self.hold = window, hold
        self.acks: list[int] = []
        self.ends: list[HubError | None] = []
        self.share = Share(window)
        tools: Any = (self.records, self.store, SETTINGS, self.share)
        self.writer = Writer(row(size), "w1", tools, (self.acks.append, self.ends.append), hold=hold)
        self.task = asyncio.create_task(self.writer.run())

    async def feed(self, data: bytes, step: int) -> None:
        """Everything, within the room there is."""
        while data:
            room = await self.writer.wait_room()
            taken, data = data[: min(step, room)], data[min(step, room) :]
            self.writer.take(memoryview(taken))
            safe = self.records.offset if not self.hold else sum(map(len, self.store.objects.values()))
            assert self.writer.accepted - safe <= self.window


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 5000), step=st.integers(1, 700), grows=st.booleans(), block=st.integers(1, 400),
    failures=st.integers(0, 3), lost=st.booleans(),
)  # fmt: skip
def test_whatever_comes_is_recorded_in_order(
    size: int, step: int, grows: bool, block: int, failures: int, lost: bool
) -> None:
    async def run() -> None:
        scene = Scene(size, grows=grows, block=block)
        scene.records.failures, scene.records.lose_answers = failures, lost
        data = bytes(n * 7 % 251 for n in range(size))
        await scene.feed(data, step)
        await scene.task
        assert scene.records.content(scene.store) == data
        assert scene.records.sha256 == hashlib.sha256(data).hexdigest()
        assert scene.acks == sorted(set(scene.acks))
        assert scene.acks[-1] == size
        assert (scene.ends, scene.store.closed) == ([None], 1)

    run_virtually(run())


def test_who_finishes_early_has_everything_acknowledged() -> None:
    async def run() -> None:
        scene = Scene(1000)
        await scene.feed(b"x" * 345, 50)
        assert await scene.writer.finish() == 345
        assert scene.records.content(scene.store) == b"x" * 345
        assert scene.records.released

    run_virtually(run())


def test_tiny_pieces_are_put_together() -> None:
    async def run() -> None:
        scene = Scene(9000, window=9000, block=9000)
        for _ in range(9000):
            scene.writer.take(memoryview(b"x"))
        assert len(scene.writer._pieces) <= 3
        await scene.task
        assert scene.records.content(scene.store) == b"x" * 9000

    asyncio.run(run())


def test_a_slow_client_is_acknowledged_now_and_then() -> None:
    async def run() -> None:
        scene = Scene(1000)
        scene.writer.take(memoryview(b"x" * 3))
        await asyncio.sleep(1.0)  # of the loop's own clock
        assert scene.acks == [3]
        await scene.writer.finish()

    run_virtually(run())


def test_a_full_store_ends_it_and_what_was_acknowledged_stays() -> None:
    async def run() -> None:
        scene = Scene(5000)
        scene.store.full_after = 250
        with pytest.raises(StoreFull):
            await scene.feed(b"x" * 5000, 50)
        await scene.task
        assert isinstance(scene.ends[0], StoreFull)
        assert scene.records.offset == scene.writer.acknowledged
        assert scene.records.content(scene.store) == b"x" * scene.records.offset

    run_virtually(run())


def test_one_that_does_not_count_any_more_ends() -> None:
    async def run() -> None:
        scene = Scene(1000)
        scene.records.writer = "w2"
        await scene.feed(b"x" * 400, 100)
        with pytest.raises(HubError, match="another connection"):
            await scene.writer.finish()
        assert scene.acks == []
        assert not scene.store.objects, "nobody comes for what was refused, however late it was written"

    run_virtually(run())


@pytest.mark.parametrize("lost", [True, False])
def test_what_may_be_recorded_stays_in_the_store(lost: bool) -> None:
    """Nobody knows whether an attempt was recorded; then another writer goes on, and this one is refused."""

    async def run() -> None:
        scene = Scene(1000)
        scene.records.failures, scene.records.lose_answers = 1, lost
        await scene.feed(b"x" * 400, 100)
        finishing = asyncio.create_task(scene.writer.finish())
        await until(lambda: scene.records.failures == 0, what="an attempt without an answer")
        scene.records.writer, scene.records.offset = "w2", 900
        with pytest.raises(HubError, match="another connection"):
            await finishing
        assert scene.store.objects

    run_virtually(run())


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_held_is_recorded_at_the_end_or_never(keep: bool) -> None:
    async def run() -> None:
        scene = Scene(3000, hold=True)
        await scene.feed(b"x" * 2500, 100)  # more than the window
        assert scene.records.offset == 0
        if keep:
            assert await scene.writer.finish(verified=True) == 2500
        else:
            await scene.writer.discard()
        await scene.task
        assert scene.records.offset == (2500 if keep else 0)
        assert bool(scene.store.objects) is keep

    run_virtually(run())


def test_a_store_that_cannot_be_closed_keeps_nobody_waiting() -> None:
    async def run() -> None:
        scene = Scene(1000)
        scene.store.stuck = True
        await scene.feed(b"x" * 300, 100)
        assert await scene.writer.finish() == 300
        assert scene.ends == [None]
        assert scene.records.released

    run_virtually(run())


def test_whose_file_is_complete_is_not_told_that_somebody_wanted_it_to_end() -> None:
    async def run() -> None:
        scene = Scene(300)
        await scene.feed(b"x" * 300, 100)
        assert await scene.writer.finish(HubError(ErrorCode.CONFLICT, "paused")) == 300
        assert scene.ends == [None]

    run_virtually(run())


def test_all_together_hold_what_was_granted_and_no_more() -> None:
    async def run() -> None:
        scene = Scene(5000)
        scene.writer.grant()
        assert scene.share.held == 1000
        await scene.feed(b"x" * 2000, 100)
        assert scene.share.held <= 1000
        await scene.writer.finish()
        assert scene.share.held == 0

    run_virtually(run())


def test_what_is_held_and_complete_waits_for_its_verdict() -> None:
    async def run() -> None:
        scene = Scene(300, hold=True)
        await scene.feed(b"x" * 300, 100)
        await asyncio.sleep(5.0)  # of the loop's own clock
        assert scene.records.offset == 0
        assert await scene.writer.finish(verified=True) == 300

    run_virtually(run())


def test_who_takes_over_does_not_verify_what_is_held() -> None:
    async def run() -> None:
        scene = Scene(300, hold=True)
        await scene.feed(b"x" * 200, 100)
        with pytest.raises(HubError, match="gone on"):
            await scene.writer.finish(HubError(ErrorCode.CONFLICT, "gone on"))
        assert (scene.records.offset, scene.store.objects) == (0, {})

    run_virtually(run())
