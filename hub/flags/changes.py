"""What changes flags while the hub runs: overrides by people, and how far stages have come. As PostgreSQL has them."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

WHOLE: Final = 100_000
"""A hundred percent, in the thousandths of a percent in which percentages are kept."""


class Override(Struct, frozen=True):
    """A change of one flag by somebody: ``state`` for everybody, or another ``percent`` (thousandths of a percent)."""

    flag: str
    state: Literal["on", "off"] | None = None
    percent: int | None = None
    version: int = 0
    """Of the change: changes of all flags are counted together."""
    who: str = ""
    why: str = ""
    at: float = 0.0
    """Seconds since 1970."""


class StageState(Struct, frozen=True):
    """Where the schedule of a flag stands: ``percent`` (thousandths) takes the place of the file's percentage."""

    flag: str
    percent: int
    schedule: str = ""
    """Digest of the schedule that is followed; another one is, once the files of all nodes have it."""
    stage: int = 0
    """Counted from 0; -1 is before the first."""
    started_at: float = 0.0
    """When the stage began; seconds since 1970."""
    stopped: str | None = None
    """The guard that tripped. Whoever changes the flag at run time ends that, and the schedule begins anew."""
    version: int = 0
    at: float = 0.0
