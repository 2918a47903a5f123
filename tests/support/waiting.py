"""Waiting for a condition with a deadline: what tests do instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

_POLL_S = 0.005
WAIT_S = 30.0
"""The usual deadline: for two slow cores that others use as well. Nothing waits for it but a test that fails."""


async def until(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]], timeout: float = WAIT_S, what: str = "the condition"
) -> Any:
    """Polls ``condition`` (sync or async) until it is true; returns its value. ``AssertionError`` after ``timeout`` s.

    An ``AssertionError`` inside the condition counts as "not yet"; the last one stands in the failure's text.
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.001, deadline - time.monotonic())):
                value = condition()
                last = await value if inspect.isawaitable(value) else value
            if last:
                return last
        except (AssertionError, TimeoutError) as error:
            last = repr(error)
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {last!r}")
        await asyncio.sleep(_POLL_S)


def until_sync(condition: Callable[[], Any], timeout: float = WAIT_S, what: str = "the condition") -> Any:
    """The same for tests without an event loop."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            last = condition()
            if last:
                return last
        except AssertionError as error:
            last = repr(error)
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {last!r}")
        time.sleep(_POLL_S)
