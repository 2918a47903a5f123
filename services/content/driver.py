"""Drives one part of a stream: publishes its chunks in order, each once, at the pace that is wanted.

The position is the topic itself. Every publication names the number after which it goes, so two nodes that both think
they drive a stream cannot both write, and after anything unclear (no answer, another node before, data lost) the end of
the topic says which chunk comes next.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import structlog

from hub.api import ErrorCode, Hub, HubError
from services.content.kinds import CHUNK, COMPLETE, ERROR, PROGRESS, START, content_topic
from services.content.metrics import ContentMetrics
from services.content.pipeline import Chunk, interval_ms, slowed_ms
from services.content.sources import Group, Source
from services.content.states import State
from services.content.store import Store, Stored, Wanted

log = structlog.get_logger(__name__)

# Streams whose chunks are due within the same step of the clock are published in the same turn of the event loop, and
# so share writes to Redis.
_GRID_S = 0.005
# A driver that is later than this does not make up for it: a burst helps nobody.
_MOST_BEHIND_S = 1.0
# Chunks published at once when clients had them before, or when a model writes faster than the pace.
_MOST_AT_ONCE = 50
_READY_PER_EXTRA = 8
_LOOK_BACK = 4
_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)


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
        self._topic = content_topic(stored.id)
        self.wanted = stored.wanted
        self._clock = clock = asyncio.get_running_loop().time
        self._deadline = clock() + hub.settings.content_session_s - stored.age_s
        self._paused_at = clock()
        self._due = clock()
        self._top = 0
        self._index = stored.first_index
        """Of the next chunk to publish; counts all parts of the stream."""
        self._block = stored.first_block
        """Blocks closed so far."""
        self._reached = self._index
        """Clients have had everything before this."""
        self._started = False
        self._ended: State | None = None
        self._result: dict[str, Any] = {}
        """The data of the last event."""
        self._progress: float | None = None
        self._interval_ms = 0
        self._stirred = False
        self._waiter: asyncio.Future[None] | None = None

    # --- from outside

    def apply(self, wanted: Wanted) -> None:
        """What the owner wants by now; anything older than what is known is ignored."""
        if wanted.version <= self.wanted.version:
            return
        before, self.wanted = self.wanted, wanted
        if wanted.state is State.PAUSED is not before.state:
            self._paused_at = self._clock()
        if wanted.state is State.RUNNING and (before.state is State.PAUSED or wanted.speed is not before.speed):
            self._due = min(self._due, self._clock() + self._pace_ms() / 1000)
        self.stir()

    def stir(self) -> None:
        """There is news: whoever rests looks again."""
        self._stirred = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def run(self, *, adopted: bool) -> None:
        """Drives until the end. Cancelling leaves the stream as it is, for another node to go on."""
        try:
            if adopted or self._stored.part > 1:
                await self._locate()
            if self._ended is None:
                self._source.start(self.stir)
                self._source.seek(self._index - self._stored.first_index)
                await self._stream()
            await self._save()
        finally:
            await self._source.close()

    # --- the stream

    async def _stream(self) -> None:
        """Publishes all that is left, and the end."""
        while self._ended is None:
            try:
                if groups := await self._next_groups():
                    await self._publish_chunks(groups)
                    continue
                error = self._source.error
            except _Cancelled:
                error = HubError(ErrorCode.CONFLICT, "the stream was cancelled by its owner", retry="never")
                await self._end(State.CANCELLED, error)
                return
            except HubError as failure:
                error = failure
            await self._end(State.COMPLETE if error is None else State.FAILED, error)

    async def _next_groups(self) -> list[Group]:
        """Waits until the next chunks are due; empty at the end. Raises ``_Cancelled`` and the reason of a failure."""
        group: Group | None = None
        told: Wanted = self.wanted
        while True:
            now = self._clock()
            if self.wanted.state is State.CANCELLED:
                raise _Cancelled
            if told is not self.wanted:
                told = self.wanted
                await self._tell()
            until = self._deadline
            if self.wanted.state is State.PAUSED:
                until = min(until, self._paused_at + self._hub.settings.content_session_idle_s)
            if now >= until:
                raise self._overtime()
            if self.wanted.state is State.PAUSED:
                await self._rest(until)
                continue
            if group is None:
                group = self._source.next()
            if group is None:
                await self._rest(until)
            elif not group:
                return []
            elif (due := self._due_of(group)) <= now:
                return [group, *self._further()]
            else:
                await self._rest(min(due, until))

    def _due_of(self, group: Group) -> float:
        again = self._index < self._reached
        if again or group[0].op == "close":
            return 0.0
        return math.ceil(self._due / _GRID_S) * _GRID_S

    def _further(self) -> list[Group]:
        """What goes out with the chunk that is due: repetitions, and what a fast writer has piled up."""
        count = min(_MOST_AT_ONCE, self._source.waiting // _READY_PER_EXTRA)
        if self._index < self._reached:
            count = min(_MOST_AT_ONCE, self._reached - self._index)
        groups: list[Group] = []
        while len(groups) < count and (group := self._source.next()):
            groups.append(group)
        return groups

    async def _publish_chunks(self, groups: list[Group]) -> None:
        stored = self._stored
        chunks = [chunk for group in groups for chunk in group]
        self._check_length(len(chunks))
        events: list[tuple[str, Any]] = [] if self._started else [(START, self._about())]
        events += [(CHUNK, _data(chunk, stored.first_index, stored.first_block)) for chunk in chunks]
        self._pace(chunks[0])
        if not await self._append(events):
            return
        self._started = True
        self._index += len(chunks)
        self._reached = max(self._reached, self._index)
        self._block += sum(chunk.op == "close" for chunk in chunks)
        self._progress = chunks[-1].progress

    def _pace(self, chunk: Chunk) -> None:
        """Sets when the chunk after this one is due."""
        now = self._clock()
        if chunk.op == "close" or self._index < self._reached:
            return
        self._metrics.late(max(0.0, now - self._due))
        self._due = max(self._due, now - _MOST_BEHIND_S) + self._pace_ms() / 1000

    def _pace_ms(self) -> int:
        usual = interval_ms(self.wanted.speed, self._source.complexity)
        interval = slowed_ms(usual, self._hub.attention.lag(self._stored.org, self._topic))
        if interval > usual and self._interval_ms <= usual:
            self._metrics.slowed()
        self._interval_ms = interval
        return interval

    def _check_length(self, more: int) -> None:
        most = self._hub.settings.content_max_chunks
        if self._index + more > most:
            raise HubError(ErrorCode.TOO_LARGE, f"more than {most} chunks; choose a larger 'chunk_by'")

    def _overtime(self) -> HubError:
        settings = self._hub.settings
        if self.wanted.state is State.PAUSED and self._clock() < self._deadline:
            text = f"the stream was paused for {settings.content_session_idle_s} s"
        else:
            text = f"the stream ran for {settings.content_session_s} s; choose a higher 'speed' or a larger 'chunk_by'"
        return HubError(ErrorCode.TIMEOUT, text)

    # --- the topic

    async def _append(self, events: list[tuple[str, Any]]) -> bool:
        """Publishes ``events`` after what is there. False: it had to be looked at; the source stands there now."""
        stored = self._stored
        for pause_s in (*_RETRY_S, None):
            try:
                self._top = await self._hub.append(stored.org, self._topic, events, after=self._top, by=stored.owner)
                return True
            except HubError as error:
                if error.code is ErrorCode.CONFLICT:
                    break
                if error.code is not ErrorCode.UNAVAILABLE:
                    raise
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        await self._locate()
        self._source.seek(self._index - stored.first_index)
        return False

    async def _locate(self) -> None:
        """Finds out from the topic how far the stream has come. Waits until Redis answers."""
        stored = self._stored
        while True:
            try:
                page = await self._hub.read(stored.org, self._topic, last=_LOOK_BACK)
                break
            except HubError as error:
                if error.code is not ErrorCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(_RETRY_S[-1])
        self._top = page.top
        self._index, self._block, self._started = stored.first_index, stored.first_block, False
        for event in page.events:
            if event.name == CHUNK and event.data["index"] >= stored.first_index:
                self._index = event.data["index"] + 1
                self._block = event.data["block"] + (event.data["op"] == "close")
                self._started = True
            elif event.data.get("part") == stored.part:
                self._started = True
                if event.name != START:
                    self._ended, self._result = State(event.data["state"]), event.data
        self._reached = max(self._reached, self._index)

    async def _end(self, state: State, error: HubError | None) -> None:
        """Publishes how it ended. When the topic lacks chunks by now and all of them are wanted, it has not ended."""
        name = COMPLETE if state is State.COMPLETE else ERROR
        while self._ended is None:
            events: list[tuple[str, Any]] = [] if self._started else [(START, self._about())]
            before = self._index
            result = self._outcome(state, error)
            if await self._append([*events, (name, result)]):
                self._ended, self._result = state, result
            elif state is State.COMPLETE and self._index != before:
                return

    async def _tell(self) -> None:
        """Tells watchers of a change; nobody is worse off for missing it."""
        try:
            await self._hub.publish(
                self._stored.org,
                self._topic,
                PROGRESS,
                {
                    "stream": self._stored.id,
                    "state": str(self.wanted.state),
                    "speed": str(self.wanted.speed),
                    "interval_ms": interval_ms(self.wanted.speed, self._source.complexity),
                    "chunks": self._index,
                    "progress": self._progress,
                },
                ephemeral=True,
            )
        except HubError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise

    def _about(self) -> dict[str, Any]:
        plan = self._stored.plan
        return {
            "stream": self._stored.id,
            "part": self._stored.part,
            "kind": "assistant" if plan.kind == "assistant" else "document",
            "content_type": str(plan.content_type),
            "chunk_by": str(plan.unit),
            "speed": str(self.wanted.speed),
            "complexity": str(self._source.complexity),
            "index": self._stored.first_index,
            "block": self._stored.first_block,
        }

    def _outcome(self, state: State, error: HubError | None) -> dict[str, Any]:
        plan, html = self._stored.plan, self._source.html
        chunks = self._index - self._stored.first_index
        result: dict[str, Any] = {
            "stream": self._stored.id,
            "part": self._stored.part,
            "state": str(state),
            "chunks": chunks,
            "avg_chunk_size": round(len(html) / chunks, 1) if chunks else 0,
            "complexity": str(self._source.complexity),
            "processing_ms": plan.processing_ms,
            "cached": plan.cached,
            **self._source.facts,
        }
        if error is not None:
            result["code"] = "cancelled" if state is State.CANCELLED else str(error.code)
            result |= {"message": error.message, "retry": error.retry}
            result |= {"retry_after_ms": error.retry_after_ms} if error.retry_after_ms is not None else {}
            result |= {"details": error.details} if error.details else {}
        return result

    async def _save(self) -> None:
        """Writes down how it ended; goes on trying until the database is there."""
        assert self._ended is not None  # noqa: S101 - the stream has run
        state, source, stored, result = self._ended, self._source, self._stored, self._result
        # Of a document that was not shown to its end nothing is kept; what a model wrote is.
        html = source.html if state is State.COMPLETE or stored.plan.kind == "assistant" else ""
        attempt = 0
        while True:
            try:
                await self._store.finish(stored, state, html, (self._index, self._block), result)
                break
            except HubError as failure:
                log.warning("stream not stored yet", stream=stored.id, reason=failure.message)
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                attempt += 1
        self._metrics.found(source.findings)
        if source.findings:
            counts = {str(finding): count for finding, count in source.findings.items()}
            log.warning("content looked like an attack", org=stored.org, stream=stored.id, findings=counts)
        self._metrics.ended(stored.plan.kind, state, source.complexity, result["chunks"], result["avg_chunk_size"])

    # --- waiting

    async def _rest(self, until: float) -> None:
        """Until ``until``, or until there is news."""
        if self._stirred:
            self._stirred = False
            return
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


def _data(chunk: Chunk, first_index: int, first_block: int) -> dict[str, Any]:
    data: dict[str, Any] = {
        "index": first_index + chunk.index,
        "op": chunk.op,
        "block": first_block + chunk.block,
        "html": chunk.html,
        "text": chunk.text,
    }
    if chunk.progress is not None:
        data["progress"] = chunk.progress
    if chunk.depth:
        data["depth"] = chunk.depth
    return data

