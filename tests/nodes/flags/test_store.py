"""The tables of flags: one change after the other, all of a list or none, and a record that stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from hub.database import Database
from hub.errors import ErrorCode, HubError
from hub.flags import Override, StageState
from hub.nodes.flags.store import Change, FlagStore
from hub.orgs import OrgId
from tests.support.hub_database import HubDatabase

WHO = "acme/olga"


@pytest.fixture
async def database(hub_database: HubDatabase) -> AsyncIterator[Database]:
    database = await Database.open(hub_database.settings())
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> FlagStore:
    return FlagStore(database, None, 3600.0)


async def test_a_change_is_read_with_who_when_and_why(store: FlagStore) -> None:
    assert (await store.read()).version == 0
    (override,) = (await store.change([Change("chat", percent=12_345)], WHO, "a try")).overrides
    assert isinstance(override, Override)
    stored = await store.read()
    assert stored.version == override.version == 1
    assert stored.overrides == {"chat": override}
    assert (override.percent, override.who, override.why) == (12_345, WHO, "a try")
    assert override.at > 1_700_000_000
    await store.change([Change("chat", state="off")], WHO, "it hurts")
    await store.change([Change("chat", clear=True), Change("nothing", clear=True)], WHO, "over")
    assert (await store.read()).overrides == {}
    rows = [msgspec.to_builtins(row) for row in await store.audit("chat", 10, None)]
    assert [(row["version"], row["kind"], row["from"], row["to"]) for row in rows] == [
        (3, "clear", {"state": "off"}, None),
        (2, "override", {"percent": 12.345}, {"state": "off"}),
        (1, "override", None, {"percent": 12.345}),
    ]
    assert [row.version for row in await store.audit(None, 1, 3)] == [2]


async def test_a_list_is_all_or_nothing(store: FlagStore) -> None:
    await store.change([Change("chat", state="on")], WHO, "")
    with pytest.raises(HubError) as refused:
        await store.change([Change("uploads", state="off"), Change("chat", state="off", if_version=0)], WHO, "")
    assert refused.value.code is ErrorCode.CONFLICT
    assert refused.value.details == {"versions": {"chat": 1}}
    stored = await store.read()
    assert (stored.version, set(stored.overrides)) == (1, {"chat"})
    assert len(await store.audit(None, 10, None)) == 1
    await store.change(
        [Change("uploads", state="off", if_version=0), Change("chat", state="off", if_version=1)], WHO, ""
    )
    assert [row.version for row in await store.audit(None, 10, None)] == [3, 2, 1]


async def test_two_who_change_the_same_flag_follow_one_another(database: Database, hub_database: HubDatabase) -> None:
    other = await Database.open(hub_database.settings())
    try:
        stores = [FlagStore(database, None, 3600.0), FlagStore(other, None, 3600.0)]
        changes = [stores[n % 2].change([Change("chat", percent=n)], f"acme/{n}", "") for n in range(20)]
        blind = await asyncio.gather(*changes)
        assert sorted(one.version for one in blind) == list(range(1, 21))
        rows = await stores[0].audit("chat", 100, None)
        # Each began where the one before had ended.
        assert [row.became for row in rows[1:]] == [row.was for row in rows[:-1]]
        sure = [store.change([Change("chat", state="off", if_version=20)], WHO, "") for store in stores]
        outcomes = await asyncio.gather(*sure, return_exceptions=True)
        assert sorted(isinstance(outcome, HubError) for outcome in outcomes) == [False, True]
    finally:
        await other.close()


async def test_stages_and_what_ends_a_stop(store: FlagStore) -> None:
    stage = StageState("chat", 1000, "digest", 0, 1_700_000_000.5)
    version = await store.set_stage(stage, kind="stage", who="hub", why="stage 1 of 3")
    (read,) = (await store.read()).stages.values()
    assert (read.percent, read.schedule, read.stage, read.started_at, read.version) == (
        1000,
        "digest",
        0,
        1_700_000_000.5,
        version,
    )
    with pytest.raises(HubError, match="changed meanwhile"):
        await store.set_stage(stage, kind="stage", who="hub", why="another leader")
    stopped = StageState("chat", 0, "digest", -1, 1_700_000_000.5, "gap_rate", version)
    await store.set_stage(stopped, kind="rollback", who="hub", why="gap_rate 3 > 1")
    assert (await store.read()).stages["chat"].stopped == "gap_rate"
    await store.change([Change("chat", clear=True)], WHO, "go on")
    assert (await store.read()).stages == {}
    kinds = [(row.kind, row.was, row.became) for row in await store.audit("chat", 10, None)]
    assert kinds == [
        ("clear", {"stopped": "gap_rate"}, None),
        ("rollback", {"percent": 1.0}, {"percent": 0.0}),
        ("stage", None, {"percent": 1.0}),
    ]


async def test_a_schedule_that_is_gone(store: FlagStore) -> None:
    await store.set_stage(StageState("chat", 1000), kind="stage", who="hub", why="")
    for _ in range(2):
        await store.drop_stage("chat", who="hub", why="the file has none")
    assert (await store.read()).stages == {}
    assert [row.became for row in await store.audit("chat", 10, None)] == [None, {"percent": 1.0}]


async def test_the_record_can_only_grow_old(store: FlagStore, hub_database: HubDatabase) -> None:
    await store.change([Change("chat", state="off"), Change("uploads", state="off")], WHO, "")
    async with hub_database.connect("hub_app") as link:
        for forbidden in ("UPDATE hub.flag_audit SET who = 'x'", "DELETE FROM hub.flag_audit"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await link.execute(forbidden)
    async with hub_database.connect("hub_owner") as link:
        await link.execute("UPDATE hub.flag_audit SET at = now() - interval '89 days' WHERE flag = 'uploads'")
        await link.execute("UPDATE hub.flag_audit SET at = now() - interval '91 days' WHERE flag = 'chat'")
    async with hub_database.connect("hub_app") as link:
        assert await link.fetchval("SELECT hub.expire_flag_audit(0)") == 1, "90 days are kept, whoever asks"
    await store.expire()
    assert [row.flag for row in await store.audit(None, 10, None)] == ["uploads"]


async def test_an_event_leaves_with_the_commit(database: Database, hub_database: HubDatabase) -> None:
    store = FlagStore(database, OrgId.from_operator("acme"), 3600.0)
    await store.change([Change("chat", percent=500)], WHO, "a try")
    with pytest.raises(HubError):
        await store.change([Change("chat", state="off", if_version=9)], WHO, "")
    async with hub_database.connect("hub_relay") as link:
        rows = await link.fetch("SELECT org, topic, name, data::text FROM hub.outbox")
    assert [(row["org"], row["topic"], row["name"]) for row in rows] == [("acme", "flags:changes", "flag.changed")]
    assert '"to": {"percent": 0.5}' in rows[0]["data"]
