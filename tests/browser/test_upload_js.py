"""web/upload.js in a browser against a scripted hub: handles, credit, and what it does when things go wrong."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.browser.chromium import Chromium, Page
from tests.client.scripted_hub import Frame, Peer, ScriptedHub, scripted_hub
from tests.support.waiting import until

SIZE = 200_000
CHUNK = 16_384
WINDOW = 65_536
NAME = "u1"
TOPIC = f"upload:{NAME}"
WAIT_S = 30.0

START = """async (url, size, options) => {
  const { HubClient } = await import("/hub.js");
  const { upload } = await import("/upload.js");
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  Object.assign(globalThis, { bytes, progress: [], end: null, unhandled: 0, giveUp: new AbortController() });
  addEventListener("unhandledrejection", () => unhandled += 1);
  globalThis.hub = new HubClient(url, () => "t", { transports: ["websocket"], backoffMs: 20, mostBackoffMs: 30 });
  globalThis.sending = upload(hub, new File([bytes], "room.pdf"), {
    metadata: { guest_id: 7 }, onProgress: (now) => progress.push(now), signal: giveUp.signal, ...options,
  });
  const told = (error) => end = error.name === "AbortError" ? error.name : error.code;
  sending.done.then((shape) => end = shape.state, told);
}"""


class Intake:
    """Uploads of one hub, as a hub takes them: chunks in order and within the credit, or the test fails."""

    def __init__(self, hub: ScriptedHub) -> None:
        self.hub = hub
        self.data = bytearray()
        self.state = ""
        self.error: Frame | None = None
        self.paused = False
        self.calls: list[str] = []
        self.credited = 0
        self.window = WINDOW
        self.size = SIZE
        self.generous = True
        """What comes is acknowledged at once."""
        self.faults: dict[int, Frame] = {}
        """Refusals of what begins at or beyond an offset, each once."""
        self.refusals: dict[str, list[Frame]] = {}
        """Of calls, by method."""
        self.writer: tuple[Peer, int] | None = None
        self.handles = 0
        hub.script = self._script

    async def credit(self) -> None:
        """Everything that has come is safe."""
        self.credited = len(self.data)
        if self.writer is not None:
            peer, handle = self.writer
            await peer.send({"type": "credit", "handle": handle, "offset": self.credited, "window": self.window})

    async def refuse(self, code: str, retry: str = "never", *, closes: bool = True, **details: Any) -> None:
        """A word about the handle that nobody asked for."""
        assert self.writer is not None
        peer, handle = self.writer
        if closes:
            self.writer = None
        error = {"code": code, "message": "no", "retry": retry, "details": {"handle": handle, **details}}
        await peer.send({"type": "error", **error})

    async def settle(self, state: str = "available", error: Frame | None = None) -> None:
        self.state, self.error = state, error
        names = {"available": "completed", "rejected": "failed", "cancelled": "cancelled"}
        await self.hub.publish(TOPIC, self.shape(), name=names[state])

    def shape(self) -> Frame:
        return {
            "upload": NAME, "topic": TOPIC, "state": self.state, "size": self.size, "offset": self.credited,
            "paused": self.paused, "error": self.error,
        }  # fmt: skip

    async def _script(self, peer: Peer, frame: Frame) -> bool:
        if frame["type"] == "chunk":
            await self._chunk(peer, frame)
        elif frame["type"] == "call":
            await self._call(peer, frame)
        else:
            return False
        return True

    async def _chunk(self, peer: Peer, frame: Frame) -> None:
        assert len(frame["data"]) <= CHUNK
        if self.writer != (peer, frame["handle"]):
            return  # it was under way when the handle was closed
        due = [offset for offset in self.faults if frame["offset"] >= offset]
        if due:
            await self.refuse(**self.faults.pop(due[0]))
            return
        if frame["offset"] != len(self.data):
            return  # told once
        self.data += frame["data"]
        assert len(self.data) <= self.credited + self.window, "beyond its credit"
        if len(self.data) == self.size:
            self.state = "checking"
        if self.generous:
            await self.credit()

    async def _call(self, peer: Peer, frame: Frame) -> None:
        method = frame["method"].removeprefix("upload.")
        self.calls.append(method)
        if self.refusals.get(method):
            error = self.refusals[method].pop(0)
            await peer.send({"type": "error", "id": frame["id"], "message": "no", "retry": "never", **error})
            return
        result = self.shape()
        if method in ("create", "resume"):
            self.state, self.paused = self.state or "receiving", False
            self.handles += 1
            self.writer = (peer, self.handles)
            del self.data[self.credited :]
            result = {
                "upload": NAME, "topic": TOPIC, "handle": self.handles, "offset": self.credited,
                "chunk_bytes": CHUNK, "window": self.window, "expires_in_ms": 1000,
            }  # fmt: skip
        elif method == "pause":
            self.paused, self.writer = True, None
            result = self.shape()
        elif method == "cancel":
            self.writer = None
            await self.settle("cancelled")
            result = self.shape()
        await peer.send({"type": "reply", "id": frame["id"], "result": result})


class Browser:
    """A page that uploads to a scripted hub."""

    def __init__(self, page: Page, hub: ScriptedHub) -> None:
        self.page = page
        self.hub = hub
        self.intake = Intake(hub)

    async def start(self, **options: Any) -> None:
        # Nothing here is to be saved by patience that asks for it too late.
        await self.page.run(START, self.hub.url, self.intake.size, {"patienceMs": 60_000, **options})

    async def run(self, expression: str) -> Any:
        return await self.page.run(f"() => {{ {expression} }}")

    async def ends(self, how: str) -> None:
        await until(lambda: self.run("return end !== null"), WAIT_S, "the end")
        assert await self.run("return end") == how

    async def arrived(self) -> None:
        """The file is there, byte for byte."""
        await until(lambda: len(self.intake.data) == self.intake.size, WAIT_S, "the file")
        same = await self.page.run(
            "(text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).every((byte, at) => byte === bytes[at])",
            base64.b64encode(self.intake.data).decode(),
        )
        assert same

    async def came(self, least: int) -> None:
        await until(lambda: len(self.intake.data) >= least, WAIT_S, f"{least} bytes")


@pytest.fixture
async def browser(chromium: Chromium, address: str) -> AsyncIterator[Browser]:
    page = await chromium.page()
    await page.visit(address)
    async with scripted_hub() as hub:
        one = Browser(page, hub)
        yield one
        await one.run("hub.close()")
        assert await one.run("return unhandled") == 0
    await page.close()


async def test_a_file_arrives_in_chunks_within_its_credit(browser: Browser) -> None:
    intake = browser.intake
    intake.generous = False
    await browser.start(documentType="passport", shares=["chat:r"])
    await browser.came(WINDOW)
    await asyncio.sleep(0.1)  # nothing more comes
    assert len(intake.data) == WINDOW
    intake.generous = True
    await intake.credit()
    await browser.arrived()
    assert await browser.run("return [end, sending.id, sending.topic ?? null]") == [None, NAME, None]
    await intake.settle()
    await browser.ends("available")
    create = browser.hub.peers[0].got("call")[0]["params"]
    assert create.pop("key")
    assert create == {
        "filename": "room.pdf", "size": SIZE, "document_type": "passport",
        "metadata": {"guest_id": 7}, "shares": ["chat:r"],
    }  # fmt: skip
    progress = await browser.run("return progress")
    offsets = [now["offset"] for now in progress]
    assert offsets == sorted(offsets)
    assert (offsets[0], offsets[-1], progress[0]["size"]) == (0, SIZE, SIZE)
    assert progress[-1]["state"] == "available"
    assert not browser.hub.peers[0].live, "it has left the topic"


async def test_it_goes_on_after_lost_connections(browser: Browser) -> None:
    """Also when the answer to its first question is lost: it asks again with the same key."""
    intake = browser.intake
    intake.generous = False
    intake.window = CHUNK * 3
    await browser.start()
    create = await _call(browser, 0, "create")
    await browser.came(intake.window)
    await intake.credit()
    await browser.came(intake.window * 2)
    browser.hub.peers[0].drop()
    await until(lambda: intake.calls.count("resume") == 1, WAIT_S, "the resume")
    assert intake.handles == 2
    await browser.came(intake.window * 2)
    assert intake.credited == intake.window, "from where it was safe"
    intake.generous = True
    await intake.credit()
    await browser.arrived()
    assert intake.calls == ["create", "resume"]
    browser.hub.peers[-1].drop()
    await intake.settle()
    await browser.ends("available")
    assert create["params"]["key"]


async def test_a_beginning_whose_answer_is_lost_is_the_same_upload(browser: Browser) -> None:
    intake = browser.intake
    script = intake._script

    async def lose(peer: Peer, frame: Frame) -> bool:
        if frame["type"] == "call" and peer is browser.hub.peers[0]:
            intake.calls.append("lost")
            peer.drop()
            return True
        return await script(peer, frame)

    browser.hub.script = lose
    intake.refusals["create"] = [{"code": "unavailable", "retry": "later", "retry_after_ms": 10}]
    await browser.start()
    await browser.arrived()
    assert intake.calls == ["lost", "create", "create"]
    keys = {frame["params"]["key"] for peer in browser.hub.peers for frame in peer.got("call")}
    assert len(keys) == 1


async def test_a_pause_is_told_and_ended(browser: Browser) -> None:
    intake = browser.intake
    intake.generous = False
    await browser.start()
    await browser.came(WINDOW)
    await intake.credit()
    await browser.run("sending.pause(); sending.pause()")
    await until(lambda: intake.paused, WAIT_S, "the pause")
    assert await browser.run("return [sending.paused, progress.at(-1).paused]") == [True, True]
    assert intake.calls == ["create", "pause"]
    intake.generous = True
    await browser.run("sending.resume()")
    await browser.arrived()
    assert intake.calls == ["create", "pause", "resume"]
    await browser.run("sending.pause()")  # there is nothing left to pause
    await intake.settle()
    await browser.ends("available")


async def test_who_is_taken_over_watches_and_may_take_it_back(browser: Browser) -> None:
    intake = browser.intake
    intake.generous = False
    await browser.start()
    await browser.came(WINDOW)
    await intake.refuse("conflict", offset=0)
    await until(lambda: browser.run("return sending.paused"), WAIT_S, "the pause")
    assert intake.calls == ["create", "status"]
    intake.generous = True
    await browser.run("sending.resume()")
    await browser.arrived()
    assert intake.calls == ["create", "status", "resume"]
    await intake.settle()
    await browser.ends("available")


@pytest.mark.parametrize("code", ["offset_mismatch", "rate_limited"])
async def test_a_chunk_that_is_refused_is_sent_again_from_where_the_hub_is(browser: Browser, code: str) -> None:
    intake = browser.intake
    intake.faults[CHUNK * 2] = {"code": code, "retry": "later", "closes": False, "offset": CHUNK * 2}
    await browser.start()
    if code == "rate_limited":
        await until(lambda: not intake.faults, WAIT_S, "the fault")
        await asyncio.sleep(0.1)  # it is waiting
        assert len(intake.data) == CHUNK * 2
        await intake.credit()
    await browser.arrived()
    assert intake.calls == ["create"]


async def test_a_handle_that_ends_is_followed_by_another(browser: Browser) -> None:
    intake = browser.intake
    intake.faults[CHUNK * 2] = {"code": "unavailable", "retry": "later", "retry_after_ms": 1}
    intake.faults[CHUNK * 5] = {"code": "not_found"}
    intake.refusals["resume"] = [{"code": "unavailable", "retry": "later", "retry_after_ms": 1}]
    await browser.start()
    await browser.arrived()
    assert intake.calls == ["create", *["resume"] * 3]


async def test_a_hub_that_says_nothing_is_asked(browser: Browser) -> None:
    intake = browser.intake
    intake.generous = False
    await browser.start(patienceMs=100)
    await browser.came(WINDOW)
    intake.generous = True
    await browser.arrived()
    assert "resume" in intake.calls, "no credit came"
    intake.state = "available"
    await browser.ends("available")
    assert intake.calls[-1] == "status", "no event came"


async def test_what_the_hub_rejects_is_told(browser: Browser) -> None:
    await browser.start()
    await browser.arrived()
    await browser.intake.settle("rejected", {"code": "unsupported_media", "message": "no document"})
    await browser.ends("unsupported_media")
    assert await browser.run("return [sending.state, progress.at(-1).state]") == ["rejected", "rejected"]


async def test_what_the_hub_does_not_begin_is_told(browser: Browser) -> None:
    browser.intake.refusals["create"] = [{"code": "quota_exceeded", "retry": "later"}]
    await browser.start()
    await browser.ends("quota_exceeded")
    assert await browser.run("return sending.state") == "failed"


async def test_a_beginning_that_has_come_to_its_end_meanwhile(browser: Browser) -> None:
    intake = browser.intake
    intake.state = "available"
    intake.refusals["create"] = [{"code": "conflict", "details": {"state": "available", "upload": NAME}}]
    await browser.start()
    await browser.ends("available")
    assert intake.calls == ["create", "status"]


async def test_what_is_begun_as_another_file_is_left_alone(browser: Browser) -> None:
    browser.intake.refusals["create"] = [{"code": "conflict", "details": {"upload": NAME}}]
    await browser.start()
    await browser.ends("conflict")
    assert browser.intake.calls == ["create"]


async def test_cancelling(browser: Browser) -> None:
    intake = browser.intake
    intake.generous = False
    await browser.start()
    await browser.came(WINDOW)
    await browser.run("sending.cancel(); sending.cancel()")
    await browser.ends("cancelled")
    assert intake.calls == ["create", "cancel"]
    await browser.run("hub.close()")


async def test_a_signal_cancels_it(browser: Browser) -> None:
    browser.intake.generous = False
    await browser.start()
    await browser.came(WINDOW)
    await browser.run("giveUp.abort()")
    await browser.ends("AbortError")
    assert browser.intake.calls == ["create", "cancel"]
    await browser.run("hub.close()")
    await browser.page.run(
        """async () => {
          const { upload } = await import("/upload.js");
          end = null;
          upload(hub, new File(["x"], "x"), { signal: AbortSignal.abort() }).done.catch((error) => end = error.name);
        }"""
    )
    await browser.ends("AbortError")


async def test_an_upload_is_gone_on_with_by_its_name(browser: Browser) -> None:
    """After the page was loaded anew; the file must be the same one as far as can be told."""
    intake = browser.intake
    intake.state = "receiving"
    await browser.start(upload=NAME)
    await browser.arrived()
    assert intake.calls == ["status", "resume"]
    await browser.page.run(
        """async (upload) => {
          const other = (await import("/upload.js")).upload(hub, new File(["x"], "x"), { upload });
          other.done.catch((error) => globalThis.said = error.message);
        }""",
        NAME,
    )
    await until(lambda: browser.run("return globalThis.said"), WAIT_S, "the refusal")
    assert await browser.run("return said") == f"this file has 1 bytes, and that upload {SIZE}"


async def test_little_is_under_way_where_it_goes_slowly(browser: Browser) -> None:
    """Whatever the window allows: what else is said on this socket would have to wait behind it."""
    intake = browser.intake
    intake.size, intake.window, intake.generous = 12_000_000, 100_000_000, False
    await browser.start()
    most = 4_194_304
    await browser.came(most)
    await asyncio.sleep(0.3)  # it is slow
    assert len(intake.data) == most
    peer, handle = intake.writer or (None, 0)
    assert peer
    await peer.send({"type": "credit", "handle": handle, "offset": 100_000, "window": intake.window})
    await asyncio.sleep(0.1)
    assert len(intake.data) == most
    peer.drop()
    await until(lambda: intake.calls == ["create", "resume"], WAIT_S, "the resume")
    await browser.came(500_000)
    await asyncio.sleep(0.1)
    assert len(intake.data) < 1_500_000


async def test_nothing_is_added_to_what_waits_in_the_browser(browser: Browser) -> None:
    full = "Object.defineProperty(WebSocket.prototype, 'bufferedAmount', { value: %s, configurable: true })"
    await browser.run(full % 2_000_000)
    await browser.start()
    await until(lambda: browser.intake.handles, WAIT_S, "the handle")
    await asyncio.sleep(0.1)
    assert not browser.intake.data
    await browser.run(full % 0)
    await browser.arrived()


async def _call(browser: Browser, peer: int, method: str) -> Frame:
    await until(lambda: len(browser.hub.peers) > peer and browser.hub.peers[peer].got("call"), WAIT_S, method)
    return next(frame for frame in browser.hub.peers[peer].got("call") if frame["method"] == f"upload.{method}")
