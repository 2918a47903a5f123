"""What stands before the HTML parser: any markup in; out come allowed tags only, closed, nested in order, not too deep.

Safety does not rest on it, ``sanitise`` cleans what it gives. It keeps the parser from harm: 100 KB of formatting tags
that are never closed made it take gigabytes, deep nesting quadratic time. Every tag is written anew, so the parser
sees the tags that were counted here and no others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Set
from typing import NamedTuple

from hub.markup.allowed import (
    ATTRIBUTES,
    BLOCK_TAGS,
    CHECKBOX,
    HEADINGS,
    LINK_REL,
    MAX_ATTRIBUTES,
    MAX_URL_CHARS,
    OPAQUE_TAGS,
    TAGS,
    VOID_TAGS,
    safe_value,
    words,
)
from hub.markup.characters import escape, escape_value, resolve
from hub.markup.findings import Finding, Findings, suspect_attribute, suspect_tag

# After a tag's name: attributes with quoted, bare or no values. Possessive, so that no input makes it go back; a quote
# that is never closed is looked for at most twice.
_ATTRIBUTES = r"""(?:[\s/]++|[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+)?+)?+)*+"""
_TOKEN = re.compile(
    rf"<(?:(/?+)([a-zA-Z][^\s/>]*+)(?:>|({_ATTRIBUTES})(?:>|\Z))"
    r"|!--(?:-?>|.*?(?:--!?>|\Z))"
    r"|[!?/][^>]*+>?)",
    re.DOTALL | re.ASCII,
)
_ATTRIBUTE = re.compile(
    r"""([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"'][^\s>]*+))?+)?+""", re.ASCII
)
_END_OF_OPAQUE = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE | re.ASCII) for name in OPAQUE_TAGS}
_MAX_ESCAPED_CHARS = 2 * MAX_URL_CHARS

# An element whose end tag may be left out -> what ends when the next one comes, and where the search for it ends.
_CELLS = frozenset({"td", "th"})
_CELL_WALLS = frozenset({"td", "th", "caption", "table"})
_LIST_WALLS = BLOCK_TAGS - {"p", "div", "address", "li", "dt", "dd"}
_IN_TABLE = frozenset({"table"})
_SECTIONS = frozenset({"thead", "tbody", "tfoot", "caption", "colgroup"})
_TABLE_PARTS = _SECTIONS | {"col", "tr", "td", "th"}
_IMPLIED: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "a": (frozenset({"a"}), _CELL_WALLS),
    "li": (frozenset({"li"}), _LIST_WALLS),
    "dt": (frozenset({"dt", "dd"}), _LIST_WALLS),
    "dd": (frozenset({"dt", "dd"}), _LIST_WALLS),
    "td": (_CELLS, frozenset({"table", "tr"})),
    "th": (_CELLS, frozenset({"table", "tr"})),
    "tr": (frozenset({"tr", "caption", "colgroup"}), _IN_TABLE),
    **dict.fromkeys(("thead", "tbody", "tfoot", "colgroup", "caption"), (_SECTIONS, _IN_TABLE)),
    **dict.fromkeys(HEADINGS, (HEADINGS, TAGS - HEADINGS)),
}
_PARAGRAPH = frozenset({"p"})
_ENDS_PARAGRAPH = BLOCK_TAGS - {"caption", "colgroup", "col", "thead", "tbody", "tfoot", "tr", "td", "th"}

# What the sanitiser sets is set here already, so that it mostly finds nothing to change and need not look twice.
_FIXED = {"a": {"rel": LINK_REL}, "input": CHECKBOX}
# Without these an element does nothing.
_NEEDS = {"a": ' href="', "img": ' src="'}
_FREE = TAGS - BLOCK_TAGS - VOID_TAGS - _IMPLIED.keys()
"""Tags that may stand anywhere and end nothing."""
_CONTAINERS = words(
    "div section article header footer main nav aside address blockquote figure figcaption details ul ol li dl dt dd"
)
"""Elements in which the parser reads what comes next no matter what came before."""
_PIECE_ENDS = frozenset(f"</{name}>" for name in _CONTAINERS | HEADINGS | {"p", "pre", "table"})
"""End tags that a piece may end with, and after which blanks mean nothing at the top level."""
_COUNTED_DEPTH = 100
PIECE_CHARS = 8192
"""A piece ends with the first block that ends so far from where the piece began, or later."""


