"""What is asked of flags, and by whom: ``Flags``, with one implementation over a dict for tests.

Reading a flag cannot fail: there is always a value, and a reason for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from msgspec import Struct


class Subject(Struct, frozen=True):
    """For whom a flag is asked. ``user`` and ``org`` come from a verified token; "" where nobody is known yet."""

    user: str = ""
    org: str = ""
    attributes: Mapping[str, Any] = {}
    """What targeting rules may look at besides; never decides a percentage."""


class Evaluation(Struct, frozen=True, omit_defaults=True):
    """What a flag is for a subject.

    ``reason`` is OpenFeature's: STATIC, DEFAULT, TARGETING_MATCH, SPLIT, DISABLED, ERROR.
    """

    flag: str
    value: Any
    reason: str
    version: str
    """Of the file and the run-time changes that it was decided by."""
    variant: str | None = None
    rule: str = ""
    """Which step decided: kill_switch, override, allow_list, targeting, rollout, default."""
    error_code: str | None = None
    error_message: str | None = None
    """For whoever asks."""
    metadata: Mapping[str, Any] = {}
    """Owner, description, expiry and whatever else the file says about the flag."""
    cause: str | None = None
    """What went wrong in a rule, as a library says it: for operators alone."""


OnFlagChange = Callable[[frozenset[str]], None]
"""Told which flags may have another value for somebody now. Called on the event loop, must not block."""


class Flags(Protocol):
    """The flags of one node."""

    @property
    def version(self) -> str:
        """Changes with every change of any flag."""

    def evaluate(self, flag: str, subject: Subject) -> Evaluation:
        """One flag, of any type. Never raises: one that does not exist has the value None and an ``error_code``."""

    def on(self, flag: str, subject: Subject) -> bool:
        """Whether a boolean flag is on. One that does not exist has the default that the code declares for it: on."""

    def values(self, subject: Subject) -> Mapping[str, bool]:
        """All boolean flags, as ``welcome`` has them. One mapping for all who have the same: do not change it."""

    def on_change(self, action: OnFlagChange) -> None:
        """Names somebody who is told of changes."""


class FixedFlags:
    """``Flags`` over a dict: for tests, and for a deployment without a file."""

    def __init__(self, values: Mapping[str, bool] | None = None) -> None:
        self._values: Mapping[str, bool] = dict(values or {})
        self._actions: list[OnFlagChange] = []
        self._count = 1

    @property
    def version(self) -> str:
        """A count."""
        return str(self._count)

    def evaluate(self, flag: str, subject: Subject) -> Evaluation:
        """The same for everybody."""
        if flag in self._values:
            value = self._values[flag]
            return Evaluation(flag, value, "STATIC", self.version, "on" if value else "off", "default")
        return Evaluation(flag, None, "ERROR", self.version, error_code="FLAG_NOT_FOUND", error_message="no such flag")

    def on(self, flag: str, subject: Subject) -> bool:
        """What is not in the dict is on."""
        return self._values.get(flag, True)

    def values(self, subject: Subject) -> Mapping[str, bool]:
        """The dict."""
        return self._values

    def on_change(self, action: OnFlagChange) -> None:
        """Told of ``set``."""
        self._actions.append(action)

    def set(self, **changes: bool) -> None:
        """Changes flags and tells."""
        self._values = {**self._values, **changes}
        self._count += 1
        for action in self._actions:
            action(frozenset(changes))


def subject_attributes(given: Any) -> Mapping[str, Any]:
    """Attributes out of what a client sent: scalars only. Raises ``msgspec.ValidationError``."""
    return msgspec.convert(given, dict[str, str | int | float | bool | None])
