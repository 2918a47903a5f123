"""What a flag is, whichever form the file has it in. Percentages are thousandths of a percent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Literal

from msgspec import Struct

from hub.flags.changes import WHOLE

By = Literal["user", "org"]

_PERCENT = re.compile(r"(?P<whole>\d{1,9})(?:\.(?P<part>\d{1,30}))? ?%?", re.ASCII)


def parse_percent(text: str) -> int:
    """Thousandths of a percent out of ``25``, ``0.125`` or ``12.5%``. Raises ``ValueError``, whose text says why."""
    found = _PERCENT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]} is not a percentage; write one between 0 and 100, as 25% or 0.125%")
    part = found["part"] or ""
    if len(part) > 3:
        raise ValueError(f"{text[:40]} has more than 3 decimals; steps are 0.001 %")
    percent = int(found["whole"]) * 1000 + int(part.ljust(3, "0"))
    if percent > WHOLE:
        raise ValueError(f"{text[:40]} is more than 100 %; write a percentage between 0 and 100")
    return percent


def percent_text(percent: int) -> str:
    """``12.5%`` for 12 500."""
    whole, part = divmod(percent, 1000)
    return f"{whole}.{part:03}".rstrip("0").rstrip(".") + "%"


class Stage(Struct, frozen=True):
    """A percentage that comes by itself, so many seconds after the start of the schedule."""

    after_s: float
    percent: int


class Guards(Struct, frozen=True):
    """Limits on how much worse the cohort may be than the rest; a stage that trips one is rolled back."""

    gap_rate: float | None = None
    """Announced gaps per connection and minute."""
    error_rate: float | None = None
    """Error frames per request."""
    p99_ms: float | None = None
    window_s: float = 300.0
    """Over how long."""
    least: int = 20
    """Observations without which nothing is concluded."""


class Definition(Struct, frozen=True):
    """One flag as the file has it, whichever form it was written in.

    A flag that is ``boolean`` has a ``percent``: where neither allow list nor rule decides, so many are on. It is None
    for flags of other types, and where the file leaves the default to whoever asks; there the default variant counts.
    """

    name: str
    enabled: bool
    variants: Mapping[str, Any]
    default_variant: str | None
    """None: the default of whoever asks."""
    boolean: bool
    percent: int | None = None
    by: By = "user"
    allow_users: tuple[str, ...] = ()
    allow_orgs: tuple[str, ...] = ()
    targeting: Mapping[str, Any] | None = None
    """flagd's JSON logic, references put in; what it answers null for goes on to the percentage."""
    stages: tuple[Stage, ...] = ()
    starts_at: float | None = None
    """When the schedule of stages begins (s since 1970). None: when it was first seen."""
    abort_if: Guards | None = None
    owner: str = ""
    description: str = ""
    expires: date | None = None
    metadata: Mapping[str, Any] = {}

    @property
    def on_variant(self) -> str | None:
        """The variant that is true; None where there is none."""
        return self._variant_of(True, ("on", "true"))

    @property
    def off_variant(self) -> str | None:
        """The variant that is false."""
        return self._variant_of(False, ("off", "false"))

    def value_of(self, variant: str | None) -> Any:
        """What a variant is; None for none."""
        return None if variant is None else self.variants.get(variant)

    def _variant_of(self, value: bool, usual: tuple[str, ...]) -> str | None:
        if not self.boolean:
            return None
        fitting = [name for name, one in self.variants.items() if one is value]
        return next((name for name in usual if name in fitting), fitting[0] if fitting else None)
