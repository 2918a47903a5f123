"""What can go wrong, as one catalogue: code, what the client should do next, and the HTTP status that says the same.

Every layer raises ``HubError`` (or lets it pass); the edge turns it into an ``error`` frame or a problem+json answer.
Close codes, which end a connection, are in ``hub.protocol.codes``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, NamedTuple

Retry = Literal["never", "later", "now"]


class ErrorCode(StrEnum):
    """Codes of ``error`` frames (PROTOCOL section 11). The value is what stands on the wire."""

    BAD_REQUEST = "bad_request"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_METHOD = "unknown_method"
    NOT_FOUND = "not_found"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a code, not a secret
    ALREADY_SUBSCRIBED = "already_subscribed"
    TOO_MANY_TOPICS = "too_many_topics"
    TOO_LARGE = "too_large"
    CONTENT_TYPE = "content_type"
    EMPTY_CONTENT = "empty_content"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    FEATURE_DISABLED = "feature_disabled"
    CONFLICT = "conflict"
    OFFSET_MISMATCH = "offset_mismatch"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    UNSUPPORTED_MEDIA = "unsupported_media"
    TIMEOUT = "timeout"
    UPSTREAM_FAILED = "upstream_failed"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class ErrorSpec(NamedTuple):
    """The default answer of a code: when to try again, which HTTP status, and the meaning for the documentation."""

    retry: Retry
    http_status: int
    meaning: str


ERROR_SPECS: dict[ErrorCode, ErrorSpec] = {
    ErrorCode.BAD_REQUEST: ErrorSpec("never", 400, "the request is malformed; the message names the field"),
    ErrorCode.UNKNOWN_TYPE: ErrorSpec("never", 400, "no such frame type"),
    ErrorCode.UNKNOWN_METHOD: ErrorSpec("never", 404, "no such method"),
    ErrorCode.NOT_FOUND: ErrorSpec("never", 404, "it does not exist, or you may not see it"),
    ErrorCode.UNAUTHENTICATED: ErrorSpec("never", 401, "no valid token"),
    ErrorCode.FORBIDDEN: ErrorSpec("never", 403, "you can see it, but the token's scope does not allow this"),
    ErrorCode.TOKEN_EXPIRED: ErrorSpec("never", 401, "the token has expired; get a fresh one"),
    ErrorCode.ALREADY_SUBSCRIBED: ErrorSpec("never", 409, "this connection already has that subscription"),
    ErrorCode.TOO_MANY_TOPICS: ErrorSpec("never", 400, "more topics than one connection may have"),
    ErrorCode.TOO_LARGE: ErrorSpec("never", 413, "larger than the limit that the message names"),
    ErrorCode.CONTENT_TYPE: ErrorSpec("never", 415, "this content type is not accepted here"),
    ErrorCode.EMPTY_CONTENT: ErrorSpec("never", 400, "nothing to work on"),
    ErrorCode.RATE_LIMITED: ErrorSpec("later", 429, "too many requests; wait retry_after_ms"),
    ErrorCode.QUOTA_EXCEEDED: ErrorSpec("later", 429, "a quota of the user or organisation is used up"),
    ErrorCode.FEATURE_DISABLED: ErrorSpec("later", 403, "switched off by a flag; details.fallback says what to use"),
    ErrorCode.CONFLICT: ErrorSpec("never", 409, "it has changed meanwhile"),
    ErrorCode.OFFSET_MISMATCH: ErrorSpec("now", 409, "continue at details.offset"),
    ErrorCode.CHECKSUM_MISMATCH: ErrorSpec("now", 422, "the bytes do not have the checksum that was given"),
    ErrorCode.UNSUPPORTED_MEDIA: ErrorSpec("never", 415, "this kind of file is not accepted here"),
    ErrorCode.TIMEOUT: ErrorSpec("later", 504, "it took too long"),
    ErrorCode.UPSTREAM_FAILED: ErrorSpec("later", 502, "a service behind the hub failed"),
    ErrorCode.UNAVAILABLE: ErrorSpec("later", 503, "the hub cannot reach its store just now"),
    ErrorCode.INTERNAL: ErrorSpec("later", 500, "a fault of the hub; it is in its log"),
}


class HubError(Exception):
    """An outcome that the client is told of.

    ``message`` is shown to the client: it says what is wrong and what to do next, and never contains a secret or
    another organisation's name. ``retry`` and the HTTP status default to the code's row in ``ERROR_SPECS``.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retry: Retry | None = None,
        retry_after_ms: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry: Retry = retry or ERROR_SPECS[code].retry
        self.retry_after_ms = retry_after_ms
        self.details = details

    @property
    def http_status(self) -> int:
        """The HTTP status that says the same as the code."""
        return ERROR_SPECS[self.code].http_status


class ConfigError(Exception):
    """A setting is missing or wrong. The text is one line per setting and names it."""


def not_found(what: str = "topic") -> HubError:
    """The one answer for foreign, hidden and missing things; nobody can tell which it was."""
    return HubError(ErrorCode.NOT_FOUND, f"no such {what}")


def bad_request(message: str, **details: Any) -> HubError:
    """A malformed request; ``message`` names the field and what is expected."""
    return HubError(ErrorCode.BAD_REQUEST, message, details=details or None)


def unavailable(what: str, retry_after_ms: int = 1000) -> HubError:
    """Redis or the database does not answer just now."""
    return HubError(ErrorCode.UNAVAILABLE, f"{what} is not reachable; try again", retry_after_ms=retry_after_ms)
