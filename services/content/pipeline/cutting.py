"""Cuts one block of a sanitised document into pieces that can be put into the document one after the other.

A piece is balanced and has one place where it belongs: inside the element that is open there. So a cut is never within
a tag, a reference or a grapheme, and what was sent is never sent again. Where the place changes, a piece ends.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import regex

from hub.api import markup as safe
from services.content.pipeline.units import LINE_END, SENTENCE_END, Unit, cut_before, word_ends

_BLOCK_TAGS, _VOID_TAGS, _TAG = safe.BLOCK_TAGS, safe.VOID_TAGS, safe.TAG
_PARAGRAPHS = safe.HEADINGS | frozenset({"p", "pre", "li", "dt", "dd", "tr", "caption", "figcaption", "summary", "hr"})
_LINE_BREAKS = "|".join(sorted(_BLOCK_TAGS | {"br"}))
_SAME_LINE = regex.compile(rf"(?:<(?!/?(?:{_LINE_BREAKS})[ >])[^>]*+>)*+")
"""Tags after which a line goes on."""


class Piece(msgspec.Struct, frozen=True, gc=False):
    """A part of a block."""

    html: str
    """Balanced."""
    text: str
    depth: int
    """How many elements are open where it belongs; 0 for the block's beginning."""
    done: float
    """How much of what was cut last has been given with it, up to 1."""


class Place(NamedTuple):
    """A point in a block where cutting begins."""

    at: int = 0
    open: tuple[str, ...] = ()
    """The elements open there, the outermost first."""


START = Place()


def place_of_end(block: str) -> Place:
    """Where more of ``block`` would belong: before the end tags that it ends with."""
    at = len(block)
    names: list[str] = []
    while block.endswith(">", 0, at):
        begin = block.rfind("<", 0, at)
        if not block.startswith("</", begin):
            break
        names.append(block[begin + 2 : at - 1])
        at = begin
    return Place(at, tuple(reversed(names)))


