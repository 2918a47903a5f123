"""web/hub.js in a browser against a scripted hub: what a real one does rarely, or only when things go wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.browser.chromium import Chromium, Page
from tests.client.scripted_hub import Frame, Peer, ScriptedHub, scripted_hub
from tests.support.waiting import until

A = "events:a"
B = "events:b"
WAIT_S = 30.0
NOTHING_MS = 300
"""How long something that must not happen is waited for; with the pauses below it would have happened ten times."""

CLOCK = """
let now = Date.now();
Date.now = () => now;
globalThis.pass = (ms) => { now += ms };
"""
"""Time passes for the page when the test says so."""

START = """async (url, options, first) => {
  const { HubClient } = await import("/hub.js");
  Object.assign(globalThis, { events: [], gaps: [], ends: [], states: [], tokens: 0, unhandled: 0, leave: {} });
  addEventListener("unhandledrejection", () => unhandled += 1);
  globalThis.token = () => `t${++tokens}`;
  globalThis.hub = new HubClient(url, () => token(), {
    transports: ["websocket"], backoffMs: 20, mostBackoffMs: 30, ...options,
  });
  hub.onState = (state, detail) => states.push(`${state} ${detail}`);
  globalThis.subscribe = (topic, options, into = events) => leave[topic] = hub.subscribe(topic, {
    onEvent: (event) => into.push(`${event.topic} ${event.data}`),
    onGap: (gap) => gaps.push(gap.reason),
    onEnd: (error) => ends.push(`${topic} ${error.code}`),
  }, options);
  first.forEach((topic) => subscribe(topic, { since: "start" }));
}"""


class Browser:
    """A page with a client of a scripted hub."""

    def __init__(self, page: Page, hub: ScriptedHub) -> None:
        self.page = page
        self.hub = hub

    async def start(self, *first: str, **options: Any) -> None:
        """Starts a client, which asks for topics in its first hello."""
        await self.page.run(START, self.hub.url, options, first)

    async def run(self, expression: str, *arguments: object) -> Any:
        return await self.page.run(f"(...given) => {{ {expression} }}", *arguments)

    async def subscribe(self, topic: str, **options: Any) -> None:
        await self.run("subscribe(...given)", topic, options)

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
            assert seen == value, expression

    async def up(self, times: int = 1) -> Peer:
        """Waits for that many welcomes; returns the newest connection."""
        await self.sees("states.filter((state) => state.startsWith('up')).length", times)
        return self.hub.peers[-1]

    async def nothing(self) -> None:
        """Time for what must not happen."""
        await self.run(f"return new Promise((resolve) => setTimeout(resolve, {NOTHING_MS}))")


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


def topics_of(frames: list[Frame]) -> list[str]:
    """The names in subscribe and unsubscribe frames."""
    return [topic if isinstance(topic, str) else topic["topic"] for frame in frames for topic in frame["topics"]]


def refuse(*kinds: str, count: int, code: str, retry: str) -> Any:
    """A script that answers the first ``count`` frames of these kinds with an error."""
    refused: list[Frame] = []

    async def script(peer: Peer, frame: Frame) -> bool:
        if frame["type"] not in kinds or len(refused) >= count:
            return False
        refused.append(frame)
        await peer.send({"type": "error", "id": frame["id"], "code": code, "message": "no", "retry": retry})
        return True

    return script


# --- between hello and welcome, and between two subscriptions


async def test_what_changes_between_hello_and_welcome_is_put_right(browser: Browser) -> None:
    hub = browser.hub
    held: list[Frame] = []

    async def hold(peer: Peer, frame: Frame) -> bool:
        if frame["type"] == "hello":
            held.append(frame)
        return frame["type"] == "hello"

    hub.script = hold
    await browser.start(A, "events:renewed")
    await until(lambda: held, WAIT_S, "the hello")
    await browser.run(f"leave['{A}'](); leave['events:renewed']()")
    await browser.subscribe("events:renewed", since="start")
    await browser.subscribe(B)
    peer = hub.peers[0]
    await hub.answer(peer, held[0])
    await browser.up()
    await until(lambda: set(peer.live) == {B, "events:renewed"}, WAIT_S, "the subscriptions")
    assert topics_of(peer.got("unsubscribe")) == [A, "events:renewed"]
    assert topics_of(peer.got("subscribe")) == ["events:renewed", B]
    assert peer.live["events:renewed"]["since"] == "start"
    for topic in (A, B, "events:renewed"):
        await hub.publish(topic, 1)
    await browser.sees("events", [f"{B} 1", "events:renewed 1"])


async def test_frames_of_an_earlier_subscription_are_not_for_the_next(browser: Browser) -> None:
    hub = browser.hub
    asked: list[Frame] = []

    async def busy(peer: Peer, frame: Frame) -> bool:
        """What was on its way when the client left, and answers that come late."""
        if frame["type"] == "unsubscribe":
            await peer.send({"type": "event", "topic": A, "seq": 9, "id": "x", "name": "n", "ts": 1, "data": "old"})
            await peer.send({"type": "gap", "topic": A, "epoch": "e0", "reason": "old", "from": 1, "to": 8})
            await peer.send({"type": "unsubscribed", "topic": A, "code": "forbidden", "message": "", "retry": "never"})
        asked.append(frame)
        return False

    hub.script = busy
    await browser.start()
    peer = await browser.up()
    await browser.subscribe(A, since="start")
    await until(lambda: A in peer.live, WAIT_S, "the subscription")
    await browser.run(f"globalThis.old = leave['{A}']; old(); subscribe('{A}', {{ since: 'start' }}); old()")
    await until(lambda: len(peer.got("subscribe")) == 2, WAIT_S, "the second subscription")
    for number in range(3):
        await hub.publish(A, number)
    await browser.sees("events", [f"{A} 0", f"{A} 1", f"{A} 2"])
    assert await browser.run("return [gaps, ends]") == [[], []]
    assert topics_of(peer.got("unsubscribe")) == [A], "leaving twice is leaving once"


async def test_a_topic_is_subscribed_once_at_a_time(browser: Browser) -> None:
    await browser.start()
    await browser.subscribe(A)
    said = await browser.run(f"try {{ subscribe('{A}') }} catch (error) {{ return error.message }}")
    assert said == f"this client is subscribed to {A} already"


# --- refusals


@pytest.mark.parametrize(("code", "retry"), [("rate_limited", "later"), ("unavailable", "now")])
async def test_a_refusal_that_passes_is_tried_again(browser: Browser, code: str, retry: str) -> None:
    browser.hub.script = refuse("subscribe", count=3, code=code, retry=retry)
    await browser.start()
    peer = await browser.up()
    await browser.subscribe(A)
    await until(lambda: A in peer.live, WAIT_S, "the subscription")
    assert len(peer.got("subscribe")) == 4
    await browser.hub.publish(A, 1)
    await browser.sees("events", [f"{A} 1"])
    del peer.live[A]
    await peer.send({"type": "unsubscribed", "topic": A, "code": code, "message": "", "retry": retry})
    await until(lambda: len(peer.got("subscribe")) == 5, WAIT_S, "the subscription again")
    assert peer.got("subscribe")[4]["topics"] == [{"topic": A, "since": {"epoch": "e1", "seq": 1}}]
    assert await browser.run("return ends") == []


@pytest.mark.parametrize(("code", "retry"), [("not_found", "never"), ("feature_disabled", "later")])
async def test_a_refusal_that_does_not_ends_the_subscription(browser: Browser, code: str, retry: str) -> None:
    browser.hub.script = refuse("subscribe", count=1, code=code, retry=retry)
    await browser.start()
    peer = await browser.up()
    await browser.subscribe(A)
    await browser.sees("ends", [f"{A} {code}"])
    await browser.subscribe(A)
    await until(lambda: A in peer.live, WAIT_S, "another subscription of it")


# --- tokens


async def test_a_token_source_that_fails_is_asked_again(browser: Browser) -> None:
    await browser.start()
    await browser.subscribe(A)
    peer = await browser.up()
    await browser.run(
        "token = () => { token = async () => { token = () => 'good'; throw Error('b') }; throw Error('a') }"
    )
    peer.drop()
    peer = await browser.up(2)
    assert peer.got("hello")[0]["token"] == "good"
    downs = [state for state in await browser.run("return states") if state.startswith("down")]
    assert [state.split(";")[0] for state in downs[1:]] == ["down Error: a", "down Error: b"]
    await browser.hub.publish(A, 1)
    await browser.sees("events", [f"{A} 1"])


async def test_a_fresh_token_that_is_not_taken_is_brought_again(browser: Browser) -> None:
    browser.hub.script = refuse("auth", count=2, code="unavailable", retry="later")
    await browser.start()
    peer = await browser.up()
    await browser.run("const good = token; token = () => { token = good; throw Error('offline') }")
    await peer.send({"type": "expiring", "expires_in_ms": 60_000})
    await until(lambda: len(peer.got("auth")) == 3, WAIT_S, "three tokens")
    assert [frame["token"] for frame in peer.got("auth")] == ["t2", "t3", "t4"]
    await browser.nothing()
    assert len(peer.got("auth")) == 3
    assert len(browser.hub.peers) == 1


async def test_a_token_that_ended_is_replaced_and_a_second_refusal_is_the_last(browser: Browser) -> None:
    await browser.start()
    peer = await browser.up()
    await peer.close(4401, "expired")
    peer = await browser.up(2)
    assert peer.got("hello")[0]["token"] == "t2"

    async def close(peer: Peer, frame: Frame) -> bool:
        await peer.close(4401, "no")
        return True

    browser.hub.script = close
    peer.drop()
    await browser.sees("states.at(-1)", "down 4401 no; not trying again")
    assert [peer.got("hello")[0]["token"] for peer in browser.hub.peers] == ["t1", "t2", "t3", "t4"]
    await browser.nothing()
    assert len(browser.hub.peers) == 4


async def test_a_ticket_that_is_refused_is_no_end(browser: Browser) -> None:
    async def close(peer: Peer, frame: Frame) -> bool:
        if "ticket" in peer.path:
            await peer.close(4401, "used")
        return "ticket" in peer.path

    browser.hub.script = close
    await browser.start()
    peer = await browser.up()
    await peer.send({"type": "drain", "after_ms": 0, "ticket": "a+b"})
    await browser.up(2)
    assert [peer.path for peer in browser.hub.peers] == ["/ws", "/ws?ticket=a%2Bb", "/ws"]
    assert [peer.got("hello")[0].get("token") for peer in browser.hub.peers] == ["t1", None, "t2"]


# --- connections


async def test_closing_is_for_good(browser: Browser) -> None:
    await browser.start()
    peer = await browser.up()
    await browser.run("hub.onState = () => { hub.close(); globalThis.over = true }")
    peer.drop()
    await browser.sees("globalThis.over", True)
    await browser.nothing()
    assert len(browser.hub.peers) == 1, "during the pause"
    await browser.start()
    peer = await browser.up()
    await browser.run("token = () => new Promise((resolve) => globalThis.give = resolve)")
    peer.drop()
    await browser.sees("typeof give", "function")
    await browser.run("hub.close(); give('late')")
    await browser.nothing()
    assert len(browser.hub.peers) == 2, "while the token was awaited"
    assert (await browser.run("return states"))[-1] == "down 1000 closed; not trying again"


async def test_numbers_of_an_epoch_that_is_over_do_not_count(browser: Browser) -> None:
    """The first connection goes before an event came; in the next epoch the numbers begin anew."""
    hub = browser.hub
    epochs = iter([("e1", 3), ("e2", 1), ("e2", 1)])

    async def welcome(peer: Peer, frame: Frame) -> bool:
        if frame["type"] != "hello":
            return False
        epoch, top = next(epochs)
        verdict = {"topic": A, "ok": True, "epoch": epoch, "seq": top, "recovered": True}
        answer = {"type": "welcome", "session": "s", "user": "u", "org": "o", "heartbeat_ms": 25_000}
        await peer.send({**answer, "topics": [verdict]})
        return True

    hub.script = welcome
    await browser.start(A)
    (await browser.up()).drop()
    peer = await browser.up(2)
    event = {"type": "event", "topic": A, "seq": 1, "id": "x", "name": "n", "ts": 1, "data": 1}
    await peer.send(event)
    await browser.sees("events", [f"{A} 1"])
    peer.drop()
    peer = await browser.up(3)
    assert peer.got("hello")[0]["subscribe"] == [{"topic": A, "since": {"epoch": "e2", "seq": 1}}]
    await peer.send(event)
    await peer.send({**event, "seq": 2, "data": 2})
    await browser.sees("events", [f"{A} 1", f"{A} 2"])
    # The first may have been acknowledged before.
    last = {A: {"epoch": "e2", "seq": 2}}
    await until(lambda: [ack["positions"] for ack in peer.got("ack")][-1:] == [last], WAIT_S, "an acknowledgement")


async def test_a_connection_that_drains_is_left_when_every_answer_is_there(browser: Browser) -> None:
    held: list[Frame] = []

    async def hold(peer: Peer, frame: Frame) -> bool:
        if frame["type"] == "call":
            held.append(frame)
        return frame["type"] == "call"

    browser.hub.script = hold
    await browser.start(lingerMs=60_000)
    peer = await browser.up()
    call = (
        "hub.call('m').then((result) => { globalThis.answer = result }, (error) => { globalThis.answer = error.code })"
    )
    await browser.run(call)
    await until(lambda: held, WAIT_S, "the call")
    await peer.send({"type": "drain", "after_ms": 0, "ticket": "T"})
    await browser.nothing()
    assert not peer.gone.is_set()
    await peer.send({"type": "reply", "id": held[0]["id"], "result": 7})
    peer = await browser.up(2)
    assert await browser.run("return answer") == 7
    assert (peer.path, "token" in peer.got("hello")[0]) == ("/ws?ticket=T", False)


async def test_a_connection_that_drains_is_left_after_a_while_all_the_same(browser: Browser) -> None:
    async def swallow(peer: Peer, frame: Frame) -> bool:
        return bool(frame["type"] == "call")

    browser.hub.script = swallow
    await browser.start(lingerMs=100)
    peer = await browser.up()
    await browser.run("hub.call('m').catch((error) => { globalThis.answer = error.code })")
    await until(lambda: peer.got("call"), WAIT_S, "the call")
    await peer.send({"type": "drain", "after_ms": 0, "ticket": "T"})
    await browser.up(2)
    assert await browser.run("return answer") == "connection_lost"


async def test_a_hub_that_does_not_welcome_is_left(browser: Browser) -> None:
    silent: list[Frame] = []

    async def swallow(peer: Peer, frame: Frame) -> bool:
        silent.append(frame)
        return len(silent) == 1

    browser.hub.script = swallow
    await browser.run(CLOCK)
    await browser.start(welcomeMs=100)
    await until(lambda: silent, WAIT_S, "the hello")
    await browser.run("pass(200)")
    await browser.up()
    assert (await browser.run("return states"))[0].startswith("down the hub is silent; next attempt in")
    assert len(browser.hub.peers) == 2


async def test_the_pauses_grow_until_a_connection_is_stable(browser: Browser) -> None:
    await browser.run(CLOCK)
    await browser.run("Math.random = () => 1")
    await browser.start(backoffMs=20, mostBackoffMs=70, stableMs=200)
    for times in (1, 2, 3):
        (await browser.up(times)).drop()
    peer = await browser.up(4)
    await browser.run("pass(300)")
    peer.drop()
    await browser.up(5)
    downs = [state for state in await browser.run("return states") if state.startswith("down")]
    assert [int(state.split()[-2]) for state in downs] == [20, 40, 70, 20]
