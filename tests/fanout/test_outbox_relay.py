"""The outbox relay over a real PostgreSQL: order and once, whatever is killed, cut, refused or replaced meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from hub.config import Settings
from hub.database import Database
from hub.database.outbox import PURGE, SHARDS, open_outbox
from hub.errors import ErrorCode, HubError, unavailable
from hub.fanout.broker import Broker, Draft
from hub.fanout.outbox_relay import OutboxRelay
from hub.orgs import OrgId
from hub.topics.kinds import History, SlowPolicy, TopicKind, TopicKinds
from hub.topics.topic import Topic
from tests.support.hub_database import HubDatabase, migrated_database
from tests.support.memory_broker import MemoryBroker
from tests.support.redis_world import World, page, redis_settings, restart, world
from tests.support.servers import running_postgres, running_redis
from tests.support.waiting import until

ACME = OrgId.from_row("acme")
GLOBEX = OrgId.from_row("globex")
TASKS = Topic(ACME, "events", "tasks")
GUEST = Topic(ACME, "events", "guest")


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def app(hub_database: HubDatabase) -> AsyncIterator[Database]:
    database = await Database.open(hub_database.settings())
    yield database
    await database.close()


def kinds() -> TopicKinds:
    known = TopicKinds()
    known.register(TopicKind(name="events", history=History(count=100_000, bytes=10_000_000)))
    known.register(TopicKind(name="typing", history=None, slow=SlowPolicy.GAP))
    return known


@contextlib.asynccontextmanager
async def relaying(settings: Settings, broker: Broker) -> AsyncIterator[OutboxRelay]:
    relay = OutboxRelay(settings, broker, kinds())
    relay.start()
    try:
        yield relay
    finally:
        await relay.close()


async def publish(app: Database, values: Sequence[Any], topic: Topic = TASKS, **more: Any) -> None:
    async with app.transaction(topic.org) as tx:
        for value in values:
            await tx.publish(topic.text, "task.assigned", value, **more)


async def states(database: HubDatabase) -> list[tuple[Any, str, str | None]]:
    async with database.connect("hub_relay") as link:
        rows = await link.fetch("SELECT data::text, state, server FROM hub.outbox ORDER BY id")
        return [(msgspec.json.decode(row["data"]), row["state"], row["server"]) for row in rows]


async def settled(database: HubDatabase) -> bool:
    return all(state != "pending" for _, state, _ in await states(database))


async def sessions(database: HubDatabase) -> list[int]:
    """Process ids of the connections that hold a shard."""
    async with database.connect("postgres") as link:
        rows = await link.fetch(
            """
            SELECT DISTINCT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database
            WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()
            """
        )
        return [row["pid"] for row in rows]


async def cut(database: HubDatabase) -> None:
    """Ends the session that holds the shards."""
    async with database.connect("postgres") as link:
        for pid in await sessions(database):
            await link.fetchval("SELECT pg_terminate_backend($1)", pid)


# --- in quiet times


async def test_rows_arrive_in_order_with_everything_they_carry(
    hub_database: HubDatabase, app: Database, redis_url: str
) -> None:
    async with world(redis_url, listening=False) as it, relaying(hub_database.settings(), it.broker) as relay:
        await publish(app, [{"a": [1, 2]}], key="own", tags={"property_id": 7, "late": True}, by="u1")
        await asyncio.gather(*(publish(app, [n], topic) for topic in (TASKS, GUEST) for n in range(20)))
        await publish(app, ["theirs"], Topic(GLOBEX, "events", "tasks"))
        await until(lambda: relay.relayed == 42, what="42 rows")
        async with hub_database.connect("hub_relay") as link:
            rows = await link.fetch(
                "SELECT * FROM hub.outbox WHERE org = 'acme' AND topic = 'events:tasks' ORDER BY number"
            )
        events = (await page(it.broker, TASKS)).publications
        bodies = [msgspec.json.decode(event.body) for event in events]
        assert [body["id"] for body in bodies] == [str(row["event_id"]) for row in rows]
        assert [body["data"] for body in bodies] == [msgspec.json.decode(row["data"]) for row in rows]
        assert events[0].body == (
            b'{"id":"%s","name":"task.assigned","data":{"a":[1,2]},"tags":{"late": true, "property_id": 7},"by":"u1"}'
            % bodies[0]["id"].encode()
        ), "no blanks in the data"
        assert len((await page(it.broker, GUEST)).publications) == 20
        theirs = (await page(it.broker, Topic(GLOBEX, "events", "tasks"))).publications
        assert [msgspec.json.decode(event.body)["data"] for event in theirs] == ["theirs"]
        server = await it.broker.server_of(TASKS)
        assert {(state, where) for _, state, where in await states(hub_database)} == {("relayed", server)}


async def test_a_commit_wakes_the_relay(hub_database: HubDatabase, app: Database, broker: MemoryBroker) -> None:
    async with relaying(hub_database.settings(outbox_poll_s=3600), broker) as relay:
        await until(lambda: relay.held == SHARDS, what="the relay to be at work")
        for n in range(3):
            await publish(app, [n])
            await until(lambda n=n: broker.data(TASKS)[-1:] == [n], what="the event, long before the next look")


async def test_a_commit_by_sql_wakes_the_relay(hub_database: HubDatabase, broker: MemoryBroker) -> None:
    async with (
        hub_database.connect("hub_app") as link,
        relaying(hub_database.settings(outbox_poll_s=3600), broker) as relay,
    ):
        await until(lambda: relay.held == SHARDS, what="the relay to be at work")
        for n in range(3):
            async with link.transaction():
                await link.execute("SELECT set_config('hub.org', 'acme', true)")
                await link.execute("SELECT hub_publish('acme', 'events:tasks', 'n', $1)", str(n))
            await until(lambda n=n: broker.data(TASKS)[-1:] == [n], what="the event, long before the next look")


@pytest.mark.parametrize("batch", [1, 7, 500])
async def test_no_commit_is_slept_through(
    hub_database: HubDatabase, app: Database, broker: MemoryBroker, batch: int
) -> None:
    """The relay does not look again after a batch that was everything: a notification has to come for the rest."""
    async with relaying(hub_database.settings(outbox_poll_s=3600, outbox_batch=batch), broker) as relay:
        await until(lambda: relay.held == SHARDS, what="the relay to be at work")

        async def talk(number: int) -> None:
            for value in range(25):
                await publish(app, [value], Topic(ACME, "events", f"t{number}"))

        await asyncio.gather(*(talk(number) for number in range(8)))
        await until(lambda: relay.relayed >= 200, what="all of them")
        for number in range(8):
            assert broker.data(Topic(ACME, "events", f"t{number}")) == list(range(25))


async def test_what_is_not_committed_does_not_leave(
    hub_database: HubDatabase, app: Database, broker: MemoryBroker
) -> None:
    async with relaying(hub_database.settings(), broker):
        async with app.transaction(ACME) as tx:
            await tx.publish(TASKS.text, "n", "first")
            await publish(app, ["other"], GUEST)
            await until(lambda: broker.data(GUEST) == ["other"])
            assert broker.data(TASKS) == []
        await until(lambda: broker.data(TASKS) == ["first"])


async def test_a_kind_without_history_is_published_and_never_again(
    hub_database: HubDatabase, app: Database, broker: MemoryBroker
) -> None:
    typing = Topic(ACME, "typing", "room-1")
    async with relaying(hub_database.settings(), broker):
        await publish(app, [1], typing)
        await publish(app, [1])
        await until(lambda: settled(hub_database))
        assert {(state, server) for _, state, server in await states(hub_database)} == {
            ("relayed", None),
            ("relayed", "s1"),
        }
        broker.fail_over("s2", kept=0)
        await until(lambda: broker.data(TASKS) == [1], what="the row of a kind with history")
        await until(lambda: settled(hub_database))
        assert broker.data(typing) == []


# --- what can never be published


async def test_a_row_that_can_never_be_published_holds_up_nobody(
    hub_database: HubDatabase, app: Database, broker: MemoryBroker
) -> None:
    await publish(app, [1], Topic(ACME, "unheard_of", "x"))
    await publish(app, [1, "x" * 200, 2])
    broker.refuse = lambda draft: HubError(ErrorCode.TOO_LARGE, "too large") if b'"data":3' in draft.body else None
    await publish(app, [3, 4])
    await publish(app, [5], Topic(ACME, "unheard_of", "x"))
    with capture_logs() as logs:
        async with relaying(hub_database.settings(max_event_bytes=100, outbox_unknown_s=0), broker) as relay:
            await until(lambda: relay.failed == 4)
            await until(lambda: broker.data(TASKS) == [1, 2, 4])
            await publish(app, [6])
            await until(lambda: broker.data(TASKS) == [1, 2, 4, 6])
    async with hub_database.connect("hub_relay") as link:
        failures = await link.fetch("SELECT failure FROM hub.outbox WHERE state = 'failed' ORDER BY id")
    assert [row["failure"] for row in failures] == [
        "no service of this hub registers such a topic",
        "the data has 202 bytes; HUB_MAX_EVENT_BYTES is 100",
        "too large",
        "no service of this hub registers such a topic",
    ]
    lines = [line for line in logs if line["event"] == "outbox row can never be published"]
    assert len(lines) == 4, "each is told once"
    assert not any("x" * 20 in str(line) for line in logs), "logs hold no contents"


async def test_a_topic_that_only_newer_nodes_know_waits_for_them(
    hub_database: HubDatabase, app: Database, broker: MemoryBroker
) -> None:
    """As during a deployment: the node that holds the shard lacks the new service."""
    later = Topic(ACME, "later", "x")
    await publish(app, [1, 2], later)
    settings = hub_database.settings(reconnect_max_s=0.1)
    async with relaying(settings, broker) as relay:
        await publish(app, [7])
        await until(lambda: broker.data(TASKS) == [7])
        assert relay.failed == 0
    known = kinds()
    known.register(TopicKind(name="later"))
    newer = OutboxRelay(settings, broker, known)
    newer.start()
    await until(lambda: broker.data(later) == [1, 2])
    await newer.close()


# --- Redis refuses, hangs, is away


async def test_a_refused_row_is_not_overtaken(hub_database: HubDatabase, app: Database, broker: MemoryBroker) -> None:
    """As when the memory of Redis is full for a moment: the next command would be taken again."""
    refusals = 3

    def refuse(draft: Draft) -> HubError | None:
        nonlocal refusals
        if b'"data":5' in draft.body and refusals:
            refusals -= 1
            return unavailable("Redis")
        return None

    broker.refuse = refuse
    await publish(app, range(12))
    async with relaying(hub_database.settings(), broker):
        await until(lambda: settled(hub_database))
    assert broker.data(TASKS) == list(range(12))
    assert refusals == 0


async def test_topics_whose_server_is_away_do_not_hold_up_the_others(
    hub_database: HubDatabase, app: Database, broker: MemoryBroker
) -> None:
    """A whole batch of theirs stands before the others' rows."""
    away = True
    broker.refuse = lambda draft: unavailable("Redis") if away and draft.topic == TASKS else None
    await publish(app, range(10))
    await publish(app, range(10), GUEST)
    async with relaying(hub_database.settings(outbox_batch=5), broker):
        await until(lambda: broker.data(GUEST) == list(range(10)))
        assert broker.data(TASKS) == []
        away = False
        await until(lambda: broker.data(TASKS) == list(range(10)))


