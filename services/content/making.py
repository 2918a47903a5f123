"""From a request's content to a document: out of the cache, or through the pipeline and into the cache."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from hub.api import Hub, OrgId
from services.content.asked import Start
from services.content.metrics import ContentMetrics
from services.content.pipeline import ContentType, Document, Findings, Unit
from services.content.preparing import Preparer
from services.content.sources import Turn
from services.content.store import Plan

_PURPOSE = "content"
# Raise it when the pipeline makes something else of the same source.
_PIPELINE_VERSION = 2


class _Kept(Struct, frozen=True):
    """What the pipeline made of a source."""

    html: str
    unit: Unit
    content_type: ContentType
    chunks: int


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


class Maker:
    """Makes documents. One for a node."""

    def __init__(self, hub: Hub, preparer: Preparer, metrics: ContentMetrics) -> None:
        self._cache = hub.cache
        self._ttl_s = hub.settings.content_cache_s
        self._depth = hub.settings.content_max_depth
        self._preparer = preparer
        self._metrics = metrics

    async def make(self, org: OrgId, wanted: Start) -> Made:
        """Raises ``empty_content``, ``too_large``, ``content_type``."""
        name = self._name(wanted)
        kept = await self._kept(org, name)
        began = time.perf_counter()
        if kept is not None:
            return self.again(kept.html, kept.unit, kept.content_type, name, kept.chunks)
        prepared = await self._preparer.prepare(wanted.content, wanted.content_type, wanted.unit)
        document = prepared.document
        next(document.chunks())  # raises empty_content
        plan = Plan("document", document.unit, prepared.content_type, _ms(began))
        return Made(document, prepared.findings, plan, wanted.content, name)

    def again(self, html: str, unit: Unit, kind: ContentType, name: str = "", chunks: int | None = None) -> Made:
        """A document of HTML that was made here before."""
        began = time.perf_counter()
        document = self._preparer.restore(html, unit)
        plan = Plan("restored", document.unit, kind, _ms(began), cached=True)
        return Made(document, Findings(), plan, html, name, chunks)

    async def count(self, org: OrgId, made: Made) -> tuple[int, float]:
        """How many chunks there are, found out between what others do, and the time all of it took in milliseconds.

        A document that was made of its source is then kept.
        """
        began = time.perf_counter()
        if made.chunks is None:
            made.chunks = await _counted(made.document)
            if made.plan.kind == "document":
                await self._keep(org, made)
        took_ms = round(made.plan.processing_ms + _ms(began), 2)
        self._metrics.processed(str(made.plan.content_type), took_ms / 1000)
        return made.chunks, took_ms

    async def _kept(self, org: OrgId, name: str) -> _Kept | None:
        if not self._ttl_s:
            return None
        value = await self._cache.get(org, _PURPOSE, name)
        self._metrics.cache(value is not None)
        return None if value is None else msgspec.msgpack.decode(value, type=_Kept)

    async def _keep(self, org: OrgId, made: Made) -> None:
        if self._ttl_s and made.chunks is not None:
            kept = _Kept(made.document.html, made.document.unit, made.plan.content_type, made.chunks)
            await self._cache.put(org, _PURPOSE, made.cache_name, msgspec.msgpack.encode(kept), ttl_s=self._ttl_s)

    def _name(self, wanted: Start) -> str:
        digest = hashlib.sha256(wanted.content.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{_PIPELINE_VERSION}.{self._depth}.{wanted.content_type or ''}.{wanted.unit}.{digest}"


async def _counted(document: Document) -> int:
    count, turn = 0, Turn()
    for _ in document.chunks():
        count += 1
        await turn.over()
    return count


def _ms(began: float) -> float:
    """Milliseconds since ``began``."""
    return round((time.perf_counter() - began) * 1000, 2)
