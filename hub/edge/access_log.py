"""One log line per HTTP answer: method, route, status, time. Never a query (tickets), a header or a body.

The server's own access log must stay off: it writes queries.
"""

from __future__ import annotations

import time
from typing import Final

import structlog
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

_STARTED: Final = "hub_started"
# The lines of health checks and of what succeeds are for debugging; at thousands a second nobody reads them.
_INFO_FROM: Final = 400
_WARNING_FROM: Final = 500

log = structlog.get_logger(__name__)


class Stopwatch(ASGIMiddleware):
    """Notes when a route began."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Starts the clock."""
        scope["state"][_STARTED] = time.perf_counter()
        await next_app(scope, receive, send)


async def log_answer(message: Message, scope: Scope) -> None:
    """The application's ``before_send`` hook."""
    if message["type"] != "http.response.start" or scope["type"] != ScopeType.HTTP:
        return
    started = scope["state"].get(_STARTED)
    # The pattern and not the path: a path has topics in it, and whatever else somebody makes up.
    log_line(scope.get("method"), scope.get("path_template"), message["status"], started)


def log_line(method: str | None, route: str | None, status: int, started: float | None) -> None:
    """One answer; ``started`` by ``time.perf_counter``."""
    write = log.warning if status >= _WARNING_FROM else log.info if status >= _INFO_FROM else log.debug
    write(
        "http_request",
        method=method,
        route=route,
        status=status,
        ms=None if started is None else round((time.perf_counter() - started) * 1000, 1),
    )
