"""One text from several providers: time-outs, repetitions, fallback, and the bound on the whole.

The decisions are ``plan``'s; the calls are the providers'. Here they are made, watched and ended.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry

from hub.api import ErrorCode, HubError, Settings, bad_request
from services.content.assistant.metrics import AssistantMetrics
from services.content.assistant.plan import Plan, Step
from services.content.assistant.prompt import Prompt
from services.content.assistant.provider import Fault, Provider, ProviderFailure

_log = structlog.get_logger(__name__)

_TIMEOUTS = (Fault.NO_FIRST_TOKEN, Fault.STALLED, Fault.OVERTIME)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a text ended: complete when ``error`` is None. What was written before is kept in either case.

    ``provider`` had the last word, ``bytes`` counts the whole text in UTF-8, ``failures`` are the calls that failed, in
    order, as provider and fault.
    """

    provider: str
    bytes: int
    error: HubError | None
    failures: tuple[tuple[str, Fault], ...]


class Writer:
    """Writes prompts. Providers in the order in which they stand in for one another; the first is the default."""

    def __init__(
        self,
        providers: Iterable[Provider],
        settings: Settings,
        rng: random.Random | None = None,
        metrics: AssistantMetrics | None = None,
    ) -> None:
        self._metrics = metrics or AssistantMetrics(CollectorRegistry())
        self._providers = {provider.name: provider for provider in providers}
        self._settings = settings
        self._rng = rng or random.Random()

    def write(
        self, prompt: Prompt, provider: str | None = None, written: str = ""
    ) -> AsyncGenerator[str | Outcome, None]:
        """The text piece by piece, and last of all, always, its ``Outcome``.

        ``written`` is what there was of the text before, by a writer that is gone: it is gone on with, it counts for
        the bound, and it does not come again.

        ``provider`` begins instead of the default, and the others stand in for it in their order. When one fails after
        it has written something, the next is given that and told to go on where it stops; nothing is written twice and
        nothing taken back. Raises ``bad_request`` at once for a provider that is not there.

        Close the generator to end the text; the provider's call ends with it. The time for the whole text runs while
        the reader is busy too, so it should read ahead.
        """
        plan = Plan(self._order(provider), self._settings, self._rng)
        text = _Text(self._settings.assistant_max_output_bytes, written)
        return self._metrics.measured(self._write(prompt, plan, text), lambda: plan.provider)

    async def _write(self, prompt: Prompt, plan: Plan, text: _Text) -> AsyncGenerator[str | Outcome, None]:
        failures: list[tuple[str, Fault]] = []
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.assistant_total_timeout_s
        while True:
            writer, before = plan.provider, text.size
            try:
                async with aclosing(self._call(self._providers[writer], prompt, text, deadline)) as pieces:
                    async for piece in pieces:
                        yield piece
                yield Outcome(writer, text.size, None, tuple(failures))
                return
            except ProviderFailure as failure:
                failures.append((writer, failure.fault))
                step = plan.after(failure, spoken=text.size > before, left_s=deadline - clock())
                _log.warning(
                    "assistant call failed", provider=writer, fault=failure.fault, note=failure.note, then=step.name
                )
                ended = Outcome(writer, text.size, _error(failure, writer), tuple(failures))
            if step is Step.END:
                yield ended
                return
            await asyncio.sleep(plan.pause_s)

    def check(self, provider: str | None) -> None:
        """Raises ``bad_request`` for a provider that is not there, as ``write`` does."""
        self._order(provider)

    async def close(self) -> None:
        """Closes the providers."""
        for provider in self._providers.values():
            await provider.close()

    def _order(self, first: str | None) -> list[str]:
        names = list(self._providers)
        if first is None:
            return names
        if first not in names:
            raise bad_request(f"'provider' must be one of {', '.join(names)}")
        return [first, *(name for name in names if name != first)]

    async def _call(
        self, provider: Provider, prompt: Prompt, text: _Text, deadline: float
    ) -> AsyncGenerator[str, None]:
        """One call, within all bounds. Raises ``ProviderFailure``, also for an answer without text."""
        wait_s, silence = self._settings.assistant_first_token_timeout_s, Fault.NO_FIRST_TOKEN
        async with aclosing(provider.generate(prompt.continued(text.written))) as pieces:
            while (piece := await _next(pieces, wait_s, silence, deadline)) is not None:
                if fitting := text.take(piece):
                    yield fitting
                if text.full:
                    raise ProviderFailure(Fault.TOO_LONG, "assistant_max_output_bytes")
                wait_s, silence = self._settings.assistant_token_timeout_s, Fault.STALLED
        if silence is Fault.NO_FIRST_TOKEN:
            raise ProviderFailure(Fault.EMPTY)


async def _next(pieces: AsyncGenerator[str, None], wait_s: float, silence: Fault, deadline: float) -> str | None:
    """The next piece, None at the end. The call is over when it does not come in time."""
    clock = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout_at(min(clock() + wait_s, deadline)):
            return await anext(pieces, None)
    except TimeoutError:
        raise ProviderFailure(Fault.OVERTIME if clock() >= deadline else silence) from None


class _Text:
    """What is written so far, never more than ``limit`` bytes of UTF-8."""

    def __init__(self, limit: int, written: str) -> None:
        self._limit = limit
        self._pieces = [written]
        self.size = len(written.encode())
        self.full = False

    @property
    def written(self) -> str:
        """All of it."""
        return "".join(self._pieces)

    def take(self, piece: str) -> str:
        """Adds as much of ``piece`` as there is room for, in whole characters, and returns that."""
        encoded = piece.encode()
        if self.size + len(encoded) > self._limit:
            self.full = True
            encoded = encoded[: max(self._limit - self.size, 0)]
            piece = encoded.decode(errors="ignore")
            encoded = piece.encode()
        self.size += len(encoded)
        self._pieces.append(piece)
        return piece


def _error(failure: ProviderFailure, provider: str) -> HubError:
    """What the client is told. Nothing of what the provider says: it may repeat the key or the request."""
    fault, details = failure.fault, {"provider": provider, "fault": str(failure.fault)}
    if fault is Fault.TOO_LONG:
        return HubError(ErrorCode.TOO_LARGE, "the text is longer than it may be and was cut", details=details)
    if fault in _TIMEOUTS:
        return HubError(ErrorCode.TIMEOUT, f"{provider} took too long; try again", details=details)
    if fault is Fault.WITHHELD:
        message = f"{provider} would not write this; ask for something else"
        return HubError(ErrorCode.UPSTREAM_FAILED, message, retry="never", details=details)
    if fault in (Fault.DENIED, Fault.REJECTED):
        message = f"{provider} cannot be used as it is set up ({fault}); tell the operator"
        return HubError(ErrorCode.UPSTREAM_FAILED, message, details=details)
    retry_after_ms = None if failure.retry_after_s is None else round(failure.retry_after_s * 1000)
    return HubError(
        ErrorCode.UPSTREAM_FAILED,
        f"{provider} failed ({fault}); try again",
        retry_after_ms=retry_after_ms,
        details=details,
    )
