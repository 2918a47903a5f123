"""The page of ``hub dev`` and its client (``web/hub.js``) in a real browser, on a real hub."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from services.main import SERVICES
from tests.browser.chromium import Chromium, Page
from tests.support.cut_proxy import CutProxy
from tests.support.hub_database import HubDatabase
from tests.support.running_hub import RunningHub, running_hub
from tests.support.waiting import until

LISTEN = """async (url, token) => {
  const { HubClient } = await import("/demo/hub.js");
  globalThis.got = [];
  globalThis.gaps = [];
  globalThis.states = [];
  globalThis.hub = new HubClient(url, () => token);
  hub.onState = (state) => states.push(state);
  const handlers = { onEvent: (event) => got.push(event.data), onGap: (gap) => gaps.push(gap) };
  hub.subscribe("events:tasks", handlers, { since: "start" });
}"""
EVENTS = 60
WAIT_S = 30.0


@pytest.fixture
async def hub(redis_url: str, hub_database: HubDatabase) -> AsyncIterator[RunningHub]:
    async with running_hub(
        "direct",
        redis_url,
        factories=SERVICES,
        demo_orgs=("acme",),
        allowed_origins=("*",),
        database_url=hub_database.url("hub_app"),
        database_relay_url=hub_database.url("hub_relay"),
        assistant_offline_words_per_s=1000.0,
    ) as running:
        yield running


@pytest.fixture
async def page(chromium: Chromium) -> AsyncIterator[Page]:
    page = await chromium.page()
    yield page
    await page.close()


async def text(page: Page, element: str) -> str:
    return str(await page.run("(id) => document.getElementById(id).innerText", element))


async def test_the_page_shows_events_and_a_document_that_unfolds(hub: RunningHub, page: Page) -> None:
    await page.visit(f"{hub.http_url}/demo#token={hub.token('acme', 'alice')}")
    await until(lambda: page.run("() => document.getElementById('state').className === 'up'"), WAIT_S, "the socket")
    assert await page.run("() => location.hash") == "", "the token does not stay in the address"
    assert await text(page, "who") == "alice of acme"
    await until(lambda: page.run("() => document.querySelectorAll('#events li').length > 2"), WAIT_S, "events")

    for button, words in (("start", "Guests arrive today"), ("write", "Fresh towels in room 12")):
        await page.run(
            """(button) => {
              document.getElementById("said").textContent = "";
              document.getElementById("speed").value = "superfast";
              document.getElementById(button).click();
            }""",
            button,
        )

        async def complete() -> bool:
            return (await text(page, "said")).startswith("complete")

        await until(complete, WAIT_S, "the document")
        assert words in await text(page, "document")
    assert await page.run("() => document.querySelectorAll('#document script').length") == 0


async def test_the_browsers_client_loses_and_doubles_nothing_over_cut_connections(hub: RunningHub, page: Page) -> None:
    await page.visit(f"{hub.http_url}/demo")
    headers = {"Authorization": f"Bearer {hub.token('globex', 'carol')}"}
    async with CutProxy(("127.0.0.1", hub.port)) as proxy, httpx.AsyncClient(headers=headers) as http:
        await page.run(LISTEN, f"ws://127.0.0.1:{proxy.port}/ws", hub.token("globex", "carol"))
        for number in range(EVENTS):
            event = {"topic": "events:tasks", "name": "n", "data": number}
            (await http.post(f"{hub.http_url}/v1/publish", json=event)).raise_for_status()
            if number % 20 == 10:
                await until(lambda least=number - 5: page.run("(n) => got.length >= n", least), WAIT_S, "some events")
                proxy.cut()
        await until(lambda: page.run("(n) => got.length >= n", EVENTS), WAIT_S, "all events")
        assert await page.run("() => got") == list(range(EVENTS))
        assert await page.run("() => gaps") == []
        assert (await page.run("() => states")).count("down") >= 2
        await page.run("() => hub.close()")


async def test_what_the_hub_refuses_is_told(hub: RunningHub, page: Page) -> None:
    await page.visit(f"{hub.http_url}/demo")
    await page.run(LISTEN, hub.url, hub.token("globex", "carol"))
    await until(lambda: page.run("() => states.includes('up')"), WAIT_S, "the socket")
    call = "(method, params) => hub.call(method, params).then(() => 'done', (error) => error.code)"
    assert await page.run(call, "content.start", {"content": ""}) == "empty_content"
    assert await page.run(call, "no.method", {}) == "unknown_method"
    await page.run("() => hub.close()")
    assert await page.run(call, "content.start", {"content": "x"}) == "connection_lost"


async def test_an_operator_flips_a_flag_and_sees_what_becomes_of_it(hub: RunningHub, page: Page) -> None:
    flip = "(flag) => document.querySelector(`[data-flag=${flag}]`).click()"
    shown = "(flag) => document.querySelector(`[data-flag=${flag}]`)?.checked"
    may = "(flag) => document.querySelector(`[data-flag=${flag}]`)?.disabled === false"
    token = hub.token("acme", "alice", scope="subscribe:* publish:* call:* flags:write")
    await page.visit(f"{hub.http_url}/demo#token={token}")

    async def goes_by(transport: str) -> None:
        async def equal() -> bool:
            return await text(page, "state") == "connected" and await text(page, "transport") == transport

        await until(equal, WAIT_S, transport)

    await goes_by("websocket")
    for flag, transport in (("finance_realtime_v2", "sse"), ("chat", "websocket")):
        await until(lambda flag=flag: page.run(may, flag), WAIT_S, "the switch")
        await page.run(flip, flag)
        await until(lambda flag=flag: page.run(f"(flag) => ({shown})(flag) === false", flag), WAIT_S, "off")
        await goes_by(transport)
        if flag == "chat":
            await until(lambda: page.run("() => document.getElementById('chat-said').innerText"), WAIT_S, "why")
            assert "switched off (chat)" in await text(page, "chat-said")
        await page.run("(flag) => document.querySelector(`li:has([data-flag=${flag}]) button`).click()", flag)
        await until(lambda flag=flag: page.run(shown, flag), WAIT_S, "on again")
        await goes_by("websocket")
    await page.run("() => document.getElementById('block').click()")
    await goes_by("sse")
    await page.run("() => document.getElementById('block').click()")
    await goes_by("websocket")


async def test_who_may_not_flip_flags_sees_them(hub: RunningHub, page: Page) -> None:
    await page.visit(f"{hub.http_url}/demo#token={hub.token('acme', 'bob')}")
    await until(lambda: page.run("() => document.querySelector('[data-flag=chat]')?.checked"), WAIT_S, "the flags")
    await until(lambda: page.run("() => document.getElementById('flags-said').innerText"), WAIT_S, "why not")
    assert await page.run("() => document.querySelector('[data-flag=chat]').disabled")
