"""The page of ``hub dev`` over plain HTTP: everything that it loads is there, and nothing else is."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from hub.embedded import RedisServer
from tests.edge.http_hub import HttpHub, assert_problem, running_hub
from tests.support.hub_database import HubDatabase

LOADED = re.compile(r"""(?:<script[^>]* src=|\bfrom |\bimport\()["']([^"']+)["']""")


@pytest.fixture
async def demo_hub(redis_server: RedisServer, hub_database: HubDatabase) -> AsyncIterator[HttpHub]:
    settings = hub_database.settings(redis_url=redis_server.url, database_relay_url="", demo_orgs=("acme",))
    async with running_hub(settings) as hub:
        yield hub


async def test_the_page_and_every_file_that_it_loads(demo_hub: HttpHub) -> None:
    loaded: set[str] = set()
    waiting = ["/demo"]
    while waiting:
        path = waiting.pop()
        loaded.add(path)
        answer = await demo_hub.client.get(path)
        assert answer.status_code == 200, path
        kind = "text/html" if path == "/demo" else "text/javascript"
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "base-uri 'none'"} <= set(policy)
        files = {str(answer.url.join(address).path) for address in LOADED.findall(answer.text)}
        waiting += files - loaded
    page = ("demo.js", "demo_chat.js", "demo_flags.js", "demo_upload.js")
    client = ("hub.js", "lines.js", "ladder.js", "requests.js", "subscription.js", "trial.js")
    more = ("chat.js", "content.js", "upload.js", "tus.js")
    assert loaded == {"/demo", *(f"/demo/{name}" for name in (*page, *client, *more))}


@pytest.mark.parametrize("path", ["/demo/demo.html", "/demo/other.js", "/demo/..%2Fpyproject.toml"])
async def test_nothing_else_is_given_out(demo_hub: HttpHub, path: str) -> None:
    assert_problem(await demo_hub.client.get(path), "not_found")


async def test_a_hub_without_demo_organisations_has_no_page(http_hub: HttpHub) -> None:
    for path in ("/demo", "/demo/hub.js"):
        assert_problem(await http_hub.client.get(path), "not_found")
