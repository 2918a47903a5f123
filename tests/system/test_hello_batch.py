"""What a ``hello`` with fifty topics costs on the wire to Redis: one concurrent pipelined batch per node."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import redis
from websockets.asyncio.client import ClientConnection, connect

from hub.embedded import RedisServer
from services.events.topics import SERVICES
from tests.support.hub_database import HubDatabase
from tests.support.hub_process import HubProcess
from tests.support.servers import client
from tests.support.topologies import redis_cluster
from tests.support.waiting import until
from tests.system.ordeal import environment, token
from tests.system.recording_proxy import Exchange, RecordingProxy

MORE = tuple(f"more{number}" for number in range(40))
TOPICS = [f"events:{service}" for service in (*SERVICES, *MORE)]
_TOPIC = "hub:{acme/events:"
_SESSION = "hub:{acme/session/"


def of_topics(exchange: Exchange) -> bool:
    return exchange.naming(_TOPIC) > 0


class Bench:
    """One node whose every byte to Redis goes through ``proxies``, one per Redis server."""

    def __init__(self, node: HubProcess, proxies: list[RecordingProxy], servers: list[RedisServer]) -> None:
        self.node = node
        self.proxies = proxies
        self.servers = servers

    async def publish_one_each(self) -> dict[str, dict[str, Any]]:
        """An event on every topic; the positions before them."""
        events = [{"topic": topic, "name": "e", "data": topic} for topic in TOPICS]
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token('publisher')}"}) as http:
            answer = await http.post(f"http://{self.node.address}/v1/publish", json=events)
        return {
            topic: {"epoch": done["epoch"], "seq": done["seq"] - 1}
            for topic, done in zip(TOPICS, answer.json(), strict=True)
        }

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[ClientConnection]:
        headers = {"Authorization": f"Bearer {token('u1')}"}
        async with connect(f"ws://{self.node.address}/ws", additional_headers=headers, compression=None) as link:
            yield link

    async def nobody_listens(self) -> None:
        """Waits until the node has given all topics up: who comes next is the first one again."""

        def quiet() -> bool:
            for server in self.servers:
                with client(server) as link:
                    if link.pubsub_channels("hub:{acme/*") or link.execute_command("PUBSUB", "SHARDCHANNELS"):
                        return False
            return True

        await until(quiet, 30, "all topics to be given up")

    async def hello(self, link: ClientConnection, **hello: Any) -> list[list[Exchange]]:
        """Sends it; returns what was sent about topics, per server, before anything about them was answered.

        Fails unless the welcome and one event of each topic follow, at no further cost.
        """
        for proxy in self.proxies:
            proxy.take()
            proxy.held = of_topics
        await link.send(msgspec.json.encode({"type": "hello", "id": 1, **hello}).decode())

        def all_asked() -> bool:
            sent = [exchange for proxy in self.proxies for exchange in proxy.exchanges if of_topics(exchange)]
            return sum(exchange.naming(_TOPIC, "EVALSHA") for exchange in sent) >= 2 * len(TOPICS)

        await until(all_asked, 30, "states and history of all topics to be asked for at once")
        held = [list(filter(of_topics, proxy.exchanges)) for proxy in self.proxies]
        for proxy in self.proxies:
            proxy.release()
        welcome = msgspec.json.decode(await link.recv())
        assert welcome["type"] == "welcome"
        assert [verdict["topic"] for verdict in welcome["topics"] if verdict["ok"] and verdict["recovered"]] == TOPICS
        came = [await received(link) for _ in TOPICS]
        assert {frame["topic"] for frame in came if frame["type"] == "event"} == set(TOPICS)
        after = [list(filter(of_topics, proxy.exchanges)) for proxy in self.proxies]
        assert [len(part) for part in after] == [len(part) for part in held], "more was asked for afterwards"
        return held

    def asked_of_sessions(self) -> int:
        """Exchanges about sessions since the last hello began."""
        return sum(exchange.naming(_SESSION) > 0 for proxy in self.proxies for exchange in proxy.exchanges)


@contextlib.asynccontextmanager
async def bench(
    servers: list[RedisServer], database: HubDatabase, folder: Path, *, cluster: bool
) -> AsyncIterator[Bench]:
    async with contextlib.AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(RecordingProxy(server.port)) for server in servers]
        names = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
        if cluster:
            for server, proxy in zip(servers, proxies, strict=True):
                with client(server) as link:
                    link.config_set("cluster-announce-port", proxy.port)
            await until(lambda: all(announces(server, proxies) for server in servers), 30, "the proxies' ports")
        settings = environment(f"redis{'+cluster' if cluster else ''}://{names}", database, {})
        settings |= {"HUB_EVENT_SERVICES": ",".join(MORE), "HUB_DATABASE_RELAY_URL": ""}
        settings["HUB_REDIS_TIMEOUT_S"] = "60"  # what is held must not be given up meanwhile
        node = HubProcess("node0", folder, settings)
        await node.start()
        try:
            yield Bench(node, proxies, servers)
        finally:
            await node.terminate()
        assert node.faults() == []


async def test_one_batch_on_one_server(own_redis: RedisServer, hub_database: HubDatabase, tmp_path: Path) -> None:
    async with bench([own_redis], hub_database, tmp_path, cluster=False) as it:
        before = await it.publish_one_each()
        wanted = [{"topic": topic, "since": before[topic]} for topic in TOPICS]
        async with it.connected() as link:
            (held,) = await it.hello(link, subscribe=wanted)
            check_batch(held, topics=len(TOPICS), subscribe="SUBSCRIBE")


async def test_one_batch_more_with_a_session(own_redis: RedisServer, hub_database: HubDatabase, tmp_path: Path) -> None:
    async with bench([own_redis], hub_database, tmp_path, cluster=False) as it:
        before = await it.publish_one_each()
        session = await acknowledge(it, before)
        await it.publish_one_each()
        async with it.connected() as link:
            wanted = [{"topic": topic} for topic in TOPICS]
            (held,) = await it.hello(link, subscribe=wanted, resume={"session": session})
            check_batch(held, topics=len(TOPICS), subscribe="SUBSCRIBE")
            assert it.asked_of_sessions() == 1


async def test_one_batch_per_node_of_a_cluster(hub_database: HubDatabase, tmp_path: Path) -> None:
    async with redis_cluster() as cluster, bench(cluster.nodes, hub_database, tmp_path, cluster=True) as it:
        before = await it.publish_one_each()
        wanted = [{"topic": topic, "since": before[topic]} for topic in TOPICS]
        async with it.connected() as link:
            held = await it.hello(link, subscribe=wanted)
            reads = 0
            for part in held:
                topics = sum(exchange.naming(_TOPIC, "SSUBSCRIBE") for exchange in part)
                check_batch(part, topics=topics, subscribe="SSUBSCRIBE")
                reads += topics
            assert reads == len(TOPICS)


def check_batch(held: list[Exchange], *, topics: int, subscribe: str) -> None:
    """Two writes at the same time: subscriptions with their states on the link, history on a command connection."""
    assert len(held) == 2, [exchange.commands for exchange in held]
    link, commands = sorted(held, key=lambda exchange: exchange.naming(_TOPIC, subscribe) == 0)
    assert link.connection != commands.connection
    assert link.naming(_TOPIC, subscribe) == (topics if subscribe == "SSUBSCRIBE" else 1)
    assert link.naming(_TOPIC, "EVALSHA") == topics
    assert commands.naming(_TOPIC, "EVALSHA") == topics == len(commands.commands)


async def acknowledge(it: Bench, before: dict[str, dict[str, Any]]) -> str:
    """Takes one event of each topic and acknowledges it; returns the session, once its positions are stored."""
    async with it.connected() as link:
        wanted = [{"topic": topic, "since": before[topic]} for topic in TOPICS]
        await link.send(msgspec.json.encode({"type": "hello", "id": 1, "subscribe": wanted}).decode())
        welcome = msgspec.json.decode(await link.recv())
        for _ in TOPICS:
            await received(link)
        positions = {topic: {"epoch": at["epoch"], "seq": at["seq"] + 1} for topic, at in before.items()}
        await link.send(msgspec.json.encode({"type": "ack", "positions": positions}).decode())
        session: str = welcome["session"]
        with client(it.servers[0]) as direct:
            key = f"{_SESSION}{session}}}"
            await until(lambda: stored(direct, key) >= len(TOPICS), 30, "all positions to be stored")
    await it.nobody_listens()
    with client(it.servers[0]) as direct:
        await until(lambda: direct.hget(key, "connection") == "", 30, "the session to be given up")
    return session


async def received(link: ClientConnection) -> dict[str, Any]:
    """The next frame that says something."""
    while (frame := msgspec.json.decode(await link.recv()))["type"] == "heartbeat":
        pass
    return dict(frame)


def announces(server: RedisServer, proxies: list[RecordingProxy]) -> bool:
    """Whether a node of the cluster sends everybody to the proxies."""
    with client(server) as link:
        slots = link.eval("return redis.call('CLUSTER', 'SLOTS')", 0)
    return {part[2][1] for part in slots} == {proxy.port for proxy in proxies}


def stored(link: redis.Redis, key: str) -> int:
    return sum(":" in name for name in link.hkeys(key))
