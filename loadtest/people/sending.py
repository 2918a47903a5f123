"""One file on its way as its sender sees it: what may be sent now, and whether the hub keeps its word. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from loadtest.people.record import Violation

_ENDS = frozenset(("unavailable", "timeout"))
"""What may end a handle: the node goes, its store or database is away."""


class Piece(NamedTuple):
    """What to send next."""

    handle: int
    offset: int
    size: int


class Sending:
    """Over any number of connections. What was acknowledged once is never asked for again."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.acknowledged = 0
        """Everything below is safe."""
        self._handle = 0
        self._chunk_bytes = 0
        self._next = 0
        self._sent = 0
        """As far as any byte has ever left."""
        self._edge = 0

    @property
    def open(self) -> bool:
        """Whether there is a handle."""
        return self._handle != 0

    @property
    def whole(self) -> bool:
        """Whether the hub has all of it."""
        return self.acknowledged == self.size

    def begun(self, answer: dict[str, Any]) -> None:
        """A handle came, by ``upload.create`` or ``upload.resume``."""
        self._handle, self._chunk_bytes = answer["handle"], answer["chunk_bytes"]
        self._acknowledge(answer["offset"], answer["window"])
        self._next = answer["offset"]

    def credit(self, frame: dict[str, Any]) -> None:
        """A ``credit`` frame."""
        if frame["handle"] == self._handle:
            self._acknowledge(frame["offset"], frame["window"])

    def refused(self, frame: dict[str, Any]) -> None:
        """An ``error`` about a handle; it goes on by ``upload.resume``. Raises ``Violation``: there was no reason."""
        if frame["details"]["handle"] != self._handle:
            return
        self._handle = 0
        if frame["code"] not in _ENDS:
            raise Violation(f"a chunk within its credit was refused: {frame['code']}: {frame['message']}")

    def lost(self) -> None:
        """The connection is gone."""
        self._handle = 0

    def piece(self) -> Piece | None:
        """The next piece, which counts as sent; None: there is no credit, or no handle."""
        size = min(self._chunk_bytes, self.size - self._next, self._edge - self._next)
        if not self._handle or size <= 0:
            return None
        piece = Piece(self._handle, self._next, size)
        self._next += size
        self._sent = max(self._sent, self._next)
        return piece

    def _acknowledge(self, offset: int, window: int) -> None:
        if offset < self.acknowledged:
            raise Violation(f"{self.acknowledged} bytes were safe, and now {offset} are")
        if offset > self._sent:
            raise Violation(f"{offset} bytes are said to be safe, and {self._sent} were sent")
        self.acknowledged = offset
        self._edge = offset + window
