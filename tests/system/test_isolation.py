"""The isolation walk: every door of the hub, tried in one organisation with the names of another.

What is walked comes from the registries themselves: the client frames, the topic kinds, the methods and the routes of a
node with the services that ship and the test service. For each door: nothing of the other organisation is seen, nothing
of it changes, and the answer is, byte for byte, the one for names that nobody has. The database's own walls have their
tests in ``tests/database``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, get_args

import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from hub.app import load_services
from hub.embedded import PostgresServer, RedisServer
from hub.orgs import ticket_key
from hub.protocol.frames import ClientFrame, Event, Position
from services.main import SERVICES
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.hub_services import TestService
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.running_hub import RunningHub, hub_settings, running_hub
from tests.support.servers import client as connected
from tests.system import isolation_walkers as walkers
from tests.system.isolation_walkers import Names, Walk

HERE = "tests/system/isolation_walkers.py"
SECRET_DATA = "only-for-acme"
_runs = iter(range(1, 1_000_000))


class Victim:
    """The other organisation: topics of every kind with events, a user with a session, a ticket, idempotency keys."""

    def __init__(self, peers: Peers, redis: RedisServer, database: HubDatabase) -> None:
        self.peers = peers
        self.redis = redis
        self.database = database
        self.topics = {kind: f"{kind}:{mine}" for kind, (mine, _) in walkers.KEYS.items()}
        self.positions: dict[str, Position] = {}
        self.session = ""
        self.ticket = ""
        self.client: RawClient
        self.count = 0

    async def settle(self) -> None:
        """Fills the organisation."""
        self.client = await self.peers.join("anna", scope=walkers.SCOPE)
        self.session = self.peers.welcome.session
        subscribed = [topic for kind, topic in self.topics.items() if kind != "user"]
        await self.client.joined(*subscribed, "user:me")
        for kind, topic in self.topics.items():
            epoch, seq = "", 0
            for number in range(3):
                result = await self.client.publish(topic, SECRET_DATA, key=f"acme-key-{number}" if number else "")
                epoch, seq = result["epoch"], result["seq"]
            self.positions[kind] = Position(epoch or "0123456789abcdef", max(seq, 3))
        await self.client.events(3 * len(self.topics))


def in_redis(victim: Victim) -> dict[str, Any]:
    """Everything that Redis has of the organisation, as it lies there."""
    with connected(victim.redis) as redis:
        keys = sorted(redis.scan_iter(match=f"*{{{victim.peers.org}*", count=10_000))
        keys.append(ticket_key(victim.ticket))
        return {key: dumped(redis, key) for key in keys}


def dumped(redis: Any, key: str) -> Any:
    kind = redis.type(key)
    readers = {
        "string": lambda: redis.get(key),
        "hash": lambda: redis.hgetall(key),
        "zset": lambda: redis.zrange(key, 0, -1, withscores=True),
        "stream": lambda: redis.xrange(key),
        "none": lambda: "gone",
    }
    return readers[kind]()


async def in_postgres(victim: Victim) -> dict[str, list[str]]:
    """Every row of the organisation, whatever the table."""
    tables = """
        SELECT n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org' AND NOT a.attisdropped
        WHERE c.relkind IN ('r', 'p') AND n.nspname IN ('hub', 'public')
    """
    async with victim.database.connect("postgres") as link:
        names = [row["name"] for row in await link.fetch(tables)]
        found = {}
        for name in names:
            rows = await link.fetch(f"SELECT t::text AS row FROM {name} t WHERE org = $1", victim.peers.org)
            found[name] = sorted(row["row"] for row in rows)
    assert any(found.values()), "the organisation has no rows; nothing would be proven"
    return found
