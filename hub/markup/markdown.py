"""Markdown to HTML by markdown-it: CommonMark with tables, strikethrough and task lists, in the shape Tiptap parses.

Raw HTML in Markdown is text, but for ``<br>``. Two of markdown-it's constructs could make megabytes out of kilobytes,
and many make seconds; they have budgets here. Budgets are counted, not timed: every node gets the same result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.table import table
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from hub.markup.findings import Finding, Findings
from hub.markup.text import text_to_html

MAX_REFERENCE_CHARS = 100_000
"""Characters of addresses and titles that a document's links may take from its definitions; then they are text."""
MIN_EMPTY_CELLS = 100
"""Cells that a table may have beyond those written, however short it is; otherwise one per character."""
MAX_WORK = 320_000
"""What the parser may do for one source, about a microsecond each. A hundred kilobytes of prose take a third of it, of
nothing but short list items nine tenths.
"""
_WORK = "work"
_CELL_WORK = 8
_TASK = re.compile(r"\[([ xX])\](?:\s+|$)")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


class Markdown:
    """A converter. ``references``: whether ``[text][name]`` finds a definition, which may stand anywhere.

    A document that is still being written has none, because what was shown would change when one comes.
    """

    def __init__(self, *, references: bool, max_work: int = MAX_WORK) -> None:
        self._max_work = max_work
        parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}, renderer_cls=_Renderer)
        parser.enable(["table", "strikethrough"])
        if not references:
            parser.disable("reference")
        parser.block.ruler.at("table", _bounded_table, {"alt": ["paragraph", "reference"]})
        _count_work(parser)
        parser.inline.ruler.before("autolink", "line_break", _line_break)
        parser.core.ruler.after("inline", "list_items", _list_items)
        self._parser = parser
        self.convert("")  # the parser compiles its rules at the first use, and not for two threads at once

    def convert(self, source: str, found: Findings | None = None, work: Work | None = None) -> str:
        """HTML, not yet sanitised. A source that takes too much work is text, and is added to ``found``.

        ``work``: what is done is added.
        """
        spent = Work(self._max_work)
        try:
            return str(self._parser.render(source, {"references": _References(), _WORK: spent}))
        except _TooMuchWorkError:
            if found is not None:
                found[Finding.COMPLEX] += 1
            return text_to_html(source)
        finally:
            if work is not None:
                work.done += spent.done

    def block_lines(self, source: str) -> list[int]:
        """The line where each top-level block begins; cheaper than converting. Too much work: one block."""
        tokens: list[Token] = []
        try:
            self._parser.block.parse(source, self._parser, {_WORK: Work(self._max_work)}, tokens)
        except _TooMuchWorkError:
            return [0]
        return [token.map[0] for token in tokens if token.level == 0 and token.nesting >= 0 and token.map]


class _TooMuchWorkError(Exception):
    """Never leaves this module."""


class Work:
    """Of the parser."""

    def __init__(self, most: int = MAX_WORK) -> None:
        self._most = most
        self.done = 0
        """So far, about a microsecond each."""

    def add(self, amount: int) -> None:
        """Raises when it is too much."""
        self.done += amount
        if self.done > self._most:
            raise _TooMuchWorkError


def _work(state: StateCore | StateBlock | StateInline, amount: int) -> None:
    state.env[_WORK].add(amount)


def _count_work(parser: MarkdownIt) -> None:
    """Has every step counted, each as about as many microseconds as it takes."""

    def block(state: StateBlock, _start: int, _end: int, silent: bool) -> bool:
        _work(state, 2 if silent else 16)
        return False

    def inline(state: StateInline, _silent: bool) -> bool:
        _work(state, 3 if state.pos else 8)
        return False

    parse_label: Callable[[StateInline, int, bool], int] = parser.helpers.parseLinkLabel

    def label(state: StateInline, start: int, disable_nested: bool = False) -> int:
        _work(state, 8)
        return parse_label(state, start, disable_nested)

    # The first rules of all, so that they are asked whenever the parser tries anything.
    parser.block.ruler.before("table", "work", block, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    parser.inline.ruler.before("text", "work", inline)
    parser.inline.ruler2.before("balance_pairs", "work", lambda state: _work(state, 3 * len(state.tokens)))
    parser.core.ruler.after("block", "work", lambda state: _work(state, 2 * len(state.tokens)))
    own = {**vars(parser.helpers), "parseLinkLabel": label}  # the module is everybody's
    parser.helpers = SimpleNamespace(**own)  # type: ignore[assignment]


class _Renderer(RendererHTML):
    """Without the newlines between tags that make HTML nice to read: they would be text that nobody wrote."""

    def renderToken(  # noqa: N802 - markdown-it's name
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        return super().renderToken(tokens, idx, options, env).strip("\n")

    def hardbreak(self, *_: object) -> str:
        return "<br>"


class _References(dict[str, dict[str, Any]]):
    """Definitions by name. After the budget is used up no name is known, and ``[text][name]`` is text."""

    def __init__(self) -> None:
        super().__init__()
        self._left = MAX_REFERENCE_CHARS

    def get(self, name: str, default: Any = None) -> Any:
        found = super().get(name, default)
        if found:
            self._left -= len(found["href"]) + len(found.get("title") or "")
        return found if self._left >= 0 else default


def _bounded_table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The table rule, but for tables that would have more empty cells than they have characters: rows are filled up to
    the header's width.
    """
    if not table(state, start, end, True):
        return False
    columns = _line(state, start + 1).strip(" \t|").count("|") + 1
    empty = chars = 0
    _work(state, _CELL_WORK * columns)
    for number in range(start + 2, end):
        line = _line(state, number).strip(" \t|")
        empty += max(0, columns - 1 - line.count("|"))
        chars += len(line) + 1
        _work(state, _CELL_WORK * (line.count("|") + 1))
        if state.isEmpty(number):
            break
    return empty <= max(chars, MIN_EMPTY_CELLS) and table(state, start, end, silent)


def _line(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] : state.eMarks[number]]


def _line_break(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] != "<":
        return False
    found = _BREAK.match(state.src, state.pos)
    if found is None:
        return False
    if not silent:
        state.push("hardbreak", "br", 0)
    state.pos = found.end()
    return True


def _list_items(state: StateCore) -> None:
    """Every item holds paragraphs, as Tiptap's do, so that one more line cannot change the items before it; items that
    begin with ``[ ]`` are tasks.
    """
    lists: list[Token] = []
    for index, token in enumerate(state.tokens):
        if token.type == "paragraph_open" or token.type == "paragraph_close":
            token.hidden = False
        elif token.type in ("bullet_list_open", "ordered_list_open"):
            lists.append(token)
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            lists.pop()
        elif token.type == "list_item_open" and lists[-1].type == "bullet_list_open":
            _task(lists[-1], token, state.tokens[index + 1 : index + 3])


def _task(of: Token, item: Token, content: Sequence[Token]) -> None:
    if len(content) < 2 or content[1].type != "inline" or not content[1].children:
        return
    first = content[1].children[0]
    box = _TASK.match(first.content) if first.type == "text" else None
    if box is None:
        return
    of.attrSet("data-type", "taskList")
    item.attrSet("data-type", "taskItem")
    item.attrSet("data-checked", "false" if box[1] == " " else "true")
    first.content = first.content[box.end() :]
