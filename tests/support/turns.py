"""How much of something is done in one turn of an event loop: whether others have theirs in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

_Self = TypeVar("_Self")
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Turns:
    """Counts calls, of one loop only."""

    def __init__(self) -> None:
        self.count = 0
        self.most = 0
        """In one turn."""
        self._in_turn = 0

    def counting(self, method: Callable[Concatenate[_Self, _P], _R]) -> Callable[Concatenate[_Self, _P], _R]:
        """A method that does the same and is counted."""

        def counted(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            turns.note()
            return method(self, *args, **kwargs)

        turns = self
        return counted

    def note(self) -> None:
        """One more."""
        if not self._in_turn:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._in_turn += 1
        self.count += 1
        self.most = max(self.most, self._in_turn)

    def _next_turn(self) -> None:
        self._in_turn = 0
