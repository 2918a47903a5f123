"""Fifty rooms of twenty members in which people talk: from a call on one socket to the other members' sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence

import uvloop

from hub.client import HubClient
from loadtest.generators import Clients, connect
from loadtest.hub_server import HubServer
from loadtest.machine import Watch
from loadtest.measure import Result, Sample, Target, attempted, summary_of, thousands, void_of, why_void
from loadtest.service_hub import client, service_hub
from loadtest.session import Bench, latencies

ROOMS, MEMBERS, RATE = 50, 20, 200.0
_LISTENERS = MEMBERS - 1
# What somebody may say in a second is not what is measured.
UNLIMITED = {
    "chat_messages_per_second": 1000,
    "chat_messages_burst": 1000,
    "chat_reads_per_second": 1_000_000,
    "chat_reads_burst": 1_000_000,
    "messages_per_second": 1_000_000,
    "messages_burst": 1_000_000,
}
_MARKER = '"text":"'
"""The text of a message begins with the time at which its sender set about sending it."""
_REST = " is when I began to tell you this; what follows is about as long as what people say."
_WARMUP_S, _SETTLE_S = 4.0, 2.0


def run(bench: Bench) -> list[Result]:
    """PostgreSQL with fsync, and so every message with a commit that waits for the disk."""
    with service_hub(bench, durable=True, **UNLIMITED) as (hub, _):
        uvloop.run(_make_rooms(hub))
        runs = [attempted(lambda: uvloop.run(_measured(bench, hub))) for _ in range(bench.repetitions)]
    what = f"{ROOMS} rooms × {MEMBERS} members, {RATE:.0f} messages/s"

    def middle(name: str) -> float:
        return summary_of(runs, name).median

    return [
        Result(
            row="chat-send",
            what=f"{what}: chat.send → another member's socket, p99",
            unit="ms",
            figure=summary_of(runs, "p99"),
            target=Target(text="≤ 15 ms", at_most=15.0),
            void=void_of(runs),
            note=f"p50 {middle('p50'):.1f}, at most {middle('max'):.0f} ms; the sender's reply: p50 "
            f"{middle('reply_p50'):.1f}, p99 {middle('reply_p99'):.1f} ms",
        ),
        Result(
            row="chat-send-lost",
            what=f"{what}: deliveries lost or doubled",
            unit="",
            figure=summary_of(runs, "lost"),
            target=Target(text="0", at_most=0.0),
            void=void_of(runs),
            note=f"of {thousands(middle('due'))}",
        ),
        Result(
            row="chat-send-core",
            what=f"{what}: the hub's share of its core",
            unit="cores",
            figure=summary_of(runs, "server"),
            target=Target(text="one core", at_most=1.0),
            void=void_of(runs),
            note=f"core of Redis, PostgreSQL and load {middle('load_core'):.0%}",
        ),
    ]


def _room(number: int) -> str:
    return f"bench-{number}"


def _listeners(hub: HubServer) -> Clients:
    """The listener of number n is the user of number n (``HubServer.tokens``)."""
    hellos = [hub.hello([{"topic": f"chat:{_room(number // _LISTENERS)}"}]) for number in range(ROOMS * _LISTENERS)]
    return hub.saying(hellos, ROOMS * _LISTENERS)


@contextlib.asynccontextmanager
async def _senders(hub: HubServer) -> AsyncIterator[Sequence[HubClient]]:
    async with contextlib.AsyncExitStack() as stack:
        clients = [client(hub, f"sender-{number}") for number in range(ROOMS)]
        for one in clients:
            await stack.enter_async_context(one)
        yield clients


async def _make_rooms(hub: HubServer) -> None:
    async with _senders(hub) as senders:
        for number, sender in enumerate(senders):
            members = [f"u{number * _LISTENERS + index}" for index in range(_LISTENERS)]
            await sender.call("chat.create", {"room": _room(number), "name": f"Room {number}", "members": members})


class _Talk:
    """Everybody who sends, and what became of it."""

    def __init__(self, senders: Sequence[HubClient]) -> None:
        self._senders = senders
        self._dice = random.Random(5)
        self._keys = 0
        self.replies_ms: list[float] = []
        self.late_ms: list[float] = []
        self.heard = 0

    async def send(self, count: int) -> None:
        """That many messages at ``RATE``, each in a room of its own choice; returns when all are answered."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                due = began + number / RATE
                if (wait_s := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                self.late_ms.append(1000 * (time.monotonic() - due))
                group.create_task(self._say(self._dice.randrange(ROOMS)))

    async def _say(self, number: int) -> None:
        self._keys += 1
        key, began = f"{time.time_ns()}-{self._keys}", time.monotonic()
        text = f"{time.time_ns()}{_REST}"
        await self._senders[number].call("chat.send", {"room": _room(number), "text": text, "key": key})
        self.replies_ms.append(1000 * (time.monotonic() - began))

    async def listen(self, number: int) -> None:
        """What a sender hears of its own room."""
        async for event in self._senders[number].subscribe(f"chat:{_room(number)}"):
            self.heard += event.name == "message.created"


async def _measured(bench: Bench, hub: HubServer) -> Sample:
    count = int(RATE * (30.0 if bench.full else 10.0))
    options = {"connections": ROOMS * _LISTENERS, "warmup": _WARMUP_S + _SETTLE_S, "at_once": 64}
    with connect(bench.programs, _listeners(hub), marker=_MARKER, duration=count / RATE + _SETTLE_S, **options) as load:
        opened = await asyncio.to_thread(load.phase)
        if opened["open"] < ROOMS * _LISTENERS:
            raise RuntimeError(f"{opened['open']} of {ROOMS * _LISTENERS} members got in")
        async with _senders(hub) as senders:
            talk = _Talk(senders)
            listening = [asyncio.create_task(talk.listen(number)) for number in range(ROOMS)]
            await talk.send(int(RATE * (_WARMUP_S - 1)))
            await asyncio.to_thread(load.phase)
            talk.replies_ms, talk.late_ms, talk.heard = [], [], 0
            watch = Watch(hub.pids)
            await talk.send(count)
            used = watch.end()
            figures = await asyncio.to_thread(load.phase)
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
    due = count * MEMBERS
    replies = statistics.quantiles(talk.replies_ms, n=100)
    late_ms = statistics.quantiles(talk.late_ms, n=100)[98]
    return Sample(
        {
            "lost": abs(due - figures["events"] - talk.heard),
            "due": due,
            "reply_p50": replies[49],
            "reply_p99": replies[98],
            "late_ms": late_ms,
            "server": used.server,
            "load_core": used.load_core,
            **latencies(figures),
        },
        why_void(used, late_ms),
    )
