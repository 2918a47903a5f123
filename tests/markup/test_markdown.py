"""Markdown in the shape that Tiptap parses, and its bombs; text."""

from __future__ import annotations

import markdown_it.helpers
import pytest

from hub.markup.findings import Finding, Findings
from hub.markup.markdown import MAX_REFERENCE_CHARS, MAX_WORK, Markdown, Work
from hub.markup.sanitise import Sanitiser
from hub.markup.text import text_to_html

MARKDOWN = Markdown(references=True)
SANITISER = Sanitiser(100)


def test_text() -> None:
    assert text_to_html("a <b>\n  b&amp;\n\n \n\nc\n") == "<p>a &lt;b&gt;<br>b&amp;amp;</p><p>c</p>"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("# a *b*", "<h1>a <em>b</em></h1>"),
        ("- a\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"),
        (
            "- [ ] a\n- [x] b",
            '<ul data-type="taskList"><li data-type="taskItem" data-checked="false"><p>a</p></li>'
            '<li data-type="taskItem" data-checked="true"><p>b</p></li></ul>',
        ),
        ("1. [ ] a", "<ol><li><p>[ ] a</p></li></ol>"),
        ("- [a](/b)", '<ul><li><p><a href="/b">a</a></p></li></ul>'),
        ("a<br>b<BR/>c <b>d</b>", "<p>a<br>b<br>c &lt;b&gt;d&lt;/b&gt;</p>"),
        ("a  \nb\nc", "<p>a<br>b\nc</p>"),
        ("~~a~~", "<p><s>a</s></p>"),
        ("```py\nx\n\ny\n```", '<pre><code class="language-py">x\n\ny\n</code></pre>'),
        (
            "| a | b |\n|:-:|---|\n| c |",
            '<table><thead><tr><th style="text-align:center">a</th><th>b</th></tr></thead>'
            '<tbody><tr><td style="text-align:center">c</td><td></td></tr></tbody></table>',
        ),
        ("[a][b]\n\n[b]: https://e.example 't'", '<p><a href="https://e.example" title="t">a</a></p>'),
    ],
)
def test_markdown(source: str, expected: str) -> None:
    assert MARKDOWN.convert(source).strip() == expected


def test_definitions_only_where_the_end_is_known() -> None:
    assert Markdown(references=False).convert("[a]\n\n[a]: /b") == "<p>[a]</p><p>[a]: /b</p>"


def test_bombs_do_not_grow() -> None:
    references = MARKDOWN.convert("[a]: https://e.example/" + "x" * 10_000 + "\n\n" + "[a] " * 5_000)
    assert references.count("<a ") < MAX_REFERENCE_CHARS / 10_000 + 1
    assert references.count("[a]") > 4_900
    wide = "|" + "a|" * 500 + "\n|" + "-|" * 500 + "\n" + "|\n" * 500
    assert len(MARKDOWN.convert(wide * 4)) < 20 * len(wide)
    assert "<table>" in MARKDOWN.convert("|a|b|c|\n|-|-|-|\n" + "| x |\n" * 500)


@pytest.mark.parametrize(
    "bomb",
    [
        part * 4_000 + "a"
        for part in ("> ", "- ", "[", "![", "*_`[", "**a", "1. ", "<", "[a](", "`", "~~", "&#", "|", "a\n=", "\\")
    ],
    ids=lambda bomb: bomb[:6],
)
def test_deep_and_open_marks_end(bomb: str) -> None:
    assert len(SANITISER.clean(MARKDOWN.convert(bomb))) <= 10 * len(bomb) + 1_000


@pytest.mark.parametrize("part", ["![![", "[", "*_", "- a\n", "#\n", "a|b\n-|-\n", "> a\n- ", "[a]["])
def test_what_takes_the_parser_too_much_work_is_text(part: str) -> None:
    source = part * (100_000 // len(part))
    found = Findings()
    work = Work()
    assert MARKDOWN.convert(source, found, work) == text_to_html(source)
    assert found == {Finding.COMPLEX: 1}
    assert work.done < 2.5 * MAX_WORK


@pytest.mark.parametrize(
    "part",
    [
        "## Head\n\nSome **bold** words and `code` in a [link](https://e.example), and more *text* follows here.\n\n",
        "- [x] an item of *some* words\n",
        "| a name | 12.5 | some words |\n",
        "    return x[0] * y\n",
        "word ",
        "A line that is as long as such lines are.\n",
    ],
)
def test_no_document_that_somebody_writes_takes_so_much(part: str) -> None:
    head = "| a | b | c |\n|---|---|---|\n" if part.startswith("|") else ""
    found = Findings()
    MARKDOWN.convert((head + part * (100_000 // len(part)))[:100_000], found)
    assert found == {}


def test_the_parser_library_stays_as_it_is_for_others() -> None:
    before = markdown_it.helpers.parseLinkLabel
    Markdown(references=True)
    assert markdown_it.helpers.parseLinkLabel is before
