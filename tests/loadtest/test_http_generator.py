"""Clients in C without a socket: every answer of a poll is asked again with its cursor, every event counted once."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from hub.embedded import RedisServer
from loadtest.generators import Figures, HttpClients, NoCompiler, Programs, ask, compile_programs
from loadtest.reference_poll import Client, RedisLink, Topics
from loadtest.servers import payload
from tests.support.servers import client
from tests.support.waiting import until


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    try:
        return compile_programs(tmp_path_factory.mktemp("programs"))
    except NoCompiler as error:
        pytest.skip(str(error))


class Asked(Topics):
    """Counts who came to wait."""

    asked = 0

    def wait(self, topic: bytes, transport: asyncio.Transport) -> None:
        super().wait(topic, transport)
        self.asked += 1


async def test_polls_are_asked_again_and_events_counted_once(programs: Programs, redis_server: RedisServer) -> None:
    """By the floor of `make bench`, which loses what is published while a client asks anew: so all are waited for."""
    topics = Asked()
    loop = asyncio.get_running_loop()
    topics.redis, _ = await loop.create_unix_connection(lambda: RedisLink(topics), str(redis_server.socket_path))
    server = await loop.create_server(lambda: Client(topics), "127.0.0.1", 0)
    first, then = "/v1/poll?topics=bench:~~~~~", "/v1/poll?cursor=CURSOR&wait=30"
    clients = HttpClients(way="poll", port=server.sockets[0].getsockname()[1], first=first, next=then)
    measuring = asyncio.Event()

    def run() -> Figures:
        with ask(programs, clients, connections=20, duration=60, events=40) as load:
            assert load.phase()["open"] == 20
            load.phase()
            loop.call_soon_threadsafe(measuring.set)
            return load.phase()

    async with server:
        running = asyncio.create_task(asyncio.to_thread(run))
        await measuring.wait()
        with client(redis_server) as publisher:
            for asked in (20, 40):
                await until(lambda asked=asked: topics.asked == asked, 45, "all to wait")
                for number in range(20):
                    told = partial(publisher.publish, f"bench:{number:05d}", payload())
                    await until(lambda told=told: asyncio.to_thread(told), 45, "Redis to know who listens")
        done = await running
    topics.redis.close()
    assert (done["events"], done["fewest"], done["most"]) == (40, 2, 2)
    assert (done["empty"], done["gone"], done["open"]) == (0, 0, 20)
    assert done["latency_ms"]["count"] == 40
    assert 0 <= done["latency_ms"]["p50"] <= done["latency_ms"]["max"]


async def test_streams_are_read_as_they_come(programs: Programs) -> None:
    asked: list[bytes] = []
    measuring = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 1000\n\ndata: {}\n\n")
        await measuring.wait()
        for piece in (b'data: {"sent_', b'ns":1}\n\nid: x', b'\n\ndata: {"sent_ns":2}\n', b"\n: keep-alive\n\n"):
            await writer.drain()
            writer.write(piece)
            await asyncio.sleep(0.05)  # so that it comes apart
        await reader.read()  # until the client ends
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        clients = HttpClients(way="sse", port=port, first="/v1/sse?topics=x:~~~~~", headers=["X-Number: 7"])

        loop = asyncio.get_running_loop()

        def run() -> Figures:
            with ask(programs, clients, connections=2, duration=60, events=4) as load:
                assert load.phase()["open"] == 2
                load.phase()
                loop.call_soon_threadsafe(measuring.set)
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
