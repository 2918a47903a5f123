"""What goes on unchecked because Redis did not answer, or refused to: counted always, logged once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from hub.errors import ErrorCode, HubError
from hub.redis import Refused

_LOG_EVERY_S: Final = 60.0
_log = structlog.get_logger(__name__)


class FailOpen:
    """Remembers that Redis could not be asked. ``event`` is the line in the log; ``clock`` is monotonic seconds."""

    def __init__(
        self, retry_s: float, clock: Callable[[], float] = time.monotonic, *, event: str = "limits_not_checked"
    ) -> None:
        self._retry_s = retry_s
        self._clock = clock
        self._event = event
        self._failed_at: float | None = None
        self._logged_at: float | None = None
        self.count = 0
        """How often something was let through unchecked since the process started; for the metrics."""

    @property
    def pausing(self) -> bool:
        """Whether Redis failed so recently that it is not worth asking: every question would wait for its timeout."""
        return self._failed_at is not None and self._clock() - self._failed_at < self._retry_s

    def let_through(self, what: str, error: HubError | None = None) -> None:
        """Notes one thing let through. Raises ``error`` again when it says anything but that Redis did not do it.

        One that was refused is no reason to stop asking: all the others may be answered.
        """
        refused = isinstance(error, Refused)
        if error is not None:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise error
            if not refused:
                self._failed_at = self._clock()
        self.count += 1
        if self._logged_at is None or self._clock() - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = self._clock()
            reason = "redis refused it" if refused else "redis is not reachable"
            _log.warning(self._event, what=what, so_far=self.count, reason=reason)