async def test_an_outage_is_waited_for_without_a_busy_loop(
    hub_database: HubDatabase, app: Database, broker: MemoryBroker
) -> None:
    broker.refuse = lambda _: unavailable("Redis")
    await publish(app, [1], GUEST)
    await publish(app, [1])
    # The bound is so low that not every topic that waits can be remembered.
    async with relaying(hub_database.settings(outbox_max_blocked_topics=1), broker):
        await until(lambda: broker.calls >= 5, what="a few attempts")
        before = broker.calls
        await asyncio.sleep(0.5)  # the measure: a busy loop would make hundreds of attempts
        assert broker.calls - before < 30
        broker.refuse = lambda _: None
        await until(lambda: broker.data(TASKS) == [1] and broker.data(GUEST) == [1])


async def test_redis_is_restarted_while_rows_come(hub_database: HubDatabase, app: Database) -> None:
    """It keeps its data: what it had is not published twice, though its identity has changed."""
    with running_redis(append_only=True, options={"appendfsync": "always"}) as server:
        async with world(server.url, listening=False) as it, relaying(hub_database.settings(), it.broker):
            await publish(app, range(30))
            await until(lambda: settled(hub_database))
            server.stop()
            await publish(app, range(30, 60))
            await publish(app, ["quiet"], GUEST)
            server.start()
            run_id = (await servers(it))[0]
            await until(lambda: all_on(hub_database, run_id), 15, "all rows to be on the new server")
            assert await data(it, TASKS) == list(range(60))
            assert await data(it, GUEST) == ["quiet"]


