"""For any input: every prefix is safe and well-formed, and the end is the sanitised whole."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.api import ErrorCode, HubError
from hub.client.content import ContentAssembler
from hub.markup.characters import clean_characters
from hub.markup.findings import Findings
from hub.markup.markdown import Markdown
from hub.markup.sanitise import Sanitiser
from hub.markup.text import text_to_html
from services.content.pipeline.chunks import Chunk
from services.content.pipeline.detect import ContentType
from services.content.pipeline.live import LiveDocument
from services.content.pipeline.pipeline import Limits, Pipeline
from services.content.pipeline.units import Unit
from tests.markup import sources
from tests.markup.safety import faults
from tests.services.content.shown import as_data, prefixes

PIPELINE = Pipeline()
SHORT = Pipeline(Limits(max_chunk_chars=40))
SANITISER = Sanitiser(100)
UNITS = st.sampled_from([Unit.WORD, Unit.SENTENCE, Unit.PARAGRAPH])
SOURCES = {ContentType.HTML: sources.markup, ContentType.MARKDOWN: sources.markdown, ContentType.TEXT: sources.text}

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def assembled(chunks: list[Chunk]) -> ContentAssembler:
    assembler = ContentAssembler()
    for index, chunk in enumerate(chunks):
        assert chunk.index == index
        assert assembler.apply(as_data(chunk))
    return assembler


@pytest.mark.parametrize("kind", list(ContentType))
@given(data=st.data(), unit=UNITS, pipeline=st.sampled_from([PIPELINE, SHORT]))
@quick
def test_every_prefix_is_safe_and_the_end_is_the_whole(
    kind: ContentType, data: st.DataObject, unit: Unit, pipeline: Pipeline
) -> None:
    source = data.draw(SOURCES[kind])
    try:
        document = pipeline.document(source, kind, unit).document
        chunks = list(document.chunks())
    except HubError as error:
        if error.code is not ErrorCode.EMPTY_CONTENT:
            raise
        return
    for prefix in prefixes(chunks):
        assert faults(prefix) == []
        assert SANITISER.clean(prefix) == prefix
    whole = assembled(chunks)
    assert whole.html == document.html
    assert chunks[-1].progress == 1.0
    assert all(before.progress <= after.progress for before, after in pairwise(chunks))
    if kind is ContentType.HTML:
        assert document.html == SANITISER.clean(source)
    if kind is ContentType.TEXT:
        assert document.html == SANITISER.clean(text_to_html(clean_characters(source, Findings())))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert squeezed(whole.text) == squeezed(spoken(document.html))


@given(source=sources.markup)
@quick
def test_the_same_text_whatever_the_unit(source: str) -> None:
    try:
        texts = {
            "".join(chunk.text for chunk in PIPELINE.document(source, "html", unit).document.chunks())
            for unit in (Unit.WORD, Unit.SENTENCE, Unit.PARAGRAPH)
        }
    except HubError:
        return
    assert len(texts) == 1


@given(source=sources.markup)
@quick
def test_a_restored_document_has_the_same_blocks(source: str) -> None:
    try:
        document = PIPELINE.document(source, "html", Unit.WORD).document
        markup = document.html
    except HubError:
        return
    restored = PIPELINE.restore(markup, Unit.WORD)
    assert restored.html == markup
    assert [chunk.html for chunk in restored.chunks()] == [chunk.html for chunk in document.chunks()]


@given(source=sources.wrapped, size=st.sampled_from([1, 7, 30]), unit=UNITS)
@quick
def test_pieces_of_any_size_make_the_same_kind_of_document(source: str, size: int, unit: Unit) -> None:
    """Wherever a block is parted: the parts are safe, join into a clean whole, and are cut like the whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hub.markup.fence.PIECE_CHARS", size)
        try:
            document = PIPELINE.document(source, "html", unit).document
            chunks = list(document.chunks())
        except HubError:
            return
    assert SANITISER.clean(document.html) == document.html
    for prefix in prefixes(chunks):
        assert faults(prefix) == []
    whole = PIPELINE.restore(document.html, unit)
    assert [(chunk.op, chunk.html, chunk.text) for chunk in chunks] == [
        (chunk.op, chunk.html, chunk.text) for chunk in whole.chunks()
    ]


@given(source=sources.text, limit=st.integers(32, 60), unit=UNITS)
@quick
def test_no_grapheme_and_no_reference_is_cut(source: str, limit: int, unit: Unit) -> None:
    pipeline = Pipeline(Limits(max_chunk_chars=limit))
    try:
        document = pipeline.document(source, "text", unit).document
        chunks = [chunk for chunk in document.chunks() if chunk.op != "close"]
    except HubError:
        return
    # Within one block and line the boundaries of chunks are boundaries of graphemes.
    text = ""
    cuts = set()
    for chunk in document.chunks():
        text += chunk.text
        cuts.add(len(text))
    graphemes = {found.end() for found in regex.finditer(r"\X", text)} | {0}
    assert cuts <= graphemes
    assert all(len(re.sub("<[^>]*>", "", chunk.html)) <= limit for chunk in chunks)


def live(kind: ContentType, unit: Unit, pieces: list[str]) -> tuple[LiveDocument, list[Chunk]]:
    document = PIPELINE.live(kind, unit)
    chunks = [chunk for piece in pieces for chunk in document.feed(piece)]
    return document, chunks + document.finish()


@pytest.mark.parametrize("kind", [ContentType.MARKDOWN, ContentType.TEXT])
@given(data=st.data(), unit=UNITS)
@quick
def test_live_every_prefix_is_safe_and_the_end_is_the_whole(kind: ContentType, data: st.DataObject, unit: Unit) -> None:
    source = data.draw(SOURCES[kind])
    pieces = data.draw(sources.pieces(source))
    try:
        document, chunks = live(kind, unit, pieces)
    except HubError as error:
        if error.code is not ErrorCode.EMPTY_CONTENT:
            raise
        return
    for prefix in prefixes(chunks):
        assert faults(prefix) == []
        assert SANITISER.clean(prefix) == prefix
    whole = assembled(chunks)
    cleaned = clean_characters(source, Findings())
    converted = Markdown(references=False).convert(cleaned) if kind is ContentType.MARKDOWN else text_to_html(cleaned)
    assert whole.html == document.html == SANITISER.clean(converted)
    assert {chunk.progress for chunk in chunks} == {None}
    assert squeezed(whole.text) == squeezed(spoken(whole.html))
    closed = [chunk.block for chunk in chunks if chunk.op == "close"]
    assert closed == sorted(set(closed)) == list(range(len(closed)))


def spoken(markup: str) -> str:
    """The text of sanitised markup."""
    text = re.sub("<[^>]*>", " ", markup)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", "\xa0").replace("&amp;", "&")


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)
