"""The slow policy ``latest``: of what was missed, only the newest event per value of a tag. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hub.protocol.frames import TagValue
from hub.topics.publication import Publication
from hub.topics.splice import Hole

Newest = dict[TagValue | None, Publication]


def conflated(newest: Mapping[TagValue | None, Publication], after: int, top: int) -> Iterator[Publication | Hole]:
    """The kept events in order; between them, and up to ``top``, a hole for every run that was left out."""
    position = after
    for publication in sorted(newest.values(), key=lambda item: item.seq):
        if publication.seq > position + 1:
            yield Hole("overflow", position + 1, publication.seq - 1)
        yield publication
        position = publication.seq
    if position < top:
        yield Hole("overflow", position + 1, top)
