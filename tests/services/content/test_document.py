"""Documents known whole: how they are cut, what each chunk carries, what is refused."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from hub.api import ErrorCode, HubError
from hub.client.content import ContentAssembler
from services.content.pipeline.chunks import Chunk
from services.content.pipeline.document import Document
from services.content.pipeline.pipeline import Limits, Pipeline
from services.content.pipeline.units import Unit, cut_before
from tests.markup.safety import faults
from tests.services.content.shown import as_data, prefixes

PIPELINE = Pipeline(Limits(max_bytes=2_000_000))


def document(source: str, unit: Unit = Unit.WORD, kind: str = "html", **limits: int) -> Document:
    pipeline = Pipeline(Limits(max_bytes=2_000_000, **limits)) if limits else PIPELINE
    return pipeline.document(source, kind, unit).document


def steps(source: str, unit: Unit, kind: str = "html") -> list[tuple[str, int, str]]:
    return [(c.op, c.depth, c.html) for c in document(source, unit, kind).chunks() if c.op != "close"]


def assembled(chunks: list[Chunk]) -> ContentAssembler:
    assembler = ContentAssembler()
    for chunk in chunks:
        assembler.apply(as_data(chunk))
    return assembler


def test_words() -> None:
    assert steps("<p>Hello <b>bold word</b>s, e<i>nd</i>. Next</p>", Unit.WORD) == [
        ("open", 0, "<p>Hello</p>"),
        ("append", 1, " <b>bold</b>"),
        ("append", 2, " word"),
        ("append", 1, "s,"),
        ("append", 1, " e<i>nd</i>."),
        ("append", 1, " Next"),
    ]


def test_words_of_scripts_without_blanks() -> None:
    assert steps("<p>日本語の文です。Two words ภาษาไทย</p>", Unit.WORD) == [
        ("open", 0, "<p>日本語の</p>"),
        ("append", 1, "文です"),
        ("append", 1, "。Two"),
        ("append", 1, " words"),
        ("append", 1, " ภาษา"),
        ("append", 1, "ไทย"),
    ]


def test_sentences() -> None:
    source = "<p>One, e.g. this by J. Smith. Two <b>three!</b> <i>“Four?”</i> 3.14 五。六。</p>"
    assert steps(source, Unit.SENTENCE) == [
        ("open", 0, "<p>One, e.g. this by J. Smith.</p>"),
        ("append", 1, " Two <b>three!</b>"),
        ("append", 1, " <i>“Four?”</i>"),
        ("append", 1, " 3.14 五。"),
        ("append", 1, "六。"),
    ]


def test_lines_of_code_are_its_sentences() -> None:
    source = "<pre><code>a. b\n\n<span>c</span>\n<span>d e</span>\n</code></pre>"
    assert steps(source, Unit.SENTENCE) == [
        ("open", 0, "<pre><code>a. b</code></pre>"),
        ("append", 2, "\n\n<span>c</span>"),
        ("append", 2, "\n<span>d e</span>"),
        ("append", 2, "\n"),
    ]


def test_paragraphs() -> None:
    source = (
        "<h1>a</h1><ul><li>b<ul><li><p>c</p><p>d</p></li></ul></li></ul>"
        "<table><tr><td><p>e</p></td><td>f</td></tr><tr><td>g</table>"
    )
    assert steps(source, Unit.PARAGRAPH) == [
        ("open", 0, "<h1>a</h1>"),
        ("open", 0, "<ul><li>b<ul><li><p>c</p></li></ul></li></ul>"),
        ("append", 4, "<p>d</p>"),
        ("open", 0, "<table><tbody><tr><td><p>e</p></td><td>f</td></tr></tbody></table>"),
        ("append", 2, "<tr><td>g</td></tr>"),
    ]


def test_every_block_is_closed_once_after_its_last_chunk() -> None:
    chunks = list(document("<p>a b</p><hr><p>c</p>").chunks())
    assert [(chunk.op, chunk.block) for chunk in chunks] == [
        ("open", 0),
        ("append", 0),
        ("close", 0),
        ("open", 1),
        ("close", 1),
        ("open", 2),
        ("close", 2),
    ]
    assert [chunk.index for chunk in chunks] == list(range(7))
    assert (chunks[-1].progress, chunks[-1].html, chunks[-1].text) == (1.0, "", "\n")
    assert as_data(chunks[0]) == {
        "index": 0,
        "op": "open",
        "block": 0,
        "html": "<p>a</p>",
        "text": "a",
        "progress": chunks[0].progress,
    }
    assert as_data(chunks[1])["depth"] == 1


def test_the_text_reads_as_the_document_does() -> None:
    source = (
        "<h1>A &amp; B</h1>\n<ul>\n <li>c</li>\n <li>d<br>e</li>\n</ul>"
        "<table><td>f</td><td>g</td></table><pre> h\n  <b> i</b></pre>"
    )
    for unit in (Unit.WORD, Unit.SENTENCE, Unit.PARAGRAPH):
        whole = assembled(list(document(source, unit).chunks()))
        assert whole.text == "A & B\nc\nd\ne\nf\ng\n h\n   i\n"


@pytest.mark.parametrize("unit", [Unit.WORD, Unit.SENTENCE, Unit.PARAGRAPH])
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("one paragraph", "<p>" + "Some words. " * 8_000 + "</p>"),
        ("one word", "x" * 100_000),
        ("entities", "&amp;" * 20_000),
        ("one list", "<ul>" + "<li>item <b>two</b></li>" * 4_000 + "</ul>"),
        ("deep", "<div>" * 99 + "word " * 20_000),
        ("tags alone", "<p>" + "<b></b>" * 10_000),
    ],
)
def test_no_byte_is_sent_twice(name: str, source: str, unit: Unit) -> None:
    whole = document(source, unit)
    chunks = list(whole.chunks())
    assert {chunk.op for chunk in chunks} <= {"open", "append", "close"}
    end_tags = sum(len(re.search(r"(?:</[a-z0-9]+>)*\Z", chunk.html)[0]) for chunk in chunks)  # type: ignore[index]
    assert sum(len(chunk.html) for chunk in chunks) - end_tags <= len(whole.html)
    assert max(len(chunk.html) for chunk in chunks) <= 4096 + 99 * len("<div></div>") + 64
    assert assembled(chunks).html == whole.html


def test_a_long_word_is_cut_between_graphemes_and_never_in_a_reference() -> None:
    family = "\U0001f469\u200d\U0001f469\u200d\U0001f466"
    source = ("e\u0301" * 7 + family + "\U0001f1e9\U0001f1ea" * 3 + "&lt;\u0338&amp;") * 200
    chunks = list(document(source, max_chunk_chars=32).chunks())
    assert len(chunks) > 100
    for prefix in islice(prefixes(chunks), 0, None, 17):
        assert faults(prefix) == []
    for chunk in chunks:
        assert not re.match("[\u0301\u0338\u200d]", chunk.text)
        assert chunk.text.count("\U0001f469") % 2 == 0
        assert (chunk.text.count("\U0001f1e9") - chunk.text.count("\U0001f1ea")) == 0


def test_a_grapheme_without_end_is_cut_somewhere() -> None:
    whole = document("a" + "\u0301" * 10_000, max_chunk_chars=64)
    chunks = list(whole.chunks())
    assert max(len(chunk.html) for chunk in chunks) <= 64 + len("<p></p>")
    assert assembled(chunks).html == whole.html


def test_not_even_then_is_a_reference_cut() -> None:
    for before in range(24, 40):
        for reference in ("&lt;", "&amp;", "&nbsp;"):
            text = "\u0600" * before + reference + "\u0301" * 40
            at = cut_before(text, 0, 32, len(text))
            assert 0 < at <= 32
            assert not before < at < before + len(reference)


@pytest.mark.parametrize("wrap", ["", "<div>", "<!doctype html><html><body>", "<article>\n<section>", "<ul><li>"])
def test_the_first_chunk_needs_only_the_beginning(wrap: str) -> None:
    made = document(wrap + "<p>Some words here.</p>\n" * 20_000)
    first = next(made.chunks())
    assert "<p>Some</p>" in first.html
    assert len(made._segments) == 1
    assert made._segments[0].until < 0.05


def test_progress_ends_at_one_whatever_follows_the_last_block() -> None:
    chunks = list(document("<p>" + "word " * 2_000 + "</p><!--" + "x" * 50_000 + "-->").chunks())
    assert chunks[-1].progress == 1.0
    assert chunks[-2].progress is not None
    assert chunks[-2].progress > 0.9


def test_a_node_that_takes_over_makes_the_same_chunks() -> None:
    source = "# Title\n\n" + "Some *words* of a [link](https://e.example).\n\n- a\n- b\n\n" * 200
    one = list(Pipeline().document(source, None, Unit.AUTO).document.chunks())
    other = list(Pipeline().document(source, None, Unit.AUTO).document.chunks())
    assert one == other


def test_auto_takes_larger_units_for_larger_documents() -> None:
    assert [document("<p>" + "word " * count + "</p>", Unit.AUTO).unit for count in (10, 2_000, 20_000)] == [
        Unit.WORD,
        Unit.SENTENCE,
        Unit.PARAGRAPH,
    ]


@pytest.mark.parametrize(
    ("source", "declared", "code"),
    [
        ("", None, ErrorCode.EMPTY_CONTENT),
        (" \n\t", "html", ErrorCode.EMPTY_CONTENT),
        ("x" * 102_401, None, ErrorCode.TOO_LARGE),
        ("é" * 51_201, None, ErrorCode.TOO_LARGE),
        ("x", "application/pdf", ErrorCode.CONTENT_TYPE),
        (7, None, ErrorCode.BAD_REQUEST),
    ],
)
def test_what_is_refused(source: str, declared: str | None, code: ErrorCode) -> None:
    with pytest.raises(HubError) as refused:
        Pipeline().document(source, declared)
    assert refused.value.code is code


def test_nothing_left_to_show_is_empty_content() -> None:
    prepared = PIPELINE.document("<script>alert(1)</script>", "html")
    with pytest.raises(HubError) as refused:
        next(prepared.document.chunks())
    assert refused.value.code is ErrorCode.EMPTY_CONTENT
