"""What part of a document a request wants, and how its name is written in HTTP. No I/O.

RFC 9110 (ranges, conditions), RFC 6266 and RFC 8187 (the name).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote

_RANGE: Final = re.compile(r"bytes=([0-9]*)-([0-9]*)")
_ENTITY_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')
_NOT_IN_QUOTES: Final = re.compile(r'[^ -~]|["\\%]')
_NOT_ESCAPED: Final = "!#$&+-.^_`|~"  # beside letters and digits, RFC 8187's attr-char
_MOST_DIGITS: Final = 18


class Slice(NamedTuple):
    """Bytes ``start`` (included) to ``end`` (not) of a document of ``size``."""

    start: int
    end: int
    size: int

    @property
    def whole(self) -> bool:
        """Nobody asked for less."""
        return (self.start, self.end) == (0, self.size)


class Conditions(NamedTuple):
    """The request's headers that matter here; None: not sent, or more than once."""

    range: str | None = None
    if_range: str | None = None
    if_none_match: str | None = None


def has_it(conditions: Conditions, etag: str) -> bool:
    """Whether the client has this document already (304)."""
    text = conditions.if_none_match
    return text is not None and (text.strip() == "*" or etag.strip('"') in _ENTITY_TAG.findall(text))


def wanted(conditions: Conditions, etag: str, size: int) -> Slice | None:
    """What to answer with: a part, or the whole where no part, several or nonsense is asked for.

    None: the part that is asked for is not in the document (416).
    """
    whole = Slice(0, size, size)
    match = _RANGE.fullmatch((conditions.range or "").strip().lower())
    # If-Range wants a strong comparison; a date is no name that we give.
    if match is None or (conditions.if_range is not None and conditions.if_range.strip() != etag):
        return whole
    first, last = match[1], match[2]
    if max(len(first), len(last)) > _MOST_DIGITS or not (first or last):
        return whole
    if not first:
        return Slice(max(0, size - int(last)), size, size) if int(last) else None
    if last and int(last) < int(first):
        return whole
    if int(first) >= size:
        return None
    return Slice(int(first), min(int(last) + 1, size) if last else size, size)


def attachment(filename: str) -> str:
    """``Content-Disposition``: to be kept as a file of this name, not to be shown."""
    plain = _NOT_IN_QUOTES.sub("_", filename)
    if plain == filename:
        return f'attachment; filename="{plain}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe=_NOT_ESCAPED)}"
