"""The pair, the cluster and the sentinel do what tests rely on."""

from __future__ import annotations

import pytest
import redis
import redis.asyncio.cluster

from tests.support.servers import client
from tests.support.topologies import redis_cluster, redis_pair, redis_sentinel
from tests.support.waiting import until


async def test_a_separated_replica_keeps_what_it_had_and_can_be_promoted() -> None:
    async with redis_pair() as pair:
        with client(pair.master) as master, client(pair.replica) as replica:
            master.set("before", 1)
            await pair.synced()
            pair.cut_link()
            await until(lambda: replica.info("replication")["master_link_status"] == "down", what="the link to go down")
            master.set("lost", 1)
            pair.promote()
            replica.set("after", 1)
            assert sorted(replica.keys()) == ["after", "before"]
            assert replica.info("server")["run_id"] != master.info("server")["run_id"]


async def test_a_replica_catches_up_when_its_link_is_restored() -> None:
    async with redis_pair() as pair:
        with client(pair.master) as master, client(pair.replica) as replica:
            pair.cut_link()
            master.set("late", 1)
            await pair.restore_link()
            assert replica.get("late") == "1"


async def test_a_cluster_serves_all_slots_and_moves_one() -> None:
    async with redis_cluster() as cluster:
        nodes = [redis.asyncio.cluster.ClusterNode("127.0.0.1", node.port) for node in cluster.nodes]
        async with redis.asyncio.cluster.RedisCluster(startup_nodes=nodes, protocol=3) as link:
            for number in range(50):
                await link.set(f"key-{number}", number)
            assert {cluster.node_of(f"key-{number}").port for number in range(50)} == {n.port for n in cluster.nodes}

            source = cluster.node_of("key-7")
            target = next(node for node in cluster.nodes if node is not source)
            await cluster.move_slot("key-7", target)
            assert cluster.node_of("key-7") is target
            assert await link.get("key-7") == b"7"
        with client(source) as direct, pytest.raises(redis.exceptions.MovedError):
            direct.get("key-7")


async def test_a_sentinel_promotes_the_replica_when_the_master_is_gone() -> None:
    async with redis_sentinel() as (sentinel, pair):
        assert sentinel.master_port() == pair.master.port
        pair.master.kill()
        await until(lambda: sentinel.master_port() == pair.replica.port, 75.0, "the failover")
