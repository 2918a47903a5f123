"""What clients write, checked: texts, names of rooms, reactions. No I/O."""

from __future__ import annotations

import re

from hub.api import ErrorCode, HubError, bad_request

_ROOM = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_LONGEST_NAME = 120


def message_text(value: str, limit_bytes: int) -> str:
    """A message's text. Raises ``empty_content``, ``too_large``, ``bad_request``."""
    if not value.strip():
        raise HubError(ErrorCode.EMPTY_CONTENT, "the message has no text")
    if len(value.encode(errors="replace")) > limit_bytes:
        raise HubError(
            ErrorCode.TOO_LARGE, f"a message has at most {limit_bytes} bytes", details={"limit": limit_bytes}
        )
    if not value.replace("\n", "").replace("\t", "").isprintable():
        raise bad_request("'text' has control characters")
    return value


def room_name(value: str) -> str:
    """A room's name. Raises ``bad_request``."""
    name = value.strip()
    if not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
        raise bad_request(f"'name' has 1 to {_LONGEST_NAME} printable characters")
    return name


def emoji(value: str) -> str:
    """A reaction. Raises ``bad_request``."""
    if not 1 <= len(value.encode(errors="replace")) <= 64 or not value.strip():
        raise bad_request("'emoji' has 1 to 64 bytes")
    return value


def room_id(value: str) -> str:
    """The id of a room. Raises ``bad_request``."""
    if not _ROOM.fullmatch(value):
        raise bad_request("'room' is 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -")
    return value
