"""How uploads are called: their ids, their topics, and the names of their events."""

from __future__ import annotations

import re
import secrets
import time
from typing import Final

from hub.api import not_found

UPLOAD: Final = "upload"

CREATED: Final = "created"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
PROGRESS: Final = "progress"
DOCUMENT: Final = "document.uploaded"
DOCUMENT_TOPIC: Final = "events:guest"

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no letter that looks like a digit
_ID = re.compile(f"[{_ALPHABET}]{{26}}")
_TIME_CHARS: Final = 10


def new_id() -> str:
    """A ULID: 48 bits of milliseconds and 80 random bits, so that ids sort by time and cannot be guessed."""
    ms = int(time.time() * 1000)
    head = "".join(_ALPHABET[ms >> shift & 31] for shift in range(5 * (_TIME_CHARS - 1), -1, -5))
    return head + "".join(secrets.choice(_ALPHABET) for _ in range(26 - _TIME_CHARS))


def is_id(text: str) -> bool:
    """Whether this can be an upload's id at all."""
    return _ID.fullmatch(text) is not None


def check_id(text: str) -> str:
    """``text`` if it can be an id; else ``not_found``, as for one that is not there."""
    if not is_id(text):
        raise not_found("upload")
    return text


def is_upload_topic(topic: str) -> bool:
    """Whether uploads are watched there."""
    return topic.startswith(f"{UPLOAD}:")


def upload_topic(upload: str) -> str:
    """Where an upload is watched."""
    return f"{UPLOAD}:{upload}"
