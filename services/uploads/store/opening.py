"""Which store the settings name."""

from __future__ import annotations

from pathlib import Path

from hub.api import ConfigError, Settings
from services.uploads.store.folder import FolderStore
from services.uploads.store.words import Store

_FOLDER = "file:"


def open_store(settings: Settings) -> Store:
    """Touches nothing yet. Raises ``ConfigError``."""
    address = settings.uploads_store
    if address.startswith(_FOLDER):
        return _folder(address.removeprefix(_FOLDER), settings)
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
