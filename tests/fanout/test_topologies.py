"""The broker where there are several servers: topics spread over a cluster, slots on the move, failovers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
import redis

from hub.errors import HubError
from hub.fanout.broker import HistoryPage, Published, TopicState
from hub.topics.topic import Topic
from tests.support.redis_world import World, draft, page, topic, wanted, world
from tests.support.servers import client
from tests.support.topologies import RedisCluster, redis_cluster, redis_pair, redis_sentinel
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[RedisCluster]:
    async with redis_cluster() as it:
        yield it


@pytest.fixture
async def hub(cluster: RedisCluster) -> AsyncIterator[World]:
    cluster.flush()
    async with world(cluster.url) as it:
        yield it


async def hears(it: World, subject: Topic, body: bytes) -> None:
    """Publishes until it is heard: during a failover a publication may fail or get lost."""

    async def heard() -> bool:
        await it.broker.publish_many([draft(subject, body)])
        return body in [event.body for event in it.ear.heard(subject)]

    await until(heard, 30, f"{subject} to be heard")


async def test_topics_are_spread_and_every_one_is_heard(hub: World, cluster: RedisCluster) -> None:
    subjects = [topic(f"spread-{number}") for number in range(60)]
    states = await hub.broker.subscribe(subjects)
    assert all(isinstance(state, TopicState) for state in states)
    assert {state.server for state in states} == set((await hub.broker.servers()).values())
    assert len(await hub.broker.servers()) == 3
    outcomes = await hub.broker.publish_many([draft(subject, b"%d" % n) for n in range(3) for subject in subjects])
    assert all(isinstance(outcome, Published) for outcome in outcomes)
    await until(lambda: all(len(hub.ear.heard(subject)) == 3 for subject in subjects))
    for subject, state in zip(subjects, states, strict=True):
        events = hub.ear.heard(subject)
        assert [(event.epoch, event.seq, event.body) for event in events] == [
            (state.epoch, n + 1, b"%d" % n) for n in range(3)
        ]
        assert await hub.broker.server_of(subject) == state.server


async def test_a_call_for_many_topics_costs_one_write_or_batch_per_master(cluster: RedisCluster) -> None:
    subjects = [topic(f"cost-{number}") for number in range(50)]
    # No probe of a quiet line may come in between.
    async with world(cluster.url, probe_interval_s=60) as hub:
        before = hub.broker.reader.writes
        await hub.broker.subscribe(subjects)
        assert hub.broker.reader.writes == before + 3
        with contextlib.ExitStack() as stack:
            # Open for all looks: what opening one costs is not always the same.
            links = [stack.enter_context(client(node)) for node in cluster.nodes]
            _reads(links)
            reads = _reads(links)
            answers = await hub.broker.read([wanted(subject) for subject in subjects])
            assert all(isinstance(answer, HistoryPage) for answer in answers)
            # Looking is itself one on each node.
            assert _reads(links) - reads == 3 + len(links)


async def test_a_slot_that_moves_takes_its_topics_along(hub: World, cluster: RedisCluster) -> None:
    subject, other = topic("moves"), topic("stays")
    await hub.broker.subscribe([subject, other])
    first = await hub.broker.publish(draft(subject, b"before", key="k"))
    source = cluster.node_of(subject.names.channel)
    target = next(node for node in cluster.nodes if node is not source)
    moving = asyncio.create_task(cluster.move_slot(subject.names.position, target))
    await moving
    # The next command finds it by itself, and the record shows that another server has it now.
    again = await hub.broker.publish(draft(subject, b"before", key="k"))
    assert (again.duplicate, again.epoch, again.seq) == (True, first.epoch, 1)
    after = await hub.broker.publish(draft(subject, b"after"))
    assert after.seq == 2
    assert after.server != first.server
    await until(lambda: hub.ear.state_of(subject), what="the topic to be subscribed at its new master")
    assert hub.ear.state_of(subject)[-1].base == 1
    await hears(hub, subject, b"there")
    await hears(hub, other, b"still here")
    await cluster.move_slot(subject.names.position, source)
    await until(lambda: len(hub.ear.state_of(subject)) > 1, what="the topic to come home")
    await hears(hub, subject, b"home")


async def test_a_link_outlives_the_slot_of_its_own_probe(cluster: RedisCluster) -> None:
    subject = topic("probe")
    async with world(cluster.url, probe_timeout_s=0.5) as hub:
        await hub.broker.subscribe([subject])
        source = cluster.node_of(subject.names.channel)
        supervisor = hub.broker.reader._links[f"127.0.0.1:{source.port}"]
        target = next(node for node in cluster.nodes if node is not source)
        await cluster.move_slot(supervisor._probe.names.position, target)
        await until(lambda: False in hub.ear.links, 30, "the probe to be missed")
        await hub.ready()
        await hears(hub, subject, b"heard")


async def test_a_topic_can_be_published_to_while_its_slot_is_on_the_move(hub: World, cluster: RedisCluster) -> None:
    subject = topic("halfway")
    source = cluster.node_of(subject.names.channel)
    target = next(node for node in cluster.nodes if node is not source)
    await hub.broker.publish(draft(subject, b"0"))
    with client(source) as here, client(target) as there:
        slot = here.execute_command("CLUSTER KEYSLOT", subject.names.channel)
        names = {node: link.execute_command("CLUSTER MYID") for node, link in ((source, here), (target, there))}
        there.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[source])
        here.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[target])
        # One key is here and one is there: Redis answers TRYAGAIN until the other has followed.
        here.execute_command("MIGRATE", "127.0.0.1", target.port, subject.names.history, 0, 30_000)
        waiting = asyncio.create_task(hub.broker.publish(draft(subject, b"1")))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        here.execute_command("MIGRATE", "127.0.0.1", target.port, subject.names.position, 0, 30_000)
        assert (await waiting).seq == 2
        for link in (there, here):
            link.execute_command("CLUSTER SETSLOT", slot, "NODE", names[target])
    await until(lambda: cluster.node_of(subject.names.channel) is target)
    assert [event.body for event in (await page(hub.broker, subject)).publications] == [b"0", b"1"]


async def test_a_lost_link_of_one_master_spares_the_others(hub: World, cluster: RedisCluster) -> None:
    subjects = [topic(f"spare-{number}") for number in range(30)]
    await hub.broker.subscribe(subjects)
    victim = cluster.nodes[0]
    with client(victim) as link:
        link.client_kill_filter(_type="pubsub")
    await until(lambda: hub.ear.links[-2:] == [False, True], 30)
    touched = {subject for subject in subjects if hub.ear.state_of(subject)}
    assert touched == {subject for subject in subjects if cluster.node_of(subject.names.channel) is victim}
    assert touched
    for subject in subjects[:6]:
        await hears(hub, subject, b"heard")


async def test_a_master_that_is_down_makes_its_topics_unavailable_and_no_others() -> None:
    subjects = [topic(f"down-{number}") for number in range(30)]
    async with redis_cluster() as own, world(own.url, redis_timeout_s=2.0) as hub:
        own_victim = own.nodes[1]
        lost = {subject for subject in subjects if own.node_of(subject.names.channel) is own_victim}
        for node in own.nodes:
            with client(node) as link:
                link.config_set("cluster-require-full-coverage", "no")
        own_victim.stop()
        outcomes = await hub.broker.publish_many([draft(subject) for subject in subjects])
        failed = {subject for subject, outcome in zip(subjects, outcomes, strict=True) if isinstance(outcome, HubError)}
        assert failed == lost
        await until(lambda: not hub.broker.ready)
        own_victim.start()
        await hub.ready()


async def test_a_failover_by_sentinel_is_followed() -> None:
    subject, quiet = topic("failover"), topic("failover-quiet")
    async with redis_sentinel() as (sentinel, pair), world(sentinel.url) as hub:
        (state, _) = await hub.broker.subscribe([subject, quiet])
        assert isinstance(state, TopicState)
        first = await hub.broker.publish(draft(subject, b"before", key="k"))
        await pair.synced()
        pair.master.stop()
        await until(lambda: sentinel.master_port() == pair.replica.port, 75, "the sentinel to promote the replica")
        await until(lambda: _takes_writes(hub, subject), 30, "the new master to take writes")
        again = await hub.broker.publish(draft(subject, b"before", key="k"))
        assert (again.duplicate, again.epoch, again.seq) == (True, first.epoch, 1)
        await hub.ready()
        assert hub.ear.state_of(quiet)[-1].server == again.server != first.server
        assert hub.ear.state_of(subject)[-1].previous_epoch == first.epoch
        await hears(hub, subject, b"after")
        assert (await hub.broker.servers()) == {f"127.0.0.1:{pair.replica.port}": again.server}


async def test_an_address_that_has_become_a_replica_is_left_for_the_new_master() -> None:
    """The name stays and another server answers to it, as behind a managed service: READONLY must not stick."""
    subject = topic("demoted")
    async with redis_pair() as pair, world(f"redis://127.0.0.1:{pair.link.port}") as hub:
        # The proxy is the name; the pair's replica does not need it any more once it is promoted.
        await hub.broker.subscribe([subject])
        first = await hub.broker.publish(draft(subject, b"before"))
        await pair.synced()
        pair.promote()
        pair.link.target = ("127.0.0.1", pair.replica.port or 0)
        with client(pair.master) as link:
            link.replicaof("127.0.0.1", pair.replica.port)
        after = await hub.broker.publish(draft(subject, b"after"))
        assert after.seq == 2
        assert after.server != first.server
        await until(lambda: hub.ear.state_of(subject), 30, "the link to leave the demoted server")
        await hub.ready()
        await hears(hub, subject, b"there")


async def _takes_writes(hub: World, subject: Topic) -> bool:
    (outcome,) = await hub.broker.publish_many([draft(subject, ephemeral=True)])
    return isinstance(outcome, Published)


def _reads(links: Sequence[redis.Redis]) -> int:
    """How often the nodes have read from a socket."""
    return sum(link.info("stats")["total_reads_processed"] for link in links)
