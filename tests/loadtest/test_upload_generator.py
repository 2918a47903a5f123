"""The client in C that uploads: what arrives is the file of its seed, within the credit, by each way."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hub.api import Caller, Handle, Hub, Service
from hub.embedded import RedisServer
from loadtest.generators import Figures, NoCompiler, Programs, compile_programs, upload
from loadtest.uploads import Receiver
from tests.support.running_hub import running_hub

SIZE = 300_001
WINDOW = 70_000


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    try:
        return compile_programs(tmp_path_factory.mktemp("programs"))
    except NoCompiler as error:
        pytest.skip(str(error))


def file_of(programs: Programs, seed: int) -> bytes:
    command = [programs.upload, "--way", "pipe", "--size", str(SIZE), "--seed", str(seed)]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_a_file_is_made_of_its_seed(programs: Programs) -> None:
    one = file_of(programs, 1)
    assert len(one) == SIZE
    assert one.isascii()
    assert one == file_of(programs, 1) != file_of(programs, 2)


def test_without_a_protocol(programs: Programs, tmp_path: Path) -> None:
    with Receiver(tmp_path) as server:
        for way in ("plain", "tus"):
            with upload(programs, way, server.port, SIZE, path=f"/ws?{SIZE}", chunk=65_536) as generator:
                assert generator.phase()["bytes"] == SIZE


class Sink:
    """Takes everything, and acknowledges when the window is full."""

    def __init__(self) -> None:
        self.handle: Handle
        self.data = bytearray()
        self.acknowledged = 0

    async def open(self, caller: Caller, params: dict[str, Any]) -> Any:
        self.handle = caller.open_handle(self)
        return {"upload": "x", "handle": self.handle.number, "offset": 0, "chunk_bytes": 20_000, "window": WINDOW}

    async def status(self, caller: Caller, params: dict[str, Any]) -> Any:
        return {"state": "available"}

    def chunk(self, offset: int, data: memoryview) -> None:
        assert offset == len(self.data)
        self.data += data
        assert len(self.data) <= self.acknowledged + WINDOW
        if self.acknowledged + WINDOW - len(self.data) < 20_000 or len(self.data) == SIZE:
            self.acknowledged = len(self.data)
            self.handle.credit(self.acknowledged, WINDOW)

    def lost(self) -> None:
        pass


async def uploaded(programs: Programs, redis: RedisServer, sink: Sink, size: int) -> Figures:
    """What the generator says of an upload to a hub with this sink."""

    def factory(_: Hub) -> Service:
        return Service(name="sink", caller_methods={"sink.open": sink.open, "upload.status": sink.status})

    async with running_hub("direct", redis.url, factories=[factory]) as hub:
        options = {
            "header": f"Authorization: Bearer {hub.token()}",
            "call": json.dumps({"type": "call", "id": 1, "method": "sink.open", "params": {}}),
            "settled": "available",
            "seed": 7,
        }

        def run() -> Figures:
            with upload(programs, "socket", hub.port, size, **options) as generator:
                return generator.phase()

        return await asyncio.to_thread(run)


async def test_by_the_protocol_of_the_hub(programs: Programs, redis_server: RedisServer) -> None:
    sink = Sink()
    figures = await uploaded(programs, redis_server, sink, SIZE)
    assert (figures["bytes"], figures["upload"], figures["state"]) == (SIZE, "x", "available")
    assert bytes(sink.data) == file_of(programs, 7)


class TurnsCounted(Sink):
    """Throws everything away, and notes how much came in one turn of the event loop."""

    size = 200_000_000

    def __init__(self) -> None:
        super().__init__()
        self.taken = self.in_turn = self.most = 0

    async def open(self, caller: Caller, params: dict[str, Any]) -> Any:
        self.next_turn()
        return {**await super().open(caller, params), "chunk_bytes": 250_000, "window": self.size}

    def next_turn(self) -> None:
        self.in_turn = 0
        if self.taken < self.size:
            asyncio.get_running_loop().call_soon(self.next_turn)

    def chunk(self, offset: int, data: memoryview) -> None:
        self.taken += len(data)
        self.in_turn += len(data)
        self.most = max(self.most, self.in_turn)
        if self.taken == self.size:
            self.handle.credit(self.size, 0)


async def test_a_client_at_full_speed_leaves_others_their_turns(programs: Programs, redis_server: RedisServer) -> None:
    sink = TurnsCounted()
    await uploaded(programs, redis_server, sink, sink.size)
    assert sink.most <= 1_000_000
