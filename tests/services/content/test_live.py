"""Documents that are being written: what is shown when, what is never shown, and at what cost."""

from __future__ import annotations

import re

import pytest

from hub.api import ErrorCode, HubError
from hub.markup.findings import Finding, Findings
from hub.markup.markdown import Work
from services.content.pipeline.chunks import Chunk
from services.content.pipeline.detect import ContentType
from services.content.pipeline.live import MAX_BLOCK_CHARS, SHARE, LiveDocument
from services.content.pipeline.pipeline import Limits, Pipeline
from services.content.pipeline.units import Unit
from tests.services.content.shown import prefixes

PIPELINE = Pipeline()
SCRIPT = """# A video about *tea*

**Hook:** Did you know that `tea` is older than [paper](https://e.example/paper)? It _is_, and ~~not~~ by little:
several **bold words *in a row* of** `code of three`.

## Scenes

- First **scene**: a cup
- Second scene
  - with a close-up of *steam*
1. one
2. two

- [ ] cut
- [x] shoot

| time | what |
|------|------|
| 0:05 | the **cup** |
| 0:10 | steam |

```python
def steam(cup: str) -> None:
    print("**no bold**")
```

> A quote, 日本語の文。次。 \U0001f469\u200d\U0001f469\u200d\U0001f466 end.
"""


def written(source: str, size: int = 3, unit: Unit = Unit.WORD, **limits: int) -> tuple[LiveDocument, list[Chunk]]:
    live = Pipeline(Limits(**limits)).live(ContentType.MARKDOWN, unit)
    chunks = [c for at in range(0, len(source), size) for c in live.feed(source[at : at + size])]
    return live, chunks + live.finish()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 11, 1000])
@pytest.mark.parametrize("unit", [Unit.WORD, Unit.SENTENCE, Unit.PARAGRAPH])
def test_a_script_unfolds_without_taking_anything_back(size: int, unit: Unit) -> None:
    live, chunks = written(SCRIPT, size, unit)
    assert {chunk.op for chunk in chunks} == {"open", "append", "close"}
    assert live.html == written(SCRIPT, 10_000)[0].html


def test_no_mark_is_seen_before_it_has_its_meaning() -> None:
    _, chunks = written(SCRIPT, 1)
    for prefix in prefixes(chunks):
        before_code = prefix.partition("<pre>")[0]
        assert not set("*`~#|[") & set(before_code), prefix


def test_words_come_as_they_are_written() -> None:
    live = PIPELINE.live()
    texts = [
        "".join(chunk.text for chunk in live.feed(token)) for token in ("Some ", "**bo", "ld** te", "xt. ", "More")
    ]
    assert texts == ["Some", "", " bold", " text.", ""]
    assert live.html == "<p>Some <strong>bold</strong> text.</p>"
    assert [(chunk.op, chunk.html) for chunk in live.finish()] == [("append", " More"), ("close", "")]


def test_a_block_is_closed_as_soon_as_the_next_one_has_begun() -> None:
    live = PIPELINE.live()
    live.feed("# Title\nText ")
    ops = [(chunk.op, chunk.block) for chunk in live.feed("goes on ")]
    assert ("close", 0) not in ops
    assert live.html.startswith("<h1>Title</h1><p>Text")
    live.feed("\n\n- ")
    assert "<ul>" not in live.html
    live.feed("a ")
    assert live.html.endswith("</p><ul><li><p>a</p></li></ul>")


