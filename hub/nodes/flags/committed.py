"""What this node has committed and not read again yet: so it decides by it also while PostgreSQL does not answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from hub.flags import Override, StageState
from hub.nodes.flags.store import Change, Changed, Stored

_T = TypeVar("_T", Override, StageState)


class Committed:
    """By flag the newest alone, so it is as many as there are flags."""

    def __init__(self) -> None:
        self.version = 0
        """Of the newest change. What other nodes committed before it is there to be read since then, too."""
        self._overrides: dict[str, tuple[int, Override | None]] = {}
        self._stages: dict[str, tuple[int, StageState | None]] = {}

    def changed(self, changes: Sequence[Change], done: Changed) -> None:
        """A list of changes; each has the version after the one before it."""
        first = done.version - len(changes) + 1
        for version, (change, override) in enumerate(zip(changes, done.overrides, strict=True), first):
            _note(self._overrides, change.flag, version, override)
        self.version = max(self.version, done.version)

    def staged(self, flag: str, version: int, state: StageState | None) -> None:
        """A step of a schedule; None: it is forgotten."""
        _note(self._stages, flag, version, state and msgspec.structs.replace(state, version=version))
        self.version = max(self.version, version)

    def over(self, stored: Stored) -> Stored:
        """What was read, and over it what is newer. The version stays that of what was read: there may be more."""
        overrides, stages = _over(stored.overrides, self._overrides, stored), _over(stored.stages, self._stages, stored)
        return Stored(stored.version, overrides, stages)


def _note(newest: dict[str, tuple[int, _T | None]], flag: str, version: int, value: _T | None) -> None:
    if version > newest.get(flag, (0, None))[0]:
        newest[flag] = (version, value)


def _over(read: Mapping[str, _T], newest: dict[str, tuple[int, _T | None]], stored: Stored) -> Mapping[str, _T]:
    for flag in [flag for flag, (version, _) in newest.items() if version <= stored.version]:
        del newest[flag]
    if not newest:
        return read
    values = dict(read) | {flag: value for flag, (_, value) in newest.items() if value is not None}
    return {flag: value for flag, value in values.items() if newest.get(flag, (0, value))[1] is not None}
