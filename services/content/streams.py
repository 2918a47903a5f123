"""The streams that this node drives: begun here, or taken over from a node that died.

One task per stream. That this node drives it and no other is a duty (``hub.api.Duties``); what its owner wants comes
as a signal to whoever has the duty, and is looked up regularly, because a signal may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Coroutine
from itertools import groupby
from typing import Any

import msgspec
import structlog

from hub.api import ErrorCode, Hub, HubError, OrgId
from services.content.assistant import Writer, parse_prompt
from services.content.dictation import Dictation
from services.content.driver import Driver
from services.content.journal import Journal
from services.content.kinds import COMPLETE, ERROR, content_topic
from services.content.metrics import ContentMetrics
from services.content.preparing import Preparer
from services.content.sources import BrokenSource, DocumentSource, Source, TakenOver
from services.content.store import Store, Stored, Wanted

log = structlog.get_logger(__name__)

_ABANDONED_AT_ONCE = 200
_CHECKS_PER_SIGN = 5
_EXPIRE_AT_ONCE = 500
_EXPIRE_ROUNDS = 20
_RETRY_S = 1.0
_BEGIN_S = 0.1
# Between the last event of a part and the release of its duty lies one write to a database that may be busy: whoever
# has seen that event is not refused. The later tries are for a stream whose topic says that it has ended.
_FREE_SOON_S = (0.01, 0.02, 0.05, 0.1, 0.2)
_FREE_LATER_S = (0.2,) * 25

Key = tuple[OrgId, str]


class Streams:
    """See the module. ``start`` and ``close`` by the service."""

    def __init__(self, hub: Hub, store: Store, preparer: Preparer, writer: Writer, metrics: ContentMetrics) -> None:
        self._hub = hub
        self._store = store
        self._preparer = preparer
        self._writer = writer
        self._metrics = metrics
        self._drivers: dict[Key, Driver] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        """Those that drive, and those that take over and will."""
        self._claimed: set[Key] = set()
        """Between ``claim`` and what follows it."""
        self._closing = False
        self._adopting = asyncio.Semaphore(hub.settings.content_adoptions)
        self._chores: list[asyncio.Task[None]] = []
        self._duties = duties = hub.duties.of("content")
        duties.on_adopt(self._adopt)
        duties.on_lost(self._lost)
        duties.on_signal(self._signal)

    def start(self) -> None:
        """Begins to look for lost signals and for streams whose time is over."""
        self._chores = [
            asyncio.create_task(self._check(), name="content-check"),
            asyncio.create_task(self._look_after(), name="content-look-after"),
        ]

    async def close(self) -> None:
        """Stops driving, in the middle; other nodes go on."""
        self._closing = True
        tasks = [*self._chores, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def claim(self, org: OrgId, stream: str) -> None:
        """Takes the duty of a stream that is about to begin; ``begin`` or ``give_up`` must follow.

        Taken before anything is written, so that whatever happens then, somebody looks after it. Raises ``conflict``
        while the stream is driven already, and ``unavailable``.
        """
        if len(self._tasks) >= self._hub.settings.content_streams_per_process:
            raise HubError(ErrorCode.UNAVAILABLE, "this node drives as many streams as it may", retry_after_ms=1000)
        for pause_s in _FREE_SOON_S:
            if await self._claims(org, stream):
                return
            await asyncio.sleep(pause_s)
        for pause_s in _FREE_LATER_S:
            if await self._claims(org, stream):
                return
            if not await self._has_ended(org, stream):
                break
            await asyncio.sleep(pause_s)
        text = "the stream is running; wait for its stream_complete, or begin another"
        raise HubError(ErrorCode.CONFLICT, text, details={"state": "running"})

    async def _has_ended(self, org: OrgId, stream: str) -> bool:
        """Whether watchers have been told so; that is stored in a moment."""
        page = await self._hub.read(org, content_topic(stream), last=1)
        return any(event.name in (COMPLETE, ERROR) for event in page.events)

    async def _claims(self, org: OrgId, stream: str) -> bool:
        key = (org, stream)
        if key in self._claimed or self._duties.holds(org, stream):
            return False
        self._claimed.add(key)
        taken = False
        try:
            taken = await self._duties.take(org, stream)
        finally:
            if not taken:
                self._claimed.discard(key)
        return taken

    def give_up(self, org: OrgId, stream: str) -> None:
        """Nothing was begun after ``claim``, as far as is known.

        But the answer may have been lost, or the duty may have been a stream's whose driver is dead: so it is looked
        into as if it had been taken over.
        """
        self._claimed.discard((org, stream))
        self._adopt(org, stream)

    async def begin(self, stored: Stored, source: Source) -> None:
        """Drives a stream that was claimed and written to the store.

        Returns when watchers have the first chunk, or it is clear that this takes longer.
        """
        key = (stored.org, stored.id)
        self._claimed.discard(key)
        if self._closing or not await self._duties.take(*key):
            await source.close()
            return  # another node drives it, or will in a moment
        driver = Driver(self._hub, self._store, self._metrics, stored, source)
        self._run(key, self._drive(key, driver, adopted=False))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN_S):
                await driver.begun.wait()

    async def control(self, org: OrgId, stream: str, wanted: Wanted) -> None:
        """Tells whoever drives the stream what its owner wants now; at the latest it finds out by itself.

        When nobody does (Redis has lost its data, and the driver's node died), this node takes over.
        """
        try:
            if not await self._duties.take(org, stream):
                await self._duties.signal(org, stream, msgspec.to_builtins(wanted))
        except HubError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise
        else:
            if (driver := self._drivers.get((org, stream))) is not None:
                driver.apply(wanted)
            elif self._duties.holds(org, stream):
                self._adopt(org, stream)

    # --- driving

    def _run(self, key: Key, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._watched(key, work), name="content-stream")
        self._tasks[key] = task
        self._metrics.running.set(len(self._tasks))
        task.add_done_callback(lambda done: self._ended(key, done))

    async def _watched(self, key: Key, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            # Whatever it was would happen again. The stream is left as it is until its owner asks for it.
            log.exception("a stream's driver failed", stream=key[1])
            self._duties.release(*key)

    def _ended(self, key: Key, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is not task:
            return
        del self._tasks[key]
        self._drivers.pop(key, None)
        self._metrics.running.set(len(self._tasks))
        if self._duties.holds(*key) and not self._closing:
            # It gave in to another node that has lost the duty by now, or the duty came back while it was ending.
            self._adopt(*key)

    async def _drive(self, key: Key, driver: Driver, *, adopted: bool) -> None:
        self._drivers[key] = driver
        try:
            await driver.run(adopted=adopted)
        except TakenOver:
            # Time to be told that the duty is another node's.
            await asyncio.sleep(_RETRY_S)
        else:
            self._duties.release(*key)

    # --- what the duties say

    def _adopt(self, org: OrgId, stream: str) -> None:
        if (org, stream) not in self._tasks and (org, stream) not in self._claimed:
            self._run((org, stream), self._take_over(org, stream))

    def _lost(self, org: OrgId, stream: str) -> None:
        task = self._tasks.get((org, stream))
        if task is not None:
            log.warning("a stream is driven by another node now", stream=stream)
            task.cancel()

    def _signal(self, org: OrgId, stream: str, message: dict[str, Any]) -> None:
        driver = self._drivers.get((org, stream))
        if driver is not None:
            driver.apply(msgspec.convert(message, Wanted))

    async def _take_over(self, org: OrgId, stream: str) -> None:
        async with self._adopting:
            stored, source = await self._restored(org, stream)
        if stored is None or source is None:
            self._duties.release(org, stream)
            return
        log.info("stream taken over", org=org, stream=stream)
        self._metrics.adopted()
        driver = Driver(self._hub, self._store, self._metrics, stored, source)
        await self._drive((org, stream), driver, adopted=True)

    async def _restored(self, org: OrgId, stream: str) -> tuple[Stored | None, Source | None]:
        """The stream and its source as another node had them; None when there is nothing left to do."""
        while True:
            try:
                stored = await self._store.load(org, stream)
                if stored is None or stored.finished:
                    return None, None
                return stored, await self._source_or_failure(stored)
            except HubError as error:
                if error.code is not ErrorCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def _source_or_failure(self, stored: Stored) -> Source:
        """The source, or one that ends the stream with what is wrong. Raises ``unavailable``."""
        try:
            return await self._source(stored)
        except HubError as error:
            if error.code is ErrorCode.UNAVAILABLE:
                raise
            return BrokenSource(error)
        except Exception:
            log.exception("a stream cannot be taken over", stream=stored.id)
            return BrokenSource(HubError(ErrorCode.INTERNAL, "the stream could not go on; it is in the hub's log"))

    async def _source(self, stored: Stored) -> Source:
        plan = stored.plan
        if plan.kind == "assistant":
            journal = Journal(self._hub, stored.org, stored.id)
            await journal.read()
            return self.dictation(stored, journal)
        if plan.kind == "restored":
            return DocumentSource(self._preparer.restore(stored.source, plan.unit, plan.complexity))
        prepared = await self._preparer.prepare(stored.source, plan.content_type, plan.unit)
        return DocumentSource(prepared.document, prepared.findings)

    def dictation(self, stored: Stored, journal: Journal | None = None) -> Dictation:
        """The source of a stream that a language model writes."""
        prompt = parse_prompt(msgspec.json.decode(stored.source), self._hub.settings)
        journal = journal or Journal(self._hub, stored.org, stored.id)
        return Dictation(journal, self._writer, prompt, stored.plan.provider, self._preparer.pipeline, stored.plan.unit)

    # --- chores

    async def _check(self) -> None:
        """Looks up what owners want, in case a signal was lost; and now and then says what is driven here."""
        for turn in itertools.count():
            await asyncio.sleep(self._hub.settings.content_check_s)
            ask = self._store.driven if turn % _CHECKS_PER_SIGN == 0 else self._store.wanted
            try:
                for org, keys in groupby(sorted(self._drivers), key=lambda key: key[0]):
                    for stream, wanted in (await ask(org, [stream for _, stream in keys])).items():
                        if (driver := self._drivers.get((org, stream))) is not None:
                            driver.apply(wanted)
            except HubError as error:
                log.warning("streams not checked", reason=error.message)
            except Exception:
                log.exception("streams not checked")

    async def _look_after(self) -> None:
        """Deletes what has expired and takes over what nobody drives, of all organisations."""
        while True:
            await asyncio.sleep(self._hub.settings.content_abandoned_s * random.uniform(0.5, 1.0))
            try:
                for org, stream in await self._store.abandoned(
                    self._hub.settings.content_abandoned_s, _ABANDONED_AT_ONCE
                ):
                    if await self._duties.take(org, stream):
                        self._adopt(org, stream)
                for _ in range(_EXPIRE_ROUNDS):
                    if await self._store.expire(_EXPIRE_AT_ONCE) < _EXPIRE_AT_ONCE:
                        break
            except HubError as error:
                log.warning("streams not looked after", reason=error.message)
            except Exception:
                log.exception("streams not looked after")
