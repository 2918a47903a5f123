"""Several real Redis servers that belong together: a master with a replica, a cluster of three, a sentinel."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import redis

from hub.embedded import RedisServer
from hub.embedded.binaries import find_redis
from hub.embedded.child import Child
from hub.embedded.home import Home
from tests.support.cut_proxy import CutProxy
from tests.support.servers import client, free_port, start_redis, temporary_folder
from tests.support.waiting import until

_SLOTS = 16_384
_SETTLE_S = 60.0
# What a machine that stands still for a moment must not be taken for.
_DOWN_MS = 2000
_CLUSTER_NODE_TIMEOUT_MS = 10_000


class RedisPair:
    """A master and a replica; the replica's link leads through ``link``, a proxy that can stall and cut it."""

    def __init__(self, master: RedisServer, replica: RedisServer, link: CutProxy | None) -> None:
        self.master = master
        self.replica = replica
        self._link = link

    @property
    def link(self) -> CutProxy:
        """The proxy between replica and master."""
        assert self._link is not None, "this pair was made without a proxy"
        return self._link

    def cut_link(self) -> None:
        """Separates the replica: it keeps what it has and gets nothing more."""
        self.link.refuse()
        self.link.cut()

    async def restore_link(self) -> None:
        """Lets the replica back in and waits until it has caught up."""
        await self.link.allow()
        await self.synced()

    def promote(self) -> None:
        """Makes the replica a master, as a failover would. The old master keeps running: kill it if it should not."""
        with client(self.replica) as link:
            link.replicaof("NO", "ONE")

    async def synced(self) -> None:
        """Waits until the replica has everything that the master has now."""
        with client(self.master) as master, client(self.replica) as replica:
            offset = master.info("replication")["master_repl_offset"]

            def caught_up() -> bool:
                state = replica.info("replication")
                return bool(state.get("master_link_status") == "up" and state["slave_repl_offset"] >= offset)

            await until(caught_up, _SETTLE_S, "the replica to catch up")


@contextlib.asynccontextmanager
async def redis_pair(*, proxied: bool = True) -> AsyncIterator[RedisPair]:
    """A running pair that is in sync. ``proxied`` False: the replica connects directly (a sentinel insists on that)."""
    async with contextlib.AsyncExitStack() as stack:
        # Without this the master waits five seconds for more replicas before the first copy.
        options = {"repl-diskless-sync-delay": "0"}
        master = start_redis(stack.enter_context(temporary_folder()), options=options)
        stack.callback(master.stop)
        link = await stack.enter_async_context(CutProxy(("127.0.0.1", master.port))) if proxied else None
        source = link.port if link is not None else master.port
        follow = {**options, "replicaof": f"127.0.0.1 {source}"}
        replica = start_redis(stack.enter_context(temporary_folder()), options=follow)
        stack.callback(replica.stop)
        pair = RedisPair(master, replica, link)
        await pair.synced()
        yield pair


class RedisCluster:
    """Three masters that share all slots."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """All nodes, as ``HUB_REDIS_URL`` takes them."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def node_of(self, key: str) -> RedisServer:
        """The node that holds a key (or sharded channel) now."""
        with client(self.nodes[0]) as link:
            slot = int(link.execute_command("CLUSTER KEYSLOT", key))
            owner = next(line for line in _known_nodes(link) if _holds(line, slot))
        port = int(owner[1].split("@")[0].rsplit(":", 1)[1])
        return next(node for node in self.nodes if node.port == port)

    def flush(self) -> None:
        """Empties all nodes."""
        for node in self.nodes:
            with client(node) as link:
                link.flushall()

    async def move_slot(self, key: str, target: RedisServer) -> None:
        """Moves the slot of ``key``, with everything in it, to ``target``; waits until all nodes know."""
        source = self.node_of(key)
        with client(source) as here, client(target) as there:
            slot = here.execute_command("CLUSTER KEYSLOT", key)
            names = {node: _my_id(link) for node, link in ((source, here), (target, there))}
            there.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[source])
            here.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[target])
            while keys := here.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
                here.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 30_000, "KEYS", *keys)
            for link in (there, here):
                link.execute_command("CLUSTER SETSLOT", slot, "NODE", names[target])
        await until(lambda: self._all_say(int(slot), target.port), _SETTLE_S, "all nodes to know the slot's new place")

    def _all_say(self, slot: int, port: int) -> bool:
        for node in self.nodes:
            with client(node) as link:
                owners = [line for line in _known_nodes(link) if _holds(line, slot)]
            if not any(f":{port}@" in owner[1] for owner in owners):
                return False
        return True