class Fenced(NamedTuple):
    """A piece. All ``markup`` together is balanced; each is, between its ``before`` and its ``after``."""

    before: str
    """Start tags of the containers that an earlier piece has opened."""
    markup: str
    after: str
    """End tags of those that are still open at its end."""
    end: int
    """How far it goes in the source."""


def fence(source: str, max_depth: int, found: Findings) -> Iterator[Fenced]:
    """``source`` as balanced markup of allowed tags, at most ``max_depth`` deep; adds to ``found``.

    Deeper tags go and their text stays. Comes in pieces that a parser reads alone as it would in the whole. Takes time
    linear in the source, and so does who reads the pieces with what is around them.
    """
    writer = _Writer(max_depth, found)
    at = begun = 0
    before = ""
    while at < len(source):
        at = writer.write(source, at, begun + max(PIECE_CHARS, len(before)))
        if at < len(source) and not writer.idle:
            continue
        if at == len(source):
            writer.close()
        markup, opened, after = writer.take()
        yield Fenced(before, markup, after, at)
        begun, before = at, opened


def count_markup(source: str, found: Findings) -> None:
    """Adds to ``found`` what HTML there would be in text or Markdown."""
    if "<" in source:
        for _ in fence(source, _COUNTED_DEPTH, found):
            pass


