"""What the client raises. Codes are plain strings here: a newer hub may send one that this client does not know."""

from __future__ import annotations

from typing import Any

from hub.errors import Retry


class ClientError(Exception):
    """Everything that ``hub.client`` raises on purpose."""


class HubClosed(ClientError):
    """The connection ended for good: its close code (or HTTP status) says that trying again unchanged is no use."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the connection was closed for good: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class ConnectionLost(ClientError):
    """There is no connection, or it died before the answer came: whether the request took effect is unknown."""


class RequestTimeout(ClientError, TimeoutError):
    """No answer within the time given; whether the request took effect is unknown."""


class RequestRefused(ClientError):
    """The hub's ``error`` answer to a request or to one topic of a subscription."""

    def __init__(
        self,
        code: str,
        message: str,
        retry: Retry,
        retry_after_ms: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry: Retry = retry
        self.retry_after_ms = retry_after_ms
        self.details = details


class SubscriptionEnded(RequestRefused):
    """The hub ended or refused a subscription, for example because a permission or a flag was taken away."""


class GapError(ClientError):
    """Events of a topic will never come, and nobody had registered a callback for that; fetch a snapshot.

    Raised by the subscription in the place where the events are missing. Iterating on continues behind the gap.
    """

    def __init__(self, topic: str, reason: str, first: int | None, last: int | None) -> None:
        missing = f"events {first}–{last}" if first is not None and last is not None else "an unknown number of events"
        super().__init__(f"{topic}: {missing} will not come ({reason}); fetch a snapshot")
        self.topic = topic
        self.reason = reason
        self.first = first
        self.last = last


class ProtocolViolation(ClientError):
    """The hub broke the protocol: an unannounced hole, a malformed frame. Counted, and treated as a lost connection."""


class UploadFailed(RequestRefused):
    """An upload has come to an end without its document being there. The message says why, and what to do next.

    ``code``: the hub's, or ``file``, ``file_changed``, ``wrong_file``, ``cancelled``, ``expired``. ``retry`` is
    ``later`` when the upload is still there and can be gone on with: ``client.resume_upload(upload, path)``.
    """

    def __init__(
        self, code: str, message: str, retry: Retry, *, details: dict[str, Any] | None = None, upload: str = ""
    ) -> None:
        super().__init__(code, message, retry, None, details)
        self.upload = upload
