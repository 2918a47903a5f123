"""The corpus, as all the streams that it can come as, and as what the browser is to show of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from hub.api import ErrorCode, HubError
from services.content.pipeline import Chunk, ContentType, LiveDocument, Pipeline, Unit
from tests.browser.detector import Act, Stream
from tests.services.content.shown import as_data, prefixes

CASES: dict[str, str] = json.loads((Path(__file__).parent.parent / "markup" / "xss_cases.json").read_text())
PIPELINE = Pipeline()
# A payload's characters one by one, and in pieces that end within tags, references and marks.
LIVE = ((Unit.WORD, 1), (Unit.WORD, 7), (Unit.SENTENCE, 3), (Unit.PARAGRAPH, 5))

# Where in a document somebody could write a payload.
AROUND: dict[ContentType, tuple[str, ...]] = {
    ContentType.HTML: (
        "Some words. {} More words follow.",
        "<table><tr><td>a {} b</td><td>c</td></tr></table>",
        "<table>{}<tr><td>c</td></tr></table>",
        "<ul><li>a {}<li>b</ul>",
        "<pre><code>a {} b</code></pre>",
        "<h2><b><a href=https://ok.example/>a {} b</a></b></h2>",
        "<details><summary>{}</summary>{}</details>",
        '<p title="{}">a b</p>',
        "<p title='{}'>a b</p>",
        "<p title={}>a b</p>",
        '<a href="{}">a b</a>',
        "<img alt={} src=https://ok.example/a.png>",
        '<p style="color:{}">a b</p>',
        "<svg><desc>{}</desc></svg>",
        "<math><mtext>{}</mtext></math>",
        "<noscript>{}</noscript>",
        "<style>{}</style>",
        "<!-- {} -->",
        "<select><option>{}</select>",
        "<{}",
        "&lt;{}&gt;",
    ),
    ContentType.MARKDOWN: (
        "Some *words*. {} More **words** follow.",
        "- a {}\n- b\n  - {}",
        "> {}\n\na",
        "# {}",
        "| a | b |\n|---|---|\n| {} | c |",
        "[a b]({})",
        "[a {} b](https://ok.example/)",
        '[a b](https://ok.example/ "{}")',
        "![{}](https://ok.example/a.png)",
        "[a b][c]\n\n[c]: {}",
        "<{}>",
        "**{}**",
        "`{}`",
        "```{}\n{}\n```\n",
        "- [ ] {}",
        "a\\\n{}  \nb",
    ),
}


def whole(source: str, kind: ContentType, unit: Unit) -> list[Chunk]:
    """The chunks of a source; none when nothing of it may be shown."""
    try:
        return list(PIPELINE.document(source, kind, unit).document.chunks())
    except HubError as error:
        if error.code is not ErrorCode.EMPTY_CONTENT:
            raise
        return []


def live(source: str, kind: ContentType, unit: Unit, piece_chars: int) -> list[Chunk]:
    """The same of one that is written piece by piece."""
    document = PIPELINE.live(kind, unit)
    chunks = [
        chunk for begin in range(0, len(source), piece_chars) for chunk in document.feed(source[begin:][:piece_chars])
    ]
    return chunks + _rest(document)


def _rest(document: LiveDocument) -> list[Chunk]:
    try:
        return document.finish()
    except HubError as error:
        if error.code is not ErrorCode.EMPTY_CONTENT:
            raise
        return []


def every_way(source: str) -> Iterator[list[Chunk]]:
    """All content types, all cutters, whole and live."""
    for unit in (Unit.WORD, Unit.SENTENCE, Unit.PARAGRAPH):
        for kind in ContentType:
            yield whole(source, kind, unit)
    for kind in (ContentType.MARKDOWN, ContentType.TEXT):
        for unit, piece_chars in LIVE:
            yield live(source, kind, unit, piece_chars)


def in_places(source: str, number: int) -> Iterator[list[Chunk]]:
    """In every twelfth place of a document, others for each ``number``."""
    for kind, places in AROUND.items():
        for place in places[number % 12 :: 12]:
            around = place.replace("{}", source)
            yield whole(around, kind, Unit.WORD)
            if kind is ContentType.MARKDOWN:
                yield live(around, kind, Unit.WORD, 3)


def act(streams: Iterable[list[Chunk]]) -> Act:
    """All streams in one frame: each document that a client has after any chunk, each stream chunk by chunk in the DOM,
    and as a page what they end as.
    """
    documents: dict[str, int] = {}
    different: dict[tuple[tuple[str, str, int], ...], list[Chunk]] = {}
    for chunks in streams:
        different[tuple((chunk.op, chunk.html, chunk.depth) for chunk in chunks)] = chunks
    shown: list[Stream] = [
        {
            "chunks": [as_data(chunk) for chunk in chunks],
            "shows": [documents.setdefault(prefix, len(documents)) for prefix in prefixes(chunks)],
        }
        for chunks in different.values()
    ]
    ends = dict.fromkeys(list(prefixes(chunks))[-1] for chunks in different.values() if chunks)
    return {"documents": list(documents), "streams": shown, "page": "".join(ends)}
