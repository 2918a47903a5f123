"""How complex a document is, and how long each chunk waits for the next. Who waits, and for whom, is the service's."""

from __future__ import annotations

import re
from enum import StrEnum


class Complexity(StrEnum):
    """How much work a document is for an editor and a reader. The value is what stands on the wire."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Speed(StrEnum):
    """How fast chunks come. The value is what stands on the wire."""

    SLOW = "slow"
    NORMAL = "normal"
    FAST = "fast"
    SUPERFAST = "superfast"
    ADAPTIVE = "adaptive"


INTERVAL_MS: dict[Speed, int] = {Speed.SLOW: 300, Speed.NORMAL: 100, Speed.FAST: 50, Speed.SUPERFAST: 30}
MAX_INTERVAL_MS = 1000
"""The slowest that a stream gets when those who watch it cannot follow."""

LAG_IGNORED = 20
"""Events that a watcher may be behind without anybody waiting for him."""
LAG_SLOWEST = 100
"""… and how many until everybody gets the slowest pace."""

# What is simple is read as fast as it comes; tables and code want a look, and cost the editor a layout each time.
_ADAPTIVE = {Complexity.LOW: Speed.FAST, Complexity.MEDIUM: Speed.NORMAL, Complexity.HIGH: Speed.SLOW}

_HEAVY = re.compile(r"<(table|pre|img|details|figure)[ >]")
_HEAVY_WEIGHT = 10
_MIN_CHARS = 500  # so that three tags in a line make no complex document
_MEDIUM_WEIGHT = 25.0
_HIGH_WEIGHT = 60.0


def interval_ms(speed: Speed, complexity: Complexity) -> int:
    """Milliseconds from one chunk to the next. A ``close`` does not wait: it goes with the chunk before it."""
    return INTERVAL_MS[_ADAPTIVE[complexity] if speed is Speed.ADAPTIVE else speed]


def slowed_ms(usual_ms: int, lag: int) -> int:
    """The interval while the slowest attentive watcher is ``lag`` events behind.

    As usual up to ``LAG_IGNORED``, then ever longer, ``MAX_INTERVAL_MS`` from ``LAG_SLOWEST`` on.
    """
    if lag <= LAG_IGNORED:
        return usual_ms
    part = min(1.0, (lag - LAG_IGNORED) / (LAG_SLOWEST - LAG_IGNORED))
    return round(usual_ms + part * max(0, MAX_INTERVAL_MS - usual_ms))


def complexity(markup: str) -> Complexity:
    """By tags per thousand characters, where a table, an image or a block of code counts for ten."""
    weight = markup.count("<") - markup.count("</") + _HEAVY_WEIGHT * len(_HEAVY.findall(markup))
    per_thousand = 1000 * weight / max(len(markup), _MIN_CHARS)
    if per_thousand >= _HIGH_WEIGHT:
        return Complexity.HIGH
    return Complexity.MEDIUM if per_thousand >= _MEDIUM_WEIGHT else Complexity.LOW
