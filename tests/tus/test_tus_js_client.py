"""tus-js-client, as it is on npm, against a real hub: everything it can do that the hub says it speaks."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.services.uploads.depot import Depot, depot, some_text
from tests.services.uploads.shelved import checked
from tests.services.uploads.tus_client import TusClient, tus
from tests.support.cut_proxy import CutProxy
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

DATA = some_text(6_000_000)
_DRIVER = Path(__file__).with_name("drive.cjs")

Drive = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def house(redis_url: str, hub_database: HubDatabase, tmp_path: Path) -> AsyncIterator[Depot]:
    async with depot(redis_url, hub_database, tmp_path / "store") as running:
        yield running


@pytest.fixture
async def ada(house: Depot) -> AsyncIterator[TusClient]:
    client = tus(house)
    async with client.http:
        yield client


@pytest.fixture
def drive(house: Depot, node_modules: Path, tmp_path: Path) -> Drive:
    """Runs a scenario of ``drive.cjs``; what it told."""
    file = tmp_path / "guests.csv"
    file.write_bytes(DATA)
    hub = house.nodes[0]

    async def run(scenario: str, base: str = hub.http_url) -> dict[str, Any]:
        arguments = (scenario, f"{base}/v1/uploads", hub.token("acme", "ada"), file, tmp_path / f"{scenario}.json")
        environment = os.environ | {"NODE_PATH": str(node_modules)}
        process = await asyncio.create_subprocess_exec(
            "node", _DRIVER, *arguments, env=environment, stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(60):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0
        told: dict[str, Any] = json.loads(out)
        return told

    return run


async def arrived(ada: TusClient, told: dict[str, Any]) -> None:
    """It is there, byte for byte."""
    assert "error" not in told, told
    url = urlsplit(told["url"]).path
    await checked(ada, url)
    assert (await ada.http.get(url + "/content")).content == DATA


async def test_uploads_that_end_well(ada: TusClient, drive: Drive) -> None:
    for scenario in ("plain", "with_creation", "post_only", "parallel"):
        await arrived(ada, await drive(scenario))
    told = await drive("documented")
    assert "error" not in told, told
    state = (await ada.http.get(urlsplit(told["url"]).path)).json()
    assert (state["offset"], state["document_type"], state["metadata"]["guest_id"]) == (len(DATA), "passport", "7")


async def test_uploads_that_are_resumed(house: Depot, ada: TusClient, drive: Drive) -> None:
    told = await drive("aborted")
    await arrived(ada, told)
    assert told["same"], "it went on with the same upload"
    assert told["resumedAt"] == [1_200_000]
    async with CutProxy(("127.0.0.1", house.nodes[0].port)) as proxy:
        proxy.throttle(20_000_000)
        await until(lambda: len(house.stored()) == 1, what="the parts of the first one to be cleared")
        lost: list[int] = []

        def loses(_direction: str, data: bytes) -> bool:
            if not lost and len(house.stored()) > 1:
                lost.append(len(data))
                return True
            return False

        proxy.drops = loses
        told = await drive("plain", f"http://127.0.0.1:{proxy.port}")
    await arrived(ada, told)
    assert lost
    assert 0 < told["resumedAt"][0] < len(DATA)


async def test_uploads_that_do_not(ada: TusClient, drive: Drive) -> None:
    url = (await drive("terminated"))["url"]
    assert (await ada.ask("HEAD", url)).status_code == 410
    for scenario, status in (("wrong_checksum", 460), ("wrong_offset", 409)):
        told = await drive(scenario)
        assert told["status"] == status, told
        assert await ada.offset(urlsplit(told["url"]).path) == 0
