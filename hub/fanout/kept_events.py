"""A topic's kept events for the hub's own services: read whenever they like, decoded. Replay has ``History``."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from hub.config import Settings
from hub.errors import HubError
from hub.fanout.bodies import name_and_data
from hub.fanout.broker import AnyEpoch, Broker, HistoryRequest
from hub.topics.kinds import TopicKinds
from hub.topics.topic import Topic


class KeptEvent(Struct, frozen=True):
    """One event of a topic."""

    seq: int
    name: str
    data: Any


class Page(Struct, frozen=True):
    """A run of kept events in order, read in one step with the topic's state."""

    epoch: str
    top: int
    """The number of the topic's newest event; 0: there never was one."""
    events: tuple[KeptEvent, ...]
    more: bool
    """The page is full; the next one begins after its last event."""


class KeptEvents:
    """Reads pages of topics of any kind, without asking for permission."""

    def __init__(self, settings: Settings, kinds: TopicKinds, broker: Broker) -> None:
        self._settings = settings
        self._kinds = kinds
        self._broker = broker

    async def read(self, topic: Topic, after: int, last: int | None, limit: int) -> Page:
        """One page of at most ``limit`` events: the first after ``after``, or of the ``last`` ones.

        ``replay_page_events`` and ``replay_page_bytes`` bound it too. Raises ``HubError``: ``not_found``,
        ``unavailable``.
        """
        if self._kinds.resolve_internal(topic).history is None:
            return Page("", 0, (), more=False)
        most = min(limit, self._settings.replay_page_events)
        wanted = AnyEpoch(after) if last is None else last
        (page,) = await self._broker.read(
            [HistoryRequest(topic, wanted, most, self._settings.replay_page_bytes)],
        )
        if isinstance(page, HubError):
            raise page
        events = tuple(KeptEvent(item.seq, *name_and_data(item.body)) for item in page.publications)
        return Page(page.state.epoch, page.state.top, events, page.more)
