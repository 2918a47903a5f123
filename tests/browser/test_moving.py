"""web/hub.js on a real hub, when it changes its transport, or ought to: nothing else suffers from it."""

from __future__ import annotations

import pytest

from hub.flags import REALTIME, FixedFlags, Subject
from tests.browser.visitor import FINANCE, ROOM, WAIT_S, Visitor
from tests.support.waiting import until

NEVER = {"upgradeMs": 60_000, "mostUpgradeMs": 60_000}
"""Comes up when there is a reason, and not because time has passed."""


async def test_where_only_the_socket_gets_through_one_topic_waits(visitor: Visitor) -> None:
    visitor.block(b"/v1/sse", b"/v1/poll")
    await visitor.start(restMs=300)
    await visitor.uses("websocket")
    visitor.hub.flip(finance_realtime_v2=False)
    await visitor.shows("paused.length")
    tried = visitor.proxy.accepted
    await until(lambda: visitor.proxy.accepted > tried + 1, WAIT_S, "another attempt")
    await visitor.publish()
    await visitor.shows(f"got['{ROOM}'].length === 5")
    visitor.block()
    await visitor.uses("sse")
    await visitor.has_all()
    assert await visitor.run("return went") == ["websocket", "sse"]
    assert await visitor.run("return paused") == [f"{FINANCE} paused", f"{FINANCE} back"]


async def test_slow_calls_hold_up_calls_only(visitor: Visitor) -> None:
    visitor.block(b"Upgrade: websocket")
    await visitor.start(**NEVER)
    await visitor.uses("sse")
    await visitor.run("globalThis.late = []")
    for count in (1, 2, 2):
        await visitor.run("hub.call('test.slow').then((answer) => late.push(answer))")
        await until(lambda count=count: visitor.hub.service.running == count, WAIT_S, "the call to be performed")
    await visitor.run("await hub.publish('room:b', 'n', 1); listen('room:b', { since: 'start' })")
    await visitor.shows("got['room:b'].length")
    assert await visitor.run("return late") == []
    visitor.hub.service.release(visitor.hub.loop)
    await visitor.shows("late.length === 3")


async def test_calls_under_way_are_answered_over_the_connection_that_was_left(visitor: Visitor) -> None:
    await visitor.start(**NEVER)
    await visitor.uses("websocket")
    for flag, transport in ((False, "sse"), (True, "websocket")):
        await visitor.run(
            """
            globalThis.late = [];
            const onLost = () => late.push("lost");
            hub.call("test.slow").then((answer) => {
              late.push(answer);
              hub.handle(7, { onLost });
            }, ({ code }) => late.push(code));
            """
        )
        await until(lambda: visitor.hub.service.running == 1, WAIT_S, "the call")
        visitor.hub.flip(realtime_v2=flag)
        await visitor.uses(transport)
        await visitor.publish()
        await visitor.has_all()
        visitor.hub.service.release(visitor.hub.loop)
        # A handle belongs to the connection that it was given on.
        await visitor.shows("late.length === 2")
        assert await visitor.run("return late") == ["at last", "lost"]
        visitor.hub.loop.call_soon_threadsafe(visitor.hub.service.released.clear)
        await until(lambda: len(list(visitor.hub.gateway.connections)) == 1, WAIT_S, "the other one to be left")


async def test_a_connection_that_is_cut_again_and_again_is_gone_round(visitor: Visitor) -> None:
    await visitor.start()
    for count in (1, 2, 3, 4):  # the fourth after it has come back up
        await visitor.shows("went.filter((one) => one === 'websocket').length === given[0]", count)
        visitor.proxy.cut()
    await visitor.publish()
    await visitor.has_all()
    way = ["websocket", "down"] * 3 + ["sse", "websocket", "down", "sse"]
    assert (await visitor.run("return went"))[: len(way)] == way


async def test_a_flag_that_is_flipped_back_at_once_moves_nobody(visitor: Visitor) -> None:
    """At once is: before its moves are due. They are when this test says so."""
    await visitor.run(
        """
        const { setTimeout, fetch } = globalThis;
        Object.assign(globalThis, { due: [], asked: 0 });
        Math.random = () => 1;
        globalThis.setTimeout = (act, ms, ...given) => (ms === 54_321 ? -due.push(act) : setTimeout(act, ms, ...given));
        globalThis.fetch = (...request) => { asked += 1; return fetch(...request); };
        """
    )
    await visitor.start(moveMs=54_321, **NEVER)
    await visitor.uses("websocket")
    for _ in range(3):
        for value in (False, True):
            visitor.hub.flip(finance_realtime_v2=value)
            await visitor.shows("flagged.at(-1) === `finance_realtime_v2 ${given[0]}`", value)
    await visitor.publish()
    await visitor.has_all()
    assert await visitor.run("due.forEach((act) => act()); return due.length")
    await visitor.publish()
    await visitor.has_all()
    assert await visitor.run("return [went, asked]") == [["websocket"], 0]


