"""The chat of the page of ``hub dev``: two people in two pages, on a real hub."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hub.api import HubError
from hub.auth.tokens import mint_token
from services.chat.text import message_text
from services.main import SERVICES
from tests.browser.chromium import Chromium, Page
from tests.support.cut_proxy import CutProxy
from tests.support.hub_database import HubDatabase
from tests.support.running_hub import RunningHub, running_hub
from tests.support.waiting import until

CASES: dict[str, str] = json.loads((Path(__file__).parent.parent / "markup" / "xss_cases.json").read_text())
WAIT_S = 30.0
OPEN = """async (url, token) => {
  const { HubClient } = await import("/demo/hub.js");
  const { ChatRoom } = await import("/demo/chat.js");
  globalThis.changes = [];
  globalThis.ends = [];
  globalThis.hub = new HubClient(url, () => token, { backoffMs: 20, mostBackoffMs: 100 });
  globalThis.room = new ChatRoom(hub, "lobby", {
    onChange: (name) => changes.push(name),
    onEnd: (error) => ends.push(error.code),
  });
  await room.open();
}"""


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
        chat_typing_expires_s=1.0,
        chat_messages_per_second=1000.0,
        chat_messages_burst=1000,
        presence_grace_s=0.5,
    ) as running:
        yield running


class Tab:
    """One page, with one user."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def run(self, code: str, *arguments: object) -> Any:
        return await self.page.run(f"async (...given) => {{ {code} }}", *arguments)

    async def sees(self, expression: str, value: object) -> None:
        """Waits until an expression has a value."""
        seen: Any = None

        async def equal() -> bool:
            nonlocal seen
            seen = await self.run(f"return {expression}")
            return bool(seen == value)

        try:
            await until(equal, WAIT_S)
        except AssertionError:
            said = await self.run("return document.getElementById('chat-said')?.innerText")
            assert seen == value, f"{expression}; the page says {said!r}"

    async def messages(self, *texts: str) -> None:
        """Waits until these are the messages."""
        await self.sees(
            "[...document.querySelectorAll('#messages li > div:first-of-type')].map((e) => e.innerText)", [*texts]
        )

    async def write(self, text: str, markdown: bool = True) -> None:
        await self.run(
            """document.getElementById("text").value = given[0];
            document.getElementById("markdown").checked = given[1];
            document.getElementById("send").click()""",
            text,
            markdown,
        )

    async def press(self, text: str, button: str) -> None:
        """Presses a button of the message with this text."""
        await self.run(
            """const items = [...document.querySelectorAll("#messages li")];
            items.find((item) => item.innerText.includes(given[0])).querySelector(`button.${given[1]}`).click()""",
            text,
            button,
        )

    async def here(self, **users: str) -> None:
        """Waits until these are shown as being here."""
        shown = (
            "Object.fromEntries([...document.querySelectorAll('#here span')].map((e) => [e.dataset.user, e.className]))"
        )
        await self.sees(shown, users)


async def tab(chromium: Chromium, hub: RunningHub, user: str) -> Tab:
    one = Tab(await chromium.page())
    # Each is seen by somebody, although they are tabs of one window.
    await one.page.call("Emulation.setFocusEmulationEnabled", {"enabled": True})
    await one.page.visit(f"{hub.http_url}/demo#token={mint_token(hub.settings, 'acme', user, name=user.title())}")
    return one


async def bare(chromium: Chromium, hub: RunningHub, url: str) -> Tab:
    """Ben's room without anything that shows it."""
    one = Tab(await chromium.page())
    await one.page.visit(f"{hub.http_url}/demo")
    await one.page.run(OPEN, url, hub.token("acme", "ben"))
    return one


@pytest.fixture
async def ann(hub: RunningHub, chromium: Chromium) -> AsyncIterator[Tab]:
    one = await tab(chromium, hub, "ann")
    yield one
    await one.page.close()


@pytest.fixture
async def ben(hub: RunningHub, chromium: Chromium) -> AsyncIterator[Tab]:
    one = await tab(chromium, hub, "ben")
    yield one
    await one.page.close()


async def test_two_people_talk(ann: Tab, ben: Tab) -> None:
    await ann.here(ann="online", ben="online")
    await ann.write("hello **there**")
    await ben.messages("hello there")
    assert await ben.run("return document.querySelector('#messages strong').innerText") == "there"
    await ben.write("**hello** ann\nhow are you?", markdown=False)
    await ann.messages("hello there", "**hello** ann\nhow are you?")

    await ann.press("hello there", "edit")
    assert await ann.run("return document.getElementById('text').value") == "hello **there**"
    await ann.write("hello *ben*")
    await ben.messages("hello ben", "**hello** ann\nhow are you?")
    assert "edited" in await ben.run("return document.querySelector('#messages small').innerText")

    await ben.press("hello ben", "react")
    await ann.sees("document.querySelector('#messages .react').innerText", "👍 1")
    await ann.sees("document.querySelector('#messages .react').title", "ben")
    await ben.sees("document.querySelector('#messages .react').innerText", "👍 1")  # else he would do it once more
    await ben.press("hello ben", "react")
    await ann.sees("document.querySelector('#messages .react').innerText", "👍")
    await ann.sees("document.querySelector('#messages small').title", "read by ben")

    await ann.press("hello ben", "delete")
    await ben.messages("deleted", "**hello** ann\nhow are you?")
    await ann.sees("document.getElementById('chat-said').innerText", "")
    await ben.write("  \n ")
    await ben.sees("document.getElementById('chat-said').innerText.split(':')[0]", "empty_content")


