"""The pipeline's door: a source in, a ``Document`` or a ``LiveDocument`` out. Pure: no clock, no I/O, no log."""

from __future__ import annotations

from typing import NamedTuple

from hub.api import ErrorCode, HubError
from hub.api import markup as safe
from services.content.pipeline.detect import ContentType, check_size, content_type
from services.content.pipeline.document import Document, automatic
from services.content.pipeline.live import Dialect, LiveDocument, MarkdownDialect, TextDialect
from services.content.pipeline.pace import Complexity, complexity
from services.content.pipeline.units import Unit


class Limits(NamedTuple):
    """The bounds of the pipeline."""

    max_bytes: int = 102_400
    """Of a source that comes whole."""
    max_live_bytes: int = 1_048_576
    """Of a source that grows."""
    max_depth: int = 100
    """How deep elements nest. Deeper tags go and their text stays."""
    max_work: int = safe.MAX_WORK
    """Of the Markdown parser for one source, about a microsecond each. What takes more is shown as text."""
    max_chunk_chars: int = 4096
    """Of a chunk's html, to which one tag, end tags and the same as text may come: far below an event's 64 KB."""


class Prepared(NamedTuple):
    """A document, and what was seen in its source."""

    document: Document
    content_type: ContentType
    findings: safe.Findings
    """Counts of what looked like an attack; those of HTML are complete when the document is."""


class Pipeline:
    """Made once for a node; safe to share."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._sanitiser = safe.Sanitiser(self.limits.max_depth)
        self._whole: dict[ContentType, Dialect] = {
            ContentType.MARKDOWN: MarkdownDialect(safe.Markdown(references=True, max_work=self.limits.max_work)),
            ContentType.TEXT: TextDialect(),
        }
        live = safe.Markdown(references=False, max_work=self.limits.max_work)
        self._live = self._whole | {ContentType.MARKDOWN: MarkdownDialect(live)}

    def document(self, source: str, declared: str | None = None, unit: Unit = Unit.AUTO) -> Prepared:
        """A source that is known whole. ``declared``: its content type; None: found out.

        Raises HubError: ``bad_request``, ``empty_content``, ``too_large``, ``content_type``.
        """
        check_size(source, self.limits.max_bytes)
        kind = content_type(source, declared)
        found = safe.Findings()
        dialect = self._whole.get(kind)
        if dialect is None:
            markup, segments = source, self._sanitiser.segments(source, found)
        else:
            source = safe.clean_characters(source, found)
            dialect.look(source, found)
            markup = dialect.convert(source, found)
            segments = self._sanitiser.segments(markup, safe.Findings())  # what looked like an attack is text by now
        unit = automatic(unit, len(markup))
        return Prepared(Document(segments, unit, complexity(markup), self.limits.max_chunk_chars), kind, found)

    def restore(self, markup: str, unit: Unit = Unit.AUTO, known: Complexity | None = None) -> Document:
        """A document from its ``html``, which was sanitised here before and kept where nobody else could write.

        ``known``: its source's complexity.
        """
        segments = iter([safe.Segment(safe.split_blocks(markup), open=False, until=1.0)])
        weight = known or complexity(markup)
        return Document(segments, automatic(unit, len(markup)), weight, self.limits.max_chunk_chars)

    def live(self, kind: ContentType = ContentType.MARKDOWN, unit: Unit = Unit.AUTO) -> LiveDocument:
        """A document that is being written. Raises ``content_type`` for HTML: nobody can tell what is final in it."""
        dialect = self._live.get(kind)
        if dialect is None:
            raise HubError(ErrorCode.CONTENT_TYPE, "HTML cannot be streamed while it is written; send it whole")
        limits = self.limits
        return LiveDocument(
            self._sanitiser, dialect, unit, max_bytes=limits.max_live_bytes, max_chunk_chars=limits.max_chunk_chars
        )
