"""A browser for the session. Without one the tests are skipped, but never where CI promises that they ran."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.browser.chromium import HOW_TO_INSTALL, Chromium, find_chromium, running_chromium
from tests.browser.detector import Detector, start_detector
from tests.browser.visitor import Visitor, visiting

WEB = Path(__file__).parents[2] / "web"
HTML = b'<!doctype html><link rel="icon" href="data:,">'


@pytest.fixture(scope="session")
def binary() -> str:
    """Where a browser is."""
    found = find_chromium()
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(HOW_TO_INSTALL)
    if found is None:
        pytest.skip(HOW_TO_INSTALL)
    return found


@pytest.fixture(scope="session")
async def chromium(binary: str) -> AsyncIterator[Chromium]:
    async with running_chromium(binary) as browser:
        yield browser


@pytest.fixture(scope="session")
async def session_detector(binary: str) -> AsyncIterator[Detector]:
    # A browser of its own: it stops every new page until it has been looked at.
    async with running_chromium(binary) as browser:
        yield await start_detector(browser)


@pytest.fixture
def detector(session_detector: Detector) -> Detector:
    session_detector.strays.clear()
    return session_detector


@pytest.fixture(scope="session")
async def address() -> AsyncIterator[str]:
    """Where an empty page and our scripts are. A page that did not come from this machine may not connect to it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A browser opens connections that it may never need.
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                name = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode().removeprefix("/")
                kind, body = ("text/javascript", (WEB / name).read_bytes()) if name else ("text/html", HTML)
                writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: %s; charset=utf-8\r\n\r\n%s" % (kind.encode(), body))
                await writer.drain()
        finally:
            writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1")
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    server.close()
    await server.wait_closed()


@pytest.fixture
async def visitor(
    request: pytest.FixtureRequest, chromium: Chromium, address: str, redis_url: str
) -> AsyncIterator[Visitor]:
    """A parameter is settings of the hub."""
    async with visiting(chromium, address, redis_url, **getattr(request, "param", {})) as one:
        yield one