def test_what_becomes_something_else_is_replaced() -> None:
    live = PIPELINE.live()
    first = live.feed("Title here\n")
    assert first[0].html.startswith("<p>Title")
    replaced = live.feed("===\n") + live.feed("text ")
    tail = next(chunk for chunk in replaced if chunk.op == "replace_tail")
    assert (tail.block, tail.html, tail.text) == (0, "<h1>Title here</h1>", "Title here")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("paragraphs", "Some *words* of a text that goes on. " * 20 + "\n\n"),
        ("one paragraph", "Some *words* of a text that goes on. "),
        ("one list", "- an item with **bold** text\n"),
        ("one table", "| some | row |\n"),
        ("code", "    return x\n"),
        ("no end", "word"),
        ("marks", "**a *b _c "),
        ("brackets", "[a ![b "),
        ("setext", "a\n=\n"),
        ("quotes", "> > a\n"),
    ],
)
def test_cost_is_linear(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters converted and characters sent: a constant for each that comes, though four are fed at a time."""
    head = {"one table": "| a | b |\n|---|---|\n", "code": "```\n"}.get(name, "")
    whole = head + source * (10_000 // len(source))
    live = PIPELINE.live()
    convert = live._dialect.convert
    converted = 0

    def counted(text: str, found: Findings, work: Work | None = None) -> str:
        nonlocal converted
        converted += len(text)
        return convert(text, found, work)

    monkeypatch.setattr(live._dialect, "convert", counted)
    chunks = [chunk for at in range(0, len(whole), 4) for chunk in live.feed(whole[at : at + 4])]
    chunks += live.finish()
    assert converted <= 2 * SHARE * len(whole)
    assert sum(len(chunk.html) for chunk in chunks) <= 2 * SHARE * len(live.html)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("list", "- an item with **bold** text\n" * 400),
        ("paragraph", "some words and *more*, " * 500),
        ("word", "x" * 12_000),
        ("brackets", "[" * 12_000),
        ("images", "![" * 6_000),
        ("marks", "*_" * 6_000),
        ("ticks", "`" * 12_000),
        ("quotes", "> > a\n" * 2_000),
        ("blanks", " " * 12_000 + "a"),
        ("at once", "some words and *more*.\n\n" * 1_000),
    ],
)
@pytest.mark.parametrize("size", [25, 20_000])
def test_a_block_that_gets_long_is_ended(name: str, source: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing long is ever converted in one step, so none takes long; and nothing that was written is lost."""
    live = PIPELINE.live()
    convert = live._dialect.convert
    longest = 0
    most = 0

    def watched(text: str, found: Findings, work: Work | None = None) -> str:
        nonlocal longest, most
        work = work or Work()
        before = work.done
        markup = convert(text, found, work)
        longest, most = max(longest, len(text)), max(most, work.done - before)
        return markup

    monkeypatch.setattr(live._dialect, "convert", watched)
    chunks = [chunk for at in range(0, len(source), size) for chunk in live.feed(source[at : at + size])]
    chunks += live.finish()
    assert longest <= (4 if name == "ticks" else 1) * MAX_BLOCK_CHARS + 1_024  # they begin code, which may be longer
    assert most <= 50_000
    assert live.findings == {}
    *_, last = prefixes(chunks)
    assert last == live.html
    spoken = re.sub(r"<[^>]*>|\s", "", live.html)
    assert len(spoken) >= len(re.sub(r"[\s*_>`-]", "", source)) - 10


def test_long_code_goes_on_as_code() -> None:
    line = "    return '*not* [a](list)'\n"
    live, _ = written("```py\n" + line * 2_000 + "```\n\nAfter *it*.\n", 100)
    code, _, after = live.html.rpartition("</pre>")
    assert after == "<p>After <em>it</em>.</p>"
    assert set(re.findall(r"<[^>]*>", code)) == {"<pre>", '<code class="language-py">', "</code>", "</pre>"}
    assert 1 < code.count("<pre>") < 5
    assert code.count(line) == 2_000


def test_long_tables_go_on_as_tables() -> None:
    live, _ = written("| a | b |\n|---|---|\n" + "| some | row |\n" * 1_500, 100)
    assert set(re.findall(r"</?(?:p|table)>", live.html)) == {"<table>", "</table>"}
    assert live.html.count("<td>some</td>") == 1_500
    assert live.html.count("<th>a</th>") == live.html.count("<table>") > 1


def test_halves_of_characters_wait_for_the_rest() -> None:
    live = PIPELINE.live()
    chunks = [chunk for half in ("a \ud83d", "\ude00 b\r", "\nc\r", "\rd \ud83d") for chunk in live.feed(half)]
    chunks += live.finish()
    assert live.html == "<p>a \U0001f600 b\nc</p><p>d</p>"
    assert "\ufffd" not in "".join(chunk.text for chunk in chunks)


def test_text_that_is_written() -> None:
    live = PIPELINE.live(ContentType.TEXT)
    chunks = [chunk for character in "A <b>line\nand\n\n*another* " for chunk in live.feed(character)] + live.finish()
    assert live.html == "<p>A &lt;b&gt;line<br>and</p><p>*another*</p>"
    assert {chunk.op for chunk in chunks} == {"open", "append", "close"}


def test_attacks_are_counted_and_shown_as_text() -> None:
    live, _ = written("Hi <script>alert(1)</script> [x](javascript:alert(1))\n\n<p onclick=a>")
    assert live.findings == {Finding.SCRIPT: 1, Finding.ADDRESS: 1, Finding.HANDLER: 1}
    assert "&lt;script&gt;" in live.html


def test_too_much_is_refused_and_what_came_stays() -> None:
    live = Pipeline(Limits(max_live_bytes=20)).live()
    live.feed("Some words é ")
    with pytest.raises(HubError) as refused:
        live.feed("too many")
    assert refused.value.code is ErrorCode.TOO_LARGE
    live.finish()
    assert live.html == "<p>Some words é</p>"


def test_nothing_written_is_empty_content() -> None:
    live = PIPELINE.live()
    live.feed(" \n")
    with pytest.raises(HubError) as refused:
        live.finish()
    assert refused.value.code is ErrorCode.EMPTY_CONTENT


def test_html_cannot_be_written_live() -> None:
    with pytest.raises(HubError) as refused:
        PIPELINE.live(ContentType.HTML)
    assert refused.value.code is ErrorCode.CONTENT_TYPE
