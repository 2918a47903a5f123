"""Which store the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from obstore.exceptions import BaseError
from obstore.store import from_url

from hub.api import ConfigError, Settings
from services.uploads.store.folder import FolderStore
from services.uploads.store.names import checked
from services.uploads.store.objects import ObjectStore
from services.uploads.store.words import Store

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

_FOLDER = "file:"
# In memory: for tests.
_BUCKETS = ("s3://", "gs://", "az://", "memory://")
_CONNECT_TIMEOUT_S = 5.0
_MOST_RETRIES = 3
# Options of obstore's HTTP client; all others are the store's own. Times and retries have settings of the hub.
_CLIENT_OPTIONS = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "http1_only",
        "http2_only",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "proxy_ca_certificate",
        "proxy_excludes",
        "proxy_url",
        "root_certificate",
        "user_agent",
    }
)
_NOT_OPTIONS = frozenset({"bucket", "bucket_name", "container_name", "connect_timeout", "read_timeout", "timeout"})


def open_store(settings: Settings) -> Store:
    """Touches nothing yet. Raises ``ConfigError``."""
    address = settings.uploads_store
    if address.startswith(_FOLDER):
        return _folder(address.removeprefix(_FOLDER), settings)
    if address.startswith(_BUCKETS):
        return _objects(address, settings)
    raise ConfigError(
        "HUB_UPLOADS_STORE must be file:<folder>, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
    )


def _folder(path: str, settings: Settings) -> FolderStore:
    path = path.removeprefix("//")
    if not path:
        raise ConfigError("HUB_UPLOADS_STORE names no folder after 'file:'")
    return FolderStore(
        Path(path).absolute(),
        durable=settings.uploads_store_fsync,
        threads=settings.uploads_store_threads,
        timeout_s=settings.uploads_store_timeout_s,
    )


def _objects(address: str, settings: Settings) -> ObjectStore:
    scheme, _, path = address.partition("://")
    bucket, _, prefix = path.rstrip("/").partition("/")
    try:
        for name in prefix.split("/") if prefix else ():
            checked(name)
    except ValueError as error:
        raise ConfigError(f"HUB_UPLOADS_STORE: {error}") from error
    if scheme != "memory" and not bucket:
        raise ConfigError(f"HUB_UPLOADS_STORE names no bucket after '{scheme}://'")
    return ObjectStore(
        _bucket(f"{scheme}://{bucket}", settings),
        prefix,
        block_bytes=settings.uploads_block_bytes,
        threads=settings.uploads_store_threads,
        timeout_s=settings.uploads_store_timeout_s,
    )


def _bucket(address: str, settings: Settings) -> Bucket:
    if address.startswith("memory:"):
        return from_url(address)
    options = _options(settings.uploads_store_options)
    timeout = timedelta(seconds=settings.uploads_store_timeout_s)
    client = {name: value for name, value in options.items() if name in _CLIENT_OPTIONS}
    try:
        return from_url(
            address,
            config=cast(Any, {name: value for name, value in options.items() if name not in client}),
            client_options=cast(
                Any,
                {"timeout": timeout, "connect_timeout": min(timeout, timedelta(seconds=_CONNECT_TIMEOUT_S)), **client},
            ),
            retry_config={"max_retries": _MOST_RETRIES, "retry_timeout": timeout},
        )
    except (BaseError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"HUB_UPLOADS_STORE or HUB_UPLOADS_STORE_OPTIONS: {reason}") from error


def _options(given: tuple[str, ...]) -> Mapping[str, str]:
    options = {}
    for option in given:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise ConfigError("HUB_UPLOADS_STORE_OPTIONS must be name=value, separated by commas")
        if name in _NOT_OPTIONS:
            raise ConfigError(
                f"HUB_UPLOADS_STORE_OPTIONS: {name} has settings of its own, HUB_UPLOADS_STORE and "
                "HUB_UPLOADS_STORE_TIMEOUT_S"
            )
        options[name.strip()] = value.strip()
    return options
