"""Addresses that stand in a text as they are: where they begin and end, and how they become links."""

from __future__ import annotations

import re

from hub.markup.allowed import LINK_REL
from hub.markup.characters import escape

# Not within a word; a host begins with a letter, a digit or a bracket. No quotes: the address stands between some.
_ADDRESS = re.compile(r"(?<!\w)https?://[\w\[][^\s<>\"]*+", re.IGNORECASE)
# What follows an address in a sentence and is none of it. A closing bracket is when none was opened in it.
_PUNCTUATION = ".,:;!?'*_~…"
_BRACKETS = {")": "(", "]": "[", "}": "{"}
_MAX_TRIMMED = 64


def with_links(line: str) -> str:
    """A line of text as markup in which addresses that begin with ``http://`` or ``https://`` are links. The sanitiser
    decides whether they may be.
    """
    out = []
    at = 0
    for found in _ADDRESS.finditer(line):
        begin = found.start()
        address = _without_punctuation(found[0])
        shown = escape(address)
        out.append(f'{escape(line[at:begin])}<a href="{shown}" rel="{LINK_REL}">{shown}</a>')
        at = begin + len(address)
    out.append(escape(line[at:]))
    return "".join(out)


def _without_punctuation(address: str) -> str:
    for _ in range(_MAX_TRIMMED):
        last = address[-1]
        opening = _BRACKETS.get(last)
        if opening is not None:
            if address.count(opening) >= address.count(last):
                break
        elif last not in _PUNCTUATION:
            break
        address = address[:-1]
    return address
