"""The HTTP statuses that tus wants where the hub's codes have others."""

from __future__ import annotations

from typing import Final

from hub.api import ErrorCode, HubError

_GONE: Final = frozenset({"cancelled", "expired", "rejected"})


class AnsweredAs(HubError):
    """``error``, answered with a status of its own."""

    def __init__(self, status: int, error: HubError) -> None:
        super().__init__(
            error.code,
            error.message,
            retry=error.retry,
            retry_after_ms=error.retry_after_ms,
            details=error.details,
        )
        self._status = status
        self.__cause__ = error.__cause__

    @property
    def http_status(self) -> int:
        """Not the code's."""
        return self._status


def as_tus(error: HubError) -> HubError:
    """``error`` with the status by which clients of tus know what to do."""
    if isinstance(error, AnsweredAs):
        return error
    if error.code is ErrorCode.CHECKSUM_MISMATCH:
        return AnsweredAs(460, error)
    if error.code is ErrorCode.CONFLICT:
        state = (error.details or {}).get("state")
        if state in _GONE:
            return AnsweredAs(410, error)
        # Another connection goes on, or its owner has paused it. With 409 tus-js-client would go on too, and two
        # clients would take the upload from one another for ever.
        if state in (None, "paused"):
            return AnsweredAs(400, error)
    return error
