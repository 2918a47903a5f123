"""Drives one part of a stream: publishes its chunks in order, each once, at the pace that is wanted."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import structlog

from hub.api import ErrorCode, Hub, HubError
from services.content.kinds import COMPLETE, ERROR, PROGRESS, START
from services.content.metrics import ContentMetrics
from services.content.pacer import Pacer
from services.content.pipeline import interval_ms
from services.content.sources import Group, Source, TakenOver
from services.content.states import State
from services.content.store import Store, Stored, Wanted
from services.content.track import Event, Track, chunk_event

log = structlog.get_logger(__name__)

# Groups published at once when watchers had them before, or when a model writes faster than the pace.
_MOST_AT_ONCE = 50
_READY_PER_EXTRA = 8
_STORE_RETRY_S = 0.5
_STORE_RETRY_MOST_S = 10.0
_STORE_COMPLAIN_S = 60.0


class _Cancelled(Exception):
    """The owner does not want the rest."""


class Driver:
    """One part of one stream on this node. ``run`` returns when it has ended and that is stored."""

    def __init__(self, hub: Hub, store: Store, metrics: ContentMetrics, stored: Stored, source: Source) -> None:
        self._hub = hub
        self._store = store
        self._metrics = metrics
        self._stored = stored
        self._source = source
        self._wanted = stored.wanted
        self._clock = clock = asyncio.get_running_loop().time
        self._track = track = Track(hub, stored)
        self._pacer = Pacer(clock(), metrics, lambda: hub.attention.lag(stored.org, track.topic))
        self._deadline = clock() + hub.settings.content_session_s
        """Of what it takes at its own pace: time that it was paused, or slowed down for a watcher, is added."""
        self._paused_at = clock()
        self.begun = asyncio.Event()
        """Watchers have had the first chunks, or there are none."""
        self._started = False
        self._had_nothing = False
        self._untold = False
        self._stirred = False
        self._waiter: asyncio.Future[None] | None = None

    # --- from outside

    def apply(self, wanted: Wanted) -> None:
        """What the owner wants by now; anything older than what is known is ignored."""
        if wanted.version <= self._wanted.version:
            return
        before, self._wanted = self._wanted, wanted
        now = self._clock()
        if wanted.state is State.PAUSED is not before.state:
            self._paused_at = now
        elif before.state is State.PAUSED is not wanted.state:
            self._deadline += now - self._paused_at
        self._pacer.hurry(now, wanted.speed, self._source.complexity)
        self._untold = True
        self.stir()

    def stir(self) -> None:
        """There is news: whoever rests looks again."""
        self._stirred = True
        if self._waiter is not None:
            _wake(self._waiter)

    async def run(self, *, adopted: bool) -> None:
        """Drives until the end. Cancelling leaves the stream as it is, for another node to go on.

        ``adopted``: another node has begun. Raises ``TakenOver`` when another node drives it by now.
        """
        track = self._track
        try:
            if adopted or self._stored.part > 1:
                await track.locate()
            if track.chunks:
                await self._source.seek(track.chunks)
                # How long the others were paused or slowed down nobody knows any more.
                took_s = track.chunks * interval_ms(self._wanted.speed, self._source.complexity) / 1000
                self._deadline -= min(self._stored.age_s, took_s)
            await self._stream()
            await self._save()
        finally:
            self.begun.set()
            await self._source.close()

    # --- the stream

    async def _stream(self) -> None:
        """Publishes all that is left, and the end."""
        while self._track.ended is None:
            try:
                if groups := await self._next_groups():
                    await self._publish(groups)
                    continue
                error = self._source.error
            except _Cancelled:
                error = HubError(ErrorCode.CONFLICT, "the stream was cancelled by its owner", retry="never")
                await self._end(State.CANCELLED, error)
                return
            except HubError as failure:
                error = failure
            except TakenOver:
                raise
            except Exception:
                log.exception("a stream has failed", stream=self._stored.id)
                error = HubError(ErrorCode.INTERNAL, "the stream has failed; the reason is in the hub's log")
            await self._end(State.COMPLETE if error is None else State.FAILED, error)

    async def _next_groups(self) -> list[Group]:
        """Waits until the next chunks are due; empty at the end. Raises ``_Cancelled`` and the reason of a failure."""
        group: Group | None = None
        while True:
            until = self._allowed_until()
            if not self._started:
                # Not before it is clear that the text is still wanted: a model costs money.
                self._started = True
                self._source.start(self.stir)
            if self._untold:
                await self._tell()
            if self._wanted.state is not State.PAUSED:
                group = group or self._source.next()
                if group == ():
                    return []
                if group is None:
                    self._had_nothing = True
                elif self._had_nothing:
                    self._had_nothing = False
                    self._pacer.nothing_until(self._clock())
                if group is not None and (due := self._due(group)) <= self._clock():
                    return [group] if group[0].op == "close" else [group, *self._further()]
                if group is not None:
                    until = min(due, until)
            await self._rest(until)

    def _allowed_until(self) -> float:
        """How long the stream may go on as it is. Raises ``_Cancelled``, or ``timeout`` when that is over."""
        if self._wanted.state is State.CANCELLED:
            raise _Cancelled
        settings, until = self._hub.settings, self._deadline
        text = f"the stream took {settings.content_session_s} s; ask for a higher speed or larger chunks"
        if self._wanted.state is State.PAUSED:
            until = self._paused_at + settings.content_session_idle_s
            text = f"the stream was paused for {settings.content_session_idle_s} s"
        if self._clock() >= until:
            raise HubError(ErrorCode.TIMEOUT, text)
        return until

    def _due(self, group: Group) -> float:
        again = self._track.index < self._track.reached
        return 0.0 if again or group[0].op == "close" else self._pacer.due

    def _further(self) -> list[Group]:
        """What goes out with the chunk that is due: repetitions, and what a fast writer has piled up."""
        again = self._track.reached - self._track.index
        count = min(_MOST_AT_ONCE, again if again > 0 else self._source.waiting // _READY_PER_EXTRA)
        groups: list[Group] = []
        while len(groups) < count and (group := self._source.next()):
            groups.append(group)
        return groups

    async def _publish(self, groups: list[Group]) -> None:
        track, first = self._track, groups[0][0]
        chunks = [chunk for group in groups for chunk in group]
        most = self._hub.settings.content_max_chunks
        if track.index + len(chunks) > most:
            raise HubError(ErrorCode.TOO_LARGE, f"more than {most} chunks; ask for larger ones ('chunk_by')")
        if first.op != "close" and track.index >= track.reached:
            self._deadline += self._pacer.passed(self._clock(), self._wanted.speed, self._source.complexity)
        events = [chunk_event(chunk, self._stored) for chunk in chunks]
        if await track.append([*self._opening(), *events]):
            self.begun.set()
        else:
            await self._source.seek(track.chunks)

    async def _end(self, state: State, error: HubError | None) -> None:
        """Publishes how it ended. When the topic has lost chunks and all of them are wanted, it has not ended."""
        track = self._track
        while track.ended is None:
            had = track.index
            name = COMPLETE if state is State.COMPLETE else ERROR
            done = await track.append([*self._opening(), (name, self._outcome(state, error))])
            if not done and state is State.COMPLETE and track.index != had:
                await self._source.seek(track.chunks)
                return

    async def _save(self) -> None:
        """Writes down how it ended; goes on trying until the database is there."""
        track, source, stored = self._track, self._source, self._stored
        assert track.ended is not None  # noqa: S101 - the stream has run
        # Of a document that was not shown to its end nothing is kept; what a model wrote is.
        html = source.html if track.ended is State.COMPLETE or stored.plan.kind == "assistant" else ""
        pause_s, complain_at = _STORE_RETRY_S, self._clock()
        while True:
            try:
                await self._store.finish(stored, track.ended, html, (track.index, track.block), track.result)
                break
            except Exception as failure:
                if self._clock() >= complain_at:
                    complain_at = self._clock() + _STORE_COMPLAIN_S
                    log.warning(
                        "stream not stored yet",
                        stream=stored.id,
                        reason=getattr(failure, "message", type(failure).__name__),
                    )
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, _STORE_RETRY_MOST_S)
        if source.findings:
            counts = {str(finding): count for finding, count in source.findings.items()}
            log.warning("content looked like an attack", org=stored.org, stream=stored.id, findings=counts)
        self._metrics.found(source.findings)
        size = track.result["avg_chunk_size"]
        self._metrics.ended(stored.plan.kind, track.ended, source.complexity, track.chunks, size)

    # --- what watchers are told

    def _opening(self) -> list[Event]:
        if self._track.started:
            return []
        stored, plan = self._stored, self._stored.plan
        data = {
            "stream": stored.id,
            "part": stored.part,
            "run": stored.run,
            "kind": "assistant" if plan.kind == "assistant" else "document",
            "content_type": str(plan.content_type),
            "chunk_by": str(plan.unit),
            "speed": str(self._wanted.speed),
            "complexity": str(self._source.complexity),
            "index": stored.first_index,
            "block": stored.first_block,
        }
        return [(START, data)]

    def _outcome(self, state: State, error: HubError | None) -> dict[str, Any]:
        plan, chunks = self._stored.plan, self._track.chunks
        outcome: dict[str, Any] = {
            "stream": self._stored.id,
            "part": self._stored.part,
            "run": self._stored.run,
            "state": str(state),
            "chunks": chunks,
            "avg_chunk_size": round(self._source.average, 1) if chunks else 0,
            "complexity": str(self._source.complexity),
            "processing_ms": plan.processing_ms,
            "cached": plan.cached,
            **self._source.facts,
        }
        if error is not None:
            outcome["code"] = "cancelled" if state is State.CANCELLED else str(error.code)
            outcome |= {"message": error.message, "retry": error.retry}
            outcome |= {} if error.retry_after_ms is None else {"retry_after_ms": error.retry_after_ms}
            outcome |= {"details": error.details} if error.details else {}
        return outcome

    async def _tell(self) -> None:
        """Tells watchers of a change; nobody is worse off for missing it."""
        self._untold = False
        data = {
            "stream": self._stored.id,
            "state": str(self._wanted.state),
            "speed": str(self._wanted.speed),
            "interval_ms": interval_ms(self._wanted.speed, self._source.complexity),
            "chunks": self._track.chunks,
            "progress": self._track.progress,
        }
        try:
            await self._hub.publish(self._stored.org, self._track.topic, PROGRESS, data, ephemeral=True)
        except HubError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise

    # --- waiting

    async def _rest(self, until: float) -> None:
        """Until ``until``, or until there is news."""
        if not self._stirred:
            loop = asyncio.get_running_loop()
            self._waiter = waiter = loop.create_future()
            handle = loop.call_at(until, _wake, waiter)
            try:
                await waiter
            finally:
                handle.cancel()
                self._waiter = None
        self._stirred = False


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
