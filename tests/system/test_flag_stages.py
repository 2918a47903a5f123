"""A stage that hurts, on two nodes with real sockets: it is taken back by what really happened; the leader leaves."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hub.embedded import RedisServer
from hub.flags import Subject
from hub.nodes.flags.listing import one_flag
from hub.protocol.frames import Error, Event, Flags
from tests.support.clock import Clock
from tests.support.hub_database import HubDatabase
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.running_hub import RunningHub, running_hub
from tests.support.waiting import until

FILE = """
flags:
  beta:
    stages: [{after: 0h, percent: 10}, {after: 48h, percent: 60}]
    abort_if: {gap_rate: 3, error_rate: 0.2, window: 10s, least: 5}
"""
HOUR = 3600.0


@pytest.fixture
async def hubs(redis_server: RedisServer, hub_database: HubDatabase, tmp_path: Path) -> AsyncIterator[list[RunningHub]]:
    """Two nodes of one deployment."""
    file = tmp_path / "feature_flags.yaml"
    file.write_text(FILE)
    changes: dict[str, Any] = {
        "database_url": hub_database.url("hub_app"),
        "database_relay_url": hub_database.url("hub_relay"),
        "outbox_poll_s": 0.1,
        "flags_file": str(file),
        "flags_org": "ops",
        "flags_report_s": 0.1,
        "duty_lease_s": 0.5,
    }
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                running_hub("direct", redis_server.url, allowed_errors=["method failed"], **changes)
            )
            for _ in range(2)
        ]


async def staged(hubs: list[RunningHub], percent: int, clock: Clock) -> None:
    """Returns when every node knows that the schedule is there, and one leads."""
    for hub in hubs:
        hub.node.stages.clock = clock

    def reached() -> bool:
        states = [hub.gateway.board.stored.stages.get("beta") for hub in hubs]
        counted = [hub.gateway.cohorts.counting for hub in hubs]
        return all(state is not None and state.percent == percent for state in states) and all(counted)

    await until(reached, 15.0, f"{percent / 1000} %")


async def fail(client: RawClient) -> None:
    for number in range(3):
        answer = await client.request({"type": "call", "id": f"no-{number}", "method": "test.crash", "params": {}})
        assert isinstance(answer, Error)


async def miss(client: RawClient) -> None:
    await client.joined({"topic": "big:stages", "since": {"epoch": "another", "seq": 1}})


async def work(client: RawClient) -> None:
    await client.result({"type": "call", "method": "test.echo", "params": {}})


@pytest.mark.parametrize(("fault", "guard"), [(fail, "error_rate"), (miss, "gap_rate")])
async def test_what_really_happens_takes_a_stage_back(hubs: list[RunningHub], fault: Any, guard: str) -> None:
    clock = Clock(1_800_000_000.0)
    await staged(hubs, 10_000, clock)
    shown = one_flag(hubs[0].gateway.board, "beta").stage
    assert shown is not None
    assert (shown.stage, shown.percent, shown.next_at) == (0, 10.0, clock.now + 48 * HOUR)
    clock.now += 48 * HOUR
    await staged(hubs, 60_000, clock)
    leading = next(hub for hub in hubs if hub.node.stages.leads)
    staying = next(hub for hub in hubs if hub is not leading)
    async with Peers(leading) as there, Peers(staying, org=there.org) as here:
        operator = await here.join(
            "olga", scope="subscribe:* flags:write", org="ops", subscribe=[{"topic": "flags:changes"}]
        )
        await (await here.join("writer")).publish("big:stages")
        for number in range(4):
            await use(await there.join(f"there-{number}"), _on(leading, there.org, f"there-{number}"), fault)
        users = {f"here-{number}": _on(staying, here.org, f"here-{number}") for number in range(30)}
        clients = {user: await here.join(user) for user in users}
        first = next(user for user, on in users.items() if on)
        await use(clients.pop(first), True, fault)
        # In the middle of it the one that leads leaves.
        leading.leave()
        await until(lambda: staying.node.stages.leads, 15.0, "the other to lead")
        for user, client in clients.items():
            await use(client, users[user], fault)
        event = await operator.await_kind(Event)
        assert (event.name, event.data["flag"], event.data["kind"]) == ("flag.rolled_back", "beta", "rollback")
        assert (event.data["from"], event.data["to"]) == ({"percent": 60.0}, {"percent": 10.0})
        assert guard in event.data["why"]
        registry, trips = staying.gateway.metrics.registry, {"flag": "beta", "guard": guard}
        await until(lambda: registry.get_sample_value("hub_flag_guard_trips_total", trips) == 1)
        state = staying.gateway.board.stored.stages["beta"]
        assert (state.percent, state.stage, state.stopped) == (10_000, 0, guard)
        lost = [user for user in clients if users[user] and not _on(staying, here.org, user)]
        assert (await clients[lost[0]].await_kind(Flags)).flags == {"beta": False}


async def use(client: RawClient, on: bool, fault: Any) -> None:
    """What is new goes wrong; everything else works."""
    await (fault if on else work)(client)


def _on(hub: RunningHub, org: str, user: str) -> bool:
    return hub.gateway.board.on("beta", Subject(user, org))
