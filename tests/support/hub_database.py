"""A migrated database of its own for a test, with an address for each of the hub's roles."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from hub.config import Settings
from hub.database.migrate import migrate
from hub.embedded import PostgresServer
from hub.embedded.postgres_server import SUPERUSER

_SECRET = "not-a-secret-but-32-bytes-long-ok"


class HubDatabase:
    """One database of ``server``."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.name = name

    def url(self, role: str) -> str:
        """Its address as ``role``: hub_owner, hub_app, hub_relay, postgres …"""
        return self.server.url(role, self.name)

    def settings(self, **overrides: Any) -> Settings:
        """Settings that name this database, with short pauses."""
        values: dict[str, Any] = {
            "redis_url": "redis://127.0.0.1:1",
            "database_url": self.url("hub_app"),
            "database_owner_url": self.url("hub_owner"),
            "database_relay_url": self.url("hub_relay"),
            "jwt_secret": _SECRET,
            "outbox_poll_s": 0.1,
            "reconnect_max_s": 0.2,
        }
        return Settings(**(values | overrides))

    @contextlib.asynccontextmanager
    async def connect(self, role: str) -> AsyncIterator[Any]:
        """A plain connection as ``role``, closed at the end."""
        connection = await asyncpg.connect(self.url(role))
        try:
            yield connection
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def empty_database(server: PostgresServer, template: str = "template1") -> AsyncIterator[HubDatabase]:
    """A database like ``template``, by default an empty one; dropped at the end, whoever is still connected."""
    database = HubDatabase(server, f"test_{secrets.token_hex(6)}")
    owner = await asyncpg.connect(server.url())
    try:
        await owner.execute(f"CREATE DATABASE {database.name} TEMPLATE {template}")
        try:
            yield database
        finally:
            # Not WITH (FORCE) as the owner: it may not end the sessions of other roles.
            superuser = await asyncpg.connect(server.url(SUPERUSER))
            await superuser.execute(f"DROP DATABASE {database.name} WITH (FORCE)")
            await superuser.close()
    finally:
        await owner.close()


@contextlib.asynccontextmanager
async def migrated_database(server: PostgresServer) -> AsyncIterator[HubDatabase]:
    """A database with everything in ``migrations/`` applied; the fixture ``hub_database`` copies one."""
    async with empty_database(server) as database:
        await migrate(database.settings(), lambda _: None)
        yield database
