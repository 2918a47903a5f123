"""The HTTP statuses that tus wants where the hub's codes have others."""

from __future__ import annotations

from typing import Final

from hub.api import ErrorCode, HttpError, HubError

_GONE: Final = frozenset({"cancelled", "expired", "rejected"})


def as_tus(error: HubError) -> HubError:
    """``error`` with the status by which clients of tus know what to do."""
    if isinstance(error, HttpError):
        return error
    if error.code is ErrorCode.CHECKSUM_MISMATCH:
        return HttpError(error, 460)
    if error.code is ErrorCode.CONFLICT:
        state = (error.details or {}).get("state")
        if state in _GONE:
            return HttpError(error, 410)
        # Another connection goes on, or its owner has paused it. With 409 tus-js-client would go on too, and two
        # clients would take the upload from one another for ever.
        if state in (None, "paused"):
            return HttpError(error, 400)
    return error
