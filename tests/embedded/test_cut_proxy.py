"""The proxy forwards faithfully, and each way of hurting a connection hurts it in that way only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.cut_proxy import CutProxy
from tests.support.servers import temporary_folder
from tests.support.waiting import until


class Echo:
    """Sends back what comes in, with its name in front of the first bytes."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.received = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.name)
        try:
            while data := await reader.read(65_536):
                self.received += len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, Path]]:
    with temporary_folder() as folder:
        server = Echo(b"a")
        listener = await asyncio.start_unix_server(server.serve, folder / "s")
        yield server, folder / "s"
        listener.close()


async def connected(proxy: CutProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await reader.readexactly(1) == b"a"
    return reader, writer


async def ended(reader: asyncio.StreamReader) -> None:
    """Waits for the end of the stream, whatever comes before."""
    while await asyncio.wait_for(reader.read(1000), 15):
        pass


async def test_bytes_and_the_end_of_a_stream_are_forwarded(echo: tuple[Echo, Path]) -> None:
    async with CutProxy(echo[1]) as proxy:
        reader, writer = await connected(proxy)
        sent = bytes(range(256)) * 4096

        async def send() -> None:
            writer.write(sent)
            await writer.drain()
            writer.write_eof()

        _, received = await asyncio.gather(send(), reader.read(-1))
        assert received == sent
        writer.close()
        await until(lambda: proxy.connections == 0, what="the connection to be forgotten")


async def test_a_stall_holds_everything_back_and_loses_nothing(echo: tuple[Echo, Path]) -> None:
    server, path = echo
    async with CutProxy(path) as proxy:
        reader, writer = await connected(proxy)
        proxy.stall()
        writer.write(b"x" * 1000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        assert server.received == 0
        proxy.resume()
        assert await reader.readexactly(1000) == b"x" * 1000
        writer.close()


async def test_a_stall_is_felt_by_the_sender(echo: tuple[Echo, Path]) -> None:
    async with CutProxy(echo[1]) as proxy:
        _, writer = await connected(proxy)
        proxy.stall("to_target")
        writer.write(b"x" * 64 * 1024 * 1024)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.2)
        writer.transport.abort()


async def test_one_direction_can_be_stalled_alone(echo: tuple[Echo, Path]) -> None:
    server, path = echo
    async with CutProxy(path) as proxy:
        reader, writer = await connected(proxy)
        proxy.stall("to_client")
        writer.write(b"xyz")
        await until(lambda: server.received == 3, what="the request to arrive")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        proxy.resume("to_client")
        assert await reader.readexactly(3) == b"xyz"
        writer.close()


async def test_a_cut_resets_even_a_stalled_connection_and_the_next_one_works(echo: tuple[Echo, Path]) -> None:
    async with CutProxy(echo[1]) as proxy:
        reader, writer = await connected(proxy)
        proxy.stall()
        proxy.cut()
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(1), 15) == b""
        writer.close()
        await until(lambda: proxy.connections == 0, what="the connection to be forgotten")
        proxy.resume()
        _, writer = await connected(proxy)
        writer.close()


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_ends_within_a_message(echo: tuple[Echo, Path], reset: bool) -> None:
    """Exactly there, and once only. The target is on TCP: a unix socket knows no reset."""
    server, _ = echo
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listener, CutProxy(listener.sockets[0].getsockname()[:2]) as proxy:
        reader, writer = await connected(proxy)
        proxy.cut_after(150, reset=reset)
        for count in (100, 200):
            writer.write(b"x" * count)
            await writer.drain()
            if count == 100:
                await until(lambda: server.received == 100, what="the first message to arrive")
        if reset:
            with pytest.raises(ConnectionResetError):
                await ended(reader)
            assert server.received <= 150
        else:
            await ended(reader)
            assert server.received == 150
        writer.close()
        _, second = await connected(proxy)
        second.write(b"x" * 1000)
        await until(lambda: server.received >= 1100, what="the next connection to be whole")
        second.close()


async def test_refused_means_refused_until_allowed_while_open_ones_go_on(echo: tuple[Echo, Path]) -> None:
    async with CutProxy(echo[1]) as proxy:
        reader, writer = await connected(proxy)
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"still")
        assert await reader.readexactly(5) == b"still"
        await proxy.allow()
        _, second = await connected(proxy)
        second.close()
        writer.close()


async def test_new_connections_go_to_the_new_target(echo: tuple[Echo, Path]) -> None:
    async with CutProxy(echo[1]) as proxy:
        old_reader, old_writer = await connected(proxy)
        other = Echo(b"b")
        listener = await asyncio.start_server(other.serve, "127.0.0.1", 0)
        proxy.target = listener.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await reader.readexactly(1) == b"b"
        old_writer.write(b"!")
        assert await old_reader.readexactly(1) == b"!"
        writer.close()
        old_writer.close()
        listener.close()


async def test_a_target_that_is_not_there_ends_the_connection(echo: tuple[Echo, Path]) -> None:
    async with CutProxy(echo[1].with_name("nobody-listens")) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(1), 15) == b""
        writer.close()


async def test_a_throttle_lets_through_no_more_than_its_rate(echo: tuple[Echo, Path]) -> None:
    server, path = echo
    async with CutProxy(path) as proxy:
        _, writer = await connected(proxy)
        proxy.throttle(10_000)
        begin = asyncio.get_running_loop().time()
        writer.write(b"x" * 1_000_000)
        await until(lambda: server.received >= 2_000, what="the first bytes to get through")
        # The read that was waiting when the limit came may have taken a whole chunk; from then on the rate holds.
        elapsed = asyncio.get_running_loop().time() - begin
        assert server.received <= 65_536 + 10_000 * (elapsed + 1)
        writer.transport.abort()
