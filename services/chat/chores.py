"""What is done for many rooms in a row: one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

from hub.api import ErrorCode, HubError

_log = structlog.get_logger(__name__)


async def each(work: Awaitable[object]) -> bool:
    """Whether it was done. Only ``unavailable`` is raised: it would be the same for all others."""
    try:
        await work
    except HubError as error:
        if error.code is ErrorCode.UNAVAILABLE:
            raise
        _log.warning("chat_chore_waits", reason=error.message)
        return False
    except Exception:
        _log.exception("chat_chore_failed")
        return False
    return True
