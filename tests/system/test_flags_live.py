"""Flags on live connections: a kill switch and a thousand sockets on two nodes, and clients that go on another way.

Somebody publishes all the time. What our client saw in the end is held against Redis: everything once, in order,
whichever transport it came over. ``make oracle-flags`` does the same with a thousand clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from hub.client import ClientOptions, HubClient
from hub.embedded import RedisServer
from services.events.topics import SERVICES
from tests.support.hub_database import HubDatabase
from tests.support.hub_process import SECRET, HubProcess
from tests.support.servers import client as connected
from tests.support.waiting import until
from tests.system.chance import oracle_seed
from tests.system.chat_truth import pending
from tests.system.conftest import Remark
from tests.system.judge import read_truth
from tests.system.onlookers import Onlooker, onlookers
from tests.system.ordeal import ORG, environment
from tests.system.publisher import HttpWay, Publisher, SqlWay

SOCKETS = int(os.environ.get("FLAGS_SOCKETS", "1000"))
CLIENTS = int(os.environ.get("FLAGS_CLIENTS", "40"))
KILLED, SPARED = "events:branding", "events:staff"
"""What the crowd looks at."""
READ = ("events:finance", "events:guest")
"""What our clients read; the first one's flag goes off."""
FALLBACK = ["sse", "poll"]
WINDOW_S = 2.0
WAIT_S = 30.0 + CLIENTS / 10
SHIPPED = Path(__file__).parents[2] / "feature_flags.yaml"
WAYS = {"websocket", *FALLBACK}


def token(user: str, scope: str = "subscribe:* publish:*") -> str:
    """Good at both nodes."""
    claims = {"sub": user, "org": ORG, "aud": "hub", "exp": time.time() + 3600, "scope": scope}
    return jwt.encode(claims, SECRET, algorithm="HS256")


class Reader:
    """A program that uses our client, and does not know how its events come."""

    def __init__(self, number: int, port: int) -> None:
        self.numbers: dict[str, list[int]] = {topic: [] for topic in READ}
        self.gaps: list[str] = []
        options = ClientOptions(backoff_base_s=0.1, backoff_max_s=1.0, upgrade_after_s=1.0)
        url = f"ws://127.0.0.1:{port}/ws"
        self.client = HubClient(url, lambda: token(f"reader-{number}"), options=options)
        self._task: asyncio.Task[None]

    def begin(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ExceptionGroup):
            await self._task

    def check(self) -> None:
        """It still reads."""
        if self._task.done():
            self._task.result()
            raise AssertionError("a reader came to its end")

    async def _run(self) -> None:
        async with self.client as hub, asyncio.TaskGroup() as group:
            for topic in READ:
                group.create_task(self._read(hub, topic))

    async def _read(self, hub: HubClient, topic: str) -> None:
        subscription = hub.subscribe(topic, since="start", on_gap=lambda gap: self.gaps.append(gap.reason))
        async for event in subscription:
            self.numbers[topic].append(event.data["number"])


