"""The keeper's slots: everybody is looked at when due, once, and nobody who is gone is kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hub.config import Settings
from hub.edge.connection import Connection
from hub.edge.keeper import SLOT_S, Keeper
from hub.fanout.delivery import Delivery
from tests.support.clock import Clock
from tests.support.waiting import until


class Client:
    """What the keeper itself touches of a connection; its deadlines are the scripted keeper's."""

    def __init__(self, *pauses_s: float) -> None:
        self.id = "c"
        self.gone = False
        self.slot: Any = None
        self.pauses_s = list(pauses_s)
        self.looks: list[float] = []
        self.closed: list[Any] = []

    def close(self, code: Any) -> None:
        self.closed.append(code)


class Scripted(Keeper):
    """Looks as the client says."""

    def _look(self, connection: Any, now: float) -> float:
        connection.looks.append(now)
        pause_s = connection.pauses_s.pop(0) if connection.pauses_s else 3600.0
        if pause_s < 0:
            raise ValueError("a fault of ours")
        return now + float(pause_s)


def keeper() -> Scripted:
    return Scripted(Settings(redis_url="x", database_url="x"), cast(Delivery, None))


def watch(keeper: Keeper, *clients: Client) -> None:
    for client in clients:
        keeper.watch(cast(Connection, client))


@pytest.fixture
async def running() -> AsyncIterator[Scripted]:
    kept = keeper()
    kept.start()
    yield kept
    await kept.close()


async def test_each_is_looked_at_when_due_and_never_before(running: Scripted) -> None:
    clients = [Client(0.1), Client(0.3), Client(0.1)]
    watch(running, *clients)
    await until(lambda: all(len(client.looks) == 2 for client in clients))
    for client, pause in zip(clients, (0.1, 0.3, 0.1), strict=True):
        assert client.looks[1] - client.looks[0] >= pause


async def test_a_deadline_that_is_past_is_looked_at_again_after_a_slot(running: Scripted) -> None:
    client = Client(0.0, 0.0)
    watch(running, client)
    await until(lambda: len(client.looks) == 3)
    assert all(later - sooner >= SLOT_S for sooner, later in pairwise(client.looks))


def test_who_was_looked_at_meanwhile_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in an older slot still; a second chain of looks must not begin there."""
    clock, kept = Clock(), keeper()
    monkeypatch.setattr("hub.edge.keeper.time", SimpleNamespace(monotonic=clock))
    moved, other = Client(0.2, 3600.0), Client(0.2)

    def looks() -> tuple[int, int]:
        for _ in kept._look_at_due():
            pass
        return len(moved.looks), len(other.looks)

    watch(kept, moved, other)
    assert looks() == (1, 1)
    watch(kept, moved)
    assert looks() == (2, 1)
    clock.now += 0.3
    assert looks() == (2, 2)


async def test_a_look_that_fails_closes_that_connection_and_no_other(running: Scripted) -> None:
    bad, good = Client(-1.0), Client(0.1)
    watch(running, bad, good)
    await until(lambda: len(good.looks) == 2)
    assert len(bad.closed) == 1
    assert good.closed == []


async def test_who_is_gone_is_forgotten(running: Scripted) -> None:
    clients = [Client(*[0.1] * 1000)]
    watch(running, *clients)
    await until(lambda: clients[0].looks)
    clients[0].gone = True
    forgotten = weakref.ref(clients.pop())

    def collected() -> bool:
        gc.collect()
        return forgotten() is None

    await until(collected)
