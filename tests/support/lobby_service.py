"""A service for tests of presence without chat: whoever subscribes to a topic ``lobby:…`` is present there."""

from __future__ import annotations

from hub.api import Hub, Service, TopicKind

KIND = TopicKind(name="lobby", presence=True)


def lobby(_: Hub) -> Service:
    """What the hub is given."""
    return Service(name="lobby", kinds=[KIND])


SERVICES = (lobby,)
