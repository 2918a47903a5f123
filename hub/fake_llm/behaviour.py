"""The knobs: how an answer comes, and how it goes wrong. They are set for all requests or by the name of the model."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

End = Literal[
    "finish",
    "length",
    "withheld",
    "linger",
    "cut",
    "reset",
    "stall",
    "error",
    "unfinished",
    "bad_json",
    "bad_event",
    "bad_text",
    "bad_type",
    "no_stream",
    "endless_line",
    "endless_event",
    "huge",
]

ENDS: dict[End, str] = {
    "finish": "nothing; all tokens come, in order",
    "length": "an end in order, because the model's limit is reached",
    "withheld": "an end in order, because the model does not want to go on",
    "linger": "the text ends in order, the answer does not end",
    "cut": "the connection is closed in the middle of the answer",
    "reset": "the connection is reset",
    "stall": "silence, but for signs of life that are no text",
    "error": "an error in the provider's own words, in the stream",
    "unfinished": "the answer ends in order, the text does not",
    "bad_json": "an event that is no JSON",
    "bad_event": "JSON that is no event",
    "bad_text": "bytes that are no UTF-8",
    "bad_type": "a page instead of a stream, from the start",
    "no_stream": "no events under a stream's content type, from the start",
    "endless_line": "a line that never ends",
    "endless_event": "lines that never end their event",
    "huge": "one piece of a million characters, and an end in order",
}


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to answer. ``end`` (see ``ENDS``) comes after ``after`` tokens, or after all when they are fewer."""

    tokens: Annotated[int, Meta(ge=0, le=1_000_000)] = 40
    tokens_per_s: Annotated[float, Meta(ge=0)] = 0.0  # 0: without a pause
    first_token_s: Annotated[float, Meta(ge=0)] = 0.0  # before even the head of the answer
    status: Annotated[int, Meta(ge=200, le=599)] = 200  # anything else is an answer without a text
    retry_after: str = ""  # the header Retry-After beside it
    retry_after_ms: str = ""  # … and its sibling
    location: str = ""  # … and where a redirect leads
    error: str = ""  # the type of the error in the answer; empty: what fits the status
    times: Annotated[int, Meta(ge=0)] = 0  # so many requests; after them answers come in order. 0: all
    after: Annotated[int, Meta(ge=0)] = 3
    end: End = "finish"
    halves: bool = False  # characters beyond U+FFFF come in two halves, in two tokens


def of_model(model: str) -> Behaviour | None:
    """What the name of a model asks for: ``anything?end=cut&after=5``; None when it asks for nothing.

    Raises ``ValueError`` (``msgspec.ValidationError``) for a knob or a value that does not exist.
    """
    _, question, knobs = model.partition("?")
    if not question:
        return None
    return msgspec.convert(dict(parse_qsl(knobs, strict_parsing=True)), Behaviour, strict=False)
