"""Flags of nodes that run: changes reach all of them, and whoever was cut off catches up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from hub.edge.health_routes import Readiness
from hub.errors import ErrorCode, HubError
from hub.fanout.broker import TopicState
from hub.fanout.redis_broker import RedisBroker
from hub.flags import StageState
from hub.nodes.flags.store import Change, Changed, FlagStore
from hub.topics.topic import Topic
from tests.nodes.flags.nodes import ANN, FILE, WHO, World
from tests.support.waiting import until


async def test_a_change_reaches_all_nodes(flag_world: World) -> None:
    here, there = await flag_world.node(), await flag_world.node()
    assert here.board.on("uploads", ANN)
    assert here.board.version == there.board.version
    await here.set("uploads", state="off", why="it hurts")
    assert not here.board.on("uploads", ANN), "who changes a flag decides by it at once"
    assert here.flips == [frozenset({"uploads"})]
    await until(lambda: not there.board.on("uploads", ANN))
    assert there.board.version == here.board.version
    assert there.board.evaluate("uploads", ANN).rule == "override"
    await there.set("uploads", clear=True)
    await until(lambda: here.board.on("uploads", ANN))
    assert here.flips == there.flips == [frozenset({"uploads"})] * 2
    newcomer = await flag_world.node()
    await here.set("chat", percent=100_000)
    late = await flag_world.node()
    assert late.board.on("chat", ANN), "what was changed before counts from the start"
    await until(lambda: newcomer.board.version == late.board.version == here.board.version)


async def test_a_stage_takes_the_place_of_the_percentage(flag_world: World) -> None:
    flag_world.file.write_text(FILE.replace("rollout: 25", "stages: [{after: 0h, percent: 1}]"))
    here, there = await flag_world.node(), await flag_world.node()
    for one in (here, there):
        await one.node.stages.close()  # whoever leads would write as well
    before = (await here.board.store.read()).stages.get("chat")
    version = 0 if before is None else before.version
    await here.board.set_stage(StageState("chat", 100_000, version=version), kind="stage", who="hub", why="")
    await until(lambda: there.board.on("chat", ANN))
    await there.board.drop_stage("chat", who="hub", why="")
    await until(lambda: not here.board.stored.stages)


async def test_a_thousand_changes_are_few_reads(flag_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.nodes.flags.board._READ_PAUSE_S", 0.5)
    here, there = await flag_world.node(), await flag_world.node()
    before = there.board.reads
    await asyncio.gather(*(here.set("chat", percent=n) for n in range(1000)))
    assert here.board.stored.version == 1000
    await until(lambda: there.board.stored.version == 1000, 30)
    # At most one in each pause, and a thousand commits may take long here.
    assert there.board.reads - before < 200
    assert there.board.stored.overrides == here.board.stored.overrides


async def test_a_line_of_changes_is_bounded(flag_world: World) -> None:
    here = await flag_world.node(flags_changes_waiting=3)
    outcomes = await asyncio.gather(*(here.set("chat", percent=n) for n in range(10)), return_exceptions=True)
    refused = [outcome.code for outcome in outcomes if isinstance(outcome, HubError)]
    assert refused == [ErrorCode.RATE_LIMITED] * 7
    assert here.board.stored.version == 3


async def test_what_schedules_do_goes_before_people(flag_world: World) -> None:
    here = await flag_world.node(flags_changes_waiting=5)
    people = [asyncio.create_task(here.set("chat", percent=n)) for n in range(5)]
    await asyncio.sleep(0)
    rollback = StageState("chat", 1000, stopped="error_rate")
    assert await here.board.set_stage(rollback, kind="rollback", who="hub/x", why="a guard") == 2
    await asyncio.gather(*people)


async def test_what_is_committed_counts_though_nothing_can_be_read(
    flag_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, url = await flag_world.database_line()
    here, there = await flag_world.node(database_url=url, database_timeout_s=30.0), await flag_world.node()
    commit = here.board.store.change

    async def commit_and_stall(*given: Any) -> Changed:
        done = await commit(*given)
        line.stall()
        return done

    monkeypatch.setattr(here.board.store, "change", commit_and_stall)
    changing = asyncio.create_task(here.set("uploads", state="off"))
    await until(lambda: not there.board.on("uploads", ANN), 30, "the other to be told before this node has read")
    await changing
    assert not here.board.on("uploads", ANN)
    line.resume()
    await until(lambda: here.board.stored.version == 1)
    assert here.flips == [frozenset({"uploads"})]


async def test_a_change_whose_caller_has_gone(flag_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = await flag_world.node(), await flag_world.node()
    commit = here.board.store.change

    async def commit_and_go(*given: Any) -> Changed:
        done = await commit(*given)
        changing.cancel()
        await asyncio.sleep(0)
        return done

    monkeypatch.setattr(here.board.store, "change", commit_and_go)
    changing = asyncio.create_task(here.set("uploads", state="off"))
    await asyncio.gather(changing, return_exceptions=True)
    await until(lambda: not there.board.on("uploads", ANN))
    await until(lambda: not here.board.on("uploads", ANN))


async def test_what_cannot_be_changed(flag_world: World) -> None:
    here = await flag_world.node()
    with pytest.raises(HubError, match="there are chat, colour, uploads") as unknown:
        await here.board.change([Change("uploads", state="off"), Change("nothing", state="off")], WHO, "")
    assert unknown.value.code is ErrorCode.NOT_FOUND
    with pytest.raises(HubError, match="not a flag that is on or off"):
        await here.set("colour", percent=5)
    with pytest.raises(HubError, match="no flag 'gone'"):
        await here.set("gone", clear=True)
    assert here.board.stored.version == 0


async def test_a_change_of_a_flag_that_the_file_has_no_more(flag_world: World) -> None:
    here = await flag_world.node()
    await here.set("uploads", state="off")
    flag_world.file.write_text(FILE.replace("  uploads:", "  other:"))
    await until(lambda: [one.flag for one in here.board.evaluator.orphans] == ["uploads"])
    assert here.board.on("uploads", ANN), "what no file has is on"
    with pytest.raises(HubError, match="no flag 'uploads'"):
        await here.set("uploads", state="off")
    await here.set("uploads", clear=True)
    assert here.board.evaluator.orphans == ()


async def test_a_node_that_redis_had_lost(flag_world: World) -> None:
    line = await flag_world.redis_line()
    here, cut = await flag_world.node(), await flag_world.node(redis_url=f"redis://127.0.0.1:{line.port}")
    line.refuse()
    line.cut()
    await until(lambda: not cut.node.gateway.broker.ready)
    await here.set("uploads", state="off")
    assert cut.board.on("uploads", ANN)
    await line.allow()
    await until(lambda: not cut.board.on("uploads", ANN), 30, "it to ask when its link is back")


async def test_a_node_that_postgresql_had_lost(flag_world: World) -> None:
    line, url = await flag_world.database_line()
    here = await flag_world.node()
    await here.set("chat", state="on")
    cut = await flag_world.node(database_url=url, database_timeout_s=0.5)
    await until(lambda: cut.board.on("chat", ANN), what="it to have read once")
    line.refuse()
    line.cut()
    await here.set("uploads", state="off")
    await until(lambda: cut.board.away is not None)
    assert cut.board.on("chat", ANN), "the last known changes count"
    assert cut.board.on("uploads", ANN)
    with pytest.raises(HubError) as away:
        await cut.set("chat", state="off")
    assert away.value.code is ErrorCode.UNAVAILABLE
    await line.allow()
    await until(lambda: not cut.board.on("uploads", ANN), 30, "it to read again")
    assert cut.board.away is None


async def test_a_node_that_starts_without_postgresql(flag_world: World) -> None:
    line, url = await flag_world.database_line()
    here = await flag_world.node()
    await here.set("uploads", state="off")
    line.stall()
    alone = await flag_world.node(database_url=url, database_timeout_s=0.5, readiness_timeout_s=0.2)
    assert alone.board.on("uploads", ANN), "what the file says"
    assert alone.board.away is not None
    line.resume()
    await until(lambda: not alone.board.on("uploads", ANN), 30)


async def test_a_node_is_ready_when_it_knows_what_was_switched_off(flag_world: World) -> None:
    line, url = await flag_world.database_line()
    here = await flag_world.node()
    await here.set("uploads", state="off")
    line.refuse()
    late = await flag_world.unready(database_url=url, reconnect_max_s=60.0)
    readiness = Readiness(late.node.gateway)
    await until(lambda: late.node.gateway.broker.ready)
    assert await readiness.missing() == ["database", "flags"]
    await line.allow()

    async def ready() -> bool:
        return await readiness.missing() == []

    await until(ready)
    assert not late.board.on("uploads", ANN)


async def test_a_message_that_was_lost_is_made_up_for(flag_world: World) -> None:
    here, deaf = await flag_world.node(), await flag_world.node(flags_recheck_s=0.2)
    await here.board.store.change([Change("uploads", state="off")], WHO, "nobody is told")
    await until(lambda: not deaf.board.on("uploads", ANN))
    assert here.board.on("uploads", ANN)


async def test_what_is_changed_before_a_node_hears_the_others(
    flag_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await flag_world.node()
    hears, subscribe = asyncio.Event(), RedisBroker.subscribe

    async def late(broker: RedisBroker, topics: Sequence[Topic]) -> list[TopicState | HubError]:
        await hears.wait()
        return await subscribe(broker, topics)

    monkeypatch.setattr(RedisBroker, "subscribe", late)
    newcomer = await flag_world.node()
    await here.set("uploads", state="off")
    hears.set()
    await until(lambda: not newcomer.board.on("uploads", ANN))


async def test_a_change_that_may_have_happened_is_told(flag_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = await flag_world.node(), await flag_world.node()
    commit = here.board.store.change

    async def commit_and_break(*given: Any) -> Changed:
        await commit(*given)
        raise HubError(ErrorCode.UNAVAILABLE, "the answer was lost")

    monkeypatch.setattr(here.board.store, "change", commit_and_break)
    with pytest.raises(HubError, match="was lost"):
        await here.set("uploads", state="off")
    await until(lambda: not here.board.on("uploads", ANN))
    await until(lambda: not there.board.on("uploads", ANN))


async def test_who_could_not_tell_the_others_does_so_later(flag_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = await flag_world.node(reconnect_max_s=0.1), await flag_world.node()

    async def away(*_: Any) -> None:
        raise HubError(ErrorCode.UNAVAILABLE, "Redis is away")

    with monkeypatch.context() as patched:
        patched.setattr(here.node.gateway.control, "send", away)
        await here.set("uploads", state="off")
    await until(lambda: not there.board.on("uploads", ANN))


async def test_old_rows_of_the_record_keep_no_change_waiting(
    flag_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.nodes.flags.board._EXPIRE_EVERY_S", 0.01)
    reached = asyncio.Event()

    async def slow(_: FlagStore) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(FlagStore, "expire", slow)
    here, there = await flag_world.node(), await flag_world.node()
    there.board.look_again()
    await reached.wait()
    await here.set("uploads", state="off")
    await until(lambda: not there.board.on("uploads", ANN))


async def test_what_is_counted(flag_world: World) -> None:
    here = await flag_world.node()
    before = here.board.values(ANN)
    here.board.evaluate("colour", ANN)
    here.board.evaluate("made-up", ANN)
    assert here.metric("hub_flag_evaluations_total", flag="uploads", variant="on", reason="STATIC") == 1
    assert here.metric("hub_flag_evaluations_total", flag="colour", variant="red", reason="STATIC") == 1
    chat = "on" if before["chat"] else "off"
    assert here.metric("hub_flag_evaluations_total", flag="chat", variant=chat, reason="SPLIT") == 1
    assert "made-up" not in here.node.gateway.metrics.prometheus().decode()
    here.board.metrics.cohort(None, before)
    here.board.metrics.cohort(None, before)
    await here.set("uploads", state="off")
    after = here.board.values(ANN)
    here.board.metrics.cohort(before, after)
    assert here.metric("hub_flag_cohort", flag="uploads", variant="on") == 1
    assert here.metric("hub_flag_cohort", flag="uploads", variant="off") == 1
    here.board.metrics.cohort(after, None)
    assert here.metric("hub_flag_cohort", flag="uploads", variant="off") == 0
    assert here.metric("hub_flag_flips_total", flag="uploads") == 1