class _Writer:
    """Keeps the tags that are open and writes the next one so that they stay nested in order."""

    def __init__(self, max_depth: int, found: Findings) -> None:
        self._max_depth = max_depth
        self._found = found
        self._out: list[str] = []
        self._open: list[str] = []
        self._tags: list[str] = []  # what was written for each of them
        self._holding = 0  # how many of them are no containers
        self._count = dict.fromkeys(TAGS, 0)
        self._too_deep: Counter[str] = Counter()  # start tags that went, so that their end tags go too
        self._written: dict[tuple[str, str | None], str] = {}  # what attributes became; documents repeat them
        self.idle = False
        """Whether the last ``write`` came to the end of a block, outside of all elements that are no containers."""

    def write(self, source: str, at: int, enough: int) -> int:
        """Writes from ``at`` to the end, to that of an opaque element or, from ``enough`` on, to where a piece may end;
        returns where that is.
        """
        out, stack = self._out, self._open
        self.idle = False
        for token in _TOKEN.finditer(source, at):
            start, end = token.span()
            if start > at:
                text = source[at:start]
                if "&" in text or "<" in text or ">" in text or "\xa0" in text:
                    text = self._text(text)
                if stack or not (text.isspace() and self._at_line_start()):
                    out.append(text)
            at = end
            slash, name, attributes = token.groups()
            if not name:
                continue
            name = name.lower()
            if slash:
                if not stack:
                    continue
                self.end(name)
                if at >= enough and not self._holding and out and out[-1] in _PIECE_ENDS:
                    self.idle = True
                    return at
            elif name not in OPAQUE_TAGS:
                self.start(name, attributes)
            else:
                self.suspect(name)
                closing = _END_OF_OPAQUE[name].search(source, at)
                return closing.start() if closing else len(source)
        out.append(self._text(source[at:]))
        return len(source)

    def take(self) -> tuple[str, str, str]:
        """What was written, and what opens and closes the elements that are open."""
        written = "".join(self._out)
        self._out.clear()
        return written, "".join(self._tags), "".join(f"</{name}>" for name in reversed(self._open))

    def close(self) -> None:
        """Closes all that is open."""
        while self._open:
            self._pop()

    def _at_line_start(self) -> bool:
        """Whether blanks between top-level blocks would come next; they say nothing."""
        return not self._out or self._out[-1] in _PIECE_ENDS

    def _text(self, written: str) -> str:
        return escape(resolve(written, self._found))

    def suspect(self, name: str) -> None:
        finding = suspect_tag(name)
        if finding is not None:
            self._found[finding] += 1

    def start(self, name: str, attributes: str | None) -> None:
        if name not in TAGS:
            self.suspect(name)
            if attributes:
                self._attributes(name, attributes)
            return
        attributes = self._attributes(name, attributes) if attributes or name in _FIXED else ""
        if name not in _FREE:
            if not self._makes_room(name, attributes):
                return
            if name in VOID_TAGS:
                self._out.append(f"<{name}{attributes}>")
                return
        if len(self._open) >= self._max_depth:
            self._found[Finding.NESTING] += 1
            self._too_deep[name] += 1
            return
        tag = f"<{name}{attributes}>"
        self._open.append(name)
        self._tags.append(tag)
        self._count[name] += 1
        if name not in _CONTAINERS:
            self._holding += 1
        self._out.append(tag)

    def end(self, name: str) -> None:
        """While something is open."""
        if self._too_deep and self._too_deep[name]:
            self._too_deep[name] -= 1
        elif self._open[-1] == name:
            self._pop()
        elif self._count.get(name):
            # An inline element's end tag in a cell closes nothing outside of the cell.
            self._close(frozenset({name}), frozenset() if name in BLOCK_TAGS else _CELL_WALLS)

    def _makes_room(self, name: str, attributes: str) -> bool:
        """Ends what the tag ends by being there. False: the tag may not stand here."""
        if self._count["p"] and name in _ENDS_PARAGRAPH:
            self._close(_PARAGRAPH, _CELL_WALLS)
        if name in _TABLE_PARTS and not self._count["table"]:
            return False
        implied = _IMPLIED.get(name)
        if implied is None:
            return name not in _NEEDS or _NEEDS[name] in attributes
        self._close(*implied)
        return name != "a" or (_NEEDS["a"] in attributes and not self._count["a"])  # no link in a cell of a link

    def _close(self, names: Set[str], walls: Set[str]) -> None:
        """Closes up to the nearest of ``names``, unless a wall is nearer."""
        for depth in range(len(self._open) - 1, -1, -1):
            if self._open[depth] in names:
                while len(self._open) > depth:
                    self._pop()
                return
            if self._open[depth] in walls:
                return

    def _pop(self) -> None:
        name = self._open.pop()
        self._tags.pop()
        self._count[name] -= 1
        if name not in _CONTAINERS:
            self._holding -= 1
        if self._too_deep:
            self._too_deep.clear()
        self._out.append(f"</{name}>")

    def _attributes(self, tag: str, written: str | None) -> str:
        """The allowed ones, each once, quoted; with a blank before each."""
        known = self._written.get((tag, written))
        if known is not None:
            return known
        kept: dict[str, str] = {}
        clean = True
        allowed = ATTRIBUTES.get(tag, frozenset())
        for index, match in enumerate(_ATTRIBUTE.finditer(written or "")):
            if index >= MAX_ATTRIBUTES:
                break
            name = match[1].lower()
            value = match[2] or match[3] or match[4] or ""
            finding = suspect_attribute(name, value)
            if finding is not None:
                self._found[finding] += 1
                clean = False
            if name in allowed and name not in kept and len(value) <= _MAX_ESCAPED_CHARS:
                safe = safe_value(tag, name, resolve(value, self._found))
                if safe is not None:
                    kept[name] = safe
        kept.update(_FIXED.get(tag, {}))
        result = "".join(f' {name}="{escape_value(value)}"' for name, value in kept.items())
        if clean:
            self._written[tag, written] = result
        return result
