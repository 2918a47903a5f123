"""Plain text as HTML: a paragraph per run of lines, a line break per line, everything in it escaped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from hub.markup.characters import escape

PARAGRAPH_BREAK = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")


def text_to_html(source: str) -> str:
    """A paragraph per run of lines; a line break per line."""
    return "".join(paragraphs(source, escape))


def paragraphs(source: str, write: Callable[[str], str]) -> Iterator[str]:
    """The same one by one; ``write`` makes markup of a line."""
    for part in PARAGRAPH_BREAK.split(source.strip()):
        if "\n" in part:
            yield "<p>" + "<br>".join([write(line.strip()) for line in part.split("\n")]) + "</p>"
        elif part:
            yield f"<p>{write(part.strip())}</p>"
