"""Errors over HTTP: every one, the framework's own included, as RFC 9457 ``application/problem+json``.

What a fault of the hub was stays in its log; the answer never holds a traceback or a library's text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import structlog
from litestar import Request, Response
from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap, Message, Scope
from msgspec import Struct

from hub.errors import ERROR_SPECS, ErrorCode, HubError, Retry, bad_request
from hub.telemetry import Metrics

PROBLEM_JSON: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:hub:error:"
_REFUSED: Final = "hub.refused"

# What the framework raises by itself; other statuses below 500 are a bad request.
_CODES: Final[dict[int, ErrorCode]] = {
    401: ErrorCode.UNAUTHENTICATED,
    403: ErrorCode.FORBIDDEN,
    404: ErrorCode.NOT_FOUND,
    413: ErrorCode.TOO_LARGE,
    415: ErrorCode.CONTENT_TYPE,
    429: ErrorCode.RATE_LIMITED,
    503: ErrorCode.UNAVAILABLE,
}
_TEXTS: Final[dict[int, str]] = {
    404: "there is no such path; /openapi.json lists them",
    405: "this path does not know this method; the header Allow lists those that it does",
    413: "the body is larger than this path accepts; send less at a time",
    415: "this content type is not accepted here",
}

log = structlog.get_logger(__name__)


class HttpError(HubError):
    """``error``, where HTTP has a better status than the code's, or headers that go with it."""

    def __init__(self, error: HubError, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            error.code, error.message, retry=error.retry, retry_after_ms=error.retry_after_ms, details=error.details
        )
        self.headers: Mapping[str, str] = headers or {}
        self._status = status
        self.__cause__ = error.__cause__

    @property
    def http_status(self) -> int:
        """Not the code's."""
        return self._status


class Problem(Struct, omit_defaults=True):
    """The body of every error answer (RFC 9457, with the fields of an ``error`` frame)."""

    type: str
    title: str
    status: int
    detail: str
    code: ErrorCode
    retry: Retry
    retry_after_ms: int | None = None
    details: dict[str, Any] | None = None


def problem(error: HubError, status: int | None = None) -> Problem:
    """``error`` as a problem; ``status`` if HTTP has a better one than the code's."""
    return Problem(
        type=TYPE_PREFIX + error.code,
        title=ERROR_SPECS[error.code].meaning,
        status=status or error.http_status,
        detail=error.message,
        code=error.code,
        retry=error.retry,
        retry_after_ms=error.retry_after_ms,
        details=error.details,
    )


Wording = Callable[[Request[Any, Any, Any], HubError, int], tuple[Any, str]]
"""(request, error, status) -> body and media type of the answer."""


def _as_problem(_: Request[Any, Any, Any], error: HubError, status: int) -> tuple[Any, str]:
    return problem(error, status), PROBLEM_JSON


def problem_handlers(metrics: Metrics, wording: Wording = _as_problem) -> ExceptionHandlersMap:
    """The exception handlers of the whole application; ``wording``: of routes whose protocol has errors of its own."""

    def answer(request: Request[Any, Any, Any], error: HubError, status: int | None = None) -> Response[Any]:
        metrics.error(error.code)
        status = status or error.http_status
        body, media_type = wording(request, error, status)
        headers = problem_headers(error, status, brought="authorization" in request.headers)
        return Response(body, status_code=status, headers=headers, media_type=media_type)

    def on_hub_error(request: Request[Any, Any, Any], error: HubError) -> Response[Any]:
        if error.http_status >= 500 and error.__cause__ is not None:
            log.warning("http_request_failed", code=error.code, reason=error.message, cause=repr(error.__cause__))
        return answer(request, error)

    def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
        if error.status_code >= 500 and error.status_code not in _CODES:
            return on_anything(request, error)
        response = answer(request, _translated(error), error.status_code)
        for name, value in (error.headers or {}).items():
            response.set_header(name, value)
        return response

    def on_anything(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        log.error("http_handler_failed", method=request.method, exc_info=error)
        return answer(request, HubError(ErrorCode.INTERNAL, "a fault of the hub; it is in its log, try again later"))

    return {HubError: on_hub_error, HTTPException: on_http_exception, Exception: on_anything}


def problem_headers(error: HubError, status: int, *, brought: bool) -> dict[str, str]:
    """What goes with a problem; names in lower case. ``brought``: the request had the header Authorization."""
    headers = {"cache-control": "no-store"}
    if isinstance(error, HttpError):
        headers |= {name.lower(): value for name, value in error.headers.items()}
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_ms / 1000))
    if status == 401:
        # RFC 6750 section 3.1: no error code for a request that brought no token at all.
        headers["www-authenticate"] = 'Bearer realm="hub"' + (', error="invalid_token"' if brought else "")
    return headers


async def refused_preflight(message: Message, scope: Scope) -> None:
    """A ``before_send`` hook: the framework answers a preflight that it refuses in words of its own."""
    if scope["type"] != ScopeType.HTTP or scope["method"] != "OPTIONS":
        return
    if message["type"] == "http.response.start" and message["status"] == 400:
        headers = MutableScopeHeaders.from_message(message)
        if headers.get("content-type", "").startswith("text/plain"):
            scope["state"][_REFUSED] = body = msgspec.json.encode(problem(_preflight()))
            headers["Content-Type"], headers["Content-Length"] = PROBLEM_JSON, str(len(body))
            headers["Cache-Control"] = "no-store"
    elif message["type"] == "http.response.body" and (body := scope["state"].pop(_REFUSED, b"")):
        message["body"] = body


def _preflight() -> HubError:
    text = "pages of this origin may not ask so: see HUB_ALLOWED_ORIGINS for origins, docs/transports.md for headers"
    return bad_request(text)


def _translated(error: HTTPException) -> HubError:
    code = _CODES.get(error.status_code, ErrorCode.BAD_REQUEST)
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        fields = [_field(item) for item in error.extra if isinstance(item, dict)]
        text = "; ".join(f"{field['field']}: {field['message']}" for field in fields) or "the request is malformed"
        return HubError(code, text, details={"fields": fields})
    return HubError(code, _TEXTS.get(error.status_code, "the request is malformed"))


def _field(item: dict[str, Any]) -> dict[str, str]:
    where = item.get("source", "")
    return {
        "field": str(item.get("key", "")),
        "in": str(getattr(where, "value", where)),
        "message": str(item.get("message", "")),
    }