async def test_redis_lost_everything(hub_database: HubDatabase, app: Database) -> None:
    """The rows of the last hour come again, before newer ones, and those of topics where nothing happens too."""
    with running_redis() as server:
        async with world(server.url, listening=False) as it, relaying(hub_database.settings(), it.broker):
            await publish(app, ["quiet"], GUEST)
            await publish(app, range(30))
            await until(lambda: settled(hub_database))
            first = (await servers(it))[0]
            await restart(server)
            await publish(app, range(30, 40))
            second = (await servers(it))[0]
            assert first != second
            await until(lambda: all_on(hub_database, second), 15, "all rows to be on the new server")
            assert await data(it, TASKS) == list(range(40))
            assert await data(it, GUEST) == ["quiet"]


async def servers(it: World) -> list[str]:
    async def ask() -> list[str]:
        with contextlib.suppress(HubError):
            return list((await it.broker.servers()).values())
        return []

    found: list[str] = await until(ask, what="Redis to answer")
    return found


async def data(it: World, topic: Topic) -> list[Any]:
    return [msgspec.json.decode(event.body)["data"] for event in (await page(it.broker, topic)).publications]


async def all_on(database: HubDatabase, server: str) -> bool:
    return all(row[1:] == ("relayed", server) for row in await states(database))


