"""Filters on tags: all given tags must match, a list means any of (PROTOCOL section 3)."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from hub.errors import bad_request
from hub.protocol.frames import Filter, Tags, TagValue

_MAX_TAGS = 32
_MAX_VALUES = 256


class _TagsOnly(Struct):
    tags: Tags | None = None


_tags_decoder = msgspec.json.Decoder(_TagsOnly)


def tags_of(body: bytes) -> Tags:
    """The tags in an event body, without decoding the rest of it."""
    return _tags_decoder.decode(body).tags or {}


def _comparable(value: TagValue) -> tuple[bool, TagValue]:
    # In Python True == 1; in JSON `true` and `1` are different values.
    return isinstance(value, bool), value


class TagFilter:
    """A compiled filter; ``matches`` is called once per event and filtered subscription."""

    __slots__ = ("_wanted", "spec")

    def __init__(self, spec: Filter) -> None:
        if len(spec) > _MAX_TAGS:
            raise bad_request(f"'filter' names more than {_MAX_TAGS} tags")
        self.spec = spec
        """As its client wrote it."""
        self._wanted: dict[str, frozenset[tuple[bool, TagValue]]] = {}
        for name, wanted in spec.items():
            values = wanted if isinstance(wanted, list) else [wanted]
            if len(values) > _MAX_VALUES:
                raise bad_request(f"'filter.{name}' lists more than {_MAX_VALUES} values")
            self._wanted[name] = frozenset(_comparable(value) for value in values)

    def matches(self, tags: Tags) -> bool:
        """Whether an event with these tags passes."""
        for name, wanted in self._wanted.items():
            value = tags.get(name)
            if value is None or _comparable(value) not in wanted:
                return False
        return True