class Stage:
    """Two nodes, a crowd, readers, and somebody who publishes."""

    def __init__(self, nodes: list[HubProcess], redis: RedisServer, database: HubDatabase, file: Path) -> None:
        self.nodes = nodes
        self.redis = redis
        self.database = database
        self.file = file
        self.seed = oracle_seed("flags")
        ways = [HttpWay(lambda: [node.address for node in nodes], token("publisher"), 0, self.seed)]
        self.publisher = Publisher([*ways, SqlWay(database.url("hub_app"), ORG, 0)], READ, 60.0, self.seed)
        self.readers: list[Reader] = []
        self.crowd: list[Onlooker] = []
        self._http = httpx.AsyncClient(headers={"Authorization": f"Bearer {token('operator', 'flags:write')}"})

    async def fill(self, sockets: int, clients: int) -> None:
        """Everybody comes in, and events flow."""
        self.readers = [Reader(number, self.nodes[number % 2].port) for number in range(clients)]
        tokens = [token(f"onlooker-{number}") for number in range(sockets)]
        self.crowd = await onlookers([node.port for node in self.nodes], tokens, [[KILLED], [SPARED]])
        await until(lambda: all(one.welcomed for one in self.crowd), WAIT_S, "the crowd to be in")
        self.publisher.start()
        for reader in self.readers:
            reader.begin()
        await self.arrive()
        await self.readers_come_by("websocket")

    async def set(self, node: int = 0, **states: str) -> float:
        """Changes flags through a node; when it was asked."""
        changes = [{"flag": flag, "state": state} for flag, state in states.items()]
        asked = time.monotonic()
        url = f"http://{self.nodes[node].address}/v1/flags"
        answer = await self._http.patch(url, json={"changes": changes, "why": "a test"})
        assert answer.status_code == 200, answer.text
        return asked

    async def arrive(self) -> None:
        """What is published now reaches every reader."""
        marks = {entry.topic: entry.number for entry in await self.publisher.mark()}

        def everywhere() -> bool:
            for reader in self.readers:
                reader.check()
            return all(marks[topic] in reader.numbers[topic][-500:] for reader in self.readers for topic in READ)

        await until(everywhere, WAIT_S, "everybody to have what was published now")

    async def readers_come_by(self, *transports: str) -> None:
        """Waits until every reader uses one of them."""
        await until(
            lambda: {reader.client.transport for reader in self.readers} <= set(transports),
            WAIT_S,
            f"all readers to come by {transports}",
        )

    async def told(self, kind: str, since: float, whom: Callable[[Onlooker], bool] = lambda _: True) -> list[Any]:
        """Waits until everybody in the crowd was told; (when, frame) of each one's first."""
        people = [one for one in self.crowd if whom(one)]
        await until(lambda: all(one.said(kind, since) for one in people), WAIT_S, f"{len(people)} to be told {kind}")
        return [one.said(kind, since)[0] for one in people]

    async def judge(self) -> None:
        """Everybody has seen what Redis holds: all of it, once, in order."""
        await self.arrive()
        await self.publisher.stop(WAIT_S)
        # After an outage of Redis the relay of what SQL has committed waits for a while before it tries again.
        await until(self._relayed, WAIT_S, "the outbox to be relayed")
        await self.arrive()
        with connected(self.redis) as link:
            truths = read_truth(link, ORG, READ)
        wanted = {topic: [number for _, number in sorted(truths[topic].numbers.items())] for topic in READ}
        promised = {entry.number: entry for entry in self.publisher.ledger.entries.values() if entry.acknowledged}
        there = {number for numbers in wanted.values() for number in numbers}
        assert promised.keys() >= there
        lost = [promised[number] for number in sorted(promised.keys() - there)]
        assert not lost, f"{len(lost)} were acknowledged and are not there: {lost[:5]}"
        wrong = [number for number, reader in enumerate(self.readers) if reader.numbers != wanted]
        assert not wrong, _difference(self.readers[wrong[0]].numbers, wanted)

    async def _relayed(self) -> bool:
        return await pending(self.database) == 0

    async def end(self) -> None:
        """Everybody leaves."""
        await self.publisher.close()
        await asyncio.gather(*(reader.end() for reader in self.readers))
        for one in self.crowd:
            one.close()
        await self._http.aclose()


def _difference(seen: dict[str, list[int]], wanted: dict[str, list[int]]) -> str:
    said = []
    for topic in READ:
        missing = sorted(set(wanted[topic]) - set(seen[topic]))
        twice = [number for number in set(seen[topic]) if seen[topic].count(number) > 1]
        said.append(f"{topic}: {len(missing)} missing {missing[:5]}, twice {twice[:5]}")
    return "; ".join(said)


@pytest.fixture
async def stage(
    request: pytest.FixtureRequest, own_redis: RedisServer, hub_database: HubDatabase, tmp_path: Path
) -> AsyncIterator[Stage]:
    """Running, with so many sockets and clients. Fails when a node logged a traceback."""
    file = tmp_path / "feature_flags.yaml"
    shutil.copy(SHIPPED, file)
    settings = {
        "HUB_FLAGS_FILE": str(file),
        "HUB_FLAGS_DRAIN_WINDOW_S": str(WINDOW_S),
        "HUB_POLL_LINGER_S": "5",
        "HUB_DATABASE_POOL": "6",
    }
    in_full = environment(own_redis.url, hub_database, settings)
    nodes = [HubProcess(f"node{number}", tmp_path, in_full) for number in range(2)]
    try:
        await asyncio.gather(*(node.launch() for node in nodes))
        await asyncio.gather(*(node.ready() for node in nodes))
        it = Stage(nodes, own_redis, hub_database, file)
        try:
            await it.fill(*request.param)
            yield it
        finally:
            await it.end()
    finally:
        await asyncio.gather(*(node.terminate() for node in nodes))
    faults = [line[:600] for node in nodes for line in node.faults()]
    assert not faults, faults[:5]


