"""A sanitised document as a list of top-level blocks, each one element, which is what an editor can apply.

Works on the sanitiser's output only, where every ``<`` and ``>`` belongs to a tag; leaves what is safe to ``sanitise``.
"""

from __future__ import annotations

import re

from hub.markup.allowed import BLOCK_TAGS, VOID_TAGS

TAG = re.compile(r"<(/?)([a-z0-9]++)[^>]*+>")
"""A tag of sanitised markup: its slash, its name."""

_BLANKS = " \t\n"


def split_blocks(markup: str) -> list[str]:
    """The top-level elements in order. Blanks between them go; a line of text and inline elements becomes a ``p``,
    or a ``div`` where one of those holds a block. Splitting the joined result gives the same list.
    """
    blocks: list[str] = []
    depth = begin = end = 0
    in_block = holds_block = False

    def end_line(at: int) -> None:
        line = markup[begin:at].strip(_BLANKS)
        if line:
            wrap = "div" if holds_block else "p"
            blocks.append(f"<{wrap}>{line}</{wrap}>")

    for tag in TAG.finditer(markup):
        slash, name = tag.groups()
        if slash:
            depth -= 1
        else:
            if name in BLOCK_TAGS:
                if depth == 0:
                    end_line(tag.start())
                    begin, in_block, holds_block = tag.start(), True, False
                else:
                    holds_block = True
            if name not in VOID_TAGS:
                depth += 1
        if depth == 0 and in_block:
            end = tag.end()
            blocks.append(markup[begin:end])
            begin, in_block, holds_block = end, False, False
    end_line(len(markup))
    return blocks
