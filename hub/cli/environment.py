"""Where the commands get settings, secret, address and token from: options, environment, and the folder of ``hub dev``.

In a folder in which ``hub dev`` has run, ``.hub/secret`` signs tokens, and what is not set leads to its servers.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from hub.config import Settings, load_settings, variable
from hub.errors import ConfigError

DEV_FOLDER = Path(".hub")
SECRET_BYTES = 48

# Of the client's commands. They are no settings of the hub, which would complain about them.
URL_VARIABLE = "HUB_URL"
TOKEN_VARIABLE = "HUB_TOKEN"  # noqa: S105 - the name of a variable
TRANSPORT_VARIABLE = "HUB_TRANSPORT"
_OF_THE_CLIENT = (URL_VARIABLE, TOKEN_VARIABLE, TRANSPORT_VARIABLE)

DEV_SCOPE = "subscribe:* publish:* call:*"
"""What a token without a scope may do under ``hub dev``: everything but ``admin`` and ``flags:write``."""

# Stand for what a command does not need. Nothing can be reached or signed with them by mistake.
_UNUSED = {"HUB_REDIS_URL": "redis://unset.invalid", "HUB_DATABASE_URL": "postgresql://unset.invalid/"}


def server_environ() -> dict[str, str]:
    """The environment without the client's variables."""
    return {name: value for name, value in os.environ.items() if name not in _OF_THE_CLIENT}


def server_settings(**overrides: Any) -> Settings:
    """Settings of a hub that serves. Raises ``ConfigError``, a line per wrong setting."""
    return load_settings(server_environ(), **overrides)


def partial_settings() -> Settings:
    """Settings for a command that needs some of them only: what is not set, and no dev servers offer, stays unset.

    Fields that the hub could not do without are then as in ``is_unset``.
    """
    environ = {**_UNUSED, **dev_environ(), **{name: value for name, value in server_environ().items() if value}}
    if not environ.get("HUB_JWT_SECRET") and not environ.get("HUB_JWKS_URL"):
        environ["HUB_JWT_SECRET"] = "unset".ljust(SECRET_BYTES)
        settings = load_settings(environ)
        return Settings(**{**{name: getattr(settings, name) for name in Settings.__struct_fields__}, "jwt_secret": ""})
    return load_settings(environ)


def is_unset(value: str) -> bool:
    """Whether a required setting of ``partial_settings`` was not given."""
    return value in ("", *_UNUSED.values())


def dev_environ(folder: Path = DEV_FOLDER) -> dict[str, str]:
    """What leads to the servers of a ``hub dev`` that runs in this folder; nothing when none does."""
    found = {}
    if (folder / "secret").is_file():
        found["HUB_JWT_SECRET"] = read_secret(folder)
    if (folder / "uploads").is_dir():
        found["HUB_UPLOADS_STORE"] = f"file:{folder / 'uploads'}"
    sockets = (folder / "run").resolve()
    if (sockets / "redis.sock").exists():
        found["HUB_REDIS_URL"] = f"unix://{sockets / 'redis.sock'}"
    if (sockets / ".s.PGSQL.5432").exists():
        from hub.embedded import PostgresServer

        server = PostgresServer(folder / "postgres", sockets=sockets)
        found["HUB_DATABASE_URL"] = server.url("hub_app")
        found["HUB_DATABASE_RELAY_URL"] = server.url("hub_relay")
        found["HUB_DATABASE_OWNER_URL"] = server.url()
    return found


def read_secret(folder: Path = DEV_FOLDER) -> str:
    """The secret of ``hub dev``. Raises ``ConfigError`` when there is none."""
    try:
        return (folder / "secret").read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"HUB_JWT_SECRET is not set, and {folder / 'secret'} cannot be read: {error.strerror}"
        ) from error


def make_secret(folder: Path) -> str:
    """The secret of ``hub dev``, made the first time; only its owner can read it."""
    path = folder / "secret"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Complete before it has its name: nobody finds half a secret.
        partial = folder / f"secret.{os.getpid()}"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES) + "\n")
        partial.rename(path)
    return read_secret(folder)


def mint(org: str, user: str, *, scope: str | None = None, ttl_s: float = 3600.0, name: str = "") -> str:
    """A token signed with HUB_JWT_SECRET, or with the secret of ``hub dev``. Raises ``ConfigError``."""
    from hub.auth.tokens import mint_token

    environ = server_environ()
    settings = Settings(
        redis_url="",
        database_url="",
        jwt_secret=environ.get("HUB_JWT_SECRET") or read_secret(),
        jwt_audience=environ.get("HUB_JWT_AUDIENCE") or "hub",
        jwt_issuer=environ.get("HUB_JWT_ISSUER", ""),
    )
    try:
        return mint_token(settings, org, user, scope=scope, ttl_s=ttl_s, name=name)
    except ValueError as error:
        raise ConfigError(f"--org, --user or --scope: {error}") from error


def default_url() -> str:
    """The hub on this machine."""
    return f"ws://127.0.0.1:{os.environ.get(variable('port')) or 8000}/ws"
