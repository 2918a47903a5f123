"""What the hub hands to a service, used by one on a running node."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client import Counter

from hub.api import Hub, OrgId, Principal, Service, TopicKind
from hub.embedded import RedisServer
from hub.protocol.codec import Encoding
from hub.protocol.frames import Event
from tests.support.peers import Peers
from tests.support.running_hub import running_hub


def journal(hub: Hub) -> Service:
    """Appends to a topic, reads it and takes back what it says, as its callers ask."""
    lines = Counter("journal_lines", "Lines written.", registry=hub.registry)

    async def append(principal: Principal, params: dict[str, Any]) -> int:
        new = [("line", text) for text in params["lines"]]
        top = await hub.append(principal.org, "journal:a", new, after=params["after"], by=principal.user)
        lines.inc(len(new))
        return top

    async def read(principal: Principal, params: dict[str, Any]) -> Any:
        return msgspec.to_builtins(await hub.read(principal.org, "journal:a", **params))

    async def redact(principal: Principal, params: dict[str, Any]) -> int:
        replacements = {int(seq): data for seq, data in params["replacements"].items()}
        return await hub.redact(principal.org, "journal:a", params["epoch"], replacements)

    return Service(
        name="journal",
        kinds=[TopicKind(name="journal")],
        methods={"journal.append": append, "journal.read": read, "journal.redact": redact},
    )


@pytest.fixture
async def peers(redis_server: RedisServer) -> AsyncIterator[Peers]:
    async with running_hub("direct", redis_server.url, factories=[journal]) as hub, Peers(hub) as peers:
        yield peers


def append(after: int, *lines: str) -> dict[str, Any]:
    return {"type": "call", "id": 7, "method": "journal.append", "params": {"after": after, "lines": lines}}


def read(**params: int) -> dict[str, Any]:
    return {"type": "call", "id": 8, "method": "journal.read", "params": params}


async def test_appended_events_reach_subscribers_and_can_be_read(peers: Peers) -> None:
    client = await peers.join(subscribe=[{"topic": "journal:a"}])
    assert await client.result(append(0, "one", "two")) == 2
    assert await client.result(append(2, "three")) == 3
    events = await client.events(3)
    assert [(event.seq, event.data, event.by) for event in events] == [
        (1, "one", "u1"),
        (2, "two", "u1"),
        (3, "three", "u1"),
    ]
    page = await client.result(read(after=1))
    kept = [{"seq": seq, "name": "line", "data": text} for seq, text in ((2, "two"), (3, "three"))]
    assert page == {"epoch": page["epoch"], "top": 3, "events": kept, "more": False}
    assert [event["seq"] for event in (await client.result(read(last=1)))["events"]] == [3]


async def test_who_is_not_at_the_end_is_told_where_it_is(peers: Peers) -> None:
    client = await peers.join(subscribe=[{"topic": "journal:a"}])
    await client.result(append(0, "one", "two"))
    refused = await client.refusal(append(1, "late", "later"), "conflict")
    assert refused.details == {"top": 2}
    await client.result(append(2, "three"))
    assert [event.data for event in await client.events(3)] == ["one", "two", "three"]
    assert isinstance(await client.publish("journal:a", "four"), dict)
    assert (await client.expect(Event)).seq == 4


async def test_a_service_has_metrics_of_its_own(peers: Peers) -> None:
    client = await peers.join()
    await client.result(append(0, "one", "two"))
    async with httpx.AsyncClient(base_url=peers.hub.http_url) as http:
        shown = (await http.get("/metrics")).text
    assert "journal_lines_total 2.0" in shown
    assert 'hub_events_published_total{kind="journal",way="service"} 2.0' in shown


async def test_an_event_that_is_not_echoed_comes_to_nobody_of_its_author(redis_server: RedisServer) -> None:
    doors: list[Hub] = []

    def desk(hub: Hub) -> Service:
        doors.append(hub)
        return Service(name="desk", kinds=[TopicKind(name="desk")])

    async with contextlib.AsyncExitStack() as stack:
        nodes = [running_hub("direct", redis_server.url, factories=[desk]) for _ in range(2)]
        hubs = [await stack.enter_async_context(node) for node in nodes]
        here = await stack.enter_async_context(Peers(hubs[0]))
        there = await stack.enter_async_context(Peers(hubs[1], org=here.org))
        clients = [
            await peers.join(user, encoding=encoding, subscribe=[{"topic": "desk:a"}])
            for user in ("anna", "bert")
            for peers in (here, there)
            for encoding in Encoding
        ]
        org = OrgId.from_claim(here.org)
        for echo in (False, True):
            publish = partial(doors[0].publish, org, "desk:a", "typing", echo, ephemeral=True, by="anna", echo=echo)
            await hubs[0].within(publish)
        await clients[-1].publish("desk:a", "the end")
        for number, client in enumerate(clients):
            came = [event.data for event in await client.events(2 if number < 4 else 3)]
            assert came == ([] if number < 4 else [False]) + [True, "the end"]
        for how in ({"by": "anna"}, {"ephemeral": True}, {}):
            with pytest.raises(ValueError, match="ephemeral event that has an author"):
                await doors[0].publish(org, "desk:a", "typing", None, echo=False, **how)  # type: ignore[arg-type]


async def test_what_is_redacted_is_seen_so_by_whoever_comes_later(peers: Peers) -> None:
    client = await peers.join(subscribe=[{"topic": "journal:a"}])
    await client.result(append(0, "one", "two", "three"))
    await client.events(3)
    epoch = (await client.result(read()))["epoch"]
    params = {"epoch": epoch, "replacements": {"2": "gone", "9": "no such"}}
    assert await client.result({"type": "call", "method": "journal.redact", "params": params}) == 1
    assert await client.result(append(3, "four")) == 4
    assert [event.data for event in await client.events(1)] == ["four"]
    late = await peers.join("u2", subscribe=[{"topic": "journal:a", "since": {"epoch": epoch, "seq": 1}}])
    came = await late.events(3)
    assert [(event.seq, event.name, event.data, event.by) for event in came] == [
        (2, "line", "gone", "u1"),
        (3, "line", "three", "u1"),
        (4, "line", "four", "u1"),
    ]
