"""From what somebody wrote to HTML that a page may show. Pure: no clock, no I/O, no log.

``Markup`` is for short texts that are known whole. Services that cut and stream take the parts: ``characters`` cleans,
``text`` and ``markdown`` convert, ``sanitise`` decides what may be shown (``fence`` before the parser, ``allowed`` as
the list), ``blocks`` splits, ``findings`` counts what looked like an attack.
"""

from hub.markup.allowed import BLOCK_TAGS, HEADINGS, VOID_TAGS
from hub.markup.blocks import TAG, split_blocks
from hub.markup.characters import clean_characters
from hub.markup.fence import count_markup
from hub.markup.findings import Finding, Findings, in_markdown
from hub.markup.markdown import MAX_WORK, Markdown, Work
from hub.markup.markup import Markup
from hub.markup.sanitise import Sanitiser, Segment
from hub.markup.text import PARAGRAPH_BREAK, text_to_html

__all__ = (
    "BLOCK_TAGS",
    "HEADINGS",
    "MAX_WORK",
    "PARAGRAPH_BREAK",
    "TAG",
    "VOID_TAGS",
    "Finding",
    "Findings",
    "Markdown",
    "Markup",
    "Sanitiser",
    "Segment",
    "Work",
    "clean_characters",
    "count_markup",
    "in_markdown",
    "split_blocks",
    "text_to_html",
)
