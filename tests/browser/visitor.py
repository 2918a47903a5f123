"""A page with a client of a real hub behind a proxy that can be told to be bad, and somebody who publishes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from hub.flags import FixedFlags
from tests.browser.chromium import Chromium, Page
from tests.support.cut_proxy import CutProxy
from tests.support.running_hub import RunningHub, running_hub
from tests.support.waiting import until

FINANCE = "events:finance"
ROOM = "room:a"
WAIT_S = 30.0

START = """async (url, token, topics, options) => {
  const { HubClient } = await import("/hub.js");
  Object.assign(globalThis, { got: {}, gaps: [], ends: [], paused: [], went: [], flagged: [], unhandled: 0 });
  addEventListener("unhandledrejection", () => unhandled += 1);
  globalThis.hub = new HubClient(url, () => token, {
    backoffMs: 20, mostBackoffMs: 50, upgradeMs: 200, mostUpgradeMs: 400, moveMs: 50,
    welcomeMs: 30_000, doubtMs: 30_000, ...options, // a way that is slow for a moment is no blocked one
  });
  hub.onState = (state) => went.push(state === "up" ? hub.transport : state);
  hub.onFlags = (flags, changed) => flagged.push(...changed.map((name) => `${name} ${flags[name]}`));
  globalThis.listen = (topic, options) => {
    got[topic] = [];
    hub.subscribe(topic, {
      onEvent: ({ data }) => got[topic].push(data),
      onGap: (gap) => gaps.push(gap),
      onEnd: ({ code }) => ends.push(`${topic} ${code}`),
      onPause: () => paused.push(`${topic} paused`),
      onResume: () => paused.push(`${topic} back`),
    }, options);
  };
  topics.forEach((topic) => listen(topic, { since: "start" }));
}"""


class Visitor:
    """A page with a client of a real hub, and somebody who publishes."""

    def __init__(self, page: Page, hub: RunningHub, proxy: CutProxy, http: httpx.AsyncClient) -> None:
        self.page = page
        self.hub = hub
        self.proxy = proxy
        self._http = http
        self._published: dict[str, list[int]] = {FINANCE: [], ROOM: []}

    @property
    def url(self) -> str:
        """Where the hub is, through the proxy."""
        return f"ws://127.0.0.1:{self.proxy.port}/ws"

    async def start(self, **options: Any) -> None:
        """A client behind the proxy."""
        await self.page.run(START, self.url, self.hub.token(), [FINANCE, ROOM], options)

    async def run(self, expression: str, *arguments: object) -> Any:
        return await self.page.run(f"async (...given) => {{ {expression} }}", *arguments)

    async def shows(self, condition: str, *arguments: object) -> None:
        """Waits until an expression of the page is true."""
        await until(lambda: self.run(f"return {condition}", *arguments), WAIT_S, condition)

    async def uses(self, transport: str) -> None:
        """Waits until the client is connected like this."""
        shown = "(transport) => went.at(-1) === transport && hub.transport === transport"
        await until(lambda: self.page.run(shown, transport), WAIT_S, transport)

    async def publish(self, count: int = 5) -> None:
        """To both topics."""
        for topic, numbers in self._published.items():
            for _ in range(count):
                numbers.append(len(numbers))
                event = {"topic": topic, "name": "n", "data": numbers[-1]}
                (await self._http.post(f"{self.hub.http_url}/v1/publish", json=event)).raise_for_status()

    @property
    def newest(self) -> int:
        """The last number published."""
        return self._published[FINANCE][-1]

    async def has_all(self) -> None:
        """Waits for everything that was published; once, in order."""
        lengths = {topic: len(numbers) for topic, numbers in self._published.items()}
        there = "(lengths) => Object.entries(lengths).every(([topic, length]) => got[topic].length >= length)"
        await until(lambda: self.page.run(there, lengths), WAIT_S, "all events")
        assert await self.run(f"return [got['{FINANCE}'], got['{ROOM}']]") == list(self._published.values())
        assert await self.run("return [gaps, ends]") == [[], []]

    def block(self, *words: bytes) -> None:
        """Requests with one of these are lost, with their connections."""
        self.proxy.drops = dropping(words)

    async def call(self) -> Any:
        """A call, and a publication of the page itself."""
        self._published[ROOM].append(len(self._published[ROOM]))
        return await self.run(
            "const { seq } = await hub.publish(given[0], 'n', given[1]);"
            "return [(await hub.call('test.echo', { a: 1 })).a, seq]",
            ROOM,
            self._published[ROOM][-1],
        )


def dropping(words: tuple[bytes, ...]) -> Callable[[str, bytes], bool]:
    """For a proxy: what goes to the hub and has one of these is lost."""
    return lambda direction, data: direction == "to_target" and any(word in data for word in words)


@asynccontextmanager
async def visiting(chromium: Chromium, address: str, redis_url: str, **settings: Any) -> AsyncIterator[Visitor]:
    """A visitor of a fresh hub, with an empty page. Fails when a rejection was handled by nobody.

    Whoever is sent elsewhere has ``drain_grace_s`` for it; a connection that polls makes the hub's end take as long.
    """
    page = await chromium.page()
    await page.visit(address)
    flags = FixedFlags({"realtime_v2": True, "finance_realtime_v2": True, "rooms": True})
    changes = {"allowed_origins": (address.rstrip("/"),), "flags_drain_window_s": 0.2, "drain_grace_s": 30.0} | settings
    async with (
        running_hub("direct", redis_url, flags=flags, **changes) as hub,
        CutProxy(("127.0.0.1", hub.port)) as proxy,
        httpx.AsyncClient(headers={"Authorization": f"Bearer {hub.token(user='publisher')}"}) as http,
    ):
        one = Visitor(page, hub, proxy, http)
        yield one
        hub.service.release(hub.loop)
        await one.run("hub.close()")
        assert await one.run("return unhandled") == 0
    await page.close()
