"""What happens on connections is counted for guards: requests, replies, errors, acknowledgements, gaps; by HTTP too."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from hub.embedded import RedisServer
from hub.flags import FixedFlags
from hub.nodes.flags.cohorts import Watched
from hub.nodes.flags.guards import Figures
from hub.protocol.frames import Gap
from tests.support.peers import Peers
from tests.support.running_hub import RunningHub, running_hub

FAILED = ["method failed"]


def call(method: str) -> dict[str, Any]:
    return {"type": "call", "id": method, "method": method, "params": {}}


async def figures(hub: RunningHub) -> dict[bool, Figures]:
    """What has been counted."""

    async def look() -> Any:
        return hub.gateway.cohorts.look([connection.flags for connection in hub.gateway.connections])

    _, cohort, rest = (await hub.within(look))["beta"]
    return {True: Figures.heard(cohort), False: Figures.heard(rest)}


@pytest.mark.parametrize("on", [True, False])
async def test_what_is_counted(redis_server: RedisServer, on: bool) -> None:
    flags = FixedFlags({"beta": on, "rooms": True})
    # The node itself does not look which flags have stages.
    async with (
        running_hub("direct", redis_server.url, flags=flags, flags_report_s=3600.0, allowed_errors=FAILED) as hub,
        Peers(hub) as peers,
    ):
        client = await peers.join()

        async def watch() -> None:
            hub.gateway.cohorts.watch({"beta": Watched(1, 60.0)})

        await hub.within(watch)
        await client.joined("big:a")
        done = await client.publish("big:a")
        await client.events(1)
        await client.ack("big:a", done["epoch"], done["seq"])
        await client.result(call("test.echo"))
        await client.refusal(call("test.crash"), "internal")
        await client.send_raw("{")
        await client.joined({"topic": "big:b", "since": {"epoch": "old", "seq": 1}})
        await client.await_kind(Gap)
        await client.nothing_came()
        counted = await figures(hub)
        mine, others = counted[on], counted[not on]
        assert (mine.requests, mine.errors, mine.gaps) == (5, 1, 1)
        assert (mine.replies.total(), mine.acks.total()) == (4, 1)
        assert others == Figures()
        bob = await peers.join("bob")
        for method, code in (
            ("test.refuse", "conflict"),
            ("no.such", "unknown_method"),
            *[("test.crash", "internal")] * 5,
        ):
            await bob.refusal(call(method), code)
        mine = (await figures(hub))[on]
        assert (mine.requests, mine.errors) == (10, 4), "one user has so much to say and no more"
        async with httpx.AsyncClient(base_url=hub.http_url, timeout=30) as http:
            frames = [{"type": "publish", "id": 1, "topic": "big:a", "name": "a", "data": 1}, call("test.echo")]
            headers = {"Authorization": f"Bearer {peers.token('carl')}"}
            sent = await http.post(
                "/v1/frames", json={"frames": [*frames, call("test.crash"), call("no.such")]}, headers=headers
            )
        assert [frame["type"] for frame in sent.json()["frames"]] == ["reply", "reply", "error", "error"]
        mine = (await figures(hub))[on]
        assert (mine.requests, mine.errors, mine.replies.total()) == (14, 5, 6)


async def test_a_flip_on_an_open_connection_counts_from_there_on(redis_server: RedisServer) -> None:
    flags = FixedFlags({"beta": False})
    async with (
        running_hub("direct", redis_server.url, flags=flags, flags_report_s=3600.0, allowed_errors=FAILED) as hub,
        Peers(hub) as peers,
    ):
        client = await peers.join()

        async def watch() -> None:
            hub.gateway.cohorts.watch({"beta": Watched(1, 60.0)})

        await hub.within(watch)
        await client.refusal(call("test.crash"), "internal")
        hub.flip(beta=True)
        await client.receive()
        await client.refusal(call("test.crash"), "internal")
        await client.refusal(call("test.crash"), "internal")
        counted = await figures(hub)
        assert (counted[False].errors, counted[True].errors) == (1, 2)
