"""What people write and name, checked and brought into one form. Pure; what may be shown of it is the hub's markup."""

from __future__ import annotations

import re
import unicodedata

import regex

from hub.api import ErrorCode, HubError, bad_request

_ROOM = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_LONGEST_NAME = 120
_LONGEST_EMOJI_BYTES = 64

_LINE_END = re.compile(r"\r\n?")
_NOT_IN_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_IN_NAMES = regex.compile(r"[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_Control}]")
# Embeddings, overrides and isolates, as the hub's markup takes them out of the HTML. Balanced ones would do no less:
# they make a link or the name of a file read otherwise than it is, and a terminal has no end of a message where they
# end. Marks (U+200E, U+200F, U+061C) stay: they turn nothing round, and right-to-left text needs no more than them.
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
# The braille blank is a character like others to Unicode.
_SHOWN = regex.compile(r"[^\s\p{Default_Ignorable_Code_Point}\u2800]")


def message_text(value: str, limit_bytes: int) -> str:
    """A message's text, with line ends as ``\\n`` and without characters that turn round what follows.

    Raises ``empty_content`` when nothing would be seen, ``too_large``, and ``bad_request`` for control characters but
    line ends and tabs, and for halves of surrogate pairs.
    """
    text = _BIDI.sub("", _LINE_END.sub("\n", value))
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limit_bytes:
        raise HubError(
            ErrorCode.TOO_LARGE,
            f"the message has {size} bytes, at most {limit_bytes} are accepted; send it in parts",
            details={"bytes": size, "limit": limit_bytes},
        )
    unwanted = _NOT_IN_TEXT.search(text)
    if unwanted is not None:
        raise bad_request(
            f"'text' has the character {_code_point(unwanted[0])}; of those only line ends and tabs may be"
        )
    if not _SHOWN.search(text):
        raise HubError(ErrorCode.EMPTY_CONTENT, "the message has no text; send at least one character that can be seen")
    return text


def room_name(value: str) -> str:
    """A room's name: one line, in NFC, without blanks around it. Raises ``bad_request``."""
    name = _plain(value.strip(), "name")
    if len(name) > _LONGEST_NAME:
        raise bad_request(f"'name' has {len(name)} characters, at most {_LONGEST_NAME} are accepted")
    return name


def emoji(value: str) -> str:
    """A reaction, in NFC, so that the same one has one form. Raises ``bad_request``."""
    sign = _plain(value, "emoji")
    if len(sign.encode()) > _LONGEST_EMOJI_BYTES or any(map(str.isspace, sign)):
        raise bad_request(f"'emoji' has 1 to {_LONGEST_EMOJI_BYTES} bytes and no blanks")
    return sign


def room_id(value: str) -> str:
    """The id of a room. Raises ``bad_request``."""
    if not _ROOM.fullmatch(value):
        raise bad_request("'room' is 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -")
    return value


def _plain(value: str, field: str) -> str:
    unwanted = _NOT_IN_NAMES.search(value)
    if unwanted is not None:
        raise bad_request(f"'{field}' has the character {_code_point(unwanted[0])}, which is not accepted there")
    if not _SHOWN.search(value):
        raise bad_request(f"'{field}' has no character that can be seen")
    return unicodedata.normalize("NFC", value)


def _code_point(character: str) -> str:
    return f"U+{ord(character):04X}"