@pytest.mark.parametrize("kept", [0, 3, 10])
async def test_a_failover_in_the_middle_of_a_batch(
    hub_database: HubDatabase, app: Database, broker: MemoryBroker, kept: int
) -> None:
    """Another server, with a part of the events, appears between two rows, twice."""
    await publish(app, range(10))
    settings = hub_database.settings(outbox_poll_s=0.1)
    async with relaying(settings, broker):
        await until(lambda: settled(hub_database))
        await publish(app, ["quiet"], GUEST)
        await until(lambda: settled(hub_database))

        changes = iter([("s2", b'"data":12'), ("s3", b'"data":4'), ("s4", b'"data":15')])
        due = next(changes)

        def fail_over(draft: Draft) -> None:
            nonlocal due
            if due[1] in draft.body:
                broker.fail_over(due[0], kept)
                due = next(changes, ("", b"never"))

        broker.refuse = fail_over
        await publish(app, range(10, 20))
        await until(lambda: all_on(hub_database, broker.server), what="all rows to be on the last server")
    assert due == ("", b"never")
    assert broker.data(TASKS) == list(range(20))
    assert broker.data(GUEST) == ["quiet"]


async def test_rows_whose_hour_is_over_are_not_relayed_again(
    hub_database: HubDatabase, app: Database, broker: MemoryBroker
) -> None:
    await publish(app, ["old", "new"])
    settings = hub_database.settings(outbox_keep_s=3600)
    async with relaying(settings, broker):
        await until(lambda: settled(hub_database))
    async with hub_database.connect("hub_relay") as link:
        await link.execute("UPDATE hub.outbox SET settled_at = now() - interval '61 min' WHERE number = 1")
    broker.fail_over("s2", kept=0)
    await publish(app, ["newest"])
    async with relaying(settings, broker):
        await until(lambda: broker.data(TASKS) == ["new", "newest"])
        await until(lambda: gone(hub_database, "old"), what="the old row to be deleted")


# --- rows whose time is over


async def gone(database: HubDatabase, value: Any) -> bool:
    return value not in [row[0] for row in await states(database)]


async def test_settled_rows_are_deleted_in_batches_after_their_time(
    hub_database: HubDatabase, app: Database, broker: MemoryBroker
) -> None:
    settings = hub_database.settings(outbox_keep_s=3600, outbox_keep_failed_s=7200, outbox_unknown_s=0, outbox_batch=3)
    await publish(app, range(10))
    await publish(app, ["failed"], Topic(ACME, "unheard_of", "x"))
    async with relaying(settings, broker):
        await until(lambda: settled(hub_database))
    async with hub_database.connect("hub_relay") as link:
        await link.execute("UPDATE hub.outbox SET settled_at = now() - interval '61 min' WHERE number <= 8")
    async with relaying(settings, broker):
        await until(lambda: only_left(hub_database, 8, 9, "failed"))
        async with hub_database.connect("hub_relay") as link:
            await link.execute("UPDATE hub.outbox SET settled_at = now() - interval '121 min' WHERE state = 'failed'")
        await until(lambda: gone(hub_database, "failed"))
        await publish(app, ["after"])
        await until(lambda: broker.data(TASKS) == [*range(10), "after"], what="numbers to go on")


