"""What a store of uploads is: its words, its promises, and how it fails. ``folder`` and ``objects`` keep them.

Every failure of a store is a ``HubError``: ``StoreFull``, ``BytesMissing``, ``not_found`` for a content that is not
there, else ``unavailable``; what was the matter is its ``__cause__``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import BinaryIO, Final, Protocol

from msgspec import Struct

from hub.api import ErrorCode, HubError, OrgId

Piece = bytes | memoryview

READ_BYTES: Final = 262_144
"""Largest piece that ``Store.read`` gives."""

_FULL_RETRY_MS = 30_000
_UNAVAILABLE_RETRY_MS = 1000


class Digest(Protocol):
    """What sees bytes in order: a hash of ``hashlib``."""

    def update(self, data: Piece, /) -> object:
        """``data`` follows what was seen before. Called in threads, one call at a time."""


class Part(Struct, frozen=True):
    """One object with contiguous bytes of an upload."""

    object: str
    """Its name below the store's root."""
    size: int
    """So many of its bytes count, from its beginning; it may have more."""


class StoreFull(HubError):
    """There is no room for more. What was stored before is still there."""

    def __init__(self) -> None:
        super().__init__(
            ErrorCode.UNAVAILABLE,
            "the store of uploads is full; what is acknowledged is safe, try again later",
            retry="later",
            retry_after_ms=_FULL_RETRY_MS,
        )


class BytesMissing(HubError):
    """The store has less of an object than was stored in it: to try again rarely helps."""

    def __init__(self) -> None:
        super().__init__(
            ErrorCode.UNAVAILABLE,
            "the store of uploads lacks bytes of this one; upload the file again if it does not come back",
            retry="later",
            retry_after_ms=_FULL_RETRY_MS,
        )


class SpentStretch(RuntimeError):
    """A stretch was written to after it had failed, or was closed: a fault of whoever does."""

    def __init__(self) -> None:
        super().__init__("this stretch has failed, or was closed; ask for another")


def store_unavailable() -> HubError:
    """The store does not answer, or answers what makes no sense; raised ``from`` what it was."""
    return HubError(
        ErrorCode.UNAVAILABLE,
        "the store of uploads does not work just now; try again",
        retry_after_ms=_UNAVAILABLE_RETRY_MS,
    )


class Stretch(Protocol):
    """The bytes that one writer brings, one after the other. Not shared; one call at a time."""

    async def write(self, pieces: Sequence[Piece], digest: Digest | None) -> Part:
        """Stores ``pieces``; when it returns all of them are stored (on the disk, if that is wanted).

        The part in which they are: with the object of the part before, that one has grown to its ``size``; else a new
        part follows. ``digest`` sees each piece, in order, in a thread, after all of them were stored. When it
        raises or is cancelled nothing of ``pieces`` counts and the stretch is spent; only after a cancellation
        ``digest`` may have seen them nevertheless. ``pieces`` may be used again when it has returned or raised.
        """

    async def close(self) -> None:
        """Gives back what it holds. Its parts stay. Again is nothing."""

    async def discard(self) -> None:
        """Removes its parts, when it is closed and nothing of them was recorded. Again is nothing."""


class Store(Protocol):
    """Parts and contents of all organisations. Every method takes the organisation and the name of an upload."""

    @property
    def block_bytes(self) -> int:
        """About so much at once is best given to ``Stretch.write``."""

    @property
    def parts_grow(self) -> bool:
        """Whether the blocks of a stretch become one part that grows, or a part each."""

    async def start(self) -> None:
        """Before everything else. Raises ``ConfigError`` when the store cannot be used as it is set; one that does not
        answer just now is no reason."""

    async def close(self) -> None:
        """After everything else; waits for what is under way."""

    async def probe(self) -> None:
        """Writes a little, reads and removes it. Raises ``HubError``, whose cause says what it was; logs nothing."""

    def stretch(self, org: OrgId, upload: str, token: str) -> Stretch:
        """For one writer; ``token`` is its own and never used again. Nothing is there before the first write."""

    async def join(self, org: OrgId, upload: str, parts: Sequence[Part], digest: Digest | None) -> None:
        """Makes ``parts`` in this order the content of ``upload``; at once, or not at all.

        Parts may lie below other uploads of the organisation; those stay. Its own stay too, or are gone. After a crash
        at any point, and after it was done, it can be called again with the same parts; who takes care that ``parts``
        do not change and nobody else joins or clears meanwhile is the caller. ``digest`` sees all bytes in order; when
        this raises it has seen some of them.
        """

    async def digest(self, org: OrgId, upload: str, digest: Digest) -> None:
        """``digest`` sees the content."""

    def reader(self, org: OrgId, upload: str) -> BinaryIO:
        """The content; can be read and sought, and blocks: for threads. Whoever opens it closes it."""

    def read(self, org: OrgId, upload: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes ``start`` (included) to ``end`` (not) of the content, in pieces of at most ``READ_BYTES``.

        Goes on to the end when the upload is removed meanwhile, or raises; never ends early.
        """

    async def clear(self, org: OrgId, upload: str) -> None:
        """Removes all parts, recorded or not, and what broken joins have left. The content stays. Again is nothing."""

    async def remove(self, org: OrgId, upload: str) -> None:
        """Removes everything that there is of ``upload``. Again is nothing."""

    def uploads(self) -> AsyncIterator[tuple[str, str]]:
        """(organisation, upload) of all that has anything here."""
