"""Clients in C without a socket: every answer of a poll is asked again with its cursor, every event counted once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.bench import Bench
from loadtest.generators import HttpClients, NoCompiler, Programs, ask, compile_programs, publish
from loadtest.rows.polls import PollServer
from tests.support.servers import running_redis


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    try:
        return compile_programs(tmp_path_factory.mktemp("programs"))
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.fixture
def floor(programs: Programs, tmp_path: Path) -> Iterator[PollServer]:
    with running_redis(tcp=False) as redis, PollServer(Bench(programs, tmp_path, redis, full=False)) as server:
        yield server


def test_polls_are_asked_again_and_events_counted_once(programs: Programs, floor: PollServer) -> None:
    with ask(programs, floor.clients(), connections=20, duration=60) as load:
        assert load.phase()["open"] == 20
        load.phase()
        with publish(programs, floor.publication(), rate=100, duration=0.395, topics=20) as source:
            assert source.phase()["answered"] == 40
        done = load.finish()
    assert (done["events"], done["fewest"], done["most"]) == (40, 2, 2)
    assert (done["empty"], done["gone"], done["open"]) == (0, 0, 20)
    assert done["latency_ms"]["count"] == 40
    assert 0 <= done["latency_ms"]["p50"] <= done["latency_ms"]["max"]


async def test_streams_are_read_as_they_come(programs: Programs) -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 1000\n\ndata: {}\n\n")
        for piece in (b'data: {"sent_', b'ns":1}\n\nid: x', b'\n\ndata: {"sent_ns":2}\n', b"\n: keep-alive\n\n"):
            await writer.drain()
            writer.write(piece)
            await asyncio.sleep(0.05)  # so that it comes apart
        await reader.read()  # until the client ends
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        clients = HttpClients(way="sse", port=port, first="/v1/sse?topics=x:~~~~~", headers=["X-Number: 7"])

        def run() -> dict[str, int]:
            with ask(programs, clients, connections=2, duration=0.4) as load:
                assert load.phase()["open"] == 2
                load.phase()
                return load.phase()

        done = await asyncio.to_thread(run)
    assert (done["events"], done["fewest"], done["most"]) == (4, 2, 2)
    assert sorted(head.split(b"\r\n")[0] for head in asked) == [
        b"GET /v1/sse?topics=x:0000%d HTTP/1.1" % number for number in range(2)
    ]
    assert all(b"X-Number: 7\r\n" in head for head in asked)


async def test_a_refusal_is_counted(programs: Programs) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        clients = HttpClients(way="poll", port=server.sockets[0].getsockname()[1], first="/")

        def run() -> dict[str, int]:
            with ask(programs, clients, connections=3, duration=0) as load:
                return load.phase()

        assert (await asyncio.to_thread(run))["gone"] == 3
