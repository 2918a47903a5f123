"""The detector bites: what is not sanitised runs, and is seen, by each of its senses."""

from __future__ import annotations

from markdown_it import MarkdownIt

from tests.browser.corpus import CASES
from tests.browser.detector import Detector

# Most others do nothing in a browser of today: old ones ran them, or they wait for a sanitiser to change them.
AT_LEAST_SEEN = 0.5
AT_LEAST_RUN = 0.4


# What to show, and what must be seen of it.
HAPPENS = [
    ("<img src=x onerror=1+1>", "a script"),
    ("<img src=x onerror='1 1'>", "a script"),
    ("<a href=javascript:2+2>x</a>", "a script"),
    ("<a href=javascript:alert(1)>x</a>", "alert()"),
    ("<iframe srcdoc='<script>parent.parent.alert(1)</script>'></iframe>", "a script"),
    ("<iframe srcdoc='<script>alert(1)</script>'></iframe>", "alert()"),
    ("<iframe src='data:text/html,<script>alert(1)</script>'></iframe>", "alert()"),
    ("<iframe></iframe>", "a frame"),
    ("<p onfocus=eval(1) tabindex=0>x", "eval()"),
    ("<p onclick=pwned=1>x", "pwned ="),
    ("<p onmouseover=document.title=1>x", "document.title ="),
    ("<img src=x onerror=console.log(1)>", "console"),
    ("<img src=x onerror=a.b.c>", "an exception"),
    ("<img src=x onerror='delete globalThis.open; open(`https://evil.example`)'>", "a script"),
    ("<a href=data:text/html,x target=_blank rel=opener>x</a>", "a window"),
    ("<a href=ftp://evil.example/>x</a>", "navigation to ftp://evil.example/"),
    ("<form action=https://evil.example/><button>x</button></form>", "https://evil.example/"),
    ("<meta http-equiv=refresh content='0; url=https://evil.example/'>", "https://evil.example/"),
    ("<link rel=stylesheet href=https://evil.example/x.css>", "request of Stylesheet https://evil.example/x.css"),
    ("<style>@import 'https://evil.example/x.css'</style>", "request of Stylesheet https://evil.example/x.css"),
    ("<p style='background:url(https://evil.example/x.png)'>x", "request of Image https://evil.example/x.png"),
    ("<img src=http://evil.example/x.png>", "request of Image http://evil.example/x.png"),
    ("<video src=https://evil.example/x.mp4></video>", "request of Media https://evil.example/x.mp4"),
]
LEFT_IN_THE_DOM = [
    ("<p onnothing=1>x</p>", "attribute onnothing"),
    ("<p id=x>x</p>", "attribute id"),
    ("<a href=foo:bar>x</a>", "link foo:bar"),
    ("<img src=/x>", "image /x"),
    ("<svg></svg>", "namespace http://www.w3.org/2000/svg"),
    ("<form></form>", "element form"),
    ("<p><!-- x --></p>", "a node of type 8"),
    ("<p style='background:url(data:,x)'>x</p>", "style background-image"),
    ("<p>x", "became <p>x</p> and was <p>x"),
]


def unsafe(name: str, source: str) -> str:
    """What somebody without a sanitiser would show."""
    if not name.startswith("markdown-"):
        return source
    parser = MarkdownIt("commonmark", {"html": True})
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    return str(parser.render(source))


async def test_most_of_the_corpus_is_seen_when_it_is_not_sanitised(detector: Detector) -> None:
    shown = [unsafe(name, source) for name, source in list(CASES.items())[::2]]
    verdicts = await detector.show([{"documents": [html], "page": html} for html in shown], judge=False)
    seen = [verdict.did for verdict in verdicts if verdict.did]
    run = [did for did in seen if {"a script", "alert()"} & set(did)]
    assert len(seen) >= AT_LEAST_SEEN * len(shown)
    assert len(run) >= AT_LEAST_RUN * len(shown)


async def test_what_happens_is_seen(detector: Detector) -> None:
    verdicts = await detector.show([{"documents": [html]} for html, _ in HAPPENS], judge=False)
    strays = detector.strays  # a window belongs to no frame
    for (html, what), verdict in zip(HAPPENS, verdicts, strict=True):
        assert any(what in did for did in verdict.did + strays), (html, verdict, strays)


async def test_what_is_left_in_the_dom_is_seen(detector: Detector) -> None:
    verdicts = await detector.show([{"documents": [html]} for html, _ in LEFT_IN_THE_DOM])
    for (html, what), verdict in zip(LEFT_IN_THE_DOM, verdicts, strict=True):
        assert any(did.startswith(what) for did in verdict.did), (html, verdict)


async def test_what_is_harmless_is_not(detector: Detector) -> None:
    html = (
        '<p style="color: red">a <a href="https://ok.example/" target="_blank">b</a> <a href="#c">c</a> '
        '<a href="mailto:d@ok.example">d</a></p><details><summary>e</summary>f</details>'
        '<ul><li><input type="checkbox" disabled="">g</li></ul><p><img src="https://ok.example/a.png"></p>'
    )
    (verdict,) = await detector.show([{"documents": [html]}])
    assert verdict.did == []
    assert verdict.images == {"https://ok.example/a.png"}
    assert detector.strays == []
    (written,) = await detector.show([{"page": html}])
    assert (written.did, detector.strays) == ([], [])
