"""Close codes: why a connection ends and what the client does next. What does not end it is in ``hub.errors``."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal, NamedTuple

Reconnect = Literal["never", "later", "now"]


class CloseCode(IntEnum):
    """WebSocket close codes (RFC 6455 section 7.4.1, and the private range 4000–4999 of PROTOCOL section 11)."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    INVALID_UTF8 = 1007
    BAD_FRAME = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    VERSION = 4405
    TIMEOUT = 4408
    TAKEN_OVER = 4409
    TOO_LARGE = 4413
    TOO_MANY = 4429
    INTERNAL = 4500
    OVER_CAPACITY = 4503
    DRAINING = 4504
    TOO_SLOW = 4508
    NO_PONG = 4510


class CloseSpec(NamedTuple):
    """The reason text that goes with a code, and what the client does."""

    reason: str
    reconnect: Reconnect


CLOSE_SPECS: dict[CloseCode, CloseSpec] = {
    CloseCode.NORMAL: CloseSpec("bye", "never"),
    CloseCode.PROTOCOL_ERROR: CloseSpec("fault against RFC 6455", "never"),
    CloseCode.INVALID_UTF8: CloseSpec("text is not UTF-8", "never"),
    CloseCode.BAD_FRAME: CloseSpec("bad frame", "never"),
    CloseCode.UNAUTHENTICATED: CloseSpec("not authenticated or expired", "never"),
    CloseCode.FORBIDDEN: CloseSpec("not allowed", "never"),
    CloseCode.VERSION: CloseSpec("version not spoken", "never"),
    CloseCode.TIMEOUT: CloseSpec("no hello in time, or idle", "later"),
    CloseCode.TAKEN_OVER: CloseSpec("taken over by a newer connection", "never"),
    CloseCode.TOO_LARGE: CloseSpec("message too large", "never"),
    CloseCode.TOO_MANY: CloseSpec("too many requests", "later"),
    CloseCode.INTERNAL: CloseSpec("internal error", "later"),
    CloseCode.OVER_CAPACITY: CloseSpec("over capacity", "later"),
    CloseCode.DRAINING: CloseSpec("draining", "now"),
    CloseCode.TOO_SLOW: CloseSpec("too slow", "now"),
    CloseCode.NO_PONG: CloseSpec("no pong", "now"),
}
