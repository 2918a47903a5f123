"""What the nodes tell one another: close a user's connections, give up a session, who lags, who may not stay.

Through the hub's topics: every node listens to ``control:all`` and to ``control:<node>`` of the reserved organisation,
which no token can bear. Messages are ephemeral; what must outlive a lost link (revocations) stands in Redis and is
checked at the next hello, or is asked of whoever knows (``hub.nodes.rechecks``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from hub.errors import ErrorCode
from hub.fanout.broker import Broker, Draft
from hub.fanout.dispatcher import Dispatcher
from hub.orgs import CONTROL_ORG
from hub.topics.topic import Topic

log = structlog.get_logger(__name__)


class Kick(Struct, tag="kick", frozen=True):
    """Close the user's connections whose token was issued before ``issued_before`` (seconds since 1970)."""

    org: str
    user: str
    issued_before: float


class Inquiry(Struct, frozen=True):
    """Who asks (``hub.fanout.inquiries``)."""

    node: str
    id: str


class Answered(Struct, tag="answered", frozen=True):
    """The answer to an inquiry of the node that this is sent to."""

    id: str
    body: msgspec.Raw


class GoingOn(Struct, frozen=True):
    """The cursor of a client: which connection gave it out with which answer, and a digest of its topics."""

    connection: str
    number: int
    topics: int


class TakeOver(Struct, tag="take_over", frozen=True):
    """A newer connection has the session now; close the older one."""

    session: str
    connection: str
    """The older connection. Named, because the message may come when a third one has the session already."""
    going_on: GoingOn | None = None
    """The newer one goes on from a cursor: its client is, as far as anybody can tell, the older one's."""
    inquiry: Inquiry | None = None
    """Who wants to hear what the older one leaves (``hub.edge.takeover``)."""


class Relayed(Struct, tag="relayed", frozen=True):
    """Frames of a client whose connection, which is no WebSocket, is on the node that this is sent to."""

    org: str
    user: str
    connection: str
    frames: tuple[msgspec.Raw, ...]
    settle: bool
    """Answer when they have been performed."""
    inquiry: Inquiry


class Signal(Struct, tag="signal", frozen=True):
    """For whichever node has the duty (``hub.nodes.duties``)."""

    purpose: str
    org: str
    name: str
    message: dict[str, Any]


class Lags(Struct, tag="lags", frozen=True):
    """Who lags on a node: (organisation, topic, events behind). Nothing: nobody does any more."""

    node: str
    lags: tuple[tuple[str, str, int], ...]


class Expel(Struct, tag="expel", frozen=True):
    """End the subscriptions of ``users`` to a topic (None: everybody's) and tell them ``code`` and ``message``."""

    channel: str
    users: tuple[str, ...] | None
    code: ErrorCode
    message: str
    but: str | None = None
    """Who stays, of everybody."""


class Broadcast(Struct, tag="broadcast", frozen=True):
    """What a service tells itself on all nodes (``hub.nodes.broadcasts``)."""

    purpose: str
    org: str
    name: str
    message: dict[str, Any]


class FlagsChanged(Struct, tag="flags_changed", frozen=True):
    """Run-time changes of flags up to ``version`` are committed; read them."""

    version: int


ControlMessage = Kick | TakeOver | Answered | Relayed | Signal | Lags | Expel | Broadcast | FlagsChanged


class _Body(Struct):
    control: ControlMessage


_decoder = msgspec.json.Decoder(_Body)
Handler = Callable[[Any], None]


class Control:
    """Sends to other nodes and hands what arrives to whoever registered for it."""

    def __init__(self, node: str, broker: Broker, dispatcher: Dispatcher) -> None:
        self._broker = broker
        self._all = Topic(CONTROL_ORG, "control", "all")
        self._own = Topic(CONTROL_ORG, "control", node)
        self._handlers: dict[type[Any], Handler] = {}
        self._on_doubt: list[Callable[[], None]] = []
        self._subscribing: asyncio.Task[None] | None = None
        for topic in (self._all, self._own):
            dispatcher.listen(topic.channel, self._receive, self._lost)

    def start(self) -> None:
        """Subscribes, as soon as Redis is there; stays subscribed over lost links. ``close`` must follow."""
        self._subscribing = asyncio.create_task(self._subscribe(), name="control")

    async def close(self) -> None:
        """Ends the wait for Redis, if it never came."""
        if self._subscribing is not None:
            self._subscribing.cancel()
            await asyncio.gather(self._subscribing, return_exceptions=True)

    async def _subscribe(self) -> None:
        # An outcome that is an error changes nothing: the topics stay wanted.
        await self._broker.subscribe([self._all, self._own])
        # What was said before is in nobody's ear.
        self._lost()

    def on(self, message: type[Any], handler: Handler) -> None:
        """Names who performs messages of a type; called on the event loop, must not block."""
        self._handlers[message] = handler

    def on_doubt(self, action: Callable[[], None]) -> None:
        """Names somebody who is told that messages may have been lost, because the link to Redis was."""
        self._on_doubt.append(action)

    async def send(self, message: ControlMessage, node: str | None = None) -> None:
        """To one node, or to all. Raises ``HubError`` when Redis does not take it."""
        topic = self._all if node is None else Topic(CONTROL_ORG, "control", node)
        await self._broker.publish(Draft(topic, None, msgspec.json.encode(_Body(message)), ephemeral=True))

    def _lost(self) -> None:
        for action in self._on_doubt:
            action()

    def _receive(self, body: bytes) -> None:
        try:
            message = _decoder.decode(body).control
        except msgspec.DecodeError:
            # Another version of the hub may know messages that this one does not.
            log.warning("unknown control message")
            return
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(message)
