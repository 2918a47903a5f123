"""The broker's contract: what the hub needs from Redis, in the words of topics and positions.

``RedisBroker`` implements it. It deals in encoded event bodies and knows nothing of subscribers; what arrives by itself
goes up through ``BrokerEvents``, which the dispatcher implements.

*Event body*: the JSON object ``{"id":…,"name":…,"data":…,"tags"?:…,"by"?:…}`` as UTF-8 bytes, at least one member, no
``topic``, ``seq`` or ``ts``: those are put in front when the frame is made, without decoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from hub.errors import HubError
from hub.protocol.frames import Position
from hub.topics.kinds import History
from hub.topics.publication import Publication, TopicState
from hub.topics.topic import Topic

__all__ = (
    "AnyEpoch",
    "Broker",
    "BrokerEvents",
    "ConditionFailed",
    "Draft",
    "HistoryPage",
    "HistoryRequest",
    "Publication",
    "Published",
    "ServerChanged",
    "TopMoved",
    "TopicState",
)


class Draft(Struct, frozen=True, gc=False):
    """An event to be published, or several of one topic in one step."""

    topic: Topic
    history: History | None
    """None: the kind keeps no history, the event is ephemeral."""
    body: bytes
    key: str | None = None
    ephemeral: bool = False
    echo: bool = True
    """False: not to be delivered to the connections of its author. Of ephemeral events only."""
    if_server: str | None = None
    """Publish only if the topic's server still has this ``run_id``; else ``ServerChanged``."""
    if_top: int | None = None
    """Publish only if the topic's newest event has this number, in whatever epoch; else ``TopMoved``.

    Not asked of ephemeral events, nor of one whose ``key`` is known: that one has been published.
    """
    further: tuple[bytes, ...] = ()
    """Bodies of events that follow at once: all are published or none is."""


class Published(Struct, frozen=True, gc=False):
    """Where an event stands. For a duplicate: where the first one stood. Ephemeral: epoch "" and seq 0.

    Of a draft of several events: the last one.
    """

    epoch: str
    seq: int
    duplicate: bool
    server: str


class ConditionFailed(Exception):
    """A condition of the draft does not hold. Nothing was published. ``server``: the ``run_id`` of who says so."""

    def __init__(self, server: str) -> None:
        super().__init__(server)
        self.server = server


class ServerChanged(ConditionFailed):
    """The Redis server behind a topic is not the one named in ``if_server``."""


class TopMoved(ConditionFailed):
    """The newest event of a topic has the number ``top`` and not ``if_top``."""

    def __init__(self, server: str, top: int) -> None:
        super().__init__(server)
        self.top = top


class AnyEpoch(Struct, frozen=True, gc=False):
    """A number in whatever epoch the topic has now."""

    seq: int


class HistoryRequest(Struct, frozen=True, gc=False):
    """Which part of a topic's history is wanted.

    ``after``: a Position — everything after it by the rules of PROTOCOL section 5 (same epoch: after seq; previous
    epoch: after min(seq, base); any other or beyond the top: everything kept); ``AnyEpoch`` — everything after
    that number; ``"start"`` — everything kept; ``"top"`` — nothing, only the state; an int N — the last N events.
    """

    topic: Topic
    after: Position | AnyEpoch | Literal["start", "top"] | int
    limit: int
    max_bytes: int


class HistoryPage(Struct, frozen=True, gc=False):
    """A run of kept events in order, read atomically with the state. ``more``: the limit cut it short."""

    state: TopicState
    publications: tuple[Publication, ...]
    more: bool


class BrokerEvents(Protocol):
    """What comes from Redis by itself. Called on the event loop; must not block and must not raise."""

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """(channel, envelope) pairs in the order in which the link brought them; everything one read gave, together."""

    def on_state(self, channel: bytes, state: TopicState) -> None:
        """A subscribed channel was subscribed anew after a lost link or a moved slot: compare, and heal a hole."""

    def on_link(self, ready: bool) -> None:
        """Whether every link to Redis is up and its last probe came back."""


class Broker(Protocol):
    """Publish, subscribe, read history. Raises ``HubError(unavailable)`` when Redis does not answer in time."""

    @property
    def ready(self) -> bool:
        """Every link is up and its own probe came back."""

    async def publish(self, draft: Draft) -> Published:
        """Publishes one event: atomic with idempotency, numbering, history and epoch. Raises ``ConditionFailed``."""

    async def publish_many(self, drafts: Sequence[Draft]) -> list[Published | HubError | ConditionFailed]:
        """The same for many, pipelined, in order per topic; one outcome each. What failed may yet have happened."""

    async def read(self, requests: Sequence[HistoryRequest]) -> list[HistoryPage | HubError]:
        """Pages of history, one pipelined batch per Redis node touched, all nodes at once."""

    async def redact(self, topic: Topic, epoch: str, bodies: Mapping[int, bytes]) -> int:
        """Gives kept events other bodies, in one step; returns how many are there. In another epoch none is."""

    async def subscribe(self, topics: Sequence[Topic]) -> list[TopicState | HubError]:
        """Subscribes this process; each topic's state was read after its subscription took effect, on the same link.

        So every event beyond ``state.top`` will arrive through ``on_messages``. One batch per link. A topic stays
        wanted, over lost links, until ``unsubscribe`` — also when the answer was an error.
        """

    def unsubscribe(self, topics: Sequence[Topic]) -> None:
        """Ends it; what is in flight may still arrive."""

    async def servers(self) -> dict[str, str]:
        """``run_id`` by address of every Redis master."""

    async def server_of(self, topic: Topic) -> str:
        """``run_id`` of the server that holds this topic now."""