async def test_typing_is_shown_to_others_and_ends_by_itself(ann: Tab, ben: Tab) -> None:
    await ann.here(ann="online", ben="online")
    type_ = (
        "const text = document.getElementById('text'); text.value = given[0]; text.dispatchEvent(new Event('input'))"
    )
    # It may be over before one looks.
    watch = """globalThis.typed = [];
    new MutationObserver((changes) => typed.push(...changes.map(({ target }) => target.innerText)))
      .observe(document.getElementById("typing"), { childList: true })"""
    for one in (ann, ben):
        await one.run(watch)
    await ann.run(type_, "h")
    await ben.sees("typed.includes('Ann types …')", True)
    assert await ann.run("return document.getElementById('typing').innerText") == ""
    await ben.sees("document.getElementById('typing').innerText", "")
    await ben.run(type_, "h")
    await ann.sees("typed.includes('Ben types …')", True)
    await ben.write("hello")
    await ann.messages("hello")
    assert await ann.run("return document.getElementById('typing').innerText") == ""


async def test_who_is_here(ann: Tab, ben: Tab, hub: RunningHub, chromium: Chromium) -> None:
    await ann.here(ann="online", ben="online")
    hide = """Object.defineProperty(document, "hidden", { value: given[0], configurable: true });
    document.dispatchEvent(new Event("visibilitychange"))"""
    await ben.run(hide, True)
    await ann.here(ann="online", ben="away")
    await ann.write("are you there?")
    await ben.sees("document.getElementById('unread').innerText + document.title", "(1 new)(1) hub")
    assert await ann.run("return document.querySelector('#messages small').title") == ""
    await ben.run(hide, False)
    await ann.here(ann="online", ben="online")
    await ben.sees("document.getElementById('unread').innerText + document.title", "hub")
    await ann.sees("document.querySelector('#messages small').title", "read by ben")
    carol = await tab(chromium, hub, "carol")
    await ann.here(ann="online", ben="online", carol="online")
    await carol.page.close()
    await ann.here(ann="online", ben="online")


def sendable(payload: str) -> bool:
    try:
        return bool(message_text(payload, 8192))
    except HubError:
        return False


async def test_payloads_do_nothing(ann: Tab, ben: Tab) -> None:
    """Some of each kind; all of them, in every place, are in ``test_xss``."""
    await ann.here(ann="online", ben="online")
    for one in (ann, ben):
        await one.run("globalThis.done = []; globalThis.alert = (what) => done.push(what)")
    payloads = [payload for payload in list(CASES.values())[::12] if sendable(payload)]
    for payload in payloads:
        await ann.write(payload)
        await ann.sees("document.getElementById('text').value + document.getElementById('chat-said').innerText", "")
    await ben.sees("document.querySelectorAll('#messages li').length", len(payloads))
    for one in (ann, ben):
        await one.run(
            "for (const e of document.querySelectorAll('#messages *')) e.dispatchEvent(new MouseEvent('mouseover'))"
        )
        assert await one.run("return done") == []
        assert (
            await one.run("return document.querySelectorAll('#messages :is(script, iframe, svg, style)').length") == 0
        )


async def test_older_messages_join_without_a_seam(hub: RunningHub, chromium: Chromium, ann: Tab) -> None:
    await ann.here(ann="online")
    ben = await bare(chromium, hub, hub.url)
    await ben.run("for (let n = 0; n < 120; n += 1) await room.send(`m${n}`); hub.close()")
    await ann.messages(*(f"m{number}" for number in range(120)))
    await ann.page.visit(f"{hub.http_url}/demo")
    await ann.messages(*(f"m{number}" for number in range(70, 120)))
    await ann.run("document.getElementById('older').click()")
    await ann.messages(*(f"m{number}" for number in range(20, 120)))
    await ann.run("document.getElementById('older').click()")
    await ann.messages(*(f"m{number}" for number in range(120)))
    await ann.sees("document.getElementById('older').hidden", True)


async def test_a_room_over_cut_connections(hub: RunningHub, chromium: Chromium, ann: Tab) -> None:
    """Every message once and in order, sent and received; who is here is right in the end."""
    await ann.here(ann="online")
    async with CutProxy(("127.0.0.1", hub.port)) as proxy:
        ben = await bare(chromium, hub, f"ws://127.0.0.1:{proxy.port}/ws")
        for number in range(30):
            if number % 10 == 5:
                proxy.cut()
            await ann.write(f"a{number}")
            await ann.sees("document.getElementById('text').value", "")
            await ben.run("room.send(given[0])", f"b{number}")
        await ann.sees("document.querySelectorAll('#messages li').length", 60)
        await ben.sees("room.view.messages.length", 60)
        seen = await ann.run(
            "return [...document.querySelectorAll('#messages li > div:first-of-type')].map((e) => e.innerText)"
        )
        assert await ben.run("return room.view.messages.map((message) => message.text)") == seen
        assert sorted(seen) == sorted(f"{who}{number}" for who in "ab" for number in range(30))
        await ann.here(ann="online", ben="online")
        await ben.sees("[...room.presence.members.keys()].sort()", ["ann", "ben"])
        await ben.run("room.close(); hub.close()")
        await ann.here(ann="online")
    await ben.page.close()
