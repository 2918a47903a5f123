"""``hub dev``: a whole hub on this machine — servers, database, tokens to paste — ended by Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hub.cli.failure import reported
from hub.cli.serve import given

if TYPE_CHECKING:
    from hub.config import Settings
    from hub.embedded import PostgresServer, RedisServer

    Server = PostgresServer | RedisServer

DEMO_USERS = (("acme", "alice", "Alice"), ("acme", "bob", "Bob"), ("globex", "carol", "Carol"))
OPERATOR = DEMO_USERS[0]
"""May change flags, too, and hears of their changes."""
TOKEN_LIFE_S = 7 * 24 * 3600.0
_REVIVE_S = 0.5
_REVIVE_MOST_S = 10.0


@reported
def dev(
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Keep no data; the secret stays in .hub.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on; else HUB_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; else PORT.")] = None,
) -> None:
    """Run a hub with a real Redis and a real PostgreSQL in .hub, and show what to do with it.

    HUB_REDIS_URL and HUB_DATABASE_URL take the place of the servers that it would start.
    """
    from hub.cli.entry import address_of, listen, run_hub
    from hub.cli.environment import DEV_FOLDER, DEV_SCOPE, make_secret, server_environ, server_settings
    from hub.database.migrate import migrate

    environ = server_environ()
    overrides = given(host=host, port=port)
    if not environ.get("HUB_JWT_SECRET"):
        overrides["jwt_secret"] = make_secret(DEV_FOLDER)
    if not environ.get("HUB_DEFAULT_SCOPE"):
        overrides["default_scope"] = DEV_SCOPE
    if not environ.get("HUB_ALLOWED_ORIGINS"):
        # Any page of this machine's developer; a token is needed all the same.
        overrides["allowed_origins"] = ("*",)
    if not environ.get("HUB_DEMO_ORGS"):
        overrides["demo_orgs"] = tuple(sorted({org for org, _, _ in DEMO_USERS}))
    if not environ.get("HUB_FLAGS_ORG"):
        overrides["flags_org"] = OPERATOR[0]
    if not environ.get("HUB_DRAIN_WINDOW_S"):
        # Nobody wants to wait for his own Ctrl-C.
        overrides["drain_window_s"] = 0.5
    with dev_servers(None if ephemeral else DEV_FOLDER, environ) as (addresses, servers):
        settings = server_settings(**overrides, **addresses)
        with listen(settings) as listener:
            if settings.database_owner_url:
                asyncio.run(migrate(settings, lambda line: print(f"migrate: {line}")))
            else:
                print("HUB_DATABASE_OWNER_URL is not set: the database is taken as it is")
            address = address_of(listener)

            def ready() -> None:
                print(welcome(settings, address, ephemeral), flush=True)

            run_hub(settings, listener, ready, chore=lambda: revive(servers))


@contextlib.contextmanager
def dev_servers(path: Path | None, environ: dict[str, str]) -> Iterator[tuple[dict[str, str], Sequence[Server]]]:
    """Starts what the environment names no address for; yields the settings that lead there, and the servers. Uploads
    are kept in the folder, too.

    ``path`` None: in a temporary folder. Raises ``ConfigError`` when another hub uses the folder.
    """
    from hub.embedded import PostgresServer, RedisServer
    from hub.embedded.folder import DataFolder

    wants_redis = not environ.get("HUB_REDIS_URL")
    wants_postgres = not environ.get("HUB_DATABASE_URL")
    with contextlib.ExitStack() as stack:
        if not wants_redis and not wants_postgres:
            home = path or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-")))
            yield _store_in(home, environ), ()
            return
        folder = stack.enter_context(DataFolder(path))
        kept = not folder.temporary
        redis = RedisServer(folder.path / "redis", append_only=kept, sockets=folder.sockets) if wants_redis else None
        postgres = (
            PostgresServer(folder.path / "postgres", durable=kept, sockets=folder.sockets) if wants_postgres else None
        )
        servers: list[Server] = [server for server in (postgres, redis) if server is not None]
        for server in servers:
            stack.callback(server.stop)
            server.launch()
        for server in servers:
            server.wait()
        addresses = _store_in(folder.path, environ)
        if redis is not None:
            addresses["redis_url"] = redis.url
        if postgres is not None:
            addresses["database_url"] = postgres.url("hub_app")
            addresses["database_relay_url"] = postgres.url("hub_relay")
            addresses["database_owner_url"] = postgres.url()
        yield addresses, servers


def _store_in(home: Path, environ: dict[str, str]) -> dict[str, str]:
    return {} if environ.get("HUB_UPLOADS_STORE") else {"uploads_store": f"file:{home / 'uploads'}"}


async def revive(servers: Sequence[Server]) -> None:
    """Starts servers again that have ended. Runs in the main thread, to which they are tied."""
    await asyncio.gather(*(_keep_running(server) for server in servers))


async def _keep_running(server: Server) -> None:
    """Looks every ``_REVIVE_S``, and less and less often while the server does not stay up."""
    pause_s = _REVIVE_S
    while True:
        await asyncio.sleep(pause_s)
        if server.running:
            pause_s = _REVIVE_S
            continue
        if pause_s == _REVIVE_S:
            print(f"hub: {server.home.name} has ended; starting it again (log: {server.home.log})", file=sys.stderr)
        pause_s = min(_REVIVE_MOST_S, 2 * pause_s)
        try:
            server.launch()
        except Exception as error:
            print(f"hub: {server.home.name} does not start: {error}", file=sys.stderr)


def command() -> str:
    """How this program is called from this folder."""
    if shutil.which("hub"):
        return "hub"
    program = os.path.relpath(sys.argv[0])
    return program if os.access(program, os.X_OK) else f"{os.path.relpath(sys.executable)} -m hub.cli"


def welcome(settings: Settings, address: str, ephemeral: bool) -> str:
    """What stands on the screen when the hub is ready."""
    from hub.auth.tokens import mint_token

    lines = [f"hub is ready at http://{address}   (ws://{address}/ws; Ctrl-C stops it and its servers)", ""]
    lines.append(f"tokens, valid for a week ({OPERATOR[1]} may also change flags):")
    tokens = []
    for org, user, name in DEMO_USERS:
        operates = (org, user, name) == OPERATOR
        scope = f"{settings.default_scope} flags:write" if operates else None
        tokens.append(mint_token(settings, org, user, scope=scope, ttl_s=TOKEN_LIFE_S, name=name))
        lines.append(f"  {org}/{user}: {tokens[-1]}")
    lines += ["", f"watch it: http://{address}/demo#token={tokens[0]}"]
    lines.append(f"in another tab, to chat with yourself: http://{address}/demo#token={tokens[1]}")
    port = address.rpartition(":")[2]
    setting = "" if port == "8000" else f"PORT={port} "
    hub = command()
    lines += [
        "",
        "in another terminal, in this folder:",
        f"  {setting}{hub} tail events:finance --last 10",
        f"  {setting}{hub} chat lobby                 and in one more terminal:",
        f"  {setting}{hub} chat lobby --user ann",
        f'  {setting}{hub} stream --script "Fresh towels in room 12"',
        f"  {setting}{hub} upload FILE               a PDF, an image, a table, an archive",
        f"  {setting}{hub} flags off chat            flags: what is on for whom (hub flags list); clear brings it back",
        f"  {setting}{hub} publish events:finance invoice.paid '{{\"amount\": 12}}'",
        f'  curl -H "Authorization: Bearer $({hub} token --org acme --user alice)" http://{address}/v1/publish \\',
        '    --json \'{"topic": "events:finance", "name": "invoice.paid", "data": {"amount": 13}}\'',
    ]
    publication = "SELECT hub_publish('acme', 'events:finance', 'invoice.paid', '{\"amount\": 14}')"
    database = f'HUB_DATABASE_URL="{settings.database_url}" ' if ephemeral else ""
    lines.append(f'  {database}{hub} sql "{publication.replace(chr(34), chr(92) + chr(34))}"')
    return "\n".join(lines)
