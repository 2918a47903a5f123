"""What a feature hands over to the hub, and what the hub hands to a feature.

A service is a function ``(Hub) -> Service``: it gets the hub's narrow door and returns its topic kinds, methods, routes
and hooks. It knows nothing of sockets or Redis. Services import all of this from ``hub.api``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hub.auth.principal import Principal
from hub.config import Settings
from hub.database import Database
from hub.fanout.broker import Published
from hub.fanout.publisher import NewEvent, Publisher
from hub.nodes.cache import Cache
from hub.nodes.limits import SharedLimits
from hub.orgs import OrgId
from hub.protocol.frames import Tags
from hub.topics.kinds import TopicKind
from hub.topics.topic import parse_topic

Method = Callable[[Principal, dict[str, Any]], Awaitable[Any]]
"""A method that clients call: (who, params) -> result, in the JSON model. Raises ``HubError``."""

Hook = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub as a service sees it."""

    settings: Settings
    database: Database
    publisher: Publisher
    cache: Cache
    limits: SharedLimits

    async def publish(  # noqa: PLR0913 - an event has these fields
        self,
        org: OrgId,
        topic: str,
        name: str,
        data: Any,
        *,
        key: str | None = None,
        tags: Tags | None = None,
        ephemeral: bool = False,
        by: str | None = None,
    ) -> Published:
        """Publishes an event now. What belongs to a database change goes out by ``hub_publish`` in its transaction.

        Raises ``HubError``: ``not_found`` for a topic that cannot exist, ``bad_request`` and ``too_large`` for the
        data, ``unavailable`` when Redis does not answer. Then it may yet have happened; to repeat it with its ``key``
        is safe.
        """
        event = NewEvent(topic, name, data, key, tags, ephemeral)
        return await self.publisher.publish(parse_topic(org, topic), event, by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One feature. ``start`` runs when Redis and PostgreSQL are connected, ``stop`` before they are closed."""

    name: str
    kinds: Sequence[TopicKind] = ()
    methods: Mapping[str, Method] = field(default_factory=dict)
    routes: Sequence[Any] = ()
    """Litestar route handlers."""
    start: Hook | None = None
    stop: Hook | None = None


ServiceFactory = Callable[[Hub], Service]
