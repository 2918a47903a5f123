"""An event loop whose clock jumps to the next timer when nothing else is to do: minutes of back-off take no time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Only for code that waits for timers and for itself; it never waits for a socket."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        # Private to asyncio, but unchanged for ten years, and there is no public way to skip the waiting.
        if not self._ready:  # type: ignore[attr-defined]
            # Time-outs that were not needed are still there; to jump to one would be to wait for the next in real time.
            timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
            self._now = max(self._now, min(timers, default=self._now))
        super()._run_once()  # type: ignore[misc]


def run_virtually(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Runs ``coroutine`` on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)
