"""Where text may be cut: after words, after sentences, in an emergency between graphemes. Knows nothing of tags.

Text here is as it stands in sanitised markup: its references are ``&amp;``, ``&lt;``, ``&gt;`` and ``&nbsp;``.
"""

from __future__ import annotations

import re
from enum import StrEnum

import regex


class Unit(StrEnum):
    """What a chunk is made of. The value is what stands on the wire."""

    AUTO = "auto"
    WORD = "word"
    SENTENCE = "sentence"
    PARAGRAPH = "paragraph"


# Blanks lead the next unit, so that a cut is always before one. A grapheme ends there, unless a character precedes that
# belongs to what follows, blank or not (GCB=Prepend).
_GLUE = r"\p{GCB=Prepend}"
_WORD_END = regex.compile(rf"\s*+\S++(?:(?<={_GLUE})\s++\S++)*+")
"""Each match is a word, with the blanks before it."""
_ASCII_WORD_END = re.compile(r"\s*+\S++")
"""The same where nothing is glued; more than twice as fast."""

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that write no blanks between words."""
_ANY_UNSPACED = regex.compile(f"[{UNSPACED}]")
_COMBINES = r"[\p{Grapheme_Extend}\p{GCB=SpacingMark}\u200d]"
_UNSPACED_END = regex.compile(
    rf"\s*+(?:(?:[{UNSPACED}]{_COMBINES}*+){{1,4}}+"
    rf"|[^\s{UNSPACED}]++(?:(?<={_GLUE})(?:\s++|[{UNSPACED}]{_COMBINES}*+)[^\s{UNSPACED}]*+)*+)"
)
"""The same where such scripts occur: four of their characters are a word."""

# Not after an initial or a common abbreviation. A cut too many or too few is no fault: it only changes the rhythm.
_NO_END = r"(?<!\b(?:[A-Z]|e\.g|i\.e|z\.B|Mr|Ms|Mrs|Dr|Prof|St|vs|etc|bzw|ca|Nr)\.)"
SENTENCE_END = regex.compile(rf"[.!?…]++{_NO_END}[\"'”’»)\]]*+(?=\s|\Z)|[。！？]++[」』）”’]*+(?!{_COMBINES})")
"""Each match ends where a sentence does."""
LINE_END = regex.compile(r"[^\n](?=\n|\Z)")
"""In code, lines are the sentences."""

# A reference counts as one character: with what is glued to it from before and what combines with it.
_GRAPHEME = regex.compile(rf"{_GLUE}*+&(?:amp|lt|gt|nbsp);{_COMBINES}*+|\X")
_REFERENCE_CHARS = len("&nbsp;")


def word_ends(text: str, begin: int, end: int) -> list[int]:
    """Where words end in ``text[begin:end]``."""
    if text[begin:end].isascii():
        return [found.end() for found in _ASCII_WORD_END.finditer(text, begin, end)]
    pattern = _UNSPACED_END if _ANY_UNSPACED.search(text, begin, end) else _WORD_END
    return [found.end() for found in pattern.finditer(text, begin, end)]


def cut_before(text: str, begin: int, limit: int, end: int) -> int:
    """Where to cut ``text[begin:end]``, which is too long, so that at most ``limit`` characters come before.

    Before the last blank of the second half, else between graphemes. One that is longer than ``limit`` is cut between
    code points; so nothing that anybody reads is. ``limit`` is at least 16.
    """
    blank = max(text.rfind(" ", begin + limit // 2, begin + limit), text.rfind("\n", begin + limit // 2, begin + limit))
    if blank > 0 and regex.match(rf"[^\s{_GLUE}]", text, pos=blank - 1):
        return blank
    best = begin
    for grapheme in _GRAPHEME.finditer(text, begin, min(end, begin + limit + _REFERENCE_CHARS)):
        if grapheme.end() > begin + limit:
            break
        best = grapheme.end()
    if best > begin:
        return best
    reference = text.rfind("&", begin, begin + limit)
    inside = reference > begin and reference + _REFERENCE_CHARS > begin + limit
    return reference if inside else begin + limit
