"""An upload as the service knows it, and as clients are told of it. No I/O."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from hub.api import ErrorCode, HubError, OrgId


class State(StrEnum):
    """Where an upload stands."""

    RECEIVING = "receiving"
    RECEIVED = "received"
    """All bytes are there, and nobody has looked at them."""
    CHECKING = "checking"
    AVAILABLE = "available"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    JOINED = "joined"
    """A partial upload whose bytes belong to another one now."""


GONE: Final = (State.REJECTED, State.CANCELLED, State.EXPIRED, State.JOINED)
"""Nothing of it is kept but the record."""


class Upload(Struct, frozen=True):
    """A row. Times are milliseconds since 1970."""

    id: str
    org: OrgId
    owner: str
    owner_name: str
    state: State
    filename: str
    document_type: str
    size: int
    offset: int
    """Acknowledged: what is below is stored and recorded."""
    paused: bool
    partial: bool
    writer: str | None
    metadata: dict[str, Any]
    shares: tuple[str, ...]
    sha256_wanted: str | None
    sha256: str | None
    media_type: str | None
    facts: Any
    error_code: str | None
    error_message: str | None
    attempts: int
    created_at: int
    expires_at: int | None
    """While it is being received: when it is given up if no byte comes."""
    finished_at: int | None
    partials: tuple[str, ...] = ()
    """Names of those that it was joined of, in order."""

    def check_receiving(self) -> None:
        """Raises ``conflict`` when no byte is taken any more."""
        if self.state is not State.RECEIVING:
            raise wrong_state(self.state, self.id)


def wrong_state(state: State, upload: str = "") -> HubError:
    """What cannot be done with an upload in its present state."""
    details = {"state": state.value} | ({"upload": upload} if upload else {})
    return HubError(ErrorCode.CONFLICT, f"the upload is {state}", details=details)


def shape(upload: Upload, reader: str | None = None) -> dict[str, Any]:
    """What whoever may see it is told. ``reader``: the user, if one is told alone; the owner learns more."""
    error = None
    if upload.error_code is not None:
        error = {"code": upload.error_code, "message": upload.error_message or ""}
    return {
        "upload": upload.id,
        "topic": f"upload:{upload.id}",
        "state": upload.state.value,
        "filename": upload.filename,
        "document_type": upload.document_type,
        "size": upload.size,
        "offset": upload.offset,
        "paused": upload.paused,
        "metadata": upload.metadata,
        # With whom it is shared is nobody else's business: names of rooms may be secret.
        **({"shares": list(upload.shares)} if reader == upload.owner else {}),
        "owner": upload.owner,
        "owner_name": upload.owner_name,
        "sha256": upload.sha256,
        "media_type": upload.media_type,
        "facts": upload.facts,
        "error": error,
        "created_at": upload.created_at,
        "expires_at": upload.expires_at,
        "finished_at": upload.finished_at,
    }
