"""Before the parser: tags balanced, bounded and known, whatever comes; attacks counted."""

from __future__ import annotations

import pytest

from hub.markup.fence import PIECE_CHARS, fence
from hub.markup.findings import Finding, Findings


def fenced(source: str, max_depth: int = 100) -> str:
    return "".join(markup for _, markup, _, _ in fence(source, max_depth, Findings()))


def found(source: str) -> dict[Finding, int]:
    findings = Findings()
    for _ in fence(source, 100, findings):
        pass
    return dict(findings)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<p>a<p>b", "<p>a</p><p>b</p>"),
        ("<ul><li>a<li>b<ul><li>c</ul></ul>", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>"),
        ("<dl><dt>a<dd>b<dt>c</dl>", "<dl><dt>a</dt><dd>b</dd><dt>c</dt></dl>"),
        (
            "<table><tr><td>a<td>b<tr><td>c</table>",
            "<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>",
        ),
        ("<b>a<i>b</b>c</i>", "<b>a<i>b</i></b>c"),
        ("<table><td><b>a</td></b>", "<table><td><b>a</b></td></table>"),
        ("<td>a</td><caption><col><tr>b", "ab"),
        ("<b><table><tr><td>x</b>y</td></tr></table></b>", "<b><table><tr><td>xy</td></tr></table></b>"),
        ("<h1>a<h2>b", "<h1>a</h1><h2>b</h2>"),
        ("</p></b></li>a", "a"),
        ("1 < 2 && 3 > 2 <4", "1 &lt; 2 &amp;&amp; 3 &gt; 2 &lt;4"),
        ("&amp; &lt; &#65; &eacute; &nope; \xa0", "&amp; &lt; A é &amp;nope; &nbsp;"),
        ("a<!-- b --!>c<!-->d<!--->e<!-- f", "acde"),
        ("a<?b?>c<!d>e</ f>g", "aceg"),
        ("<title><b>a</title>b<style>c</STYLE >d<script>e", "bd"),
        ('<p TITLE=\'a>"b\' Class=c dir="rtl" dir=ltr>', '<p title="a&gt;&quot;b" dir="rtl"></p>'),
        ("<unknown-tag a=b>text</unknown-tag>", "text"),
        ("<a>no link</a> <a href=/x>link<a href=/y>another</a>", None),
        ("<img alt=x><img src=https://e.example/a.png>", '<img src="https://e.example/a.png">'),
        ("<p a='", "<p></p>"),
        ("<p>a</p", "<p>a</p>"),
    ],
)
def test_markup_is_balanced(source: str, expected: str | None) -> None:
    rel = ' rel="noopener noreferrer nofollow"'
    links = f'no link <a href="/x"{rel}>link</a><a href="/y"{rel}>another</a>'
    assert fenced(source) == (links if expected is None else expected)


def test_deep_tags_go_and_their_text_stays() -> None:
    source = "".join(f"<div>{n} " for n in range(10_000)) + "</div>" * 10_000 + "<p>after</p>"
    markup = fenced(source, 20)
    assert markup.count("<div>") == markup.count("</div>") == 20
    assert "9999 " in markup
    assert markup.endswith("</div><p>after</p>")
    assert found(source) == {Finding.NESTING: 9900}


def test_deep_tags_do_not_close_what_is_outside_of_them() -> None:
    assert fenced("<div><div><div>a</div>b</div>c</div>d", 2) == "<div><div>ab</div>c</div>d"
    assert fenced("<div><div><b>a</div></div><b>b</b>c", 2) == "<div><div>a</div></div><b>b</b>c"


def test_only_so_many_attributes_are_looked_at() -> None:
    assert fenced("<p" + " a=b" * 31 + " dir=rtl dir=ltr>") == '<p dir="rtl"></p>'
    assert fenced("<p" + " a=b" * 32 + " dir=rtl>") == "<p></p>"


