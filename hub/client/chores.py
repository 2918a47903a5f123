"""Small work beside a connection's reader, and waiting for whichever comes first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from hub.client.errors import ConnectionLost, RequestRefused

logger = logging.getLogger("hub.client")


class Chores:
    """Tasks that nobody waits for. ``close`` ends them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Runs ``work``; its failure is logged, its end awaited by ``close``."""

        async def kept() -> None:
            try:
                await work
            except (ConnectionLost, RequestRefused) as problem:
                logger.info("a frame could not be sent: %s", problem)
            except Exception:
                logger.exception("a background task of the client failed")

        task = asyncio.create_task(kept())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stops what still runs."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def first_of(*events: asyncio.Future[Any] | asyncio.Event, timeout_s: float | None) -> None:
    """Until one of these has come about, or the time is over."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events if isinstance(event, asyncio.Event)]
    try:
        futures = [event for event in events if not isinstance(event, asyncio.Event)]
        await asyncio.wait({*futures, *tasks}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
