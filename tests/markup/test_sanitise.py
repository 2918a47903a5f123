"""What stays and what goes, and that a second cleaning changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from hub.markup.fence import fence
from hub.markup.findings import Findings
from hub.markup.sanitise import Sanitiser
from tests.markup import sources
from tests.markup.safety import faults

SANITISER = Sanitiser(100)
REL = ' rel="noopener noreferrer nofollow"'

# What Tiptap's getHTML gives for its nodes and marks.
TIPTAP = (
    '<h2 style="text-align: center">Title</h2>'
    "<p><strong>a</strong><em>b</em><u>c</u><s>d</s><code>e</code><sub>f</sub><sup>g</sup>"
    f'<a href="https://e.example"{REL}>h</a></p>'
    '<p><span style="color: rgb(1, 2, 3)">i</span>'
    '<mark data-color="#ffcc00" style="background-color: #ffcc00">j</mark><br></p>'
    '<ul data-type="taskList"><li data-checked="true" data-type="taskItem">'
    '<label><input type="checkbox" checked="" disabled=""><span></span></label><div><p>k</p></div></li></ul>'
    '<ol start="3"><li><p>l</p></li></ol><blockquote><p>m</p></blockquote>'
    '<pre><code class="language-python">n = 1\n\n  o</code></pre><hr>'
    '<p><img src="https://e.example/p.png" alt="q" title="r"></p>'
    '<table style="min-width: 50px"><colgroup><col style="width: 25px"><col></colgroup><tbody>'
    '<tr><th colspan="2" rowspan="1"><p>s</p></th></tr>'
    '<tr><td colspan="1" rowspan="1" colwidth="25,30"><p>t</p></td><td><p></p></td></tr></tbody></table>'
    "<details><summary>u</summary><p>v</p></details>"
    '<p><span data-type="mention" data-id="1" data-label="w">@w</span></p>'
)


def test_what_tiptap_writes_stays_as_it_is() -> None:
    assert SANITISER.clean(TIPTAP) == TIPTAP
    assert faults(TIPTAP) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain <b>text</b>\n<p>a</p> tail", "<p>plain <b>text</b></p><p>a</p><p>tail</p>"),
        ("<span>a<p>b</p></span>", "<div><span>a<p>b</p></span></div>"),
        ("<pre>" + "\n" * 9 + "first\n\nsecond</pre>", "<pre>first\n\nsecond</pre>"),
        ("<p style='Color:RED;;position:fixed;width:expression(1)'>a</p>", '<p style="color: RED">a</p>'),
        ("<p style='position:fixed'>a</p>", "<p>a</p>"),
        ("<a href='mailto:a@e.example'>a</a>", f'<p><a href="mailto:a@e.example"{REL}>a</a></p>'),
        ("<a href='/a?b#c' target=_blank>a</a>", f'<p><a href="/a?b#c" target="_blank"{REL}>a</a></p>'),
        ("<a href='ftp://e.example'>a</a>", "<p>a</p>"),
        ("<img src=https://e.example/a.png onerror=x>", '<p><img src="https://e.example/a.png"></p>'),
        ("<img src=data:image/png;base64,AA==>a", "<p>a</p>"),
        ("<img src=https://>a", "<p>a</p>"),
        ("<input type=password name=p>", '<p><input type="checkbox" disabled=""></p>'),
        ("<table><td>a", "<table><tbody><tr><td>a</td></tr></tbody></table>"),
        ("<code class='language-c++'>a</code>", '<p><code class="language-c++">a</code></p>'),
        ("<code class='language-c x'>a</code>", "<p><code>a</code></p>"),
        ("a\x00b\x1b\u202ec\u2066\u2069&#x202e;&#1;d\u200f", "<p>abcd\u200f</p>"),
        ("a\r\nb\rc", "<p>a\nb\nc</p>"),
        ("\ud83d\ude00\ud83d", "<p>\U0001f600</p>"),
        ("<p title='" + "x" * 5_000 + "'>a", "<p>a</p>"),
        ("<a href='https://e.example/" + "x" * 5_000 + "'>a", "<p>a</p>"),
        ("<p dir=rtl lang=ar>a</p>", '<p dir="rtl" lang="ar">a</p>'),
        ("<td colspan=99999><p colspan=2>a", None),
        ("", ""),
        ("<script>a</script> \n ", ""),
    ],
)
def test_what_stays(source: str, expected: str | None) -> None:
    cleaned = SANITISER.clean(source)
    assert cleaned == (expected if expected is not None else "<p>a</p>")
    assert SANITISER.clean(cleaned) == cleaned


@given(source=sources.markup)
@settings(max_examples=300, deadline=None)
def test_a_second_cleaning_changes_nothing(source: str) -> None:
    cleaned = SANITISER.clean(source)
    assert faults(cleaned) == []
    assert SANITISER.clean(cleaned) == cleaned
    assert Sanitiser(100).clean(cleaned) == cleaned  # another node's


def test_pieces_are_cleaned_like_the_whole() -> None:
    blocks = [f"<p>word {n} <b>bold</p><div>" + "x " * 200 + "<li>y</div>" for n in range(100)]
    one_by_one = "".join(SANITISER.clean(block) for block in blocks)
    assert SANITISER.clean("".join(blocks)) == one_by_one


def test_a_parser_that_never_settles_leaves_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Swinging:
        def clean(self, markup: str) -> str:
            return "<div><p>a &lt; b</p></div>" if markup.startswith("<p>") else "<p><b>a &lt; b</b></p>"

    sanitiser = Sanitiser(100)
    monkeypatch.setattr(sanitiser, "_cleaner", Swinging())
    assert sanitiser.clean("<p>x</p>") == "<p>a &lt; b</p>"


def test_a_parser_that_reads_a_piece_otherwise_leaves_its_text() -> None:
    class Forgetful:
        def __init__(self) -> None:
            self.calls = 0

        def clean(self, markup: str) -> str:
            self.calls += 1
            return markup if self.calls != 2 else "<p>a &lt; <b>b</b></p>"

    sanitiser = Sanitiser(100)
    sanitiser._cleaner = Forgetful()
    source = f"<div><section>{'<p>word</p>' * 1_600}</section></div>"
    assert len(list(fence(source, 100, Findings()))) == 3
    cleaned = sanitiser.clean(source)
    assert "</section></div><p>a &lt;  b</p><div><section>" in cleaned
    assert faults(cleaned) == []