@pytest.mark.parametrize(
    "bomb",
    [
        "<p>" + "".join(f"<b title={n}>" for n in range(5_000)) + "</p><p>x" * 5_000,
        "<p><b>" * 20_000,
        "<b><p>x</b>" * 20_000,
        "<a href=/x><table>" * 10_000,
        "<table><tr><td>" * 10_000,
        "<ul><li>" * 20_000,
        "<p " + "a=b " * 50_000 + ">",
        "<p x='" * 30_000,
        '<p x="' * 30_001,
        "<div " * 50_000,
        "<!--" * 50_000,
        "<![CDATA[" * 20_000,
        "<script>" * 30_000,
        "</" * 100_000,
        "<" * 100_000,
        "&" * 100_000,
        "&#" * 50_000,
        "<svg><style>" * 10_000,
    ],
    ids=lambda bomb: bomb[:12],
)
def test_bombs_do_not_grow(bomb: str) -> None:
    """With the parser alone the first takes gigabytes."""
    markup = fenced(bomb)
    assert len(markup) <= 5 * len(bomb)
    depth = deepest = 0
    for part in markup.split("<")[1:]:
        depth += -1 if part.startswith("/") else 1
        deepest = max(deepest, depth)
    assert (depth, deepest <= 100) == (0, True)


def test_it_comes_in_pieces_that_end_with_a_block() -> None:
    paragraph = "<p>" + "word " * 100 + "</p>"
    source = paragraph * 100
    pieces = list(fence(source, 100, Findings()))
    assert len(pieces) > 5
    assert "".join(markup for _, markup, _, _ in pieces) == source
    assert all(markup.endswith("</p>") and len(markup) < PIECE_CHARS + len(paragraph) for _, markup, _, _ in pieces)
    assert [end for *_, end in pieces][-1] == len(source)


def test_what_is_wrapped_comes_in_pieces_too() -> None:
    paragraph = "<p>" + "word " * 100 + "</p>"
    source = f'<div dir="rtl"><ul><li>{paragraph * 100}</li></ul></div>{paragraph}'
    pieces = list(fence(source, 100, Findings()))
    assert len(pieces) > 5
    assert "".join(piece.markup for piece in pieces) == source
    assert [piece.before for piece in pieces] == ["", *['<div dir="rtl"><ul><li>'] * (len(pieces) - 1)]
    assert [piece.after for piece in pieces] == [*["</li></ul></div>"] * (len(pieces) - 1), ""]


@pytest.mark.parametrize("holder", ["<b>", "<table><tr><td>", "<span>", "<div><em>"])
def test_no_piece_ends_in_what_the_parser_would_carry_over(holder: str) -> None:
    assert len(list(fence(holder + "<p>text</p>" * 2_000, 100, Findings()))) == 1


def test_what_is_around_the_pieces_does_not_cost_more_than_the_source() -> None:
    source = f'<div title="{"x" * 900}">' * 90 + "<p>text</p>" * 100_000
    pieces = list(fence(source, 100, Findings()))
    assert len(pieces) > 5
    assert sum(len(piece.before) for piece in pieces) <= len(source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<p>nothing <b>here</b></p>", {}),
        ("<script>x</script><SCRIPT src=y></script>", {Finding.SCRIPT: 2}),
        ("<p onclick=a onfocus=b>", {Finding.HANDLER: 2}),
        ("<p on=a once=b>", {}),
        ("<a href=' java\tscript:x'>", {Finding.ADDRESS: 1}),
        ("<a href=https://e.example>", {}),
        ("<p style='width:expression(1)'><style>", {Finding.STYLE: 2}),
        ("<iframe></iframe><form>", {Finding.EMBED: 2}),
        ("<svg><math>", {Finding.FOREIGN: 2}),
        ("&#x202e;&#0;", {Finding.BIDI: 1}),
        ("<p onclick=a>" * 3, {Finding.HANDLER: 3}),
    ],
)
def test_attacks_are_counted(source: str, expected: dict[Finding, int]) -> None:
    assert found(source) == expected
