"""web/hub.js moves while its older connection goes on: what a verdict says nothing about is asked for again."""

from __future__ import annotations

from tests.browser.chromium import Chromium
from tests.browser.test_hub_js import WAIT_S, A, Browser
from tests.client.scripted_hub import Frame, Peer, scripted_hub
from tests.support.waiting import until

# The scripted hub has no streams.
STREAM = """
globalThis.posted = [];
globalThis.fetch = async (url, { body }) => {
  posted.push(JSON.parse(body));
  if (!url.endsWith("/v1/sse")) return new Response('{"frames":[]}');
  const encoder = new TextEncoder();
  const lines = new ReadableStream({
    start: (end) => globalThis.tell = (frame) => end.enqueue(encoder.encode(`data: ${JSON.stringify(frame)}\\n\\n`)),
  });
  return new Response(lines, { headers: { "Content-Type": "text/event-stream" } });
};
"""


async def test_a_move_that_began_before_the_first_verdict(chromium: Chromium, address: str) -> None:
    """The new connection is live from a later number on than the old one was."""
    held: list[Frame] = []

    async def hold(_: Peer, frame: Frame) -> bool:
        if frame["type"] == "subscribe":
            held.append(frame)
        return bool(frame["type"] == "subscribe")

    page = await chromium.page()
    await page.visit(address)
    async with scripted_hub() as hub:
        browser = Browser(page, hub)
        hub.script, hub.flags = hold, {"realtime_v2": True}
        await browser.run(STREAM)
        await browser.start(transports=["websocket", "sse"], doubtMs=60_000, welcomeMs=60_000)
        peer = await browser.up()
        await browser.subscribe(A)
        await until(lambda: held, WAIT_S, "the question")
        await peer.send({"type": "flags", "flags": {"realtime_v2": False}})
        await peer.send({"type": "drain", "after_ms": 0, "ticket": "t", "fallback": ["sse"]})
        await browser.sees("posted.length", 1)
        await hub.answer(peer, held[0])
        await hub.publish(A, "by the old connection")
        await browser.sees("events", [f"{A} by the old connection"])
        verdict = {"topic": A, "ok": True, "epoch": "e1", "seq": 2, "recovered": True}
        welcome = {"type": "welcome", "session": "s", "user": "u", "org": "o", "heartbeat_ms": 25_000}
        await browser.run("tell(given[0])", {**welcome, "flags": {"realtime_v2": False}, "topics": [verdict]})
        await browser.sees("posted.length", 2)
        [left] = await browser.run("return posted[1].frames")
        assert left["type"] == "unsubscribe"
        await browser.run("tell(given[0])", {"type": "reply", "id": left["id"], "result": {"topics": []}})
        await browser.sees("posted.length", 3)
        [asked] = await browser.run("return posted[2].frames")
        assert asked["topics"] == [{"topic": A, "since": {"epoch": "e1", "seq": 1}}]
        await browser.run("tell(given[0])", {"type": "reply", "id": asked["id"], "result": {"topics": [verdict]}})
        event = {"type": "event", "topic": A, "seq": 2, "id": "i2", "name": "n", "ts": 1, "data": "by none"}
        await browser.run("tell(given[0])", event)
        await browser.sees("events", [f"{A} by the old connection", f"{A} by none"])
        await browser.run("hub.close()")
        assert await browser.run("return unhandled") == 0
    await page.close()
