"""Who leads the schedules of flags: a guard that trips takes a stage back within its window, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import structs

from hub.database import Database
from hub.flags import load_flags
from hub.nodes.flags.stages import HELD
from hub.orgs import OrgId
from tests.nodes.flags.stage_nodes import FILE, FLAG, HOUR, OFF, ON, WINDOW_S, StageNode, StageNodes
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

WAIT_S = 30.0


@pytest.fixture
async def nodes(redis_url: str, hub_database: HubDatabase) -> AsyncIterator[StageNodes]:
    database = await Database.open(hub_database.settings())
    nodes = StageNodes(redis_url, database)
    yield nodes
    await nodes.close()
    await database.close()


async def reach(nodes: StageNodes, percent: int) -> None:
    """Goes on until the schedule has come so far."""
    for _ in range(20):
        await nodes.tick()
        if (await nodes.state()).percent == percent:
            await nodes.tick()  # all nodes count for this stage now
            return
        nodes.day.now += 24 * HOUR
    raise AssertionError(await nodes.state())


async def fail_until_rolled_back(nodes: StageNodes, failing: list[StageNode]) -> float:
    """Faults where the flag is on; how long it took until the stage was taken back."""
    began = nodes.steady.now
    while (await nodes.state()).stopped is None:
        assert nodes.steady.now - began <= WINDOW_S, "not within its window"
        for node in failing:
            node.serve(3, 2)
            node.serve(50, 1, flags=OFF)
        await nodes.tick()
    return nodes.steady.now - began


async def test_a_stage_whose_guard_trips_is_rolled_back_within_its_window(
    nodes: StageNodes, hub_database: HubDatabase
) -> None:
    one, two = nodes.add(), nodes.add()
    await reach(nodes, 10_000)
    for _ in range(60):  # two minutes in which everybody has the same small trouble
        for node in (one, two):
            node.serve(10, 1)
            node.serve(100, 10, flags=OFF)
        await nodes.tick()
    assert (await nodes.state()).stopped is None
    # Far fewer than `least` on each of them; together they are enough.
    await fail_until_rolled_back(nodes, [one, two])
    state = await nodes.state()
    assert (state.percent, state.stage, state.stopped) == (1000, 0, "error_rate")
    rollback = (await nodes.audit())[-1]
    assert (rollback.kind, rollback.was, rollback.became) == ("rollback", {"percent": 10.0}, {"percent": 1.0})
    assert rollback.who.startswith("hub/node-")
    assert "error_rate" in rollback.why
    assert nodes.leading.metric("hub_flag_guard_trips_total", guard="error_rate") == 1
    async with hub_database.connect("hub_relay") as connection:
        events = await connection.fetch("SELECT org, topic, name FROM hub.outbox ORDER BY id")
    assert [(row["org"], row["topic"]) for row in events] == [("ops", "flags:changes")] * len(events)
    assert [row["name"] for row in events] == ["flag.stage"] * 3 + ["flag.rolled_back"]
    # Nothing grows by itself any more.
    nodes.day.now += 1000 * HOUR
    for _ in range(3):
        await nodes.tick()
    assert (await nodes.state()).version == state.version
    await nodes.tick()
    assert [node.metric("hub_flag_stage") for node in (one, two)] == [1.0, 1.0]


async def test_the_leader_dies_in_the_middle(nodes: StageNodes) -> None:
    for _ in range(3):
        nodes.add()
    await reach(nodes, 10_000)
    dead = nodes.leading
    version = (await nodes.state()).version
    for node in nodes.alive:
        node.serve(3, 2)
    await nodes.tick()
    await dead.kill()
    others = nodes.alive

    async def another_leads() -> bool:
        for node in others:
            await node.tick()
        return any(node.leader.leads for node in others)

    await until(another_leads, WAIT_S, "another to lead")
    assert (await nodes.state()).version == version, "it goes on where the row stands"
    await fail_until_rolled_back(nodes, others)
    assert (await nodes.state()).percent == 1000
    assert [row.became for row in await nodes.audit()] == [{"percent": percent} for percent in (0.0, 1.0, 10.0, 1.0)]


async def test_two_who_both_think_that_they_lead_do_no_harm(nodes: StageNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    hung, other = nodes.add(), nodes.add()

    async def taken(*_: object) -> bool:
        return True

    async def told(org: OrgId, name: str, message: dict[str, Any]) -> None:
        for node in (hung, other):
            node.leader._heard(org, name, message)

    for node in (hung, other):
        monkeypatch.setattr(node.book.of("flags"), "take", taken)
        monkeypatch.setattr(node.book.of("flags"), "signal", told)
    for _ in range(12):
        nodes.day.now += 48 * HOUR
        nodes.steady.now += 2
        # Both have read the same rows when they decide.
        await asyncio.gather(hung.rows.refresh(), other.rows.refresh())
        await asyncio.gather(hung.leader.tick(), other.leader.tick())
    assert [row.became for row in await nodes.audit()] == [{"percent": percent} for percent in (0.0, 1.0, 10.0, 100.0)]
    # One that hung and knows nothing of what was decided since.
    hung.rows.stored = (await nodes.store.read()).__class__(0, {}, {})
    await hung.leader.tick()
    assert (await nodes.state()).percent == 100_000


async def test_what_a_dead_node_has_said_counts_for_a_window(nodes: StageNodes) -> None:
    leader, other = nodes.add(), nodes.add()
    for window_over in (False, True):
        await reach(nodes, 10_000)
        assert nodes.leading is leader
        other.serve(9, 9)
        other.serve(20, 0, flags=OFF)
        await other.tick()
        if window_over:
            nodes.steady.now += WINDOW_S + 1
        leader.serve(4, 0)
        await leader.tick()
        # Nine errors of one and four requests of the other are enough to say something, each alone is not.
        assert (await nodes.state()).stopped == (None if window_over else "error_rate")
        if not window_over:
            await nodes.change(clear=True)


async def test_a_node_that_has_not_heard_of_the_stage_yet_does_not_count(nodes: StageNodes) -> None:
    leader, late = nodes.add(), nodes.add()
    await reach(nodes, 1000)
    late.serve(9, 9)
    nodes.day.now += 48 * HOUR
    await leader.tick()
    assert (await nodes.state()).percent == 10_000
    await late.leader.tick()  # its rows are those of the stage before
    await leader.tick()
    leader.serve(4, 0)
    await leader.tick()
    assert ((await nodes.state()).percent, (await nodes.state()).stopped) == (10_000, None)
    await late.tick()
    late.serve(9, 9)
    await late.tick()
    await leader.tick()
    assert (await nodes.state()).stopped == "error_rate"


async def test_at_a_hundred_percent_the_cohort_counts_alone(nodes: StageNodes) -> None:
    node = nodes.add()
    await reach(nodes, 100_000)
    node.on, node.off = 120, 0
    await nodes.tick()
    for number in range(118):
        node.cohorts.gapped(number, ON)
    await nodes.tick()
    assert (await nodes.state()).stopped is None, "one a minute may be"
    for number in range(60):
        node.cohorts.gapped(number, ON)
    await nodes.tick()
    state = await nodes.state()
    assert (state.percent, state.stopped) == (10_000, "gap_rate")


async def test_a_rest_that_is_the_smaller_part_has_its_time_to_show_that_it_is_no_better(nodes: StageNodes) -> None:
    node = nodes.add()
    await reach(nodes, 10_000)
    for passed_s in range(0, int(WINDOW_S), 2):
        node.serve(5, 1)
        if passed_s % 10 == 0:
            node.serve(2, 1, flags=OFF)
        await nodes.tick()
        assert (await nodes.state()).stopped is None
    # It had its time: from here on the cohort counts alone where the rest says too little.
    nodes.steady.now += WINDOW_S
    node.serve(20, 4)
    for _ in range(5):  # it was gone for so long that it has to hear the others first
        await nodes.tick()
    assert (await nodes.state()).stopped == "error_rate"


async def test_somebody_who_changes_the_flag_takes_it_out_of_the_schedules_hands(nodes: StageNodes) -> None:
    node = nodes.add()
    await reach(nodes, 10_000)
    await nodes.change(state="off")
    await nodes.tick()
    nodes.day.now += 1000 * HOUR
    await nodes.tick()
    state = await nodes.state()
    assert (state.percent, state.stopped) == (10_000, HELD)
    await nodes.change(clear=True)
    await nodes.tick()
    state = await nodes.state()
    assert (state.percent, state.stopped) == (10_000, None), "where it was, and this stage begins anew"
    await nodes.tick()
    node.serve(20, 20)
    node.serve(20, 0, flags=OFF)
    await nodes.tick()
    assert (await nodes.state()).stopped == "error_rate"
    await nodes.change(clear=True)
    assert (await nodes.audit())[-1].kind == "clear"
    assert (await nodes.audit())[-1].was == {"stopped": "error_rate"}
    await reach(nodes, 1000)
    assert [row.became for row in await nodes.audit()][-2:] == [{"percent": 0.0}, {"percent": 1.0}], (
        "from the beginning"
    )


async def test_without_a_schedule_nobody_leads_and_nothing_is_said(nodes: StageNodes) -> None:
    node = nodes.add()
    await nodes.tick()
    assert node.leader.leads
    node.rows.file = type(node.rows.file)({}, "other")
    await nodes.tick()
    assert FLAG in (await nodes.store.read()).stages, "other nodes may have the old file still"
    nodes.steady.now += HOUR
    await nodes.tick()
    assert (await nodes.store.read()).stages == {}
    await nodes.tick()
    assert not node.leader.leads


async def test_nothing_grows_while_others_cannot_be_heard(nodes: StageNodes) -> None:
    node = nodes.add()
    node.leader.ready = lambda: False
    for _ in range(6):
        await nodes.tick()
    assert (await nodes.state()).percent == 0
    node.leader.ready = lambda: True
    for percent in (0, 0, 0, 1000):
        await nodes.tick()
        assert (await nodes.state()).percent == percent, "and until they had time to say something"


async def _nobody(*_: object) -> bool:
    return False


async def another_leads(nodes: StageNodes) -> None:
    """The lease of the one that died has to end, which takes real time."""

    async def leads() -> bool:
        for node in nodes.alive:
            await node.tick()
        return any(node.leader.leads for node in nodes.alive)

    await until(leads, WAIT_S, "another to lead")


async def test_who_leads_anew_grows_nothing_before_it_has_heard_the_others(nodes: StageNodes) -> None:
    for _ in range(3):
        nodes.add()
    await reach(nodes, 10_000)
    await nodes.leading.kill()
    nodes.day.now += 48 * HOUR  # the next stage is due
    await another_leads(nodes)
    failing = next(node for node in nodes.alive if not node.leader.leads)
    failing.serve(100, 100)
    failing.serve(100, 0, flags=OFF)
    await nodes.leading.tick()
    assert (await nodes.state()).percent == 10_000
    for _ in range(4):
        await nodes.tick()
    assert ((await nodes.state()).percent, (await nodes.state()).stopped) == (1000, "error_rate")


async def test_reports_that_come_less_often_than_the_window_are_counted(nodes: StageNodes) -> None:
    leader, other = nodes.add(), nodes.add()
    await reach(nodes, 1000)
    assert nodes.leading is leader
    leader.leader._settings = structs.replace(leader.leader._settings, flags_report_s=90.0)
    other.serve(20, 20)
    other.serve(20, 0, flags=OFF)
    await other.tick()
    nodes.steady.now += 80
    await leader.tick()
    assert (await nodes.state()).stopped == "error_rate"


async def test_the_file_of_one_node_changes_nothing(nodes: StageNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    dying, old = nodes.add(), nodes.add()
    await reach(nodes, 10_000)
    assert nodes.leading is dying
    began = (await nodes.state()).started_at
    nodes.file = load_flags(FILE.replace("after: 48h", "after: 24h"), "new")
    new = nodes.add()
    nodes.day.now += 24 * HOUR
    old.book.retire()  # it reports and does not lead
    monkeypatch.setattr(old.book.of("flags"), "take", _nobody)
    await dying.kill()
    await another_leads(nodes)
    assert nodes.leading is new
    for _ in range(5):
        await nodes.tick()
    state = await nodes.state()
    assert (state.percent, state.started_at) == (10_000, began)
    for _ in range(10):
        old.serve(20, 20)
        old.serve(20, 0, flags=OFF)
        await nodes.tick()
    assert ((await nodes.state()).percent, (await nodes.state()).stopped) == (1000, "error_rate"), "guards still look"
    version = (await nodes.state()).version
    old.rows.file = new.rows.file
    for _ in range(5):
        await nodes.tick()
    assert (await nodes.state()).version == version, "no file takes away that a guard has stopped it"


async def test_another_schedule_is_followed_when_all_nodes_have_it(nodes: StageNodes) -> None:
    one, two = nodes.add(), nodes.add()
    await reach(nodes, 10_000)
    before = await nodes.state()
    for node in (nodes.leading, next(node for node in (one, two) if node is not nodes.leading)):
        assert (await nodes.state()).version == before.version
        node.rows.file = load_flags(FILE.replace("percent: 100}", "percent: 50}"), "new")
        for _ in range(3):
            await nodes.tick()
    after = await nodes.state()
    assert (after.percent, after.started_at) == (10_000, before.started_at)
    assert after.schedule != before.schedule


async def test_a_file_that_changes_in_the_middle_of_a_turn(nodes: StageNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.file = load_flags(FILE + FILE.replace("flags:", "").replace("chat:", "uploads:"), "two")
    node = nodes.add()
    set_stage = node.rows.set_stage

    async def another_file(*given: Any, **more: Any) -> int:
        node.rows.file = load_flags(FILE, "one")
        return await set_stage(*given, **more)

    monkeypatch.setattr(node.rows, "set_stage", another_file)
    await node.tick()
    assert set(node.rows.stored.stages) == {FLAG, "uploads"}
