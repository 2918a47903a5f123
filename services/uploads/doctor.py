"""``hub doctor`` on uploads: whether the store takes, gives and forgets."""

from __future__ import annotations

from collections.abc import Sequence

from hub.api import ConfigError, Finding, HubError, Settings
from services.uploads.store import open_store

_CHECK = "store of uploads"
_REMEDY = (
    "correct HUB_UPLOADS_STORE, HUB_UPLOADS_STORE_OPTIONS, or what the hub may do there; see docs/uploads-stores.md"
)
_MOST_CHARS = 200


async def check_store(settings: Settings) -> Sequence[Finding]:
    """Writes something very small, reads it, removes it."""
    try:
        store = open_store(settings)
    except ConfigError as error:
        return [Finding(False, _CHECK, str(error), _REMEDY)]
    try:
        await store.start()
        await store.probe()
    except (ConfigError, HubError) as error:
        reason = str(error.__cause__ or error).partition("\n")[0][:_MOST_CHARS]
        return [Finding(False, _CHECK, f"{settings.uploads_store}: {reason}", _REMEDY)]
    finally:
        await store.close()
    return [Finding(True, _CHECK, settings.uploads_store)]
