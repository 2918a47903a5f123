"""Reads the settings from the environment and checks them, each for itself and against one another.

``PORT`` and ``LOG_LEVEL`` have their usual names; every other field is ``HUB_<FIELD>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from hub.config.settings import Settings
from hub.errors import ConfigError

MINIMUM_SECRET_BYTES = 32

FIELDS: dict[str, msgspec.structs.FieldInfo] = {field.name: field for field in msgspec.structs.fields(Settings)}
_PLAIN_NAMES = {"port": "PORT", "log_level": "LOG_LEVEL"}
_LISTS = {"event_services", "demo_orgs", "allowed_origins", "assistant_providers"}


def variable(field: str) -> str:
    """The environment variable of a field: ``redis_url`` -> ``HUB_REDIS_URL``."""
    return _PLAIN_NAMES.get(field, f"HUB_{field.upper()}")


def load_settings(environ: Mapping[str, str], **overrides: Any) -> Settings:
    """Settings from the environment; ``overrides`` win. Raises ``ConfigError`` with one line per wrong setting."""
    given: dict[str, Any] = dict(overrides)
    problems: list[str] = []
    for name, field in FIELDS.items():
        raw = environ.get(variable(name))
        if name in given:
            continue
        if raw is None or raw == "":
            if field.required:
                problems.append(f"{variable(name)} is not set")
            continue
        try:
            given[name] = _parse(name, field, raw)
        except (msgspec.ValidationError, ValueError) as error:
            problems.append(f"{variable(name)}: {error}")
    problems += [f"{name} is not a setting; see docs/configuration.md" for name in _unknown(environ)]
    if not problems:
        settings = Settings(**given)
        problems = _cross_check(settings)
        if not problems:
            return settings
    raise ConfigError("\n".join(problems))


def _parse(name: str, field: msgspec.structs.FieldInfo, raw: str) -> Any:
    if name in _LISTS:
        return tuple(part.strip() for part in raw.split(",") if part.strip())
    value = raw.lower() if name == "log_level" else raw
    return msgspec.convert(value, field.type, strict=False)


def _unknown(environ: Mapping[str, str]) -> list[str]:
    known = {variable(name) for name in FIELDS}
    return sorted(name for name in environ if name.startswith("HUB_") and name not in known)


def _cross_check(settings: Settings) -> list[str]:
    problems = []
    if not settings.jwt_secret and not settings.jwks_url:
        problems.append("HUB_JWT_SECRET (HS256, at least 32 bytes) or HUB_JWKS_URL must be set")
    if settings.jwt_secret and len(settings.jwt_secret.encode()) < MINIMUM_SECRET_BYTES:
        problems.append(
            f"HUB_JWT_SECRET has {len(settings.jwt_secret.encode())} bytes; at least {MINIMUM_SECRET_BYTES} are needed"
        )
    if settings.http_events_burst < settings.max_publish_batch:
        problems.append("HUB_HTTP_EVENTS_BURST must not be less than HUB_MAX_PUBLISH_BATCH")
    if settings.publish_turn_events > settings.redis_departure_calls:
        problems.append("HUB_PUBLISH_TURN_EVENTS must not be more than HUB_REDIS_DEPARTURE_CALLS")
    if settings.redis_departures >= settings.redis_max_connections:
        problems.append("HUB_REDIS_DEPARTURES must be less than HUB_REDIS_MAX_CONNECTIONS")
    if settings.max_event_bytes > settings.max_message_bytes:
        problems.append("HUB_MAX_EVENT_BYTES must not be more than HUB_MAX_MESSAGE_BYTES")
    if settings.probe_timeout_s >= settings.redis_timeout_s * 10:
        problems.append("HUB_PROBE_TIMEOUT_S must be less than ten times HUB_REDIS_TIMEOUT_S")
    return problems
