"""What can be shown of Markdown whose end is still to come: open marks closed, what may change its meaning held back.

Only a preview: a guess that proves wrong is replaced when the rest is there. Nothing here makes anything safe.
"""

from __future__ import annotations

from typing import NamedTuple

import regex

from services.content.pipeline.units import LINE_END, SENTENCE_END, UNSPACED, Unit

_UNDECIDED_CHARS = 256  # a line of marks alone that is longer is shown as what it is so far
_HEALED_CHARS = 4096  # marks opened further back than this stay open in the preview
_LINK_CHARS = 300

# A line of these alone may still become anything: a list, a rule, a heading, a table's second line.
_UNDECIDED = regex.compile(r"[-*+=_#>~`|:.)\d\s]*+")
_FENCE = regex.compile(r"^[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(?:```|~~~)", regex.MULTILINE)
_TABLE = regex.compile(r"^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t:|-]*)?$", regex.MULTILINE)
_TABLE_HEAD = regex.compile(r"(?:^|\n)[ \t]*\|[^\n]*\n?\Z")
_EMPTY_LINE = regex.compile(r"(?:^|\n)[ \t>]*(?:#{1,6}[ \t]*|(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)+(?:\[[ xX]?\]?[ \t]*)?)\Z")
_OPEN_WORD = regex.compile(rf"[^\s{UNSPACED}]{{1,64}}\Z")
_LAST_GRAPHEME = regex.compile(r"\X\Z")
_LINE_OF_ITS_OWN = regex.compile(r"(?<=\n)[^\s]")
_LINE = regex.compile(r"\n[ \t>]*(?=\n|[-*+][ \t]|#{1,6}[ \t]|>|\||\d{1,9}[.)][ \t])")

_MARK = regex.compile(r"\\.|`++|\*++|_++|~~|!?\[", regex.DOTALL)
_LINK = regex.compile(
    r'!?\[(?:[^\[\]\\\n]|\\.){0,300}+\]\((?:[^()\s\\]|\\.|\([^()\s]{0,300}\)){0,2000}+(?:\s+"[^"\n]{0,300}")?\)'
)
_OPEN_LINK = regex.compile(rf"!?\[[^\]\n]{{0,{_LINK_CHARS}}}(?:\](?:\([^)\n]{{0,{_LINK_CHARS}}})?)?\Z")


def settled(tail: str) -> str:
    """``tail`` without a last line that may yet become another kind of block."""
    begin = tail.rfind("\n") + 1
    last = tail[begin:]
    undecided = len(last) <= _UNDECIDED_CHARS and _UNDECIDED.fullmatch(last)
    if undecided or last.lstrip(" ").startswith("```"):
        return tail[:begin]
    return tail


def preview(tail: str, unit: Unit) -> str:
    """Markdown for as much of one top-level block as can be shown; empty: nothing yet.

    ``tail`` is what ``settled`` left. Whole words, or whole sentences; a table by rows.
    """
    if unit is Unit.PARAGRAPH:
        return ""
    code = in_code(tail)
    if not code:
        if _TABLE.search(tail):
            return tail[: tail.rfind("\n") + 1]
        tail = _cut_match(_TABLE_HEAD, tail)
    tail = _whole_sentences(tail, code) if unit is Unit.SENTENCE else whole_words(tail)
    if code:
        return tail
    tail = _cut_match(_EMPTY_LINE, tail)
    begin = max(0, len(tail) - _HEALED_CHARS)
    for line in _LINE.finditer(tail, begin):
        begin = line.end()
    return tail[:begin] + close_marks(tail[begin:])


def in_code(tail: str) -> bool:
    """Whether a fence is open at the end."""
    return len(_FENCE.findall(tail)) % 2 == 1


def last_line(tail: str) -> int:
    """Where the last line of the second half begins: one that is not indented, if there is one; 0: there is no line."""
    half = len(tail) // 2
    at = max((found.start() for found in _LINE_OF_ITS_OWN.finditer(tail, half)), default=-1)
    return at if at >= 0 else tail.rfind("\n", half) + 1


def begins_anew(block: str) -> str:
    """What must stand before more of a block that was ended within: code's fence, a table's head."""
    fences = list(_FENCE.finditer(block))
    if len(fences) % 2 == 1:
        fence = block[fences[-1].start() :].partition("\n")[0].strip()
        return f"{fence}\n" if len(fence) <= _UNDECIDED_CHARS else ""
    head = _TABLE.search(block)
    short = head is not None and head.end() <= _HEALED_CHARS and block.count("\n", 0, head.start()) == 1
    return block[: head.end() + 1] if head and short else ""


def _cut_match(pattern: regex.Pattern[str], text: str) -> str:
    found = pattern.search(text, max(0, text.rfind("\n", 0, -1)))
    return text[: found.start()] if found else text


def whole_words(text: str) -> str:
    """``text`` without a last word that may go on; where words have no blanks, without the last grapheme."""
    end = _OPEN_WORD.search(text, max(0, len(text) - 64))
    if end is None or end.start() == len(text) - 64:
        end = _LAST_GRAPHEME.search(text, max(0, len(text) - 256))
    return text[: end.start()] if end else text


def _whole_sentences(text: str, in_code: bool) -> str:
    end = 0
    for found in (LINE_END if in_code else SENTENCE_END).finditer(text, 0, max(0, len(text) - 1)):
        end = found.end()
    return text[:end]


class _Open(NamedTuple):
    mark: str
    at: int


def close_marks(text: str) -> str:
    """``text``, a line or a few of one paragraph, with what is open closed and an unfinished link left out."""
    opened: list[_Open] = []
    at = 0
    while found := _MARK.search(text, at):
        at = found.end()
        mark = found[0]
        if mark[0] == "\\":
            continue
        if mark[0] == "`":
            closing = regex.search(rf"(?<!`){mark}(?!`)", text, pos=at)
            if closing is None:
                text = text.rstrip()
                opened.append(_Open(mark, found.start()))
                break
            at = closing.end()
        elif mark[-1] == "[":
            link = _LINK.match(text, found.start())
            if link is not None:
                at = link.end()
            elif _OPEN_LINK.match(text, found.start()):
                text = text[: found.start()]
                break
        else:
            _emphasis(text, found.start(), mark, opened)
    text = text.rstrip()
    while opened and opened[-1].at + len(opened[-1].mark) >= len(text):
        text = text[: opened.pop().at].rstrip()
    return text + "".join(one.mark for one in reversed(opened))


def _emphasis(text: str, at: int, run: str, opened: list[_Open]) -> None:
    """Opens or closes by what stands on either side of a run of ``*``, ``_`` or ``~~``."""
    before = text[at - 1 : at] or " "
    after = text[at + len(run) : at + len(run) + 1] or " "
    if run[0] == "_" and before.isalnum() and after.isalnum():
        return
    marks = [run[0] * 2] * (len(run) // 2) + [run[0]] * (len(run) % 2)
    if not before.isspace():
        for mark in list(marks):
            if any(one.mark == mark for one in opened):
                while opened.pop().mark != mark:
                    pass
                marks.remove(mark)
    if not after.isspace() and len(marks) <= 2:
        for index, mark in enumerate(marks):
            opened.append(_Open(mark, at + 2 * index))
