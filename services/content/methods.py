"""The methods of content streams: from params to a result, through limits, cache, pipeline, store and driver."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import msgspec

from hub.api import ErrorCode, Hub, HubError, Method, Principal, bad_request, not_found
from services.content.asked import ChangeSpeed, ListStreams, OneStream, Replay, Start, asked, speed_of
from services.content.assistant import AssistantLimits, Writer, parse_prompt
from services.content.kinds import content_topic
from services.content.making import Made, Maker
from services.content.pipeline import Complexity, ContentType, Speed, Unit, one_of
from services.content.sources import DocumentSource, Source
from services.content.states import Verb
from services.content.store import Plan, Store, Stored
from services.content.streams import Streams

_NAME_BYTES = 16


class ContentMethods:
    """All methods, by name in ``methods``."""

    def __init__(
        self, hub: Hub, store: Store, streams: Streams, maker: Maker, writer: Writer, limits: AssistantLimits
    ) -> None:
        self._hub = hub
        self._store = store
        self._streams = streams
        self._maker = maker
        self._writer = writer
        self._limits = limits
        settings = hub.settings
        self._quota = hub.limits.quota(
            "content",
            most=settings.content_session_requests,
            life_s=settings.content_session_s,
            idle_s=settings.content_session_idle_s,
        )
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
        speed, _ = speed_of(wanted.speed), wanted.unit
        await self._quota.spend(principal.org, principal.user)
        return await self._show(principal, wanted.stream, speed, await self._maker.make(principal.org, wanted))

    async def generate(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        """Streams what a language model writes; the text is not known yet when this returns."""
        prompt = parse_prompt(params, self._hub.settings)
        speed = speed_of(_text(params, "speed") or Speed.SUPERFAST)
        unit = one_of(Unit, params.get("chunk_by", Unit.AUTO), "'chunk_by'")
        provider = _text(params, "provider")
        self._writer.check(provider)
        await self._limits.spend(principal)
        plan = Plan("assistant", unit, ContentType.MARKDOWN, provider=provider)
        text = msgspec.json.encode(prompt.params()).decode()
        stored = await self._begin(principal, None, speed, plan, text, None)
        return {"stream": stored.id, "topic": content_topic(stored.id)}

    async def replay(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        """Streams once more what a stream came to, in a new stream, at any speed."""
        wanted = asked(Replay, params, "content.replay")
        speed, unit = speed_of(wanted.speed), one_of(Unit, wanted.chunk_by, "'chunk_by'")
        row = await self._readable(principal, wanted.stream)
        if not row["html"]:
            raise HubError(ErrorCode.CONFLICT, "nothing of this stream is complete", details={"state": row["state"]})
        await self._quota.spend(principal.org, principal.user)
        made = self._maker.again(row["html"], unit, ContentType.HTML, _complexity(row))
        return await self._show(principal, None, speed, made)

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

    async def _show(self, principal: Principal, name: str | None, speed: Speed, made: Made) -> dict[str, Any]:
        """Begins to stream a document; says how long it is."""
        source = DocumentSource(made.document, made.findings)
        stored = await self._begin(principal, name, speed, made.plan, made.source, source)
        stream = stored.id
        chunks, took_ms = await self._maker.count(principal.org, made)
        source.facts["processing_ms"] = took_ms
        try:
            self._maker.check(stored, made)
        except HubError as error:
            source.refuse(error)
            raise
        return {
            "stream": stream,
            "topic": content_topic(stream),
            "chunks": chunks,
            "complexity": str(made.document.complexity),
            "processing_ms": took_ms,
            "cached": made.plan.cached,
            "content_type": str(made.plan.content_type),
            "chunk_by": str(made.document.unit),
        }

    async def _begin(
        self, principal: Principal, name: str | None, speed: Speed, plan: Plan, text: str, source: Source | None
    ) -> Stored:
        org, stream = principal.org, name or _new_name()
        if name is not None and not principal.allows("subscribe", content_topic(name)):
            # Whoever waits there for somebody else's content would be shown this.
            raise HubError(ErrorCode.FORBIDDEN, f"the token's scope does not allow subscribe:{content_topic(name)}")
        await self._streams.claim(org, stream)
        try:
            stored = await self._store.begin(org, stream, principal.user, speed, plan, text)
        except BaseException:
            self._streams.give_up(org, stream)
            raise
        await self._streams.begin(stored, source or self._streams.dictation(stored))
        return stored

    async def _readable(self, principal: Principal, stream: str) -> dict[str, Any]:
        """Whoever may watch a stream may read it."""
        if not principal.allows("subscribe", content_topic(stream)):
            raise not_found("stream")
        return await self._store.get(principal.org, stream)


def _complexity(row: Mapping[str, Any]) -> Complexity | None:
    """What a stream of one part was; of several it is found out from the HTML."""
    return Complexity(row["complexity"]) if row["complexity"] and row["part"] == 1 else None


def _new_name() -> str:
    return secrets.token_urlsafe(_NAME_BYTES)


def _text(params: dict[str, Any], field: str) -> str | None:
    value = params.get(field)
    if value is not None and not isinstance(value, str):
        raise bad_request(f"'{field}' is a text")
    return value
