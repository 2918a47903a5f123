"""What the hub logs during a test: kept for asserting, and proof that nothing went wrong behind the client's back."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from typing import Any

import structlog

_MOST = 20_000
_BAD = {"error", "critical", "exception"}
# What a stock uvicorn says by itself: after every upgrade that the application denied with an HTTP answer, and when a
# client sends what it must not.
_HARMLESS = {"ASGI callable returned without completing handshake.", "Invalid UTF-8 sequence received from client."}


class LogCatcher(logging.Handler):
    """Entries of structlog and of the standard library, from all threads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.entries: deque[dict[str, Any]] = deque(maxlen=_MOST)

    def __call__(self, _: Any, method: str, entry: Any) -> Any:
        """A structlog processor."""
        self.entries.append({**entry, "log_level": method})
        raise structlog.DropEvent

    def emit(self, record: logging.LogRecord) -> None:
        """A handler of the standard library."""
        level = record.levelname.lower()
        self.entries.append({"event": record.getMessage(), "log_level": level, "logger": record.name})

    def named(self, event: str) -> list[dict[str, Any]]:
        """The entries with this text."""
        return [entry for entry in tuple(self.entries) if entry["event"] == event]

    def errors(self) -> list[dict[str, Any]]:
        """What should not have happened."""
        return [
            entry for entry in tuple(self.entries) if entry["log_level"] in _BAD and entry["event"] not in _HARMLESS
        ]


@contextlib.contextmanager
def caught_logs() -> Iterator[LogCatcher]:
    """Catches everything until the end of the block."""
    catcher = LogCatcher()
    before = structlog.get_config()["processors"]
    structlog.configure(processors=[catcher])
    logging.getLogger().addHandler(catcher)
    try:
        yield catcher
    finally:
        logging.getLogger().removeHandler(catcher)
        structlog.configure(processors=before)
