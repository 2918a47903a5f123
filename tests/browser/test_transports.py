"""web/hub.js on a real hub, where the WebSocket is blocked or switched off: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.browser.visitor import ROOM, WAIT_S, Visitor, dropping
from tests.support.waiting import until

POLLS = pytest.mark.parametrize("visitor", [{"drain_grace_s": 2.0}], indirect=True)


@POLLS
@pytest.mark.parametrize(
    ("blocked", "transport"), [((b"Upgrade: websocket",), "sse"), ((b"Upgrade: websocket", b"/v1/sse"), "poll")]
)
async def test_a_blocked_way_is_gone_round_and_taken_again(
    visitor: Visitor, blocked: tuple[bytes, ...], transport: str
) -> None:
    visitor.block(*blocked)
    await visitor.publish()
    await visitor.start()
    await visitor.uses(transport)
    await visitor.publish()
    await visitor.has_all()
    assert await visitor.call() == [1, 11]
    await visitor.run("listen('events:guest', { last: 0 }); listen('events:nobody', {})")
    await until(lambda: visitor.run("return ends.length"), WAIT_S, "a refusal")
    assert await visitor.run("return ends.splice(0)") == ["events:nobody not_found"]
    visitor.proxy.cut()
    await visitor.publish()
    await visitor.has_all()
    visitor.block()
    publishing = asyncio.create_task(visitor.publish(40))
    await visitor.uses("websocket")
    await publishing
    await visitor.has_all()
    if transport == "sse":  # a connection that polls is kept for a while
        await until(lambda: len(list(visitor.hub.gateway.connections)) == 1, WAIT_S, "the other one to be left")
    # It has worked: so it has to fail three times.
    visitor.block(*blocked)
    visitor.proxy.cut()
    await visitor.uses(transport)
    await visitor.publish()
    await visitor.has_all()
    assert await visitor.run(
        "return sessionStorage.getItem('hub.transport ' + new URL(given[0]).host)", visitor.url
    ) == (transport)


@POLLS
async def test_a_stream_that_is_held_back_is_given_up_for_polls(visitor: Visitor) -> None:
    visitor.proxy.drops = dropping((b"Upgrade: websocket",))
    visitor.proxy.stall("to_client")
    await visitor.start(welcomeMs=300)
    await until(lambda: visitor.run("return hub.transport === 'poll'"), WAIT_S, "the next way down")
    visitor.proxy.resume()
    await visitor.publish()
    await visitor.has_all()


async def test_who_is_switched_off_goes_elsewhere_and_comes_back(visitor: Visitor) -> None:
    await visitor.start(upgradeMs=60_000, mostUpgradeMs=60_000)
    await visitor.uses("websocket")
    for flag in ("realtime_v2", "finance_realtime_v2"):
        publishing = asyncio.create_task(visitor.publish(40))
        visitor.hub.flip(**{flag: False})
        await visitor.uses("sse")
        await publishing
        await visitor.has_all()
        assert (await visitor.call())[0] == 1
        # A reason to try again, which comes to nothing.
        visitor.hub.flip(rooms=False)
        await until(lambda: visitor.run("return flagged.at(-1) === 'rooms false'"), WAIT_S, "the news")
        visitor.hub.flip(rooms=True)
        await until(lambda: visitor.run("return paused.at(-1) === 'room:a back'"), WAIT_S, "the room")
        publishing = asyncio.create_task(visitor.publish(40))
        visitor.hub.flip(**{flag: True})
        await visitor.uses("websocket")
        await publishing
        await visitor.has_all()
    assert await visitor.run("return went") == ["websocket", "sse", "websocket", "sse", "websocket"]
    first, second = (
        [f"{flag} false", "rooms false", "rooms true", f"{flag} true"]
        for flag in ("realtime_v2", "finance_realtime_v2")
    )
    assert (await visitor.run("return flagged"))[3:] == first + second


@POLLS
async def test_who_comes_while_it_is_off_is_sent_elsewhere(visitor: Visitor) -> None:
    visitor.hub.flip(realtime_v2=False)
    await visitor.start(transports=["websocket", "poll"], upgradeMs=60_000)
    await visitor.uses("poll")
    assert await visitor.run("return went") == ["down", "poll"]
    await visitor.publish()
    await visitor.has_all()


async def test_what_is_off_everywhere_pauses_until_it_is_on(visitor: Visitor) -> None:
    await visitor.start()
    await visitor.uses("websocket")
    visitor.hub.flip(rooms=False)
    await until(lambda: visitor.run("return paused.length"), WAIT_S, "the pause")
    await visitor.run("listen('room:b', {})")
    await until(lambda: visitor.run("return ends.length"), WAIT_S, "a refusal")
    assert await visitor.run("return ends.splice(0)") == ["room:b feature_disabled"]
    visitor.hub.flip(rooms=True)
    await until(lambda: visitor.run("return paused.length === 2"), WAIT_S, "its end")
    assert await visitor.run("return paused") == [f"{ROOM} paused", f"{ROOM} back"]
    await visitor.publish()
    await visitor.has_all()


async def test_a_fresh_token_is_brought_over_a_stream(visitor: Visitor) -> None:
    """And 401 is answered by another token, not by another transport."""
    tokens = [visitor.hub.token(ttl_s=-60.0), visitor.hub.token(ttl_s=12.0), visitor.hub.token()]
    await visitor.run(
        """
        const { HubClient } = await import("/hub.js");
        const { fetch } = globalThis;
        Object.assign(globalThis, { tokens: given[1], last: given[1].at(-1), shown: [], went: [], unhandled: 0 });
        globalThis.fetch = (url, init) => {
          if (url.endsWith("/v1/frames")) shown.push(init.headers.Authorization);
          return fetch(url, init);
        };
        globalThis.hub = new HubClient(given[0], () => tokens.shift(), { transports: ["sse", "poll"], backoffMs: 20 });
        hub.onState = (state) => went.push(state === "up" ? hub.transport : state);
        """,
        visitor.url,
        tokens,
    )
    await visitor.uses("sse")
    assert await visitor.run("return went") == ["down", "sse"]
    await until(lambda: visitor.run("return tokens.length === 0"), WAIT_S, "the token to expire soon")
    await visitor.run("await hub.call('test.echo', {})")
    assert await visitor.run("return went") == ["down", "sse"]
    assert await visitor.run("return shown.at(-1) === `Bearer ${last}`")


async def test_a_plain_event_source_goes_on_where_it_was(visitor: Visitor) -> None:
    await visitor.publish()
    listen = """
        const [base, token, cursor] = given;
        const headers = { Authorization: `Bearer ${token}` };
        const { ticket } = await (await fetch(`${base}/v1/tickets`, { method: "POST", headers })).json();
        const query = cursor ? `cursor=${cursor}` : "topics=events:finance";
        const source = new EventSource(`${base}/v1/sse?ticket=${ticket}&${query}`);
        globalThis.unhandled = 0;
        globalThis.hub = source;
        globalThis.seen = [];
        globalThis.cursor = "";
        source.onmessage = ({ data, lastEventId }) => {
          const frame = JSON.parse(data);
          globalThis.cursor = lastEventId;
          seen.push(frame.type === "event" ? frame.data : frame.type);
        };
    """
    token = visitor.hub.token()
    await visitor.run(listen, visitor.hub.http_url, token)
    await until(lambda: visitor.run("return seen.includes('welcome')"), WAIT_S, "the stream")

    async def knows_where_it_is() -> Any:
        """An event shows the cursor that came before it."""
        await visitor.publish(1)
        return await visitor.run("return seen.length > 3 && cursor")

    await until(knows_where_it_is, WAIT_S, "a cursor")
    before = await visitor.run("hub.close(); return seen")
    assert before == ["welcome", *range(5, 4 + len(before))]
    await visitor.publish()
    newest = visitor.newest
    await visitor.run(listen, visitor.hub.http_url, token, await visitor.run("return cursor"))
    await until(lambda: visitor.run("return seen.at(-1) === given[0]", newest), WAIT_S, "what was missed")
    after = await visitor.run("return seen")
    assert after == ["welcome", *range(after[1], newest + 1)]
    # What came after the last cursor that it was shown comes again.
    assert 5 < after[1] <= before[-1] + 1
