"""What others wrote, fit for a terminal: nothing in it can move the cursor, change colours or turn the text round."""

from __future__ import annotations

import unicodedata

_REPLACEMENT = "\ufffd"
_JOINERS = "\u200c\u200d"  # emoji and some scripts need them
_CONTROLS = frozenset(("Cc", "Cs", "Zl", "Zp"))


def clean(text: object, *, lines: bool = False) -> str:
    """The text in one line, or with ``lines`` in as many as it has."""
    unified = str(text).replace("\r\n", "\n")
    return "".join(map(_shown, unified if lines else unified.replace("\n", " ").strip()))


def _shown(character: str) -> str:
    if character == "\n" or " " <= character <= "~":
        return character
    if character == "\t":
        return " "
    category = unicodedata.category(character)
    if category in _CONTROLS:
        return _REPLACEMENT
    return "" if category == "Cf" and character not in _JOINERS else character
