"""The hub's flags for whoever evaluates by OpenFeature: a provider over ``Flags`` or an ``Evaluator``.

A flag that is killed is false here as everywhere; OpenFeature's own "disabled" would be the caller's default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata

from hub.flags.words import Evaluation, Subject

_T = TypeVar("_T")
_Structure = Sequence[FlagValueType] | Mapping[str, FlagValueType]


class Evaluates(Protocol):
    """What a provider needs: ``Flags``, ``Evaluator``."""

    def evaluate(self, flag: str, subject: Subject) -> Evaluation:
        """One flag. Never raises."""


class FlagsProvider(AbstractProvider):
    """A provider of OpenFeature. The targeting key is the user, the attribute ``org`` the organisation.

    Name ``changed`` to ``Flags.on_change``, and clients hear of changes as events. Never raises.
    """

    def __init__(self, flags: Evaluates) -> None:
        super().__init__()
        self._flags = flags

    def get_metadata(self) -> Metadata:
        """The provider's name."""
        return Metadata(name="hub")

    def changed(self, names: frozenset[str]) -> None:
        """Tells of flags that may have another value now."""
        self.emit_provider_configuration_changed(ProviderEventDetails(flags_changed=sorted(names)))

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """Of a flag that is on or off."""
        return self._resolve(flag_key, default_value, evaluation_context, _boolean)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Of a flag that is a text."""
        return self._resolve(flag_key, default_value, evaluation_context, _string)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Of a flag that is a whole number, also when it is written 10.0."""
        return self._resolve(flag_key, default_value, evaluation_context, _integer)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Of a flag that is a number."""
        return self._resolve(flag_key, default_value, evaluation_context, _float)

    def resolve_object_details(
        self, flag_key: str, default_value: _Structure, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[_Structure]:
        """Of a flag that is a mapping or a list."""
        return self._resolve(flag_key, default_value, evaluation_context, _structure)

    def _resolve(
        self, flag: str, default: _T, context: EvaluationContext | None, convert: Callable[[Any], _T]
    ) -> FlagResolutionDetails[_T]:
        found = self._flags.evaluate(flag, _subject(context))
        metadata = MappingProxyType(dict(found.metadata))
        details = FlagResolutionDetails(default, reason=found.reason, variant=found.variant, flag_metadata=metadata)
        if found.error_code is not None:
            return _failed(details, ErrorCode(found.error_code), found.error_message or "")
        if found.value is None:
            return details
        try:
            details.value = convert(found.value)
        except TypeError as error:
            return _failed(details, ErrorCode.TYPE_MISMATCH, f"flag {flag} is {error}")
        return details


def _failed(details: FlagResolutionDetails[_T], code: ErrorCode, message: str) -> FlagResolutionDetails[_T]:
    details.reason, details.variant = Reason.ERROR, None
    details.error_code, details.error_message = code, message
    return details


def _subject(context: EvaluationContext | None) -> Subject:
    if context is None:
        return Subject()
    org = context.attributes.get("org")
    return Subject(context.targeting_key or "", org if isinstance(org, str) else "", context.attributes)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError("not on or off")


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError("not a text")


def _integer(value: Any) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
        return int(value)
    raise TypeError("not a whole number")


def _float(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise TypeError("not a number")


def _structure(value: Any) -> _Structure:
    if isinstance(value, dict | list):
        return deepcopy(value)  # whoever gets it may change it, the flag stays
    raise TypeError("not a mapping or list")
