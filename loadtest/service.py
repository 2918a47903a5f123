"""The services of the hub under load: one kind of topic with a history, and any key."""

from __future__ import annotations

from collections.abc import Sequence

from hub.api import History, Hub, Service, ServiceFactory, TopicKind
from services.uploads.service import uploads

KIND = "load"
HISTORY = History(count=10_000, bytes=16 * 1024 * 1024, age_s=24 * 3600)


def _load(_: Hub) -> Service:
    return Service(name="load", kinds=[TopicKind(name=KIND, history=HISTORY)])


SERVICES: Sequence[ServiceFactory] = (_load,)
WITH_UPLOADS: Sequence[ServiceFactory] = (_load, uploads)
