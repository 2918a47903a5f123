"""The chunk: what a client applies to the document that it has, one after the other.

docs/protocol.md has the rules for clients; ``hub.client.ContentAssembler`` is the reference for them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Op = Literal["open", "append", "replace_tail", "close"]


class Chunk(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One step. As an event's data it is the map of its fields; those that say nothing are left out."""

    index: int
    """0, 1, 2 … in the stream."""
    op: Op
    block: int
    """Which top-level block, from 0. Always the last one, or for ``open`` the one after it."""
    html: str
    """Balanced and safe: the whole block for ``open`` and ``replace_tail``, what to insert for ``append``."""
    text: str
    """The same as plain text."""
    progress: float | None = None
    """Part of the document that has come, up to 1; None where nobody knows how long it gets."""
    depth: int = 0
    """For ``append``: insert before that many closing tags at the end of the block."""
