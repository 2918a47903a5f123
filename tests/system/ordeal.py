"""One scenario of the fault oracle: nodes, clients and publishers that run while a test breaks things, then the judge.

``async with ordeal(...) as it:`` the body breaks and repairs; leaving it waits until everybody has everything, and
fails the test unless each event was seen once, in order, or announced as missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jwt
import redis

from hub.orgs import OrgId, session_key
from services.events.topics import SERVICES
from tests.support.client_style import Style
from tests.support.hub_database import HubDatabase
from tests.support.hub_process import SECRET, HubProcess
from tests.support.oracle_client import HEARTBEAT_S, SAVE_S, OracleClient
from tests.support.raw_client import Transport
from tests.support.waiting import until
from tests.system.judge import Figures, Truth, judge, read_truth
from tests.system.publisher import Entry, FrameWay, HttpWay, Publisher, SqlWay, Way
from tests.system.witness import Place

ORG = "acme"
TOPICS = tuple(f"events:{service}" for service in SERVICES)
# Generous: other tests may run on the same two cores, and nothing here is about speed.
JOIN_S = 60.0
SETTLE_S = 60.0
QUIET_S = 30.0
_TICK_S = 0.5

RedisLink = Callable[[], contextlib.AbstractContextManager[redis.Redis]]


@dataclass(slots=True)
class Plan:
    """What a scenario runs with."""

    clients: int = 50
    topics_each: int = 3
    rate: float = 240.0
    """Events per second, over all ways and topics."""
    pad: int = 40
    """Bytes that each event has more than it needs."""
    flapping: int = 0
    toggling: int = 0
    lazy: int = 0
    """Clients with small buffers, for those that stop reading."""
    keeps_data: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)


class Ordeal:
    """A running scenario."""

    def __init__(self, figures: Figures, plan: Plan, nodes: list[HubProcess], database: HubDatabase) -> None:
        self.figures = figures
        self.nodes = nodes
        self.database = database
        self.random = random.Random(figures.seed)
        self.clients = [self._client(number, plan) for number in range(plan.clients)]
        self.lazy = [client for client in self.clients if client.style.receive_buffer is not None]
        self.publisher = Publisher(self._ways(plan.pad), TOPICS, plan.rate, figures.seed)
        self._plan = plan
        self._tasks: list[asyncio.Task[None]] = []

    def addresses(self) -> list[str]:
        """Of all nodes, dead or alive: a client finds out by itself."""
        return [node.address for node in self.nodes]

    async def begin(self) -> None:
        """Everybody joins, then events flow."""
        self._tasks = [asyncio.create_task(client.run(), name=client.name) for client in self.clients]
        self._tasks.append(asyncio.create_task(self._tick(), name="oracle-tick"))
        await until(lambda: all(client.joined for client in self.clients), JOIN_S, "all clients to join")
        self.publisher.start()
        await until(lambda: all(client.rooted for client in self.clients), JOIN_S, "all sessions to be stored")

    async def flows(self, events: int) -> None:
        """Waits until so many events more are acknowledged."""
        target = self.publisher.ledger.acknowledged + events
        await until(lambda: self.publisher.ledger.acknowledged >= target, SETTLE_S, f"{events} events more")

    async def runs(self, seconds: float) -> None:
        """Lets a fault last."""
        await asyncio.sleep(seconds)

    async def stored(self, link: RedisLink) -> None:
        """Waits until each client has a connection, and what it has seen stands in its session, acknowledged."""
        org = OrgId.from_claim(ORG)

        def not_yet() -> list[str]:
            with link() as opened:
                kept = {client.name: opened.hgetall(session_key(org, client.session)) for client in self.clients}
            return [
                f"{client.name}{'' if client.connected else ' (away)'} {topic} at {witness.known}: {stored!r}"
                for client in self.clients
                for topic, witness in client.witnesses.items()
                for stored in [kept[client.name].get(topic, "")]
                if not client.connected or not is_stored(witness.known, stored)
            ]

        try:
            await until(lambda: not not_yet(), SETTLE_S, "everything seen to be stored")
        except AssertionError:
            raise AssertionError(
                f"{self.figures.scenario} (seed {self.figures.seed}): not stored: {not_yet()[:20]}"
            ) from None

    async def burst(self, until_true: Callable[[], bool]) -> None:
        """Large events on every topic, whoever listens to which, through the last node, until ``until_true``."""
        sender = HttpWay(lambda: [self.nodes[-1].address], token("burst"), 60_000)
        try:
            async with asyncio.timeout(SETTLE_S):
                while not until_true():
                    entries = [self.publisher.ledger.new(topic, "http") for topic in TOPICS]
                    await sender.send(entries)
        finally:
            await sender.close()

    def numbers_given_twice(self) -> int:
        """Positions whose number was given to two events, as clients have seen them."""
        found: dict[tuple[str, int], set[int]] = {}
        for client in self.clients:
            for topic, witness in client.witnesses.items():
                for place, number in witness.seen.items():
                    found.setdefault((topic, place.seq), set()).add(number)
        return sum(len(numbers) > 1 for numbers in found.values())

    async def mark_through(self, node: HubProcess) -> list[Entry]:
        """An event on every topic, published through this node."""
        sender = HttpWay(lambda: [node.address], token("publisher"), 0)
        try:
            return await self.publisher.mark(sender)
        finally:
            await sender.close()

    async def heal(self) -> None:
        """The fault is over: measures, once, how long it takes until what is published now has reached everybody."""
        if not math.isnan(self.figures.heal_s):
            return
        started = time.monotonic()
        for client in self.clients:
            client.settled = True
        try:
            async with asyncio.timeout(SETTLE_S):
                marks = await self.publisher.mark()
        except TimeoutError:
            raise AssertionError(f"{self.figures.scenario}: nothing could be published after the fault") from None
        await self.reach(marks)
        self.figures.heal_s = time.monotonic() - started

    async def reach(self, entries: Sequence[Entry]) -> None:
        """Waits until everybody who listens has seen these events."""
        wanted = {entry.topic: entry.number for entry in entries}

        def behind() -> list[str]:
            return [
                f"{client.name}{'' if client.connected else ' (away)'} {topic} at {witness.epoch}/{witness.seq}"
                for client in self.clients
                for topic, witness in client.witnesses.items()
                if wanted[topic] not in witness.numbers
            ]

        try:
            await until(lambda: not behind(), SETTLE_S, "everybody to catch up")
        except AssertionError:
            raise AssertionError(
                f"{self.figures.scenario} (seed {self.figures.seed}): behind: {behind()[:20]}"
            ) from None

    async def finish(self, link: RedisLink) -> dict[str, Truth]:
        """Stops publishing, waits for everybody, judges."""
        await self.publisher.stop(SETTLE_S)
        await self.outbox_is_empty()
        await self._quiet(link)
        # One more everywhere, so that who was told of a new epoch learns where it stands in it.
        with contextlib.suppress(AssertionError):
            await self.reach(await self.publisher.mark())
        with link() as opened:
            truths = read_truth(opened, ORG, TOPICS)
        witnesses = [witness for client in self.clients for witness in client.witnesses.values()]
        judge(self.figures, witnesses, self.publisher.ledger.entries, truths, keeps_data=self._plan.keeps_data)
        self.figures.reconnects = sum(client.connections for client in self.clients) - len(self.clients)
        self.figures.faults += [text for client in self.clients for text in client.complaints]
        self.figures.faults += [f"{node.name}: {line[:400]}" for node in self.nodes for line in node.faults()]
        return truths

    async def end(self) -> None:
        """Everybody leaves."""
        await self.publisher.close()
        await asyncio.gather(*(client.stop() for client in self.clients), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- inside

    def _client(self, number: int, plan: Plan) -> OracleClient:
        flaps = number < plan.flapping
        toggles = plan.flapping <= number < plan.flapping + plan.toggling
        lazy = number >= plan.clients - plan.lazy
        # Who polls is on its way between nodes again and again: frames of its own would miss it there.
        transport = "websocket" if toggles else _transport_of(number)
        style = Style(
            transport=transport,
            msgpack=number % 3 == 0 and transport == "websocket",
            by_session=number % 2 == 0 and not toggles,
            window=number % 5 == 0,
            token_in_hello=number % 4 == 0,
            deflates=number % 2 == 1,
            flaps=flaps,
            toggles=toggles,
            receive_buffer=4096 if lazy else None,
        )
        topics = self.random.sample(TOPICS, plan.topics_each)
        return OracleClient(
            f"c{number}", self.addresses, token(f"user-{number}"), topics, style, self.random.getrandbits(32)
        )

    def _ways(self, pad: int) -> list[Way]:
        publisher = token("publisher")
        return [
            HttpWay(self.addresses, publisher, pad, self.random.getrandbits(32)),
            FrameWay(self.addresses, publisher, pad, self.random.getrandbits(32)),
            FrameWay(self.addresses, publisher, pad, self.random.getrandbits(32)),
            SqlWay(self.database.url("hub_app"), ORG, pad),
        ]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for client in self.clients:
                await client.tick()

    async def _quiet(self, link: RedisLink) -> None:
        """Waits until everybody is at the top although nothing is published any more, which would betray a hole."""
        with link() as opened:
            truths = read_truth(opened, ORG, TOPICS)

        def behind() -> list[str]:
            return [
                f"{client.name} {topic}"
                for client in self.clients
                for topic, witness in client.witnesses.items()
                if witness.epoch == truths[topic].epoch and witness.seq < truths[topic].top
            ]

        try:
            await until(lambda: not behind(), QUIET_S, "everybody to reach the top")
        except AssertionError:
            self.figures.faults.append(f"nobody publishes, and not at the top within {QUIET_S:g} s: {behind()[:10]}")

    async def outbox_is_empty(self) -> None:
        """Waits until everything committed is relayed."""
        async with self.database.connect("hub_relay") as connection:

            async def empty() -> bool:
                return not await connection.fetchval("SELECT count(*) FROM hub.outbox WHERE state = 'pending'")

            await until(empty, SETTLE_S, "the outbox to be relayed")


def is_stored(seen: Place | None, stored: str) -> bool:
    """Whether a session's field of a topic says that everything seen is acknowledged."""
    seq, _, rest = stored.partition(":")
    return seen is None or seen.seq == 0 or (seq, rest.partition(":")[2]) == (str(seen.seq), seen.epoch)


