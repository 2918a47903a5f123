"""Whether bytes are text, and in which encoding. No I/O."""

from __future__ import annotations

import codecs
import re

# Control characters that no text has; an escape has its place in logs of terminals, Ctrl-Z at the end of old files.
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x19\x1c-\x1f\x7f]")
_CONTROLS_DECODED = re.compile("[\x00-\x08\x0e-\x19\x1c-\x1f\x7f\ufffe\uffff]")

UTF8 = "utf-8"
WINDOWS = "windows-1252"
SOME_ASCII = "unknown"
# What windows-1252 would have within words and no language has: quotes, signs and capitals between small letters (of
# cp437, cp850, Mac Roman), or four letters with accents on end (of Cyrillic, Greek, Hebrew and Asian encodings).
_OTHER = re.compile(rb"[A-Za-z][\x80-\x84\x86-\x90\x94\x98\x9b\x9d\x9f][a-z]|[\xa1-\xff]{4}")
_MAX_SCRIPTS = 4
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def encoding_of(head: bytes) -> str | None:
    """By the mark at the beginning, or by what the bytes can be; ``None``: they are not text.

    ``SOME_ASCII``: text, and nobody knows which; of it only ASCII can be told.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name if decodes(head[len(mark) :], name.removesuffix("-sig")) else None
    for candidate in (UTF8, _wide(head)):
        if candidate and decodes(head, candidate):
            return candidate
    if CONTROLS.search(head):
        return None
    return SOME_ASCII if _OTHER.search(head) or not decodes(head, WINDOWS) else WINDOWS


def is_text(data: bytes, begins: bool = True) -> bool:
    """``begins``: false for bytes out of the middle, which have no mark and may begin within a character."""
    if begins:
        return encoding_of(data) is not None
    if not CONTROLS.search(data):
        return True
    return any(decodes(data[skip:], name) for name in ("utf-16-le", "utf-16-be") for skip in range(4))


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
    """UTF-16 without a mark: of every pair one byte is the script's, and zero for digits and ends of lines."""
    pairs = len(head[:1024]) // 2
    first, second = head[: 2 * pairs : 2], head[1 : 2 * pairs : 2]
    for script, others, name in ((second, first, "utf-16-le"), (first, second, "utf-16-be")):
        if 0 in script and 0 not in others and len(set(script)) <= _MAX_SCRIPTS:
            return name
    return None