async def test_a_long_tail_is_deleted_while_there_is_nothing_else_to_do(
    hub_database: HubDatabase, app: Database, broker: MemoryBroker
) -> None:
    await publish(app, range(20))
    async with relaying(hub_database.settings(), broker):
        await until(lambda: settled(hub_database))
    async with hub_database.connect("hub_relay") as link:
        await link.execute("UPDATE hub.outbox SET settled_at = now() - interval '61 min'")
    settings = hub_database.settings(outbox_keep_s=3600, outbox_batch=3, outbox_poll_s=3600)
    async with relaying(settings, broker):
        await until(lambda: only_left(hub_database), what="all batches, before the next look around")


async def only_left(database: HubDatabase, *values: Any) -> bool:
    return [row[0] for row in await states(database)] == list(values)


async def test_looking_for_rows_whose_time_is_over_reads_no_others(hub_database: HubDatabase) -> None:
    """An hour of rows is kept; reading them all, every second, would stop the relay for as long."""
    async with hub_database.connect("hub_relay") as link:
        await link.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        plan = "\n".join(row[0] for row in await link.fetch(f"EXPLAIN {PURGE}", [1], 10, 20, 5))
    assert plan.count("Index Cond: (settled_at < ") == 2, plan


async def test_a_batch_is_bounded_in_rows_and_bytes(hub_database: HubDatabase, app: Database) -> None:
    await publish(app, ["x" * 30_000] * 10)
    for bounds, expected in (
        ({"outbox_batch": 4}, 4),
        ({"outbox_batch_bytes": 65_536}, 3),
        ({"outbox_batch_bytes": 10_000_000}, 10),
    ):
        async with open_outbox(hub_database.settings(**bounds)) as outbox:
            assert await outbox.take_shards() == SHARDS
            assert len(await outbox.pending([])) == expected
            assert await outbox.pending([("acme", "events:tasks")]) == []


async def test_the_oldest_rows_come_first_whatever_their_topic(hub_database: HubDatabase, app: Database) -> None:
    """A busy topic must not starve the one that comes after it in the alphabet."""
    for n in range(3):
        await publish(app, [n], TASKS)
        await publish(app, [n, n], GUEST)
    async with open_outbox(hub_database.settings(outbox_batch=4)) as outbox:
        await outbox.take_shards()
        assert [row.topic.removeprefix("events:") for row in await outbox.pending([])] == [
            "tasks",
            "guest",
            "guest",
            "tasks",
        ]


async def test_a_topic_is_where_its_kept_rows_are(hub_database: HubDatabase, app: Database) -> None:
    """A row whose time is over will not be relayed again, so it must not tie its topic to a server that is gone."""
    await publish(app, range(3))
    async with open_outbox(hub_database.settings()) as outbox, hub_database.connect("hub_relay") as link:
        await outbox.take_shards()
        first = (await outbox.pending([]))[0]
        assert first.server is None
        await outbox.mark_relayed([(first.id, "s1")])
        assert [row.server for row in await outbox.pending([])] == ["s1", "s1"]
        await link.execute("UPDATE hub.outbox SET settled_at = now() - interval '61 min' WHERE number = 1")
        assert [row.server for row in await outbox.pending([])] == [None, None]
        assert await outbox.reopen_topic("acme", "events:tasks", "s2") == 0
        await link.execute("UPDATE hub.outbox SET settled_at = now() - interval '59 min' WHERE number = 1")
        assert await outbox.reopen_topic("acme", "events:tasks", "s1") == 0
        assert await outbox.reopen_topic("acme", "events:tasks", "s2") == 1
        assert (await outbox.pending([]))[0].id == first.id


# --- the relay is killed, cut, doubled


async def test_killed_in_the_middle_of_a_batch(hub_database: HubDatabase, app: Database, broker: MemoryBroker) -> None:
    """It has published rows and not written that down."""
    await publish(app, range(20))
    settings = hub_database.settings()
    for stop_at in (7, 12):
        mark = b'"data":%d,' % stop_at

        def hang(draft: Draft, mark: bytes = mark) -> None:
            if mark in draft.body.replace(b"}", b","):
                broker.open.clear()

        broker.refuse = hang
        async with relaying(settings, broker):
            await until(lambda: broker.waiting and not broker.open.is_set(), what="the relay to hang")
        broker.open.set()
        assert broker.data(TASKS) == list(range(stop_at + 1))
        assert not await settled(hub_database)
    broker.refuse = lambda _: None
    async with relaying(settings, broker):
        await until(lambda: settled(hub_database))
    assert broker.data(TASKS) == list(range(20))


