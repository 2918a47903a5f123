"""What a client has of a stream: chunks applied one by one, as they come out of events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from hub.client.content import ContentAssembler
from services.content.pipeline.chunks import Chunk


def prefixes(chunks: Iterable[Chunk]) -> Iterator[str]:
    """What a client has after every chunk: each of them may be on somebody's screen. For the tests in a browser too."""
    assembler = ContentAssembler()
    for chunk in chunks:
        assembler.apply(as_data(chunk))
        yield assembler.html


def as_data(chunk: Chunk) -> dict[str, object]:
    """A chunk as it comes out of an event."""
    data: dict[str, object] = msgspec.json.decode(msgspec.json.encode(chunk))
    return data