@contextlib.asynccontextmanager
async def redis_cluster() -> AsyncIterator[RedisCluster]:
    """A running cluster whose nodes all agree."""
    async with contextlib.AsyncExitStack() as stack:
        options = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(_CLUSTER_NODE_TIMEOUT_MS),
            "cluster-announce-ip": "127.0.0.1",
        }
        nodes: list[RedisServer] = []
        for _ in range(3):
            node = start_redis(stack.enter_context(temporary_folder()), options=options)
            stack.callback(node.stop)
            nodes.append(node)
        links = [stack.enter_context(client(node)) for node in nodes]
        share = -(-_SLOTS // len(nodes))
        for number, link in enumerate(links):
            # Before anybody has met anybody: afterwards it is refused.
            link.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for number, link in enumerate(links):
            first = number * share
            link.execute_command("CLUSTER ADDSLOTSRANGE", first, min(first + share, _SLOTS) - 1)
            # Everybody meets everybody: gossip alone would take seconds.
            for other in nodes[number + 1 :]:
                bus = int(other.setting("cluster-port"))
                link.execute_command("CLUSTER MEET", "127.0.0.1", other.port, bus)
        await until(lambda: all(_agrees(link, len(nodes)) for link in links), _SETTLE_S, "the cluster to form")
        yield RedisCluster(nodes)


def _agrees(link: redis.Redis, nodes: int) -> bool:
    known = _known_nodes(link)
    settled = all("handshake" not in line[2] and line[7] == "connected" for line in known)
    return "cluster_state:ok" in _cluster(link, "INFO") and len(known) == nodes and settled


def _known_nodes(link: redis.Redis) -> list[list[str]]:
    return [line.split() for line in _cluster(link, "NODES").splitlines() if line]


def _cluster(link: redis.Redis, subject: str) -> str:
    # Through a script, since the client parses the direct answer in a way that changes with its version.
    return str(link.eval("return redis.call('CLUSTER', ARGV[1])", 0, subject))


def _my_id(link: redis.Redis) -> str:
    return str(link.execute_command("CLUSTER MYID"))


def _holds(line: list[str], slot: int) -> bool:
    for part in line[8:]:
        first, _, last = part.partition("-")
        if first.isdigit() and int(first) <= slot <= int(last or first):
            return True
    return False


class Sentinel:
    """One sentinel that watches a master and promotes its replica seconds after the master is gone."""

    MASTER = "hub-master"

    def __init__(self, folder: Path, master: RedisServer) -> None:
        self.port = free_port()
        self._home = Home(folder, "sentinel")
        self._master = master
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """As ``HUB_REDIS_URL`` takes it."""
        return f"redis+sentinel://127.0.0.1:{self.port}/{self.MASTER}"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self._home.prepare()
        config = self._home.data / "sentinel.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\n"
            f"sentinel monitor {self.MASTER} 127.0.0.1 {self._master.port} 1\n"
            f"sentinel down-after-milliseconds {self.MASTER} {_DOWN_MS}\n"
            f"sentinel failover-timeout {self.MASTER} 5000\n"
        )
        if self._home.account is not None:
            self._home.account.give(config)
        with self._home.locked() as lock:
            command = (find_redis(self._home.account), "sentinel.conf", "--sentinel")
            self._child = Child(self._home, command, signal.SIGTERM, lock)
        self._child.wait_until(self._answers)

    def stop(self) -> None:
        """Stops it."""
        if self._child is not None:
            self._child.stop()
        self._home.discard_sockets()

    def master_port(self) -> int:
        """The port of the master as the sentinel knows it now."""
        with redis.Redis(port=self.port, protocol=2, decode_responses=True) as link:
            return int(link.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self.MASTER)[1])

    async def knows_replica(self) -> None:
        """Waits until it has found the replica; before that it could promote nobody."""
        with redis.Redis(port=self.port, protocol=2, decode_responses=True) as link:
            await until(lambda: link.execute_command("SENTINEL REPLICAS", self.MASTER), _SETTLE_S, "the replica")

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, protocol=2) as link:
                return bool(link.ping())
        except redis.ConnectionError:
            return False


@contextlib.asynccontextmanager
async def redis_sentinel() -> AsyncIterator[tuple[Sentinel, RedisPair]]:
    """A sentinel that knows both servers of a pair."""
    async with redis_pair(proxied=False) as pair:
        with temporary_folder() as folder:
            sentinel = Sentinel(folder, pair.master)
            sentinel.start()
            try:
                await sentinel.knows_replica()
                yield sentinel, pair
            finally:
                sentinel.stop()