async def test_two_nodes(hub_database: HubDatabase, app: Database, redis_url: str) -> None:
    """The one that loses its connection stops; what it still has on the way changes neither order nor number."""
    settings = hub_database.settings()
    async with world(redis_url, listening=False) as it:
        slow = _Gate(it.broker)
        async with relaying(settings, slow) as one:
            await until(lambda: one.held == SHARDS, what="the first node to hold all shards")
            async with relaying(settings, it.broker) as other:
                slow.close_after(5)
                await publish(app, range(30))
                await until(lambda: slow.waiting, what="the first node to hang in the middle")
                assert other.held == frozenset()
                await cut(hub_database)
                await until(lambda: other.held == SHARDS, what="the other node to take over")
                await until(lambda: settled(hub_database))
                await publish(app, range(30, 40))
                calls = slow.calls
                slow.open()
                await until(lambda: one.relayed == 0 and not slow.waiting, what="the first node to give up")
                await until(lambda: settled(hub_database))
                assert await data(it, TASKS) == list(range(40))
                await until(lambda: one.connected, what="the first node to stand by")
                assert slow.calls == calls, "it sent nothing more than what was on the way"
            await until(lambda: one.held == SHARDS, what="the first node to take over in turn")
            await publish(app, range(40, 50))
            await until(lambda: settled(hub_database))
            assert await data(it, TASKS) == list(range(50))


async def test_a_node_that_hangs_loses_its_shards(
    hub_database: HubDatabase, app: Database, broker: MemoryBroker
) -> None:
    slow = _Gate(broker)
    async with relaying(hub_database.settings(outbox_hang_s=2), slow) as one:
        await until(lambda: one.held == SHARDS)
        async with relaying(hub_database.settings(), broker):
            slow.close_after(1)
            await publish(app, range(5))
            await until(lambda: settled(hub_database), 15, "the other node to take over")
            slow.open()
    assert broker.data(TASKS) == list(range(5))


class _Gate:
    """A way to a broker that can be shut."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._way = asyncio.Event()
        self._way.set()
        self._left = 10**9
        self.waiting = False
        self.calls = 0

    def close_after(self, calls: int) -> None:
        self._left = calls

    def open(self) -> None:
        self._left = 10**9
        self._way.set()

    async def publish_many(self, drafts: Sequence[Draft]) -> Any:
        self.calls += 1
        self._left -= 1
        if self._left < 0:
            self._way.clear()
        self.waiting = not self._way.is_set()
        await self._way.wait()
        self.waiting = False
        return await self._broker.publish_many(drafts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)


async def test_postgresql_is_restarted_while_busy(redis_url: str) -> None:
    """Every event whose commit was confirmed arrives, in the order of its number, once."""
    with running_postgres() as server:
        async with (
            migrated_database(server) as own,
            world(redis_url, listening=False) as it,
            relaying(own.settings(), it.broker) as relay,
        ):
            app = await Database.open(own.settings())
            confirmed: set[tuple[Topic, int]] = set()
            stop = asyncio.Event()

            async def write(topic: Topic) -> None:
                n = 0
                while not stop.is_set():
                    n += 1
                    with contextlib.suppress(HubError):
                        await publish(app, [n], topic, key=f"k{n}")
                        confirmed.add((topic, n))

            writers = [asyncio.create_task(write(topic)) for topic in (TASKS, GUEST)]
            for _ in range(2):
                goal = relay.relayed + 100
                await until(lambda goal=goal: relay.relayed > goal, 20, "a hundred more")
                server.stop()
                server.start()
            goal = relay.relayed + 100
            await until(lambda: relay.relayed > goal, 20, "a hundred more")
            stop.set()
            await asyncio.gather(*writers)
            await until(lambda: settled(own), 20)
            for topic in (TASKS, GUEST):
                arrived = await data(it, topic)
                assert arrived == sorted(set(arrived))
                assert {n for where, n in confirmed if where == topic} <= set(arrived)
            await app.close()


async def test_the_relay_waits_for_postgresql(broker: MemoryBroker) -> None:
    settings = redis_settings("redis://127.0.0.1:1", database_relay_url="postgresql://hub_relay@127.0.0.1:1/hub")
    with capture_logs() as logs:
        async with relaying(settings, broker) as relay:
            await until(lambda: len([line for line in logs if "interrupted" in line["event"]]) >= 3)
            assert relay.held == frozenset()
