"""The kind ``events`` and the demo feed, through a real PostgreSQL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import islice

import msgspec
import pytest

from hub.api import Database, HubError, OrgId
from hub.embedded import PostgresServer
from hub.fanout.outbox_relay import OutboxRelay
from hub.topics.kinds import TopicKinds
from hub.topics.topic import Topic
from services.events.demo_feed import PROPERTIES, demo_events, run_demo_feed
from services.events.topics import SERVICES, events_kind
from tests.support.hub_database import HubDatabase, migrated_database
from tests.support.memory_broker import MemoryBroker
from tests.support.servers import running_postgres
from tests.support.waiting import until

ACME = OrgId.from_row("acme")
GLOBEX = OrgId.from_row("globex")


@pytest.fixture
async def database(hub_database: HubDatabase) -> AsyncIterator[Database]:
    pool = await Database.open(hub_database.settings())
    yield pool
    await pool.close()


def test_the_ten_services_and_those_of_the_deployment_exist_and_no_others() -> None:
    kinds = TopicKinds([events_kind(("spa",))])
    assert len(SERVICES) == 10
    assert len(SERVICES) == 10
    for key in (*SERVICES, "spa"):
        assert kinds.resolve_internal(Topic(ACME, "events", key)).history is not None
    for key in ("space", "Finance", "finance.eu"):
        with pytest.raises(HubError, match="no such topic"):
            kinds.resolve_internal(Topic(ACME, "events", key))


def test_the_story_is_the_same_for_the_same_seed_and_touches_every_service() -> None:
    story = list(islice(demo_events(7), 500))
    assert story == list(islice(demo_events(7), 500))
    assert story != list(islice(demo_events(8), 500))
    assert {event.service for event in story[:10]} == set(SERVICES)
    assert {"invoice.paid", "guest.checked_in", "task.assigned"} <= {event.name for event in story}
    for event in story:
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", event.name)
        assert event.tags["property_id"] in PROPERTIES
        assert set(event.tags) == {"property_id", "status"}
        assert msgspec.json.decode(msgspec.json.encode(event.data)) == event.data


async def test_the_feed_reaches_the_broker_in_order_for_each_organisation(
    hub_database: HubDatabase, database: Database
) -> None:
    broker = MemoryBroker()
    relay = OutboxRelay(hub_database.settings(), broker, TopicKinds([events_kind()]))
    relay.start()
    try:
        await run_demo_feed(database, [ACME, GLOBEX], per_second=10_000, seed=3, count=60)
        await until(lambda: relay.relayed >= 60)
    finally:
        await relay.close()
    for org, seed in ((ACME, 3), (GLOBEX, 4)):
        for service in SERVICES:
            expected = [event.data for event in islice(demo_events(seed), 30) if event.service == service]
            assert broker.data(Topic(org, "events", service)) == expected
    body = msgspec.json.decode(broker.events[Topic(ACME, "events", "finance")][0])
    assert set(body) == {"id", "name", "data", "tags"}
    assert body["tags"]["property_id"] in PROPERTIES


async def test_the_feed_goes_on_after_an_outage() -> None:
    with running_postgres() as server:
        async with migrated_database(server) as own:
            database = await Database.open(own.settings())
            feed = asyncio.create_task(run_demo_feed(database, [ACME], per_second=200))
            try:
                await until(lambda: more_than(own, 5))
                stop_and_start(server)
                before = await count(own)
                await until(lambda: more_than(own, before + 5))
                assert not feed.done()
            finally:
                feed.cancel()
                await asyncio.gather(feed, return_exceptions=True)
                await database.close()


def stop_and_start(server: PostgresServer) -> None:
    server.stop()
    server.start()


async def count(database: HubDatabase) -> int:
    async with database.connect("hub_relay") as link:
        rows: int = await link.fetchval("SELECT count(*) FROM hub.outbox")
        return rows


async def more_than(database: HubDatabase, least: int) -> bool:
    return await count(database) > least
