"""What to do when a call fails: the same provider again, the next one, or the end. Pure: no clock and no sleep.

``Plan`` follows one text. The writer asks it after every failure.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from hub.api import Settings
from services.content.assistant.provider import Fault, ProviderFailure

# 2**n is far beyond any longest pause before this.
_MAX_DOUBLINGS = 16


class Step(Enum):
    """What comes next. Each gives way to the one below it when it cannot be done."""

    RETRY = "the same provider again, after a pause"
    NEXT = "the next provider goes on with the text"
    END = "the text ends here, what is written is kept"


class Rule(NamedTuple):
    """What a fault is, and what follows when the call had given no text, and when it had.

    A text is never begun twice, so ``spoken`` is never RETRY.
    """

    meaning: str
    silent: Step
    spoken: Step


RULES: dict[Fault, Rule] = {
    Fault.UNREACHABLE: Rule("no connection, or it broke", Step.RETRY, Step.NEXT),
    Fault.OVERLOADED: Rule("trouble of the provider's own (5xx, 408, or said in the stream)", Step.RETRY, Step.NEXT),
    Fault.RATE_LIMITED: Rule("too many calls with this key (429)", Step.RETRY, Step.NEXT),
    Fault.NO_FIRST_TOKEN: Rule("no text in time", Step.RETRY, Step.NEXT),
    Fault.STALLED: Rule("no further text in time", Step.RETRY, Step.NEXT),
    Fault.UNFINISHED: Rule("the stream ended in order, the text did not", Step.RETRY, Step.NEXT),
    # Neither the key nor the request nor the provider's language gets better by asking again.
    Fault.DENIED: Rule("the key is wrong, may not do this (401, 402, 403), or is used up", Step.NEXT, Step.NEXT),
    Fault.REJECTED: Rule("the request is wrong for this provider (other 4xx, a redirect)", Step.NEXT, Step.NEXT),
    Fault.GARBAGE: Rule("an answer that cannot be understood, or an event beyond its bound", Step.NEXT, Step.NEXT),
    Fault.EMPTY: Rule("an end in order without any text", Step.NEXT, Step.NEXT),
    # A refusal is an answer. To ask another model until one gives in is not what a fallback is for.
    Fault.WITHHELD: Rule("the model would not write it, or not go on", Step.END, Step.END),
    Fault.TOO_LONG: Rule("the hub's limit for a text or the model's", Step.END, Step.END),
    Fault.OVERTIME: Rule("the time for the whole text is over", Step.END, Step.END),
}


class Plan:
    """Which provider is called, and how often. ``provider`` is whose turn it is; ``pause_s`` how long to wait first."""

    def __init__(self, providers: Sequence[str], settings: Settings, rng: random.Random) -> None:
        self._waiting = list(providers[1:])
        self._settings = settings
        self._rng = rng
        self._calls = 1
        self.provider = providers[0]
        self.pause_s = 0.0

    def after(self, failure: ProviderFailure, *, spoken: bool, left_s: float) -> Step:
        """Moves on after a failed call and says how. ``spoken``: that call had given text; ``left_s``: time that is
        left for the whole text."""
        rule = RULES[failure.fault]
        step = rule.spoken if spoken else rule.silent
        if step is Step.RETRY and not self._again(failure, left_s):
            step = Step.NEXT
        if step is Step.NEXT and not self._waiting:
            step = Step.END
        if step is Step.NEXT:
            self.provider = self._waiting.pop(0)
            self._calls, self.pause_s = 1, 0.0
        return step

    def _again(self, failure: ProviderFailure, left_s: float) -> bool:
        """Whether there is another call to the same provider; if so, sets the pause before it."""
        settings = self._settings
        if self._calls >= settings.assistant_attempts:
            return False
        asked = failure.retry_after_s or 0.0
        bound = min(
            settings.assistant_backoff_max_s,
            settings.assistant_backoff_base_s * 2 ** min(self._calls - 1, _MAX_DOUBLINGS),
        )
        pause = asked + self._rng.uniform(0, bound)
        if asked > settings.assistant_retry_after_max_s or pause >= left_s:
            return False
        self._calls += 1
        self.pause_s = pause
        return True
