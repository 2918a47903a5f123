"""Sources for property tests: markup that is right, nearly right and hostile; Markdown and text of the same kinds."""

from __future__ import annotations

from hypothesis import strategies as st

from hub.markup.allowed import words

TAGS = st.sampled_from(
    sorted(
        words(
            "p b i a span div ul ol li table tbody tr td th caption col colgroup pre code h1 h2 blockquote br hr img "
            "input details summary label dl dt dd s mark section svg math script style title textarea template "
            "noscript iframe form button select option frameset body html head object foreignObject"
        )
    )
)
ATTRIBUTES = st.sampled_from(
    [
        "",
        " href='https://example.com/?a=1&b=2'",
        " href=/a",
        " href=javascript:alert(1)",
        ' href="&#106;avascript:alert(1)"',
        " href='java\tscript:alert(1)'",
        " onclick=alert(1)",
        " ONERROR = 'alert(1)' src=x",
        " style='color: red; text-align: center'",
        ' style="background:url(javascript:alert(1))"',
        ' style="width:expression(alert(1))"',
        " src=https://example.com/a.png alt='a>b'",
        " src=data:text/html,x",
        ' title="<img src=x onerror=alert(1)>"',
        " colspan=2 rowspan='3'",
        " dir=rtl",
        " class=language-py",
        " data-type=taskItem data-checked=true",
        " a=1 a=2 =b '\"",
        " /",
        "\n",
        " title='&lt;b&gt;\u202e&#x202e;&#0;'",
        " type=text name=password id=x",
    ]
)
WORDS = st.sampled_from(
    [
        "word",
        "two words",
        " ",
        "\n",
        "\n\n",
        "  \n ",
        ". ",
        "End. Next! ",
        "&amp;",
        "&lt;script&gt;",
        "&",
        "&am",
        "&#x3c;",
        "&nbsp;",
        "<",
        ">",
        "a<b",
        "e\u0301",
        "\u0301",
        "\U0001f469\u200d\U0001f469\u200d\U0001f466",
        "\U0001f1e9\U0001f1ea",
        "\u0600 1",
        "日本語。次",
        "\u202eevil\u202c",
        "\x00",
        "\r\n",
        "\u200b",
        "\xa0",
        "x" * 90,
        "-->",
        "<!--",
        "<![CDATA[",
        "<?x",
        "]]>",
        "</",
        '"',
        "'",
    ]
)


@st.composite
def _elements(draw: st.DrawFn, inside: st.SearchStrategy[str]) -> str:
    name, attributes = draw(TAGS), draw(ATTRIBUTES)
    content = draw(inside)
    end = draw(st.sampled_from([f"</{name}>", f"</{name}>", f"</{name}>", "", f"</{name.upper()} >", "</p>"]))
    return f"<{name}{attributes}>{content}{end}"


markup = st.recursive(WORDS, lambda inside: st.lists(_elements(inside) | WORDS, max_size=5).map("".join), max_leaves=25)
"""HTML, more or less."""

_WRAPPERS = st.sampled_from(sorted(words("div section article ul li blockquote dl dd details figure ol nav")))
_BETWEEN = st.sampled_from(
    [
        "",
        "</div>",
        "<div title='a&quot;b\xa0'>",
        "<section style='color:red'>",
        "</section>",
        "<ul>",
        "<li>",
        "</ul>",
        "<br>",
        "<hr>",
        "<p>",
        "</p>",
        "<table>",
        "</table>",
        "<pre>\n",
    ]
)


@st.composite
def _wrapped(draw: st.DrawFn) -> str:
    names = draw(st.lists(_WRAPPERS, max_size=4))
    parts = draw(st.lists(st.tuples(markup, _BETWEEN), min_size=1, max_size=4))
    return "".join(f"<{name}>" for name in names) + "".join(inner + between for inner, between in parts)


wrapped = _wrapped()
"""HTML in containers that are opened and closed between whatever comes."""

_LINES = st.sampled_from(
    [
        "",
        "",
        "text of a paragraph",
        "**bold** and *em* and _u_ `code`",
        "**open",
        "closed** then",
        "# Title",
        "#",
        "#x",
        "- item",
        "- ",
        "-",
        "  - nested **b",
        "    deep",
        "\ttab",
        "1. one",
        "2) two",
        "12",
        "- [ ] task",
        "- [x] done",
        "> quote",
        ">",
        "> - a",
        "```",
        "```py",
        "```py `x`",
        "~~~",
        "x = '<b>'  # `",
        "| a | b |",
        "|---|---|",
        "| 1 | 2 | 3 |",
        "a | b",
        "- | -",
        "---",
        "===",
        "***",
        "* * *",
        "[a](https://example.com)",
        "[a](javascript:alert(1))",
        "![i](https://example.com/i.png)",
        "[a](<b",
        "[a][b]",
        "[b]: https://example.com",
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a<br>b<BR/>",
        "<https://example.com>",
        "<javascript:alert(1)>",
        "line  ",
        "back\\",
        "\\*no\\*",
        "&lt;b&gt; &amp &#0; &#x202e;",
        "~~gone~~ ~~",
        "日本語。次の文。",
        "e\u0301 \U0001f469\u200d\U0001f466 \U0001f1e9\U0001f1ea",
        "word " * 12,
        "* a",
        "+ b",
        "***x*y**",
        "``a`b``",
    ]
)
markdown = st.lists(_LINES, min_size=1, max_size=12).map("\n".join)
"""Markdown, lines that begin, continue or break all kinds of blocks."""

text = st.lists(WORDS, max_size=20).map("".join)


@st.composite
def pieces(draw: st.DrawFn, source: str) -> list[str]:
    """``source`` as tokens of a language model could come."""
    size = draw(st.integers(1, 12))
    return [source[at : at + size] for at in range(0, len(source), size)]