async def test_what_comes_on_during_a_move_brings_it_back_up_soon(visitor: Visitor) -> None:
    visitor.hub.flip(realtime_v2=False)
    await visitor.run(
        """
        const { fetch } = globalThis;
        const opened = new Promise((resolve) => { globalThis.open = resolve; });
        globalThis.fetch = async (...request) => {
          await opened;
          return fetch(...request);
        };
        """
    )
    await visitor.start(**NEVER)
    await visitor.shows("hub.transport === 'sse'")
    visitor.hub.flip(realtime_v2=True)
    await visitor.run("open()")
    await visitor.uses("websocket")
    assert await visitor.run("return went") == ["down", "sse", "websocket"]


async def test_a_node_that_has_not_heard_yet_keeps_no_page_down(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await visitor.start(**NEVER)
    await visitor.uses("websocket")
    visitor.hub.flip(realtime_v2=False)
    await visitor.uses("sse")
    flags, early = visitor.hub.flags, list[Subject]()
    assert flags is not None

    def late(flag: str, subject: Subject) -> bool:
        if flag == REALTIME and not early:
            early.append(subject)
            return False
        return FixedFlags.on(flags, flag, subject)

    monkeypatch.setattr(flags, "on", late)
    visitor.hub.flip(realtime_v2=True)
    await visitor.uses("websocket")
    assert early
    await visitor.publish()
    await visitor.has_all()


async def test_what_belongs_to_a_connection_is_not_overtaken_on_its_way_there(visitor: Visitor) -> None:
    """A node that is not the connection's hands it over, and answers at once."""
    visitor.block(b"Upgrade: websocket")
    await visitor.start(**NEVER)
    await visitor.uses("sse")
    await visitor.run(
        """
        const { fetch } = globalThis;
        globalThis.handed = [];
        let asked = 0;
        globalThis.fetch = (url, init) => {
          if (!url.endsWith("/v1/frames")) return fetch(url, init);
          const types = JSON.parse(init.body).frames.map(({ type }) => type);
          setTimeout(() => {
            handed.push(...types);
            fetch(url, init).catch(() => {}); // its answer may come after the end
          }, asked++ === 0 ? 200 : 0);
          return Promise.resolve(new Response('{"frames":[]}'));
        };
        const leave = hub.subscribe("room:b", { onEvent() {} });
        leave();
        hub.subscribe("room:b", { onEvent() {} })();
        hub.subscribe("room:b", { onEvent() {} });
        """
    )
    await visitor.shows("handed.length === 5")
    assert await visitor.run("return handed") == [*["subscribe", "unsubscribe"] * 2, "subscribe"]
    [connection] = visitor.hub.gateway.connections
    await until(lambda: "room:b" in connection.subscriptions, WAIT_S, "the last word")


async def test_the_ladder_comes_back_up_by_its_own_pauses_only(visitor: Visitor) -> None:
    """Moves that the hub has asked for do not lengthen them; connections that last are cut for other reasons."""
    went = await visitor.run(
        """
        const { Ladder } = await import("/ladder.js");
        Object.assign(globalThis, { hub: { close() {} }, unhandled: 0 });
        sessionStorage.clear();
        const options = {
          transports: ["websocket", "sse", "poll"], upgradeMs: 1000, mostUpgradeMs: 64_000, shortLifeMs: 30_000,
        };
        let now = 1_000_000;
        Date.now = () => now;
        Math.random = () => 1;
        const ladder = new Ladder(options, "nowhere");
        const end = (livedMs) => (ladder.ended(1006, { silent: false, cut: true, livedMs }), ladder.transport);
        const pause = () => { const begun = now; while (!ladder.due) now += 250; return now - begun; };
        const went = [end(2000), end(2000), end(30_000), end(2000), end(2000), end(2000), pause()];
        for (let flips = 0; flips < 10; flips += 1) { ladder.moved(0); ladder.moved(1); }
        went.push(pause());
        ladder.moved(0);
        went.push(end(2000), pause());
        return went;
        """
    )
    socket = ["websocket"]
    assert went == [*socket * 5, "sse", 1250, 2250, "sse", 2250]
