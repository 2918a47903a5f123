"""Short texts that are known whole, such as messages of a chat, as safe HTML in one step. Services have it as
``hub.markup``.

Made while the event loop waits, so it is bounded: 8 KB of whatever take a few milliseconds at most.
"""

from __future__ import annotations

import re

import msgspec

from hub.markup.characters import clean_characters
from hub.markup.findings import Findings
from hub.markup.links import with_links
from hub.markup.markdown import Markdown
from hub.markup.sanitise import Sanitiser
from hub.markup.text import paragraphs, text_to_html

MAX_WORK = 4_000
"""What the parser may do for one text, about a microsecond each. What people write takes one to three per character, so
that eight kilobytes of prose and about two of nothing but links and lists are shown as what they mean. What is more is
shown as text: 8 KB of the worst took 150 ms without this bound, and take about 5 with it.
"""
MAX_HTML_BYTES = 40_960
"""Of what Markdown becomes, as JSON; what is longer is shown as text, so that an event has room for it."""
MAX_LINKS = 50
"""Addresses in a plain text that may be links; of a text with more none is. Each costs what a paragraph does."""
_MAX_DEPTH = 100

# What the parser does not count well: links, whose addresses are taken apart, marks and lines, each of them a token.
_LINK = re.compile(r"\]\(|<[^\s<>:@]{1,64}[:@]")
_LINK_WORK = 25
_MARKS = "*_~<\n"
_MARK_WORK = 2
_VISIBLE = re.compile(r"(?:^|>)\s*[^\s<]|<(?:img|hr|input)[ >]")


class Markup:
    """Made once for a node; safe to share. Holds nothing between calls."""

    def __init__(self) -> None:
        self._sanitiser = Sanitiser(_MAX_DEPTH)
        self._markdown = Markdown(references=True, max_work=MAX_WORK)

    def html(self, text: str, markdown: bool) -> str:
        """``text`` as sanitised blocks, by the rules of content streams: safe to insert by ``innerHTML`` in any page.

        Plain text keeps its lines, and in it addresses that begin with ``http://`` or ``https://`` are links. Markdown
        is shown as plain text when it takes too much work, becomes too long or would show nothing. Cleaned again the
        result is the same. Empty for nothing but blanks and characters that are taken out.
        """
        text = clean_characters(text, Findings())
        made = self._from_markdown(text) if markdown else None
        return self._from_text(text) if made is None else made

    def _from_text(self, text: str) -> str:
        if not 0 < text.count("://") <= MAX_LINKS:
            return text_to_html(text)
        # Escaped text is clean; of links the sanitiser decides.
        return "".join(self._sanitiser.clean(one) if "<a " in one else one for one in paragraphs(text, with_links))

    def _from_markdown(self, text: str) -> str | None:
        """None: shown as text."""
        marks = sum(map(text.count, _MARKS))
        if _MARK_WORK * marks + _LINK_WORK * len(_LINK.findall(text)) > MAX_WORK:
            return None
        too_complex = Findings()
        made = self._markdown.convert(text, too_complex)
        if too_complex:
            return None
        made = self._sanitiser.clean(made)
        if not _VISIBLE.search(made) or len(msgspec.json.encode(made)) > MAX_HTML_BYTES:
            return None
        return made
