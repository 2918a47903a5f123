"""What is said about uploads: where one stands, what the hub knows of it, what is asked for, who helps it."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Any, Protocol

from msgspec import Struct

from hub.client.options import ClientOptions
from hub.client.subscription import OnGap, Subscription
from hub.client.upload_lane import Lane
from hub.protocol.frames import Since, TagValue


class UploadState(StrEnum):
    """Where an upload stands, as its client sees it."""

    HASHING = "hashing"
    """The file is read for its sha256."""
    WAITING = "waiting"
    """For a connection, for other uploads of this client, or as the hub has asked (``problem`` says for what)."""
    SENDING = "sending"
    PAUSED = "paused"
    CHECKING = "checking"
    """All bytes are safe in the hub."""
    AVAILABLE = "available"
    FAILED = "failed"


class UploadProgress(Struct, frozen=True):
    """``offset``: bytes that are safe in the hub; while hashing: that were read. ``upload``: its id, or empty."""

    upload: str
    state: UploadState
    offset: int
    size: int
    problem: str = ""


class UploadInfo(Struct, frozen=True, kw_only=True):
    """What the hub says about an upload. Times are ms since 1970."""

    upload: str
    state: str
    size: int
    offset: int = 0
    topic: str = ""
    filename: str = ""
    document_type: str = ""
    paused: bool = False
    metadata: dict[str, TagValue] = {}
    shares: tuple[str, ...] = ()
    owner: str = ""
    owner_name: str = ""
    sha256: str | None = None
    media_type: str | None = None
    facts: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    created_at: int = 0
    expires_at: int | None = None
    finished_at: int | None = None


class Asked(Struct, frozen=True):
    """What a new upload is to be. ``sha256`` True: read it from the file. Raises ``TypeError`` for what cannot be."""

    document_type: str
    key: str
    filename: str | None
    metadata: dict[str, TagValue]
    sha256: str | bool | None
    shares: list[str]

    def __post_init__(self) -> None:
        for name, value in self.metadata.items():
            if not isinstance(name, str) or not isinstance(value, str | int | float | bool):
                raise TypeError(f"metadata: {name!r} has to be a text with a text, a number or a boolean")
        for what, text in (("document_type", self.document_type), ("key", self.key), ("filename", self.filename or "")):
            if not isinstance(text, str):
                raise TypeError(f"{what} has to be a text, not {type(text).__name__}")
        if not all(isinstance(topic, str) for topic in self.shares):
            raise TypeError("shares has to be a list of topics")


class UploadOwner(Protocol):
    """What an upload needs of its client."""

    options: ClientOptions
    slots: asyncio.Semaphore

    async def open_lane(self, method: str, params: dict[str, Any]) -> Lane:
        """Asks for a handle, as ``call`` does."""

    def close_lane(self, lane: Lane) -> None:
        """Nobody sends on it any more."""

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        """Waits for a connection, then for the answer. Raises ``RequestRefused`` and ``HubClosed``; ``RequestTimeout``
        only if there was a connection all the while, else ``ConnectionLost``.
        """

    def subscribe(self, topic: str, *, since: Since, on_gap: OnGap) -> Subscription:
        """As ``HubClient.subscribe``."""
