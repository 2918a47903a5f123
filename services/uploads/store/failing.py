"""What becomes of a failure below a store: a line in the log, and what callers are told."""

from __future__ import annotations

import structlog

from hub.api import HubError, not_found
from services.uploads.store.words import BytesMissing, StoreFull, store_unavailable

_MOST_CHARS = 500  # of a failure's text; object stores answer with whole pages

_log = structlog.get_logger(__name__)


class Lost(OSError):
    """An object is shorter than it was."""


def failed(error: Exception, *, full: bool = False, missing: str | None = None, logged: bool = True) -> HubError:
    """To be raised ``from error``: ``not_found`` if it was ``missing`` that is not there, else as ``words`` says.

    A secret never stands in these texts: they name objects and answers, not requests.
    """
    if missing is not None and isinstance(error, FileNotFoundError):
        return not_found(missing)
    if isinstance(error, Lost):
        _log.warning("uploads_store_lacks_bytes", error=repr(error)[:_MOST_CHARS])
        return BytesMissing()
    if logged:
        _log.warning("uploads_store_failed", error=repr(error)[:_MOST_CHARS], full=full)
    return StoreFull() if full else store_unavailable()
