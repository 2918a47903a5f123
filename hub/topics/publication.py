"""A publication and a topic's state: what travels between processes, and what Redis says of a topic."""

from __future__ import annotations

from msgspec import Struct


class Publication(Struct, frozen=True, gc=False):
    """An event with its position, between processes. ``seq`` 0: ephemeral, not in history."""

    epoch: str
    seq: int
    ts: int
    """Milliseconds since 1970 by the clock of Redis."""
    body: bytes
    echo: bool = True
    """False: it does not go to the connections of its author. Ephemeral ones only."""


class TopicState(Struct, frozen=True, gc=False):
    """The position record of a topic as Redis has it now."""

    epoch: str
    top: int
    """``seq`` of the newest event; 0: there never was one."""
    first: int
    """``seq`` of the oldest event kept; ``top + 1`` when none is."""
    previous_epoch: str
    """The epoch before this one, or "" ."""
    base: int
    """The top that survived from ``previous_epoch``: events up to it are the same in both epochs."""
    server: str
    """``run_id`` of the Redis server that answered."""
