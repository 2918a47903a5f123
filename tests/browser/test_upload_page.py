"""Uploads in a real browser on a real hub: the page of ``hub dev``, and web/upload.js over connections that break."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hub.auth.tokens import mint_token
from services.main import SERVICES
from tests.browser.chromium import Chromium, Params
from tests.browser.test_chat_page import Tab, tab
from tests.support.cut_proxy import CutProxy
from tests.support.hub_database import HubDatabase
from tests.support.running_hub import RunningHub, running_hub
from tests.support.waiting import until

WAIT_S = 30.0
HOSTILE = "'\"><img src=x onerror=alert(1)><svg onload=alert(2)>.csv"
CHOOSE = """const files = new DataTransfer();
const part = Uint8Array.from(atob(given[1]), (c) => c.charCodeAt(0));
files.items.add(new File(Array(given[4]).fill(part), given[0]));
const input = document.getElementById("upload-file");
if (given[3]) {
  const how = { dataTransfer: files, bubbles: true, cancelable: true };
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", how));
} else {
  input.files = files.files;
  input.dispatchEvent(new Event("change"));
}
document.getElementById("upload-type").value = given[2]"""
SAID = "document.getElementById('upload-said').innerText"
SEND = """async (url, token, size, ways = {}, options = {}) => {
  const { HubClient } = await import("/demo/hub.js");
  const { upload } = await import("/demo/upload.js");
  let text = "number,guest\\n";
  for (let row = 0; text.length < size; row += 1) text += `${row},${Math.random()}\\n`;
  const bytes = new TextEncoder().encode(text);
  const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  Object.assign(globalThis, { offsets: [], downs: 0, end: null });
  globalThis.hub = new HubClient(url, () => token, {
    backoffMs: 20, mostBackoffMs: 100, welcomeMs: 30_000, doubtMs: 30_000, ...ways,
  });
  hub.onState = (state) => downs += state === "down";
  globalThis.sending = upload(hub, new File([bytes], "guests.csv"), {
    documentType: "csv", metadata: { guest_id: 7 }, onProgress: ({ offset }) => offsets.push(offset), ...options,
  });
  sending.done.then((shape) => end = shape, (error) => end = { state: error.code });
  return Array.from(sum, (byte) => byte.toString(16).padStart(2, "0")).join("");
}"""


@pytest.fixture
def settings(hub_database: HubDatabase, tmp_path: Path) -> dict[str, Any]:
    """Of every node of these tests."""
    return {
        "demo_orgs": ("acme",),
        "allowed_origins": ("*",),
        "database_url": hub_database.url("hub_app"),
        "database_relay_url": hub_database.url("hub_relay"),
        "uploads_store": f"file:{tmp_path / 'uploads'}",
        "uploads_progress_s": 0.05,
        "uploads_reads_per_second": 1000.0,
    }


@pytest.fixture
async def hub(redis_url: str, settings: dict[str, Any]) -> AsyncIterator[RunningHub]:
    async with running_hub("direct", redis_url, factories=SERVICES, **settings) as running:
        yield running


@pytest.fixture
async def ann(hub: RunningHub, chromium: Chromium) -> AsyncIterator[Tab]:
    one = await tab(chromium, hub, "ann")
    await one.sees("document.getElementById('state').className", "up")
    yield one
    await one.page.close()


async def choose(one: Tab, name: str, data: bytes, kind: str, *, drop: bool = False, times: int = 1) -> None:
    """``times``: so often one after the other."""
    await one.run(CHOOSE, name, base64.b64encode(data).decode(), kind, drop, times)


async def press(one: Tab, button: str) -> None:
    """Presses a button of the box, as soon as that is possible."""
    await one.sees(f"document.getElementById('upload-{button}').disabled", False)
    await one.run(f"document.getElementById('upload-{button}').click()")


async def says(one: Tab, begin: str) -> str:
    """Waits until the box says this."""
    text = ""

    async def said() -> bool:
        nonlocal text
        text = str(await one.run(f"return {SAID}"))
        return text.startswith(begin)

    try:
        await until(said, WAIT_S)
    except AssertionError:
        assert text == begin, "what the page says"
    return text


def csv(rows: int) -> bytes:
    return "".join(["number,guest,room\n", *(f"{n},Ada {random.random()},{n % 40}\n" for n in range(rows))]).encode()


async def downloaded(one: Tab, folder: Path, click: str) -> bytes:
    """What the browser has on its disk after something was pressed."""
    done: list[str] = []

    def listen(event: Params) -> None:
        if event["state"] == "completed":
            done.append(event["guid"])

    one.page.browser.on("Browser.downloadProgress", listen)
    behaviour = {"behavior": "allowAndName", "downloadPath": str(folder), "eventsEnabled": True}
    await one.page.browser.call("Browser.setDownloadBehavior", behaviour)
    await one.run(click)
    await until(lambda: done, WAIT_S, "the download")
    return _read(folder / done[0])


def _read(path: Path) -> bytes:
    return path.read_bytes()


async def test_a_document_is_uploaded_attached_and_downloaded(
    hub: RunningHub, chromium: Chromium, ann: Tab, tmp_path: Path
) -> None:
    """With a name that tries to be a script, in every place where names are shown."""
    ben = await tab(chromium, hub, "ben")
    for one in (ann, ben):
        await one.here(ann="online", ben="online")
        await one.run("globalThis.done = []; globalThis.alert = (what) => done.push(what)")
    data = csv(2000)
    await choose(ann, HOSTILE, data, "csv")
    await press(ann, "start")
    assert HOSTILE in await says(ann, f"{HOSTILE}: available")
    facts = await ann.run("return document.getElementById('upload-facts').innerText")
    for fact in (hashlib.sha256(data).hexdigest(), "2000", "guest", "text/csv"):
        assert fact in facts
    assert await ann.run("return document.getElementById('upload-progress').value") == 1
    lines = "[...document.querySelectorAll('#events li')].map((item) => item.innerText)"
    for news in ("document\\.uploaded", "upload:\\S+ completed"):  # of two topics, so in any order
        await until(lambda news=news: ann.run(f"return {lines}.some((line) => / {news} /.test(line))"), WAIT_S, news)
    got = await downloaded(ann, tmp_path, "document.getElementById('upload-download').click()")
    assert got == data

    await ann.sees("document.getElementById('attach-name').innerText", HOSTILE)
    await ann.run("document.getElementById('attach').checked = true")
    await ann.write("the guests")
    await ben.messages("the guests")
    await ben.sees("document.querySelector('#messages .attachment').innerText", f"📎 {HOSTILE}")
    got = await downloaded(ben, tmp_path, "document.querySelector('#messages .attachment').click()")
    assert got == data
    for one in (ann, ben):
        assert await one.run("return [...done, ...document.querySelectorAll('img, svg')]") == []
    await ben.page.close()


async def test_what_is_no_passport_is_told(ann: Tab) -> None:
    await choose(ann, "passport.pdf", b"only text", "passport", drop=True)
    await press(ann, "start")
    await says(ann, "unsupported_media: ")
    assert await ann.run("return document.getElementById('upload-download').hidden")
    await choose(ann, "nothing.csv", b"", "csv")
    await press(ann, "start")
    await says(ann, "empty_content: ")


async def test_a_file_arrives_over_cut_connections_another_node_and_a_pause(
    hub: RunningHub, chromium: Chromium, redis_url: str, settings: dict[str, Any]
) -> None:
    one = Tab(await chromium.page())
    await one.page.visit(f"{hub.http_url}/demo")
    async with (
        running_hub("direct", redis_url, factories=SERVICES, **settings) as other,
        CutProxy(("127.0.0.1", hub.port)) as proxy,
    ):
        proxy.throttle(1_500_000)  # a pause waits for what is under way, at times more than 5 MB: less than is left
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        sha256 = await one.page.run(SEND, url, mint_token(hub.settings, "acme", "ann"), 24_000_000)
        for before, least in enumerate((400_000, 1_200_000)):
            await until(lambda least=least: one.run(f"return sending.offset > {least}"), WAIT_S, "some of it")
            proxy.target = ("127.0.0.1", other.port)
            proxy.cut()
            await until(lambda before=before: one.run(f"return downs > {before}"), WAIT_S, "the loss")
        await until(lambda: one.run("return sending.offset > 1800000"), WAIT_S, "some of it")
        await one.run("sending.pause()")
        status = "(await hub.call('upload.status', { upload: sending.id }).catch(() => ({})))"
        await one.sees(f"{status}.paused", True)
        assert await one.run("return end") is None
        await one.run("sending.resume()")
        proxy.throttle(None)
        await until(lambda: one.run("return end"), WAIT_S, "the end")
    assert await one.run("return [end.state, end.sha256, end.metadata]") == ["available", sha256, {"guest_id": 7}]
    offsets = await one.run("return offsets")
    assert offsets == sorted(offsets)
    assert len(set(offsets)) > 4
    assert await one.run("hub.close(); return downs") >= 2
    await one.page.close()


async def test_a_file_goes_on_by_requests_where_the_socket_is_blocked(hub: RunningHub, chromium: Chromium) -> None:
    one = Tab(await chromium.page())
    async with CutProxy(("127.0.0.1", hub.port)) as proxy:
        await one.page.visit(f"http://127.0.0.1:{proxy.port}/demo")
        proxy.throttle(1_000_000)
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        token = mint_token(hub.settings, "acme", "ann")
        sha256 = await one.page.run(SEND, url, token, 5_000_000)
        await until(lambda: one.run("return sending.offset > 400000"), WAIT_S, "some of it")
        proxy.drops = lambda direction, data: direction == "to_target" and b"Upgrade: websocket" in data
        proxy.cut()
        await one.sees("hub.transport", "sse")
        for _ in range(2):
            least = await one.run("return sending.offset + 500000")
            await until(lambda least=least: one.run(f"return sending.offset > {least}"), WAIT_S, "some more")
            assert await one.run("return hub.transport") != "websocket"
            proxy.cut()
        proxy.throttle(200_000)  # it is not to be there before it is paused
        await one.run("sending.pause()")
        status = "(await hub.call('upload.status', { upload: sending.id }).catch(() => ({})))"
        await one.sees(f"{status}.paused", True)
        await one.run("sending.resume()")
        proxy.throttle(None)
        await until(lambda: one.run("return end"), WAIT_S, "the end")
        assert await one.run("return [end.state, end.sha256, end.metadata]") == ["available", sha256, {"guest_id": 7}]
        offsets = await one.run("return offsets")
        assert offsets == sorted(offsets)
        await one.run("hub.close()")
        # The next page remembers, and begins by a request: metadata are texts there.
        sha256 = await one.page.run(SEND, url, token, 2_000_000)
        await until(lambda: one.run("return end"), WAIT_S, "the end")
        assert await one.run("return [end.state, end.sha256, end.metadata]") == ["available", sha256, {"guest_id": "7"}]
        await one.run("hub.close()")
    await one.page.close()


async def test_what_the_browser_repeats_by_itself_is_no_reason_to_wait(hub: RunningHub, chromium: Chromium) -> None:
    """Some of a request came before its connection broke; what is sent again begins at an offset of before."""
    one = Tab(await chromium.page())
    await one.page.visit(f"{hub.http_url}/demo")
    await one.run(
        """
        const { fetch } = globalThis;
        globalThis.repeated = 0;
        globalThis.fetch = async (url, init) => {
          const again = init?.method === "PATCH" && repeated++ === 1;
          if (again) await fetch(url, { ...init, body: init.body.slice(0, 1000) });
          return fetch(url, init);
        };
        """
    )
    token = mint_token(hub.settings, "acme", "ann")
    slow = {"patienceMs": 60_000}
    sha256 = await one.page.run(SEND, hub.url, token, 3_000_000, {"transports": ["sse"]}, slow)
    await until(lambda: one.run("return end"), WAIT_S, "the end")
    assert await one.run("return [end.state, end.sha256, repeated]") == ["available", sha256, 4]
    await one.run("hub.close()")
    await one.page.close()


async def test_a_request_that_another_took_over_from_is_not_the_end(hub: RunningHub, chromium: Chromium) -> None:
    """It may have been one of its own, which the browser has repeated."""
    one = Tab(await chromium.page())
    async with CutProxy(("127.0.0.1", hub.port)) as proxy, httpx.AsyncClient(base_url=hub.http_url) as other:
        await one.page.visit(f"http://127.0.0.1:{proxy.port}/demo")
        await one.run(
            """
            const { fetch } = globalThis;
            globalThis.refused = 0;
            globalThis.fetch = async (...request) => {
              const answer = await fetch(...request);
              refused += answer.status === 400;
              return answer;
            };
            """
        )
        token = mint_token(hub.settings, "acme", "ann")
        proxy.throttle(500_000)
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        sha256 = await one.page.run(SEND, url, token, 3_000_000, {"transports": ["sse"]})
        await until(lambda: one.run("return sending.id"), WAIT_S, "its name")
        where, who = f"/v1/uploads/{await one.run('return sending.id')}", {"Authorization": f"Bearer {token}"}

        async def refused() -> bool:
            (await other.head(where, headers={**who, "Tus-Resumable": "1.0.0"})).raise_for_status()
            return bool(await one.run("return refused"))

        await until(refused, WAIT_S, "a request that is taken over from")
        proxy.throttle(None)
        await until(lambda: one.run("return end"), WAIT_S, "the end")
        assert await one.run("return [end.state, end.sha256]") == ["available", sha256]
        await one.run("hub.close()")
    await one.page.close()


async def test_the_box_pauses_goes_on_and_cancels(hub: RunningHub, chromium: Chromium) -> None:
    one = Tab(await chromium.page())
    async with CutProxy(("127.0.0.1", hub.port)) as proxy:
        token = mint_token(hub.settings, "acme", "ann")
        await one.page.visit(f"http://127.0.0.1:{proxy.port}/demo#token={token}")
        await one.sees("document.getElementById('state').className", "up")
        # All of it is more than may be under way before the hub has acknowledged anything.
        await choose(one, "guests.csv", csv(40_000), "csv", times=20)
        proxy.throttle(1_000_000)
        await press(one, "start")
        await says(one, "guests.csv: receiving")
        await press(one, "pause")
        await says(one, "guests.csv: paused")
        await press(one, "resume")
        await until(lambda: one.run("return document.getElementById('upload-progress').value > 0"), WAIT_S, "progress")
        await press(one, "cancel")
        proxy.throttle(None)  # what is under way is in front of that word
        await says(one, "cancelled: ")
        await one.sees("document.getElementById('upload-start').disabled", False)
    await one.page.close()
