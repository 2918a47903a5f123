"""Reads the settings from the environment and checks them, each for itself and against one another.

``PORT`` and ``LOG_LEVEL`` have their usual names; every other field is ``HUB_<FIELD>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from hub.config.service_settings import ServiceSettings
from hub.config.settings import Settings
from hub.errors import ConfigError

MINIMUM_SECRET_BYTES = 32

# Those of the hub itself first, for whoever reads the list; inherited ones come first by themselves.
FIELDS: dict[str, msgspec.structs.FieldInfo] = {
    field.name: field
    for field in sorted(msgspec.structs.fields(Settings), key=lambda field: hasattr(ServiceSettings, field.name))
}
# What a chunk of content takes at most in its event: html and the same as text, up to four bytes a character in UTF-8;
# and what may come on top of its longest html, a tag and the end tags.
_CHUNK_BYTES_PER_CHAR = 8
_CHUNK_TAGS_BYTES = 16_384
_PLAIN_NAMES = {"port": "PORT", "log_level": "LOG_LEVEL"}
_LISTS = {"event_services", "demo_orgs", "allowed_origins", "assistant_providers", "uploads_store_options"}


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
    return problems + _cross_check_content(settings) + _cross_check_uploads(settings)


def _cross_check_content(settings: Settings) -> list[str]:
    chunk_bytes = settings.content_max_chunk_chars * _CHUNK_BYTES_PER_CHAR + _CHUNK_TAGS_BYTES
    rules = {
        "HUB_CONTENT_REPLAY_S must not be less than HUB_CONTENT_SESSION_S: a stream would lose its beginning while it "
        "runs": settings.content_replay_s >= settings.content_session_s,
        "HUB_CONTENT_KEEP_S must not be less than HUB_CONTENT_REPLAY_S": (
            settings.content_keep_s >= settings.content_replay_s
        ),
        f"HUB_MAX_EVENT_BYTES must be at least {chunk_bytes}, {_CHUNK_BYTES_PER_CHAR} for each of "
        f"HUB_CONTENT_MAX_CHUNK_CHARS and {_CHUNK_TAGS_BYTES}: a chunk is one event": (
            settings.max_event_bytes >= chunk_bytes
        ),
        "HUB_CONTENT_MAX_BYTES must not be more than HUB_CONTENT_MAX_STREAM_BYTES": (
            settings.content_max_bytes <= settings.content_max_stream_bytes
        ),
        "HUB_CONTENT_MAX_BYTES must be less than HUB_MAX_MESSAGE_BYTES": (
            settings.content_max_bytes < settings.max_message_bytes
        ),
    }
    return [problem for problem, kept in rules.items() if not kept]


def _cross_check_uploads(settings: Settings) -> list[str]:
    rules = {
        "HUB_CHUNK_FREE_BYTES must not be more than HUB_UPLOADS_CHUNK_BYTES: chunks of that size cost nothing": (
            settings.chunk_free_bytes <= settings.uploads_chunk_bytes
        ),
        "HUB_UPLOADS_WINDOW_BYTES must be at least twice HUB_UPLOADS_CHUNK_BYTES and HUB_UPLOADS_BLOCK_BYTES: one is "
        "on its way while the other is stored": settings.uploads_window_bytes
        >= 2 * max(settings.uploads_chunk_bytes, settings.uploads_block_bytes),
        f"HUB_UPLOADS_LINK_SECRET must have at least {MINIMUM_SECRET_BYTES} bytes": not settings.uploads_link_secret
        or len(settings.uploads_link_secret.encode()) >= MINIMUM_SECRET_BYTES,
    }
    return [problem for problem, kept in rules.items() if not kept]
