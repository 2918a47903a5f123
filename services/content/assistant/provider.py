"""The interface of whoever writes text, and the ways in which that fails. Providers are in the modules beside this."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Protocol

from services.content.assistant.prompt import Prompt


class Fault(StrEnum):
    """Why a call gave no text, or not all of it. What each means, and what follows from it, is in ``plan.RULES``."""

    UNREACHABLE = "unreachable"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    NO_FIRST_TOKEN = "no_first_token"  # noqa: S105 - no secret
    STALLED = "stalled"
    UNFINISHED = "unfinished"
    DENIED = "denied"
    REJECTED = "rejected"
    GARBAGE = "garbage"
    EMPTY = "empty"
    WITHHELD = "withheld"
    TOO_LONG = "too_long"
    OVERTIME = "overtime"


class ProviderFailure(Exception):
    """A call that failed. ``note`` is for the log: a status or a type, never contents and never what a provider says.

    ``retry_after_s``: the pause that the provider asked for.
    """

    def __init__(self, fault: Fault, note: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{fault}: {note}" if note else str(fault))
        self.fault = fault
        self.note = note
        self.retry_after_s = retry_after_s


class Provider(Protocol):
    """Somebody who writes."""

    name: str

    def generate(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        """One attempt to write ``prompt``, or to go on after ``prompt.written``: the text piece by piece, none empty.

        Ends when the text is complete; raises ``ProviderFailure`` otherwise and nothing else. Pieces can be encoded as
        UTF-8. Whoever closes the generator, or cancels the wait for its next piece, ends the call at once. Time-outs,
        repetitions and the bound on the whole are the caller's.
        """
        ...

    async def close(self) -> None:
        """Closes what is kept between calls."""
        ...
