"""Replaces what kept events say, for the hub's own services; how an event is published is the publisher's matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hub.config import Settings
from hub.errors import HubError
from hub.fanout.bodies import encode_data, replace_data
from hub.fanout.broker import AnyEpoch, Broker, HistoryPage, HistoryRequest
from hub.topics.kinds import TopicKinds
from hub.topics.topic import Topic

READS_AT_ONCE: Final = 25


class Redaction:
    """Works on topics of any kind that keeps events, without asking for permission.

    What a node holds of an event is not changed: live events that somebody is about to join (``LocalTopic.tail``),
    pages that are on their way. Each is gone when it has been written to those who wait for it.
    """

    def __init__(self, settings: Settings, kinds: TopicKinds, broker: Broker) -> None:
        self._max_bytes = settings.max_event_bytes
        self._kinds = kinds
        self._broker = broker

    async def redact(self, topic: Topic, epoch: str, replacements: Mapping[int, Any]) -> int:
        """Gives the events with these numbers other data; returns how many are there. See ``Hub.redact``."""
        if self._kinds.resolve_internal(topic).history is None:
            return 0
        # All of it first: nothing is changed when something is wrong with one.
        encoded = {seq: encode_data(data, self._max_bytes) for seq, data in replacements.items()}
        bodies: dict[int, bytes] = {}
        numbers = sorted(encoded)
        for start in range(0, len(numbers), READS_AT_ONCE):
            for seq, body in (await self._read(topic, epoch, numbers[start : start + READS_AT_ONCE])).items():
                bodies[seq] = replace_data(body, encoded[seq])
        return await self._broker.redact(topic, epoch, bodies) if bodies else 0

    async def _read(self, topic: Topic, epoch: str, numbers: Sequence[int]) -> dict[int, bytes]:
        """Those that are kept."""
        pages = await self._broker.read([HistoryRequest(topic, AnyEpoch(seq - 1), 1, 1) for seq in numbers])
        found: dict[int, bytes] = {}
        for seq, page in zip(numbers, pages, strict=True):
            if isinstance(page, HubError):
                raise page
            if _has(page, epoch, seq):
                found[seq] = page.publications[0].body
        return found


def _has(page: HistoryPage, epoch: str, seq: int) -> bool:
    """Whether it is the page of that event, and not of what is kept after it."""
    return page.state.epoch == epoch and bool(page.publications) and page.publications[0].seq == seq
