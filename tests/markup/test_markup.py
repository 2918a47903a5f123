"""Short texts as HTML: what they become, that none does anything, and that none takes long or becomes long."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.markup import Markup, Sanitiser
from hub.markup.markup import MAX_HTML_BYTES, MAX_LINKS
from tests.markup import sources
from tests.markup.safety import faults

CASES: dict[str, str] = json.loads(Path(__file__).with_name("xss_cases.json").read_text())
MARKUP = Markup()
SANITISER = Sanitiser(100)
MAX_BYTES = 8192
REL = 'rel="noopener noreferrer nofollow"'

BOMBS = [
    *(
        "> ",
        "- ",
        "[",
        "![",
        "![![",
        "*_`[",
        "**a",
        "1. ",
        "<",
        "[a](",
        "`",
        "~~",
        "&#",
        "|",
        "a\n=",
        "\\",
        "*_",
        "#\n",
    ),
    *(
        "- a\n",
        "a|b\n-|-\n",
        "> a\n- ",
        "[a][",
        "\n\na",
        "&",
        "`a` ",
        "<http://a> ",
        "<a@b> ",
        "http://a ",
        "https://a/",
    ),
    "[a]: https://e.example/" + "x" * 2000 + "\n\n" + "[a] " * 40,
    *("[a](b) ", "[x](javascript:alert(1)", "a\\\n", "a  \n", "|a|b|\n|-|-|\n|\n|\n|\n|\n", '"', "\\\\"),
]


def link(address: str, text: str | None = None) -> str:
    return f'<a href="{address}" {REL}>{text or address}</a>'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", "<p>hello</p>"),
        ("a <b>\r\n  b & c\n\n\nd", "<p>a &lt;b&gt;<br>b &amp; c</p><p>d</p>"),
        ("**a** _b_ [c](https://d.example)", "<p>**a** _b_ [c](" + link("https://d.example") + ")</p>"),
        ("see http://a.example/b?c=1&d=2.", "<p>see " + link("http://a.example/b?c=1&amp;d=2") + ".</p>"),
        ("(HTTPS://a.example/b_(c))", "<p>(" + link("HTTPS://a.example/b_(c)") + ")</p>"),
        ("https://[::1]:80/\nhttps://b.example", f"<p>{link('https://[::1]:80/')}<br>{link('https://b.example')}</p>"),
        ("https://ä.example/ü!", f"<p>{link('https://ä.example/ü')}!</p>"),
        ('"https://a.example"onclick=b', f'<p>"{link("https://a.example")}"onclick=b</p>'),
        ("javascript://a.example data:text/html,a xhttps://a.example https:// http://", None),
        ("http://08 is no address", None),
        ("ftp://a.example mailto:a@b.example www.a.example", None),
        ("https://a.example/" + "b" * 2048, None),
        ("https://a.\u202eexample", f"<p>{link('https://a.example')}</p>"),
        ("", ""),
        (" \n\t\n ", ""),
        ("\x00\u202e\u2066", ""),
    ],
)
def test_plain_text(text: str, expected: str | None) -> None:
    assert MARKUP.html(text, False) == (f"<p>{text}</p>" if expected is None else expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**a** `b`", "<p><strong>a</strong> <code>b</code></p>"),
        (
            "- a\n- [b](https://c.example)",
            f"<ul><li><p>a</p></li><li><p>{link('https://c.example', 'b')}</p></li></ul>",
        ),
        ("[a]\n\n[a]: /b", f"<p>{link('/b', 'a')}</p>"),
        ("<script>alert(1)</script>", "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>"),
        ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>"),
        # Nothing would be shown.
        ("[a]: https://b.example", f"<p>[a]: {link('https://b.example')}</p>"),
        ("#", "<p>#</p>"),
        ("[](https://b.example)", f"<p>[]({link('https://b.example')})</p>"),
        ("> ", "<p>&gt;</p>"),
        ("---", "<hr>"),
    ],
)
def test_markdown(text: str, expected: str) -> None:
    assert MARKUP.html(text, True) == expected


def harmless(text: str) -> None:
    for markdown in (False, True):
        made = MARKUP.html(text, markdown)
        assert faults(made) == []
        assert SANITISER.clean(made) == made


@pytest.mark.parametrize("name", CASES)
def test_nothing_of_the_corpus_does_anything(name: str) -> None:
    harmless(CASES[name])
    harmless(f"https://a.example/{CASES[name]}")


@given(text=st.one_of(sources.text, sources.wrapped, sources.markdown))
@settings(max_examples=150, deadline=None)
def test_what_comes_out_is_clean(text: str) -> None:
    harmless(text)


@given(address=st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_links_are_clean_whatever_they_are(address: str) -> None:
    harmless(f"a http://{address} b")


@pytest.mark.parametrize("part", BOMBS, ids=lambda part: repr(part[:24]))
def test_eight_kilobytes_become_no_more_than_an_event_has_room_for(part: str) -> None:
    bomb = (part * MAX_BYTES)[:MAX_BYTES] if len(part) < 1000 else part
    for markdown in (False, True):
        made = MARKUP.html(bomb, markdown)
        assert len(msgspec.json.encode(made)) <= MAX_HTML_BYTES + len('"<p></p>"')
        assert faults(made) == []


@pytest.mark.parametrize(
    "part", ["![", "[", "[a][", "a|b\n-|-\n", "- a\n", "#\n", "*_", "[x](javascript:alert(1)", "[a](b) "]
)
def test_what_takes_the_parser_too_long_is_text(part: str) -> None:
    bomb = ("https://e.example\n\n" + part * MAX_BYTES)[:MAX_BYTES]
    assert MARKUP.html(bomb, True) == MARKUP.html(bomb, False)
    assert MARKUP.html(bomb, True).startswith(f"<p>{link('https://e.example')}</p>")


@pytest.mark.parametrize("part", ["*", "~", "a_", "a\n", "<a@b> ", "[a](b) "])
def test_what_the_parser_does_not_count_well_is_not_given_to_it(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(MARKUP, "_markdown", SimpleNamespace(convert=lambda source, _: given.append(source) or ""))
    bomb = (part * MAX_BYTES)[:MAX_BYTES]
    assert MARKUP.html(bomb, True) == MARKUP.html(bomb, False)
    assert given == []
    MARKUP.html(part, True)
    assert given == [part]


def test_what_people_write_is_not() -> None:
    prose = "A line that is as long as such lines are, with **bold** words here and there, and a `name`.\n"
    answer = (
        "## Head\n\nSome **bold** words and `code` in a [link](https://e.example).\n\n- First item\n- Second item\n\n"
    )
    code = "```py\n" + "    return x[0] * y < z\n" * 340 + "```"
    assert MARKUP.html(prose * 20, True).count("<strong>") == 20
    assert MARKUP.html(("Only words, and more of them in a line.\n" * 200)[:MAX_BYTES], True).startswith("<p>Only")
    assert MARKUP.html(answer * 15, True).count("<h2>") == 15
    assert MARKUP.html(code, True).startswith('<pre><code class="language-py">')


def test_a_text_of_nothing_but_addresses_has_no_links() -> None:
    assert MARKUP.html("http://a " * MAX_LINKS, False).count("<a ") == MAX_LINKS
    assert "<a " not in MARKUP.html("http://a\n" * (MAX_LINKS + 1), False)
