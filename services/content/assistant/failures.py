"""The errors of the official libraries as ours. Both name them alike. What a provider says in them is not passed on."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import time

import httpx2

from services.content.assistant.provider import Fault, ProviderFailure

_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CONNECTION_ERRORS = ("APIConnectionError", "APITimeoutError")

_STATUSES: Mapping[int, Fault] = {
    HTTPStatus.UNAUTHORIZED: Fault.DENIED,
    HTTPStatus.PAYMENT_REQUIRED: Fault.DENIED,
    HTTPStatus.FORBIDDEN: Fault.DENIED,
    HTTPStatus.REQUEST_TIMEOUT: Fault.OVERLOADED,
    HTTPStatus.TOO_MANY_REQUESTS: Fault.RATE_LIMITED,
}

# What an error in the middle of a stream is called; one that is not here is the provider's own trouble.
_TYPES: Mapping[str, Fault] = {
    "rate_limit_error": Fault.RATE_LIMITED,
    "rate_limit_exceeded": Fault.RATE_LIMITED,
    "authentication_error": Fault.DENIED,
    "permission_error": Fault.DENIED,
    "invalid_request_error": Fault.REJECTED,
    "not_found_error": Fault.REJECTED,
}

# Comes with the status of a rate limit; no pause helps.
_USED_UP = "insufficient_quota"


def failure_of(error: Exception) -> ProviderFailure:
    """What an exception means that came out of a library, or through it."""
    for link in (error, error.__cause__):
        if isinstance(link, ProviderFailure):
            return link
    if isinstance(error, httpx2.TransportError) or type(error).__name__ in _CONNECTION_ERRORS:
        return ProviderFailure(Fault.UNREACHABLE, type(error.__cause__ or error).__name__)
    if not hasattr(error, "body"):
        # No error that a provider told: the library could not make sense of what came.
        return ProviderFailure(Fault.GARBAGE, type(error).__name__)
    words = _words(error.body)
    status = getattr(error, "status_code", HTTPStatus.OK)
    if status == HTTPStatus.OK:
        fault = next((_TYPES[word] for word in words if word in _TYPES), Fault.OVERLOADED)
        return ProviderFailure(fault, " ".join(("in the stream", *words)))
    return ProviderFailure(
        _by_status(status, words), " ".join((f"status {status}", *words)), retry_after_s=_pause(error)
    )


def _by_status(status: int, words: list[str]) -> Fault:
    if _USED_UP in words:
        return Fault.DENIED
    return _STATUSES.get(status, Fault.OVERLOADED if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Fault.REJECTED)


def _words(body: object) -> list[str]:
    """Code and type of an error, which are identifiers; its message is left alone."""
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        body = body["error"]
    if not isinstance(body, dict):
        return []
    words = (body.get("code"), body.get("type"))
    return list(dict.fromkeys(word for word in words if isinstance(word, str) and _CODE.fullmatch(word)))


def _pause(error: Exception) -> float | None:
    """Seconds that the answer asks to wait: given in milliseconds, in seconds or as a date. None: nothing readable."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        else:
            asked = headers["retry-after"].strip()
            seconds = float(asked) if asked[:1].isdigit() else parsedate_to_datetime(asked).timestamp() - time()
    except (KeyError, ValueError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
