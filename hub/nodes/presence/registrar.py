"""Tells Redis what ``attendance`` knows: in batches, again until it has arrived, everything when in doubt.

What waits is state and no queue: of a user who has come and gone ten times, the last is told. So it is bounded by who
is here, however long Redis is away.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

import structlog

from hub.config import Settings
from hub.errors import HubError
from hub.nodes.presence.attendance import Attendance
from hub.nodes.presence.place import Place
from hub.nodes.presence.table import Change, Changed
from hub.telemetry import PresenceMetrics
from hub.topics.topic import Topic

CHANGES_PER_ROUND: Final = 2000
PLACES_PER_ROUND: Final = 500
_FIRST_PAUSE_S: Final = 0.05
_RENEWALS: Final = 4  # within the time after which Redis forgets
_LAST_WORD_S: Final = 1.0
_LEFT_S: Final = 60.0  # how old the state of a server that takes over may be without leaving ghosts
_MOST_LEFT: Final = 20_000

log = structlog.get_logger(__name__)


class Table(Protocol):
    """What is needed of ``PresenceTable``."""

    async def change(
        self, instance: str, items: Sequence[tuple[Topic, Sequence[Change], bool]]
    ) -> list[Changed | HubError]: ...

    async def note(self, instance: str, topics: Sequence[Topic]) -> None: ...

    async def unnote(self, instance: str, topics: Sequence[Topic]) -> None: ...


class Lease(Protocol):
    """What is needed of ``NodeLease``."""

    @property
    def instance(self) -> str: ...

    async def held(self) -> None: ...

    left: Callable[[str], Sequence[Topic]]


class _Lane:
    """Places that have something to tell, and a task that tells it."""

    def __init__(self) -> None:
        self.places: dict[Place, None] = {}
        self.filled = asyncio.Event()

    def add(self, place: Place) -> None:
        self.places[place] = None
        self.filled.set()

    def take_round(self) -> list[Place]:
        """As many as go together."""
        taken: list[Place] = []
        changes = 0
        while self.places and len(taken) < PLACES_PER_ROUND and changes < CHANGES_PER_ROUND:
            place = next(iter(self.places))
            del self.places[place]
            taken.append(place)
            changes += len(place.people) if place.whole else len(place.dirty)
        if not self.places:
            self.filled.clear()
        return taken


class Registrar:
    """Two tasks: one for what has changed, one for what could not be told at first and must not hold up others."""

    def __init__(self, settings: Settings, table: Table, metrics: PresenceMetrics) -> None:
        self._flush_s = settings.presence_flush_ms / 1000
        self._most_pause_s = settings.reconnect_max_s
        self._renew_s = settings.presence_keep_s / _RENEWALS
        self._table = table
        self._metrics = metrics
        self._lease: Lease | None = None
        self._fresh = _Lane()
        self._failed = _Lane()
        self._left: deque[tuple[float, str, Topic]] = deque(maxlen=_MOST_LEFT)
        """When which instance was taken from the notes of a topic."""
        self._tasks: list[asyncio.Task[None]] = []
        self.attendance = Attendance(settings, metrics, self._due)

    def start(self, lease: Lease) -> None:
        """Begins to tell; ``close`` must follow."""
        self._lease = lease
        lease.left = self.left
        self._tasks = [
            asyncio.create_task(self._tell_fresh(lease), name="presence"),
            asyncio.create_task(self._tell_failed(lease), name="presence-again"),
            asyncio.create_task(self._renew(), name="presence-renewal"),
        ]

    async def close(self) -> None:
        """Says what was said until now and no more: who is still here stays until the lease runs out."""
        self.attendance.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(_LAST_WORD_S):
                while self._lease is not None and (self._fresh.places or self._failed.places):
                    # What was under way when the tasks ended counts as failed, perhaps it has arrived.
                    some = (self._fresh if self._fresh.places else self._failed).take_round()
                    await self._tell(self._lease, some)
                    if some[0] in self._failed.places:
                        await asyncio.sleep(_FIRST_PAUSE_S)
        except TimeoutError:
            log.warning("presence not told at the end", topics=len(self._fresh.places) + len(self._failed.places))

    def resync(self, topic: Topic) -> None:
        """What Redis has of this node in a topic may be wrong."""
        self.attendance.resync(topic)

    def reborn(self, _: str) -> None:
        """Others took this node for dead; from now on it has another name, under which nothing is known yet."""
        log.warning("presence is told anew", topics=len(self.attendance))
        for place in self.attendance:
            self.resync(place.topic)

    def left(self, instance: str) -> Sequence[Topic]:
        """Where nobody is present by the instance any more, since a moment ago.

        In a cluster the server of a topic may come back with older data than that of the notes.
        """
        self._forget_left()
        return [topic for _, other, topic in self._left if other == instance]

    def _forget_left(self) -> None:
        now = time.monotonic()
        while self._left and self._left[0][0] + _LEFT_S < now:
            self._left.popleft()

    # --- what is due

    def _due(self, place: Place) -> None:
        if not place.busy and place not in self._failed.places:
            self._fresh.add(place)

    async def _tell_fresh(self, lease: Lease) -> None:
        while True:
            await self._fresh.filled.wait()
            await asyncio.sleep(self._flush_s)
            left = len(self._fresh.places)
            while left > 0:  # those that come meanwhile are collected for as long again
                some = self._fresh.take_round()
                left -= len(some)
                await self._tell(lease, some)

    async def _tell_failed(self, lease: Lease) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            await self._failed.filled.wait()
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            some = self._failed.take_round()
            await self._tell(lease, some)
            pause = _FIRST_PAUSE_S if some[0] not in self._failed.places else min(pause * 2, self._most_pause_s)

    async def _renew(self) -> None:
        """Redis forgets what nobody has changed for long, and people may stay for longer."""
        while True:
            await asyncio.sleep(self._renew_s / _RENEWALS)
            before = time.monotonic() - self._renew_s
            for place in self.attendance:
                if place.renewed_at < before and place.people:
                    self.resync(place.topic)

    # --- telling

    async def _tell(self, lease: Lease, places: Sequence[Place]) -> None:
        for place in places:
            place.busy = True
        told: set[Place] = set()
        try:
            await lease.held()
            told = await self._tell_once(lease.instance, places)
        except HubError as error:
            log.debug("presence not told", reason=error.code, topics=len(places))
        except Exception:
            # Giving up would leave these topics wrong for ever; whatever it was, it is in the log.
            log.exception("presence not told")
        finally:
            for place in places:
                place.busy = False
                if place.due:
                    (self._fresh if place in told else self._failed).add(place)
                else:
                    self.attendance.drop(place)

    async def _tell_once(self, instance: str, places: Sequence[Place]) -> set[Place]:
        """Returns those of which Redis has been told everything there was."""
        told = await self._change(instance, places)
        leaving = [place for place in told if place.instance and place.deserted]
        if leaving:
            # They are busy: who enters now is told of afterwards, and so noted again.
            await self._table.unnote(instance, [place.topic for place in leaving])
            self._forget_left()
            for place in leaving:
                self._left.append((time.monotonic(), place.instance, place.topic))
                place.instance = ""
        return told

    async def _change(self, instance: str, places: Sequence[Place]) -> set[Place]:
        taken = {place: self.attendance.take(place, instance) for place in places}
        asked = [place for place, what in taken.items() if what]
        answers: dict[Place, Changed | HubError] = {}
        try:
            # Also of what Redis is told anew: its note of it is forgotten after a time, too.
            unknown = {place for place in asked if place.instance != instance or taken[place].whole}
            if unknown and not await self._note(instance, unknown):
                asked = [place for place in asked if place not in unknown]
            if asked:
                items = [(place.topic, taken[place].changes, taken[place].whole) for place in asked]
                answers = dict(zip(asked, await self._table.change(instance, items), strict=True))
        finally:
            told = {place for place, what in taken.items() if not what or isinstance(answers.get(place), Changed)}
            for place, what in taken.items():
                self.attendance.settle(place, what, arrived=place in told)
        for place, answer in answers.items():
            if isinstance(answer, Changed):
                self._take_answer(place, answer, whole=taken[place].whole)
                place.instance = instance
        return told

    async def _note(self, instance: str, places: Collection[Place]) -> bool:
        try:
            await self._table.note(instance, [place.topic for place in places])
        except HubError:
            # On whichever server it is: the others have topics that are known already.
            return False
        return True

    def _take_answer(self, place: Place, answer: Changed, *, whole: bool) -> None:
        place.renewed_at = time.monotonic()
        if whole:
            if place.instance:
                self._metrics.resynced(place.topic.kind)
        elif place.epoch not in ("", answer.epoch):
            place.whole = True  # Redis has lost who was present before this
        place.epoch = answer.epoch
        if answer.again_ms and not place.waiting:
            place.waiting = True
            asyncio.get_running_loop().call_later(answer.again_ms / 1000, self._call_again, place)

    def _call_again(self, place: Place) -> None:
        place.waiting = False
        place.again = True
        self._due(place)
