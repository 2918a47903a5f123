"""Makes markup safe: the fence, then nh3 with the allow list, until a further cleaning changes nothing.

The one place that decides what may reach an editor. What comes out parses to the same tree everywhere.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

import nh3

from hub.markup.allowed import (
    ATTRIBUTES,
    CHECKBOX,
    LINK_REL,
    OPAQUE_TAGS,
    SCHEMES,
    TAGS,
    safe_value,
)
from hub.markup.blocks import TAG, split_blocks
from hub.markup.characters import clean_characters, escape
from hub.markup.fence import fence
from hub.markup.findings import Findings

# A parser drops the first newline in a pre, so that each cleaning would take one away.
_PRE_NEWLINES = re.compile(r"(<pre[^>]*>)\n+")
_TAGS = re.compile(r"<[^>]*>")
_MAX_CLEANINGS = 4


class Segment(NamedTuple):
    """Some top-level blocks of a document."""

    blocks: list[str]
    """Each one element. Cleaned again, they are the same, byte for byte."""
    open: bool
    """Whether the last one ends within, and goes on with the first of the next segment."""
    until: float
    """How much of the source they and those before them come from, up to 1."""


class Sanitiser:
    """Cleans markup; ``max_depth`` bounds how deep elements nest. Holds no state between calls."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._cleaner = nh3.Cleaner(
            tags=set(TAGS),
            clean_content_tags=set(OPAQUE_TAGS),
            attributes={tag: set(names) for tag, names in ATTRIBUTES.items()},
            attribute_filter=safe_value,
            set_tag_attribute_values={"input": CHECKBOX},
            url_schemes=set(SCHEMES),
            link_rel=LINK_REL,
        )

    def segments(self, markup: str, found: Findings) -> Iterator[Segment]:
        """The safe document that ``markup`` becomes, piece by piece; adds to ``found``.

        A piece takes about a millisecond, unless one table or one paragraph is all there is.
        """
        markup = clean_characters(markup, found)
        for before, fenced, after, end in fence(markup, self._max_depth, found):
            blocks = self._settle(before + fenced + after)
            if before or after:
                blocks = _without(blocks, before, after)
            yield Segment(blocks, bool(after), end / len(markup))

    def clean(self, markup: str) -> str:
        """The whole of it as one string."""
        return "".join(block for segment in self.segments(markup, Findings()) for block in segment.blocks)

    def blocks(self, markup: str) -> list[str]:
        """The whole of it as top-level blocks."""
        return split_blocks(self.clean(markup))

    def _settle(self, fenced: str) -> list[str]:
        for _ in range(_MAX_CLEANINGS):
            cleaned = self._cleaner.clean(fenced)
            if "<pre" in cleaned:
                cleaned = _PRE_NEWLINES.sub(r"\1", cleaned)
            blocks = split_blocks(cleaned)
            again = "".join(blocks)
            if again == fenced:
                return blocks
            fenced = "".join(piece.markup for piece in fence(again, self._max_depth, Findings()))
        # No input is known that comes here. If a parser ever swings between two trees, the text must do.
        text = _text(fenced)
        return [f"<p>{text}</p>"] if text else []


def _text(markup: str) -> str:
    return escape(html.unescape(_TAGS.sub(" ", markup)).strip())


def _without(blocks: list[str], before: str, after: str) -> list[str]:
    """The blocks of a piece without what was put around it."""
    if not (blocks and blocks[0].startswith(before) and blocks[-1].endswith(after)):
        # No input is known that comes here either. The containers end, their text comes, and they begin anew.
        ends = "".join(f"</{name}>" for _, name in reversed(TAG.findall(before)))
        starts = "".join(f"<{name}>" for _, name in reversed(TAG.findall(after)))
        return [part for part in (ends, f"<p>{_text(''.join(blocks))}</p>", starts) if part]
    blocks[-1] = blocks[-1][: len(blocks[-1]) - len(after)]
    blocks[0] = blocks[0][len(before) :]
    return blocks if blocks[0] else []
