"""From a request's content to a document: out of the cache, or through the pipeline and into the cache."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from hub.api import ErrorCode, Hub, HubError, OrgId
from services.content.asked import Start
from services.content.metrics import ContentMetrics
from services.content.pipeline import Complexity, ContentType, Document, Findings, Unit, interval_ms
from services.content.preparing import Preparer
from services.content.sources import Turn
from services.content.store import Plan, Stored

_PURPOSE = "content"
# Raise it when the pipeline makes something else of the same source.
_PIPELINE_VERSION = 3


class _Kept(Struct, frozen=True):
    """What the pipeline made of a source."""

    html: str
    unit: Unit
    content_type: ContentType
    complexity: Complexity
    chunks: int
    blocks: int


@dataclass(slots=True)
class Made:
    """A document that has something to show, and how to make it again on another node."""

    document: Document
    findings: Findings
    plan: Plan
    source: str
    """What belongs to the plan."""
    cache_name: str
    chunks: int | None = None
    """None: not counted yet."""
    blocks: int = 0


class Maker:
    """Makes documents. One for a node."""

    def __init__(self, hub: Hub, preparer: Preparer, metrics: ContentMetrics) -> None:
        self._cache = hub.cache
        self._ttl_s = hub.settings.content_cache_s
        self._settings = hub.settings
        self._depth = hub.settings.content_max_depth
        self._preparer = preparer
        self._metrics = metrics

    async def make(self, org: OrgId, wanted: Start) -> Made:
        """Raises ``empty_content``, ``too_large``, ``content_type``."""
        name = self._name(wanted)
        kept = await self._kept(org, name)
        began = time.perf_counter()
        if kept is not None:
            made = self.again(kept.html, kept.unit, kept.content_type, kept.complexity)
            made.chunks, made.blocks = kept.chunks, kept.blocks
            return made
        prepared = await self._preparer.prepare(wanted.content, wanted.content_type, wanted.unit)
        document = prepared.document
        next(document.chunks())  # raises empty_content
        plan = Plan("document", document.unit, prepared.content_type, _ms(began))
        return Made(document, prepared.findings, plan, wanted.content, name)

    def again(self, html: str, unit: Unit, kind: ContentType, complexity: Complexity | None) -> Made:
        """A document of HTML that was made here before, of a source of that complexity."""
        began = time.perf_counter()
        document = self._preparer.restore(html, unit, complexity)
        plan = Plan("restored", document.unit, kind, _ms(began), cached=True, complexity=document.complexity)
        return Made(document, Findings(), plan, html, "")

    async def count(self, org: OrgId, made: Made) -> tuple[int, float]:
        """How many chunks there are, found out between what others do, and the time all of it took in milliseconds.

        A document that was made of its source is then kept.
        """
        began = time.perf_counter()
        if made.chunks is None:
            made.chunks, made.blocks = await _counted(made.document)
        took_ms = round(made.plan.processing_ms + _ms(began), 2)
        if made.plan.kind == "document":
            self._metrics.processed(str(made.plan.content_type), took_ms / 1000)
            await self._keep(org, made)
        return made.chunks, took_ms

    def check(self, stored: Stored, made: Made) -> None:
        """Raises ``too_large`` when a stream of a document that was counted could never end well."""
        assert made.chunks is not None  # noqa: S101 - it was counted
        most, most_s = self._settings.content_max_chunks, self._settings.content_session_s
        whole = stored.first_index + made.chunks
        if whole > most:
            raise HubError(
                ErrorCode.TOO_LARGE,
                f"the stream would have {whole} chunks, and may have {most}; ask for larger ones ('chunk_by')",
                details={"chunks": whole, "max_chunks": most},
            )
        # The end of a block comes with what is before it.
        takes_s = (made.chunks - made.blocks) * interval_ms(stored.wanted.speed, made.document.complexity) // 1000
        if takes_s > most_s:
            raise HubError(
                ErrorCode.TOO_LARGE,
                f"the stream would take {takes_s} s, and may take {most_s}; ask for a higher 'speed', or for larger "
                "chunks ('chunk_by')",
                details={"seconds": takes_s, "max_seconds": most_s},
            )

    async def _kept(self, org: OrgId, name: str) -> _Kept | None:
        if not self._ttl_s:
            return None
        value = await self._cache.get(org, _PURPOSE, name)
        self._metrics.cache(value is not None)
        return None if value is None else msgspec.msgpack.decode(value, type=_Kept)

    async def _keep(self, org: OrgId, made: Made) -> None:
        if self._ttl_s and made.chunks is not None:
            document = made.document
            kind, counts = made.plan.content_type, (made.chunks, made.blocks)
            kept = _Kept(document.html, document.unit, kind, document.complexity, *counts)
            await self._cache.put(org, _PURPOSE, made.cache_name, msgspec.msgpack.encode(kept), ttl_s=self._ttl_s)

    def _name(self, wanted: Start) -> str:
        digest = hashlib.sha256(wanted.content.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{_PIPELINE_VERSION}.{self._depth}.{wanted.content_type or ''}.{wanted.unit}.{digest}"


async def _counted(document: Document) -> tuple[int, int]:
    """Chunks, and blocks."""
    chunks, blocks, turn = 0, 0, Turn()
    for chunk in document.chunks():
        chunks += 1
        blocks += chunk.op == "close"
        await turn.over()
    return chunks, blocks


def _ms(began: float) -> float:
    """Milliseconds since ``began``."""
    return round((time.perf_counter() - began) * 1000, 2)
