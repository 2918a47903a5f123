"""Names of files as their senders give them: which are taken, and how they are written. No I/O."""

from __future__ import annotations

import re
import unicodedata

from hub.api import HubError, bad_request

MAX_BYTES = 255  # of UTF-8: what file systems take

_SEPARATORS = re.compile(r"[/\\]")
_DRIVE = re.compile(r"^[A-Za-z]:")
_RESERVED = re.compile(r"^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])$", re.IGNORECASE)
# Zero-width joiner and non-joiner: parts of words in Persian and Indic scripts, and of emoji.
_JOINERS = "\u200c\u200d"
_BIDIRECTIONAL = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Control, format, surrogate, line and paragraph separator.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def check_filename(name: str) -> str:
    """The name in Unicode's composed form (NFC). Raises ``bad_request`` that says what to do about it."""
    if not name:
        raise _refused("is empty; send the name of the file")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise _refused("is not valid Unicode; rename the file")
    name = unicodedata.normalize("NFC", name)
    if len(name.encode()) > MAX_BYTES:
        raise _refused(f"has more than {MAX_BYTES} bytes in UTF-8; give the file a shorter name")
    if _SEPARATORS.search(name) or _DRIVE.match(name):
        raise _refused("is a path; send the last part of it only, without folders or a drive")
    if _BIDIRECTIONAL.search(name):
        raise _refused("has a character that changes the direction of text, which hides what it is; rename the file")
    if _has_unseen(name):
        raise _refused("has control characters; rename the file")
    if name != name.strip() or name != name.strip("."):
        raise _refused("begins or ends with a space or a dot; rename the file")
    if _RESERVED.match(name.split(".", 1)[0].rstrip()):
        raise _refused("is a device of Windows (as con, nul or com1); rename the file")
    return name


def extension_of(name: str) -> str:
    """In lower case, with its dot; empty when there is none."""
    stem, dot, extension = name.rpartition(".")
    return f".{extension.lower()}" if stem and dot else ""


def _has_unseen(name: str) -> bool:
    for index, character in enumerate(name):
        if unicodedata.category(character) not in _UNSEEN:
            continue
        between = (
            0 < index < len(name) - 1 and not _stands_alone(name[index - 1]) and not _stands_alone(name[index + 1])
        )
        if character not in _JOINERS or not between:
            return True
    return False


def _stands_alone(character: str) -> bool:
    """Nothing that a joiner could join."""
    return character.isspace() or character == "." or unicodedata.category(character) in _UNSEEN


def _refused(why: str) -> HubError:
    return bad_request(f"'filename' {why}")