@pytest.mark.parametrize("stage", [(SOCKETS, CLIENTS)], ids=["everybody"], indirect=True)
async def test_a_kill_switch_reaches_everybody_and_nobody_loses_anything(stage: Stage, remark: Remark) -> None:
    # A flag of two services goes off: topics end, clients go on by the fallback.
    asked = await stage.set(finance_realtime_v2="off", branding_realtime_v2="off")
    told = await stage.told("flags", asked)
    assert {frozenset(frame["flags"].items()) for _, frame in told} <= {
        frozenset({"finance_realtime_v2": False, "branding_realtime_v2": False}.items())
    }
    ended = await stage.told("unsubscribed", asked, lambda one: stage.crowd.index(one) // 2 % 2 == 0)
    for _, frame in ended:
        assert (frame["topic"], frame["code"], frame["fallback"]) == (KILLED, "feature_disabled", FALLBACK)
    assert sum(len(one.said("unsubscribed")) for one in stage.crowd) == len(ended), "others lost a topic too"
    remark(f"ORACLE_SEED={stage.seed}")
    remark(
        f"kill switch → {len(told)} sockets on two nodes: {_spread(asked, told)}; topics ended: {_spread(asked, ended)}"
    )
    await stage.readers_come_by(*FALLBACK)
    await stage.arrive()

    # On again: back to the socket.
    asked = await stage.set(finance_realtime_v2="on", branding_realtime_v2="on")
    await stage.told("flags", asked)
    await stage.readers_come_by("websocket")
    await stage.arrive()

    # The socket itself goes off: everybody is told to move, over a window. In the midst of it Redis is another server.
    asked = await stage.set(realtime_v2="off")
    drained = await stage.told("drain", asked)
    assert {tuple(frame["fallback"]) for _, frame in drained} == {tuple(FALLBACK)}
    _check_spread([frame["after_ms"] / 1000 for _, frame in drained])
    await stage.readers_come_by(*FALLBACK)
    await asyncio.to_thread(stage.redis.stop)
    stage.redis.start()
    await stage.arrive()
    await until(lambda: all(one.ended_at for one in stage.crowd), WAIT_S, "sockets that stayed to be closed")
    remark(f"drained over {WINDOW_S:g} s: {len(drained)} sockets, told {_spread(asked, drained)}")

    # And on: whoever comes is let in.
    await stage.set(realtime_v2="on")
    await stage.readers_come_by("websocket")
    await stage.judge()
    # Only the Redis that was another server is told of, and nothing of it was lost.
    assert {reason for reader in stage.readers for reason in reader.gaps} <= {"epoch_changed"}


@pytest.mark.parametrize("stage", [(60, 4)], ids=["a few"], indirect=True)
async def test_a_thousand_changes_in_a_second_and_a_file_that_is_away(stage: Stage, remark: Remark) -> None:
    others = [f"{name}_realtime_v2" for name in SERVICES if f"events:{name}" not in READ]
    began = time.monotonic()
    rounds = 1000 // len(others)
    for begin in range(0, rounds, 10):
        changes = (stage.set(number % 2, **dict.fromkeys(others, "off")) for number in range(begin, begin + 9))
        await asyncio.gather(*changes)
        await stage.set(begin // 10 % 2, **dict.fromkeys(others, "on"))
    await stage.set(1, **dict.fromkeys(others, "off"))
    remark(f"1 000 changes by two nodes in {time.monotonic() - began:.1f} s")
    wanted = dict.fromkeys(others, False)
    await until(lambda: all(_last(one) == wanted for one in stage.crowd), WAIT_S, "the last one to be known")
    # Whoever has the same value as before is told nothing.
    assert max(len(one.said("flags")) for one in stage.crowd) <= 2 * rounds / 10 + 2

    # Without the file everything stays as it is; what comes back counts, and nothing half written ever does.
    text = stage.file.read_text()
    stage.file.rename(stage.file.with_suffix(".away"))
    asked = await stage.set(properties_realtime_v2="on")
    await stage.told("flags", asked)
    broken = text.replace("  branding_realtime_v2:\n", "  branding_realtime_v2:\n\tbad: 1\n")
    assert broken != text
    stage.file.write_text(broken)
    asked = await stage.set(properties_realtime_v2="off")
    await stage.told("flags", asked)
    asked = time.monotonic()
    stage.file.write_text(text.replace('\n  realtime_v2:\n    state: "on"', '\n  realtime_v2:\n    state: "off"'))
    await stage.told("drain", asked)
    await stage.readers_come_by(*FALLBACK)
    await stage.judge()
    assert [reader.gaps for reader in stage.readers] == [[]] * len(stage.readers)


def _last(one: Onlooker) -> dict[str, bool]:
    """What it knows of the flags."""
    known: dict[str, bool] = {}
    for _, frame in one.said("flags"):
        known |= frame["flags"]
    return known


def _spread(asked: float, told: list[tuple[float, Any]]) -> str:
    waits = sorted(1000 * (at - asked) for at, _ in told)
    return f"half after {statistics.median(waits):.0f} ms, the last after {waits[-1]:.0f} ms"


def _check_spread(slots_s: list[float]) -> None:
    """No stampede: nowhere in the window is more than twice what an even spread would have there."""
    assert max(slots_s) <= WINDOW_S
    parts = [0] * 4
    for slot in slots_s:
        parts[min(3, int(4 * slot / WINDOW_S))] += 1
    assert max(parts) < len(slots_s) / 2, parts
    assert min(parts) > len(slots_s) / 8, parts
