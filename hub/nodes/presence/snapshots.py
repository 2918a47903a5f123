"""Reads of who is present: one of a topic at a time, many topics in one batch, shared by all who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from hub.errors import ErrorCode, HubError
from hub.nodes.presence.table import Snapshot
from hub.telemetry import PresenceMetrics
from hub.topics.topic import Topic

TOPICS_PER_READ: Final = 50
READS_AT_ONCE: Final = 4

log = structlog.get_logger(__name__)

Answer = asyncio.Future[Snapshot | HubError]


class Table(Protocol):
    """What is needed of ``PresenceTable``."""

    async def snapshots(self, topics: Sequence[Topic]) -> list[Snapshot | HubError]: ...


class Snapshots:
    """Whoever asks gets a snapshot whose reading began after that. Bounded by who can ask."""

    def __init__(self, table: Table, metrics: PresenceMetrics) -> None:
        self._table = table
        self._metrics = metrics
        self._asked: dict[Topic, Answer] = {}
        self._reading: set[Topic] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._about_to_read = False
        self._closed = False

    def ask(self, topic: Topic) -> Answer:
        """The same future for all who ask before it is read. Await it shielded: it is others' too."""
        answer = self._asked.get(topic)
        if answer is None:
            answer = asyncio.get_running_loop().create_future()
            if self._closed:
                answer.set_result(_stopping())
                return answer
            self._asked[topic] = answer
            if not self._about_to_read:
                # What is asked for in this turn of the event loop goes together.
                self._about_to_read = True
                asyncio.get_running_loop().call_soon(self._read)
        return answer

    async def close(self) -> None:
        """Ends what is under way; who waits is told so, and who asks from now on."""
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            _give(answer, _stopping())

    def _read(self) -> None:
        self._about_to_read = False
        if self._closed:
            return  # who asks now is told so, and nobody would end it
        while len(self._tasks) < READS_AT_ONCE:
            topics = [topic for topic in self._asked if topic not in self._reading][:TOPICS_PER_READ]
            if not topics:
                return
            task = asyncio.create_task(self._read_some(topics), name="presence-read")
            self._tasks.add(task)
            self._reading.update(topics)

    async def _read_some(self, topics: Sequence[Topic]) -> None:
        answers = [self._asked.pop(topic) for topic in topics]
        outcomes: Sequence[Snapshot | HubError] = [_stopping()] * len(topics)
        try:
            outcomes = await self._table.snapshots(topics)
        except HubError as error:
            outcomes = [error] * len(topics)
        except Exception:
            log.exception("presence not read")
            outcomes = [HubError(ErrorCode.INTERNAL, "who is present could not be read")] * len(topics)
        finally:
            task = asyncio.current_task()
            if task is not None:
                self._tasks.discard(task)
            self._reading.difference_update(topics)
            for topic, answer, outcome in zip(topics, answers, outcomes, strict=True):
                self._metrics.read(topic.kind)
                _give(answer, outcome)
        self._read()


def _give(answer: Answer, outcome: Snapshot | HubError) -> None:
    if not answer.done():
        answer.set_result(outcome)


def _stopping() -> HubError:
    return HubError(ErrorCode.UNAVAILABLE, "the hub is stopping", retry_after_ms=1000)