class Cutter:
    """Of one block, which may come in parts. Written for speed: most of what a stream costs is here.

    ``unit`` is not AUTO; None: as few pieces as can be. A piece's html has at most ``limit`` characters and one tag,
    and end tags for what is open.
    """

    def __init__(self, unit: Unit | None, limit: int, place: Place = START) -> None:
        self._block = ""  # from what was not given yet
        self._by_paragraph = unit is Unit.PARAGRAPH
        self._within_lines = unit is Unit.WORD or unit is Unit.SENTENCE
        self._by_word = unit is Unit.WORD
        self._limit = limit
        self._begin = place.at  # of the next piece
        self._open = list(place.open)
        self._base = len(place.open)  # how many of them are where the next piece belongs
        self._said: list[str] = []  # its text so far
        self._spoken = place.at > 0  # whether a new line would be another one
        self._new_line = False  # text that comes now stands on another line than that before
        self._row = 0  # how many tr are open
        self._code = self._open.count("pre")

    def cut(self, markup: str, *, last: bool = True) -> Iterator[Piece]:
        """The pieces of the block from the place on, in order, as far as they are known: all when ``markup`` is the
        ``last`` of it. A part ends with the tag of a block; how a block is parted changes nothing but ``done``.
        """
        if self._block:
            markup = self._block[self._begin :] + markup
            at, self._begin = len(self._block) - self._begin, 0
        else:
            at = self._begin
        self._block = markup
        yield from self._pieces(at)
        if last and len(markup) > self._begin:
            yield self._piece(len(markup))

    def _pieces(self, at: int) -> Iterator[Piece]:
        for tag in _TAG.finditer(self._block, at):
            start, end = tag.span()
            slash, name = tag.groups()
            if start > at:
                cuts = self._cuts(at, start) if self._within_lines else []
                if cuts or start - self._begin > self._limit:
                    yield from self._text(at, start, cuts)
                else:
                    self._say(at, start)
            at = end
            if slash:
                piece = self._end_tag(name, start, end)
                if piece is not None:
                    yield piece
            else:
                if start > self._begin and self._ends_before(name, start):
                    yield self._piece(start)
                self._start_tag(name)
                if name == "hr" and self._by_paragraph:
                    yield self._piece(end)

    def _ends_before(self, name: str, start: int) -> bool:
        """Whether a piece ends before a start tag: there is enough, or the tag begins another line."""
        if start - self._begin > self._limit:
            return True
        return self._within_lines and name in _BLOCK_TAGS and bool(self._said)

    def _start_tag(self, name: str) -> None:
        if name in _BLOCK_TAGS:
            self._new_line = True
            if name == "tr":
                self._row += 1
            elif name == "pre":
                self._code += 1
        elif name == "br":
            self._said.append("\n")
        if name not in _VOID_TAGS:
            self._open.append(name)

    def _end_tag(self, name: str, start: int, end: int) -> Piece | None:
        piece = None
        if len(self._open) == self._base:
            # The element that pieces went into is complete; its end tag is there already.
            if start > self._begin:
                piece = self._piece(start)
            self._base -= 1
            self._begin = end
        self._open.pop()
        if name in _BLOCK_TAGS:
            self._new_line = True
            if name == "tr":
                self._row -= 1
            elif name == "pre":
                self._code -= 1
            if self._by_paragraph and name in _PARAGRAPHS and not self._row and end > self._begin:
                piece = self._piece(end)
        return piece

    def _text(self, at: int, end: int, cuts: list[int]) -> Iterator[Piece]:
        """The text between two tags, which does not all belong to one piece."""
        for cut_at in cuts:
            if cut_at - self._begin > self._limit:
                yield from self._keep_short(at, cut_at)
            self._say(max(at, self._begin), cut_at)
            yield self._piece(cut_at)
        if end - self._begin > self._limit:
            yield from self._keep_short(at, end)
        if end > self._begin:
            self._say(max(at, self._begin), end)

    def _keep_short(self, at: int, end: int) -> Iterator[Piece]:
        """Pieces until what is left before ``end`` is short enough."""
        while end - self._begin > self._limit:
            begin = max(at, self._begin)
            if begin - self._begin >= self._limit // 2:
                cut_at = begin  # tags have filled it
            else:
                cut_at = cut_before(self._block, begin, self._limit - (begin - self._begin), end)
            self._say(begin, cut_at)
            yield self._piece(cut_at)

    def _cuts(self, at: int, end: int) -> list[int]:
        """Where units end in the text between two tags."""
        if self._by_word:
            cuts = word_ends(self._block, at, end)
        else:
            pattern = LINE_END if self._code else SENTENCE_END
            cuts = [found.end() for found in pattern.finditer(self._block, at, end)]
        if cuts and cuts[-1] == end and not self._ends_unit(end):
            cuts.pop()
        return cuts

    def _ends_unit(self, end: int) -> bool:
        """Whether a unit that goes to the end of a text ends there, not in the next one: a blank or a line follows."""
        following = _SAME_LINE.match(self._block, end)
        after = self._block[following.end() : following.end() + 1] if following else ""
        return after in ("\n", "<") or (after.isspace() and not self._code)

    def _say(self, at: int, end: int) -> None:
        raw = self._block[at:end]
        if self._new_line:
            if raw.isspace() and not self._code:
                return
            if self._spoken:
                self._said.append("\n")
            self._new_line = False
        self._said.append(html.unescape(raw) if "&" in raw else raw)
        self._spoken = True

    def _piece(self, end: int) -> Piece:
        markup = self._block[self._begin : end]
        depth = self._base
        if len(self._open) > depth:
            for name in reversed(self._open[depth:]):
                markup += f"</{name}>"
            self._base = len(self._open)
        said = self._said
        text = said[0] if len(said) == 1 else "".join(said)
        said.clear()
        self._begin = end
        return Piece(markup, text, depth, end / len(self._block))
