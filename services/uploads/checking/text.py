"""Whether bytes are text, and in which encoding. No I/O."""

from __future__ import annotations

import codecs
import re

# Control characters that no text has; an escape has its place in logs of terminals, Ctrl-Z at the end of old files.
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x19\x1c-\x1f\x7f]")
_CONTROLS_DECODED = re.compile("[\x00-\x08\x0e-\x19\x1c-\x1f\x7f\ufffe\uffff]")

UTF8 = "utf-8"
WINDOWS = "windows-1252"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def encoding_of(head: bytes) -> str | None:
    """By the mark at the beginning, or by what the bytes can be; ``None``: they are not text."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name if decodes(head[len(mark) :], name.removesuffix("-sig")) else None
    candidates = (UTF8, _wide(head), WINDOWS)
    return next((each for each in candidates if each and decodes(head, each)), None)


def is_text(data: bytes, begins: bool = True) -> bool:
    """``begins``: false for bytes out of the middle, which have no mark and may begin within a character."""
    if begins:
        return encoding_of(data) is not None
    return any(decodes(data[skip:], name) for name in (UTF8, WINDOWS, "utf-16-le", "utf-16-be") for skip in range(4))


def decodes(data: bytes, name: str) -> bool:
    """Whether it is text without control characters. It may end within a character."""
    if not name.startswith("utf-16") and CONTROLS.search(data):
        return False
    try:
        text = codecs.getincrementaldecoder(name)().decode(data)
    except UnicodeDecodeError:
        return False
    return not _CONTROLS_DECODED.search(text)


def _wide(head: bytes) -> str | None:
    """UTF-16 without a mark: of a text with Latin letters every other byte is zero."""
    sample = head[:1024]
    pairs = len(sample) // 2
    if not pairs:
        return None
    if sample[1::2].count(0) * 10 >= pairs * 4 and sample[::2].count(0) == 0:
        return "utf-16-le"
    if sample[::2].count(0) * 10 >= pairs * 4 and sample[1::2].count(0) == 0:
        return "utf-16-be"
    return None
