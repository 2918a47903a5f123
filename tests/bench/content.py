"""Cases: the content pipeline, from a page of HTML to its chunks, and Markdown as a language model writes it."""

from __future__ import annotations

from collections import deque

from services.content.pipeline.pipeline import Pipeline
from services.content.pipeline.units import Unit
from tests.bench.timer import Case, Run

_BLOCK = (
    "<h2>A heading of five words</h2><p>Some words with <strong>bold</strong> ones, a "
    '<a href="https://example.com/?a=1&amp;b=2">link</a> and more. '
    + "Then a sentence of ten words follows, and it ends here. "
    * 6
    + '<span style="color: #ff0000">Red</span> &amp; done.</p>'
    "<ul><li><p>First item.</p></li><li><p>Second one.</p></li></ul>"
    "<table><tbody><tr><td>a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></tbody></table>"
)
PAGE = _BLOCK * (102_400 // len(_BLOCK))
"""100 KB of HTML."""
TOKEN_CHARS = 4
WRITTEN = (
    "## Scene\n\nSome **bold** words and `code` in a [link](https://example.com).\n\n- First item\n- Second item\n\n"
    * 20
)

MARKDOWN = (
    ("prose", (WRITTEN * 60)[:102_400]),
    ("brackets", "![" * 51_200),
    ("marks", "*_" * 51_200),
    ("short lines", "- a\n" * 25_600),
)
"""What a reader writes, and what takes the parser longest."""


def _case(name: str, unit: str, operations: int, run: Run) -> Case:
    async def prepare() -> Run:
        return run

    return Case(name, unit, operations, prepare)


def cases() -> list[Case]:
    """All of this module. A kilobyte is the operation, so that a case's rate is its speed in KB/s."""
    pipeline = Pipeline()
    kilobytes = len(PAGE) // 1024

    def whole(unit: Unit) -> Run:
        return lambda: deque(pipeline.document(PAGE, "html", unit).document.chunks(), 0)

    def whole_markdown(source: str) -> Run:
        return lambda: pipeline.document(source, "markdown")

    def first(source: str) -> Run:
        return lambda: next(pipeline.document(source, "html", Unit.SENTENCE).document.chunks())

    def kept(source: str) -> Run:
        markup = pipeline.document(source, "html").document.html
        return lambda: next(pipeline.restore(markup, Unit.SENTENCE).chunks())

    def live(source: str) -> Run:
        def run() -> None:
            document = pipeline.live()
            for at in range(0, len(source), TOKEN_CHARS):
                document.feed(source[at : at + TOKEN_CHARS])
            document.finish()

        return run

    return [
        *(_case(f"content: 100 KB of HTML by {unit}", "KB", kilobytes, whole(unit)) for unit in Unit if unit != "auto"),
        _case("content: sanitised only", "KB", kilobytes, lambda: pipeline.document(PAGE, "html").document.html),
        _case("content: first chunk of 100 KB", "document", 1, first(PAGE)),
        _case("content: the same in one element", "document", 1, first(f"<article>{PAGE}</article>")),
        _case("content: the same, kept", "document", 1, kept(f"<article>{PAGE}</article>")),
        *(
            _case(f"content: Markdown, {name}", "KB", len(source) // 1024, whole_markdown(source))
            for name, source in MARKDOWN
        ),
        _case("content: Markdown, token by token", "token", len(WRITTEN) // TOKEN_CHARS, live(WRITTEN)),
        *(
            _case(f"content: written {name}", "token", len(source[:8192]) // TOKEN_CHARS, live(source[:8192]))
            for name, source in MARKDOWN
        ),
    ]
