"""What an HTTP status says when a connection was asked for, and whose word it is. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from hub.client.transport import ABNORMAL, Ended
from hub.client.wire import fallback_in
from hub.errors import ErrorCode

PROBLEM_JSON = "application/problem+json"

PASSING_STATUS = frozenset((408, 409, 425, 429))
"""Statuses that pass by themselves, beside all of 5xx. 409: two requests of one session met."""

# What the hub answers to a request that something on the way has changed, or that it is too old to know.
_NOT_AS_SENT = frozenset((400, 404, 405, 411, 426))


class _Problem(Struct):
    code: str = ""
    detail: str = ""
    retry_after_ms: int | None = None
    details: dict[str, Any] | None = None


def refused_with(status: int, content_type: str, retry_after: str, body: bytes, challenge: str = "") -> Ended:
    """An answer that is not what was asked for. The hub speaks problem+json, and asks for a token by ``challenge``
    (``WWW-Authenticate: Bearer``); whatever else comes is somebody's on the way.
    """
    problem = _problem(content_type, body)
    wait_s = float(retry_after) if retry_after.isdigit() else 0.0
    if problem is None:
        if status == 401 and challenge.lower().startswith("bearer"):
            return Ended(ABNORMAL, "the hub answers HTTP 401: a token is missing, or not accepted", status, wait_s)
        reason = f"something on the way, not the hub, answers HTTP {status}"
        return Ended(ABNORMAL, reason, status, wait_s, in_the_way=True)
    wait_s = max(wait_s, (problem.retry_after_ms or 0) / 1000)
    disabled = problem.code == ErrorCode.FEATURE_DISABLED
    return Ended(
        ABNORMAL,
        f"the hub answers HTTP {status}: {problem.detail}",
        status,
        wait_s,
        in_the_way=status in _NOT_AS_SENT,
        disabled=disabled,
        fallback=fallback_in(problem.details) if disabled else (),
    )


def passes(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status >= 500 or status in PASSING_STATUS


def _problem(content_type: str, body: bytes) -> _Problem | None:
    if not content_type.startswith(PROBLEM_JSON):
        return None
    try:
        return msgspec.json.decode(body, type=_Problem)
    except msgspec.DecodeError:
        return _Problem()
