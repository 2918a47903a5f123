"""Acknowledged positions reach Redis, also when it fails at the moment in which the connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from hub.config import Settings
from hub.edge.connection import Connection
from hub.edge.session_saver import SessionSaver
from hub.errors import HubError, unavailable
from hub.fanout.sessions import SessionOwner, Sessions, SessionSave
from hub.orgs import OrgId
from hub.protocol.frames import Position
from tests.support.waiting import until

OWNER = SessionOwner(OrgId.from_row("acme"), "u1", "node", "c1")


class Client:
    """What the saver sees of a connection."""

    def __init__(self) -> None:
        self.id = "c1"
        self.principal = self
        self.session_id = "s_1"
        self.owner = OWNER
        self.acked: dict[str, Position] | None = None
        self.gone = False
        self.kept_presence: str | None = None
        self.closed: list[int] = []

    def close(self, code: int) -> None:
        self.closed.append(code)


class Store:
    """Takes saves, or refuses them after ``meanwhile`` has happened."""

    def __init__(self) -> None:
        self.taken: list[SessionSave] = []
        self.meanwhile: Any = None
        self.owned = True

    async def save_many(self, saves: Sequence[SessionSave]) -> list[bool | HubError]:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
            return [unavailable("Redis")] * len(saves)
        self.taken += saves
        return [self.owned] * len(saves)


def saver_of(store: Store, **settings: Any) -> SessionSaver:
    return SessionSaver(Settings(redis_url="x", database_url="x", **settings), cast(Sessions, store))


async def test_what_redis_refused_is_saved_the_next_time() -> None:
    store, client = Store(), Client()
    saver = saver_of(store)
    client.acked = {"a:1": Position("e", 3), "a:2": Position("e", 5)}
    saver.changed(cast(Connection, client))
    store.meanwhile = lambda: setattr(client, "acked", {"a:1": Position("e", 4)})
    await saver.save()
    assert store.taken == []
    await saver.save()
    assert [dict(save.positions) for save in store.taken] == [{"a:1": Position("e", 4), "a:2": Position("e", 5)}]


async def test_a_save_that_is_under_way_is_waited_for_and_not_cut_off() -> None:
    """Whoever drains tells clients to go when it is done; and a node that ends must not lose it."""
    store, client = Store(), Client()
    saver, under_way, goes_on = saver_of(store, session_save_s=0.001), asyncio.Event(), asyncio.Event()
    save_many = store.save_many

    async def slow(saves: Sequence[SessionSave]) -> list[bool | HubError]:
        under_way.set()
        await goes_on.wait()
        return await save_many(saves)

    store.save_many = slow  # type: ignore[method-assign]
    client.acked = {"a:1": Position("e", 3)}
    saver.changed(cast(Connection, client))
    saver.start()
    await under_way.wait()
    asked, closing = asyncio.create_task(saver.save()), asyncio.create_task(saver.close())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not asked.done()
    goes_on.set()
    await asyncio.gather(asked, closing)
    assert [dict(save.positions) for save in store.taken] == [{"a:1": Position("e", 3)}]


async def test_who_lost_the_session_has_a_moment_for_the_message_of_the_newer_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hub.edge.session_saver.MESSAGE_S", 0.05)
    store, client = Store(), Client()
    saver, store.owned = saver_of(store), False
    saver.changed(cast(Connection, client))
    await saver.save()
    assert client.closed == []

    async def closed() -> bool:
        await saver.save()
        return client.closed == [4409]

    await until(closed, what="it to be closed without a message")


async def test_who_gets_the_session_back_within_that_moment_keeps_it_and_all_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hub.edge.session_saver.MESSAGE_S", 0.05)
    store, client = Store(), Client()
    saver, store.owned = saver_of(store), False
    client.acked = {"a:1": Position("e", 3)}
    saver.changed(cast(Connection, client))
    await saver.save()
    store.owned = True
    store.taken.clear()

    async def stored() -> bool:
        await saver.save()
        return [dict(save.positions) for save in store.taken] == [{"a:1": Position("e", 3)}]

    await until(stored, what="the session to be looked at again")
    assert client.closed == []


async def test_who_is_in_a_hurry_does_not_wait_for_his_turn_nor_has_others_saved_early() -> None:
    store, client, other = Store(), Client(), Client()
    saver = SessionSaver(Settings(redis_url="x", database_url="x", session_save_s=3600), cast(Sessions, store))
    for one in (client, other):
        one.acked = {"a:1": Position("e", 1)}
        saver.changed(cast(Connection, one))
    saver.start()
    for seq in (2, 3):
        client.acked = {"a:1": Position("e", seq)}
        saver.changed(cast(Connection, client))
        saver.hurry(cast(Connection, client))
        await until(lambda: client.acked is None, what="it to be saved")
    assert [dict(save.positions) for save in store.taken] == [{"a:1": Position("e", seq)} for seq in (2, 3)]
    await saver.close()
    assert len(store.taken) == 3


async def test_how_a_client_is_present_is_stored_as_it_is_then() -> None:
    store, client = Store(), Client()
    saver = saver_of(store)
    client.kept_presence = "away"
    await saver.save_at_once(cast(Connection, client))
    client.kept_presence = "idle"
    saver.changed(cast(Connection, client))
    await saver.save()
    client.kept_presence = ""
    store.meanwhile = lambda: None
    await saver.save_at_once(cast(Connection, client))
    await saver.save()
    client.kept_presence = "offline"
    saver.leave(cast(Connection, client))
    await saver.save()
    assert [(save.presence, save.release) for save in store.taken] == [
        ("away", False),
        ("idle", False),
        ("", False),
        ("offline", True),
    ]


async def test_a_connection_that_ends_while_redis_fails_loses_no_position() -> None:
    store, client = Store(), Client()
    saver = saver_of(store)
    client.acked = {"a:1": Position("e", 3)}
    saver.changed(cast(Connection, client))

    def ends() -> None:
        client.acked = {"a:2": Position("e", 9)}
        client.gone = True
        saver.leave(cast(Connection, client))

    store.meanwhile = ends
    await saver.save()
    await saver.save()
    (last,) = store.taken
    assert last.release
    assert dict(last.positions) == {"a:1": Position("e", 3), "a:2": Position("e", 9)}
