"""The topic kinds of content streams, and the names of their events."""

from __future__ import annotations

import re
from typing import Final

from hub.api import History, Principal, Settings, SlowPolicy, TopicKind, bad_request

CONTENT: Final = "content"
DICTATION: Final = "content_dictation"

START: Final = "stream_start"
CHUNK: Final = "chunk"
COMPLETE: Final = "stream_complete"
ERROR: Final = "stream_error"
PROGRESS: Final = "progress"

_STREAM = re.compile(r"[A-Za-z0-9._~-]{1,128}")
# What an event of a chunk costs in Redis beside its html and text.
_CHUNK_OVERHEAD = 400
_MARKUP_FACTOR = 4  # html and text of a source, with what cutting repeats


def content_kinds(settings: Settings) -> list[TopicKind]:
    """``content:<stream>``, which holds a whole stream from its first chunk, and the dictation behind it.

    Whoever the scope allows may watch a stream of his organisation; only the driver writes to it.
    """
    most = settings.content_max_chunks
    whole = History(
        count=most + 1000,
        bytes=settings.content_max_stream_bytes * _MARKUP_FACTOR + most * _CHUNK_OVERHEAD,
        age_s=settings.content_replay_s,
    )
    return [
        TopicKind(name=CONTENT, history=whole, slow=SlowPolicy.REPLAY, may_publish=_nobody, paced=True),
        # What a language model has said so far, so that another node can go on: nobody listens.
        TopicKind(name=DICTATION, history=whole, may_subscribe=_nobody, may_publish=_nobody),
    ]


def content_topic(stream: str) -> str:
    """Where a stream is watched."""
    return f"{CONTENT}:{stream}"


def dictation_topic(stream: str) -> str:
    """Where the text of a stream that is being written is kept."""
    return f"{DICTATION}:{stream}"


def stream_name(value: str, field: str = "stream") -> str:
    """``value`` if it may name a stream. Raises ``bad_request`` that names the field."""
    if not _STREAM.fullmatch(value):
        raise bad_request(f"'{field}' is 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -")
    return value


async def _nobody(_: Principal, __: str) -> bool:
    return False
