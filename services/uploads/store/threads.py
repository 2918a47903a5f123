"""A few threads for what blocks. A call that is given up is waited for, or known to be never begun."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """``count`` of them; calls beyond that wait, in the order in which they came."""

    def __init__(self, count: int, timeout_s: float) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="uploads-store")
        self._timeout_s = timeout_s
        self._running: set[asyncio.Future[Any]] = set()
        self._closed = False

    async def run(self, call: Callable[[], T]) -> T:
        """What ``call`` returns or raises.

        ``TimeoutError`` when it has not ended in time; it may still do so, or was never begun. When this is cancelled
        a call that has begun is waited for, as long as one may take. ``OSError`` after ``close``.
        """
        if self._closed:
            raise _closed()
        job: Future[T] = self._pool.submit(call)
        done = asyncio.wrap_future(job)
        self._running.add(done)
        done.add_done_callback(self._ended)
        try:
            await asyncio.wait({done}, timeout=self._timeout_s)
        except asyncio.CancelledError:
            await self._give_up(job, done)
            raise
        if done.cancelled():  # by ``close``: whoever calls was not
            raise _closed()
        if done.done():
            return done.result()
        job.cancel()
        raise TimeoutError("the store has not answered in time")

    async def _give_up(self, job: Future[T], done: asyncio.Future[T]) -> None:
        if job.cancel():
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        while not done.done() and (left := deadline - loop.time()) > 0:
            try:
                await asyncio.wait({done}, timeout=left)
            except asyncio.CancelledError:
                continue  # it is on its way already, as soon as the thread has ended

    def _ended(self, done: asyncio.Future[Any]) -> None:
        self._running.discard(done)
        if not done.cancelled():
            done.exception()  # whoever has given up does not look at it

    async def close(self) -> None:
        """Calls that wait are dropped; those that run are waited for, as long as one may take."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._running:
            await asyncio.wait(set(self._running), timeout=self._timeout_s)


def _closed() -> OSError:
    return OSError(errno.ESHUTDOWN, "the store is closed")