def _transport_of(number: int) -> Transport:
    """Most have a WebSocket."""
    by_others: dict[int, Transport] = {5: "sse", 10: "poll"}
    return by_others.get(number % 12, "websocket")


def token(user: str) -> str:
    """A token that may subscribe and publish."""
    claims = {"sub": user, "org": ORG, "aud": "hub", "exp": time.time() + 3600, "scope": "subscribe:* publish:*"}
    return jwt.encode(claims, SECRET, algorithm="HS256")


def environment(redis_url: str, database: HubDatabase, settings: Mapping[str, str]) -> dict[str, str]:
    """A node's settings: short drains and heartbeats, and no limits that fifty clients of one machine would meet."""
    return {
        "HUB_REDIS_URL": redis_url,
        "HUB_DATABASE_URL": database.url("hub_app"),
        "HUB_DATABASE_RELAY_URL": database.url("hub_relay"),
        "HUB_MESSAGES_PER_SECOND": "100000",
        "HUB_MESSAGES_BURST": "100000",
        "HUB_HEARTBEAT_S": str(HEARTBEAT_S),
        "HUB_SESSION_SAVE_S": str(SAVE_S),
        "HUB_DRAIN_WINDOW_S": "2",
        "HUB_DRAIN_GRACE_S": "2",
        "HUB_UNSUBSCRIBE_DELAY_S": "0.1",
        "HUB_ACK_WINDOW": "200",
        **settings,
    }


@contextlib.asynccontextmanager
async def ordeal(
    figures: Figures,
    plan: Plan,
    redis_urls: Sequence[str],
    link: RedisLink,
    database: HubDatabase,
    folder: Path,
) -> AsyncIterator[Ordeal]:
    """Runs one scenario with a node per Redis address. The body is the fault, from its beginning to its end."""
    nodes = [
        HubProcess(f"node{number}", folder, environment(url, database, plan.settings))
        for number, url in enumerate(redis_urls)
    ]
    it = Ordeal(figures, plan, nodes, database)
    try:
        for node in nodes:
            await node.launch()
        for node in nodes:
            await node.ready()
        await it.begin()
        yield it
        await it.heal()
        await it.flows(200)
        await it.finish(link)
    finally:
        await it.end()
        for node in nodes:
            await node.terminate()
    figures.require_clean()
