"""The service ``events``: every business service has a topic, ``events:<service>``."""

from __future__ import annotations

from hub.api import Hub, Service, TopicKind


def events(hub: Hub) -> Service:
    """Registers the kind."""
    return Service(name="events", kinds=[TopicKind(name="events")])
