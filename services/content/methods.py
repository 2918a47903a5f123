"""The methods of content streams: from params to a result, through limits, cache, pipeline, store and driver."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from hub.api import ErrorCode, Hub, HubError, Method, Principal, bad_request, not_found
from services.content.asked import ChangeSpeed, ListStreams, OneStream, Replay, Start, asked, speed_of
from services.content.assistant import Writer, parse_prompt
from services.content.kinds import content_topic
from services.content.metrics import ContentMetrics
from services.content.pipeline import Complexity, ContentType, Document, Pipeline, Speed, Unit, one_of
from services.content.sources import DocumentSource, Source
from services.content.states import Verb
from services.content.store import Plan, Store
from services.content.streams import Streams

_NAME_BYTES = 16
_CACHE = "content"
_COUNT_S = 0.001
# Raise it when the pipeline makes something else of the same source.
_PIPELINE_VERSION = 1


class _Cached(Struct, frozen=True):
    """What the pipeline made of a source."""

    html: str
    unit: Unit
    content_type: ContentType
    complexity: str
    chunks: int


class ContentMethods:
    """All methods, by name in ``methods``."""

    def __init__(
        self, hub: Hub, store: Store, streams: Streams, pipeline: Pipeline, writer: Writer, metrics: ContentMetrics
    ) -> None:
        self._hub = hub
        self._store = store
        self._streams = streams
        self._pipeline = pipeline
        self._writer = writer
        self._metrics = metrics
        settings = hub.settings
        self._quota = hub.limits.quota(
            "content",
            most=settings.content_session_requests,
            life_s=settings.content_session_s,
            idle_s=settings.content_session_idle_s,
        )
        self._bucket = hub.limits.bucket("assistant", per_second=20 / 60, burst=10)
        self.methods: Mapping[str, Method] = {
            "content.start": self.start,
            "content.pause": self._control(Verb.PAUSE),
            "content.resume": self._control(Verb.RESUME),
            "content.cancel": self._control(Verb.CANCEL),
            "content.speed": self.speed,
            "content.list": self.list,
            "content.get": self.get,
            "content.replay": self.replay,
            "assistant.generate": self.generate,
        }

    async def start(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        """Streams content that is known whole, in a stream of its own or as the next part of a complete one."""
        wanted = asked(Start, params, "content.start")
        speed, unit = speed_of(wanted.speed), wanted.unit
        await self._quota.spend(principal.org, principal.user)
        name = _cache_name(wanted, self._hub.settings.content_max_depth)
        began = time.perf_counter()
        cached = await self._cached(principal, name)
        if cached is None:
            prepared = self._pipeline.document(wanted.content, wanted.content_type, unit)
            document, findings, kind, text = prepared.document, prepared.findings, prepared.content_type, wanted.content
        else:
            document, findings = self._pipeline.restore(cached.html, cached.unit), None
            kind, text = cached.content_type, cached.html
        next(document.chunks())  # raises empty_content
        complexity = document.complexity if cached is None else Complexity(cached.complexity)
        plan = Plan(
            "document" if cached is None else "restored",
            document.unit,
            kind,
            complexity,
            _ms(began),
            cached is not None,
        )
        source = DocumentSource(document, findings)
        stream = await self._begin(principal, wanted.stream, speed, plan, text, source)
        chunks = await self._count(document) if cached is None else cached.chunks
        processing_ms = source.facts["processing_ms"] = _ms(began)
        self._metrics.processed(str(kind), processing_ms / 1000)
        if cached is None:
            made = _Cached(document.html, document.unit, kind, document.complexity, chunks)
            await self._keep(principal, name, made)
        return {
            "stream": stream,
            "topic": content_topic(stream),
            "chunks": chunks,
            "complexity": str(complexity),
            "processing_ms": processing_ms,
            "cached": plan.cached,
            "content_type": str(kind),
            "chunk_by": str(document.unit),
        }

    async def generate(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        """Streams what a language model writes; the text is not known yet when this returns."""
        parse_prompt(params, self._hub.settings)
        speed = speed_of(_text(params, "speed") or Speed.SUPERFAST)
        unit = one_of(Unit, params.get("chunk_by", Unit.AUTO), "'chunk_by'")
        provider = _text(params, "provider")
        await self._bucket.spend(principal.org, principal.user)
        most = 4
        if await self._store.generating(principal.org, principal.user) >= most:
            text = f"{most} texts are being written for you; wait for one to end, or cancel one"
            raise HubError(ErrorCode.RATE_LIMITED, text, retry_after_ms=1000)
        plan = Plan("assistant", unit, ContentType.MARKDOWN, provider=provider)
        text = msgspec.json.encode(params).decode()
        stream = await self._begin(principal, None, speed, plan, text, None)
        return {"stream": stream, "topic": content_topic(stream)}

    async def replay(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        """Streams once more what a stream came to, in a new stream, at any speed."""
        wanted = asked(Replay, params, "content.replay")
        speed, unit = speed_of(wanted.speed), one_of(Unit, wanted.chunk_by, "'chunk_by'")
        row = await self._readable(principal, wanted.stream)
        if not row["html"]:
            raise HubError(ErrorCode.CONFLICT, "nothing of this stream is complete", details={"state": row["state"]})
        await self._quota.spend(principal.org, principal.user)
        began = time.perf_counter()
        document = self._pipeline.restore(row["html"], unit)
        plan = Plan("restored", document.unit, ContentType.HTML, document.complexity, _ms(began), cached=True)
        source = DocumentSource(document)
        stream = await self._begin(principal, None, speed, plan, row["html"], source)
        return {"stream": stream, "topic": content_topic(stream), "chunks": await self._count(document)}

    async def speed(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        """Changes the pace, also of a stream that is paused."""
        wanted = asked(ChangeSpeed, params, "content.speed")
        return await self._change(principal, wanted.stream, Verb.SPEED, speed_of(wanted.speed))

    async def list(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        """One's own streams, the newest first."""
        wanted = asked(ListStreams, params, "content.list")
        rows = await self._store.list(principal.org, principal.user, wanted.limit, wanted.before)
        return {"streams": rows, "next": rows[-1]["stream"] if len(rows) == wanted.limit else None}

    async def get(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        """A stream and what it came to."""
        return await self._readable(principal, asked(OneStream, params, "content.get").stream)

    # --- steps

    def _control(self, verb: Verb) -> Method:
        async def method(principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
            wanted = asked(OneStream, params, f"content.{verb}")
            return await self._change(principal, wanted.stream, verb, None)

        return method

    async def _change(self, principal: Principal, stream: str, verb: Verb, speed: Speed | None) -> dict[str, Any]:
        wanted = await self._store.control(principal.org, stream, principal.user, verb, speed)
        await self._streams.control(principal.org, stream, wanted)
        return {"stream": stream, "state": str(wanted.state), "speed": str(wanted.speed)}

    async def _begin(
        self, principal: Principal, name: str | None, speed: Speed, plan: Plan, text: str, source: Source | None
    ) -> str:
        org, stream = principal.org, name or _new_name()
        await self._streams.claim(org, stream)
        try:
            stored = await self._store.begin(org, stream, principal.user, speed, plan, text)
        except BaseException:
            self._streams.give_up(org, stream)
            raise
        await self._streams.begin(stored, source or self._streams.dictation(stored))
        return stream

    async def _readable(self, principal: Principal, stream: str) -> dict[str, Any]:
        """Whoever may watch a stream may read it."""
        if not principal.allows("subscribe", content_topic(stream)):
            raise not_found("stream")
        return await self._store.get(principal.org, stream)

    async def _count(self, document: Document) -> int:
        """How many chunks there are, found out between what others do."""
        count, pause = 0, time.perf_counter() + _COUNT_S
        for _ in document.chunks():
            count += 1
            if time.perf_counter() >= pause:
                await asyncio.sleep(0)
                pause = time.perf_counter() + _COUNT_S
        return count

    async def _cached(self, principal: Principal, name: str) -> _Cached | None:
        if not self._hub.settings.content_cache_s:
            return None
        value = await self._hub.cache.get(principal.org, _CACHE, name)
        self._metrics.cache(value is not None)
        return None if value is None else msgspec.msgpack.decode(value, type=_Cached)

    async def _keep(self, principal: Principal, name: str, made: _Cached) -> None:
        ttl_s = self._hub.settings.content_cache_s
        if ttl_s:
            await self._hub.cache.put(principal.org, _CACHE, name, msgspec.msgpack.encode(made), ttl_s=ttl_s)


def _new_name() -> str:
    return secrets.token_urlsafe(_NAME_BYTES)


def _cache_name(wanted: Start, max_depth: int) -> str:
    digest = hashlib.sha256(wanted.content.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{_PIPELINE_VERSION}.{max_depth}.{wanted.content_type or ''}.{wanted.unit}.{digest}"


def _ms(began: float) -> float:
    """Milliseconds since ``began``."""
    return round((time.perf_counter() - began) * 1000, 2)


def _text(params: dict[str, Any], field: str) -> str | None:
    value = params.get(field)
    if value is not None and not isinstance(value, str):
        raise bad_request(f"'{field}' is a text")
    return value
