"""Fault oracle, last: a random mix of faults, two at a time; the same one each time, but for ORACLE_SEED."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import pytest

from hub.embedded import RedisServer
from tests.support.cut_proxy import CutProxy
from tests.support.hub_process import POLITE_EXIT
from tests.support.servers import client
from tests.system.chance import Deck
from tests.system.conftest import Arena, linked
from tests.system.ordeal import Ordeal, Plan

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

ROUNDS = 4


class Saboteur:
    """Breaks and repairs; every method leaves things as it found them."""

    def __init__(self, it: Ordeal, server: RedisServer, proxies: list[CutProxy]) -> None:
        self._it = it
        self._server = server
        self._proxies = proxies
        self._random = random.Random(it.figures.seed)
        self._lock = asyncio.Lock()
        """One process is restarted at a time: with every node down there would be nobody to test."""

    @property
    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        """All that can be done."""
        return [
            self.kill_a_node,
            self.drain_a_node,
            self.restart_redis,
            self.kill_subscribers,
            self.flush_scripts,
            self.cut_a_link,
            self.stall_a_link,
            self.stop_reading,
        ]

    async def kill_a_node(self) -> None:
        node = self._random.choice(self._it.nodes)
        async with self._lock:
            await node.kill()
            await node.start()

    async def drain_a_node(self) -> None:
        node = self._random.choice(self._it.nodes)
        async with self._lock:
            assert await node.terminate() == POLITE_EXIT
            await node.start()

    async def restart_redis(self) -> None:
        async with self._lock:
            await asyncio.to_thread(self._server.stop)
            self._server.start()

    async def kill_subscribers(self) -> None:
        with contextlib.suppress(OSError), client(self._server) as link:
            link.client_kill_filter(_type="pubsub")

    async def flush_scripts(self) -> None:
        with contextlib.suppress(OSError), client(self._server) as link:
            link.script_flush()

    async def cut_a_link(self) -> None:
        self._random.choice(self._proxies).cut()

    async def stall_a_link(self) -> None:
        proxy = self._random.choice(self._proxies)
        direction, seconds = self._random.choice(("both", "to_target", "to_client")), self._random.uniform(0.5, 5)
        proxy.stall(direction)
        await asyncio.sleep(seconds)
        proxy.resume()

    async def stop_reading(self) -> None:
        seconds = self._random.uniform(0.5, 3)
        for lazy in self._it.lazy:
            lazy.reading.clear()
        await asyncio.sleep(seconds)
        for lazy in self._it.lazy:
            lazy.reading.set()


async def test_random_faults(arena: Arena, own_redis: RedisServer) -> None:
    plan = Plan(
        clients=56, flapping=8, toggling=8, lazy=8, pad=2000, rate=150, settings={"HUB_UNSENT_HIGH_BYTES": "16384"}
    )
    async with contextlib.AsyncExitStack() as stack:
        target = ("127.0.0.1", own_redis.port)
        proxies = [await stack.enter_async_context(CutProxy(target)) for _ in range(3)]
        urls = [f"redis://127.0.0.1:{proxy.port}/0" for proxy in proxies]
        async with arena.ordeal("random mix", plan, urls, linked(own_redis)) as it:
            saboteur = Saboteur(it, own_redis, proxies)
            deck = Deck(it.figures.seed, saboteur.faults)
            for _ in range(ROUNDS):
                chosen = deck.deal(2, 2)
                it.figures.notes.append("+".join(fault.__name__ for fault in chosen))
                await asyncio.gather(*(fault() for fault in chosen))
                await it.flows(50)
