"""Changes of flags follow one another on a node: those who change them wait in line without a connection, because they
would all wait for the same row. What schedules do goes before people, whose line has a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hub.errors import ErrorCode, HubError

_T = TypeVar("_T")


class Line:
    """One line. What was begun is brought to its end, also when whoever asked for it has gone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting = 0
        self._line = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()

    async def wait(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """``work`` when all before it are done. Raises ``rate_limited`` while too many wait, and what ``work`` does."""
        if self._waiting >= self._most:
            raise HubError(ErrorCode.RATE_LIMITED, "too many changes of flags wait; try again", retry_after_ms=1000)
        self._waiting += 1
        try:
            async with self._line:
                return await self.first(work)
        finally:
            self._waiting -= 1

    async def first(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """``work`` as soon as the one that is under way is done, however many wait: a rollback cannot."""
        async with self._turn:
            return await asyncio.shield(self.begin(work()))

    def begin(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """What ``close`` waits for."""
        task = asyncio.create_task(work, name="flags change")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def close(self) -> None:
        """Returns when nothing is under way any more."""
        await asyncio.gather(*self._under_way, return_exceptions=True)
