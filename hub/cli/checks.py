"""What a check of ``hub doctor`` finds."""

from __future__ import annotations

import time
from typing import Literal

from msgspec import Struct

CLOCK_WARN_S = 0.5
CLOCK_FAIL_S = 5.0


class Verdict(Struct, frozen=True):
    """One row. ``remedy`` says what to set or run; empty when all is well."""

    status: Literal["ok", "warn", "fail"]
    check: str
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Verdict:
    """All is well."""
    return Verdict("ok", check, found)


def warn(check: str, found: str, remedy: str) -> Verdict:
    """It works, but not as well as it could."""
    return Verdict("warn", check, found, remedy)


def bad(check: str, found: str, remedy: str) -> Verdict:
    """The hub cannot work like this."""
    return Verdict("fail", check, found, remedy)


def clock(check: str, theirs: float, asked_at: float, answered_at: float) -> Verdict:
    """Compares a server's clock with ours. Half the way there and back is all that cannot be told."""
    difference = theirs - (asked_at + answered_at) / 2
    unsure = (answered_at - asked_at) / 2
    found = f"{difference * 1000:+.0f} ms (±{unsure * 1000:.0f})"
    if abs(difference) - unsure > CLOCK_FAIL_S:
        return bad(check, found, "run NTP on both machines: tokens, tickets and event times would be wrong")
    if abs(difference) - unsure > CLOCK_WARN_S:
        return warn(check, found, "run NTP on both machines")
    return ok(check, found)


def now() -> float:
    """Seconds since 1970."""
    return time.time()
