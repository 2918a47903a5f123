"""Publishing: the one way from an event to the broker. Permission, kind, limits and the body are settled here."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from hub.auth.principal import Principal
from hub.config import Settings
from hub.errors import ErrorCode, HubError, bad_request
from hub.fanout.bodies import encode_body
from hub.fanout.broker import Broker, Draft, Published, ServerChanged
from hub.protocol.codec import check_data
from hub.protocol.frames import EventName, IdempotencyKey, Tags
from hub.telemetry import Metrics
from hub.topics.kinds import TopicKind, TopicKinds
from hub.topics.topic import Topic

_MAX_TAGS = 32
_MAX_TAG_TEXT = 256


class NewEvent(Struct, frozen=True):
    """An event that somebody wants published (POST /v1/publish has the same fields)."""

    topic: str
    name: EventName
    data: Any
    key: IdempotencyKey | None = None
    tags: Tags | None = None
    ephemeral: bool = False


def event_id() -> str:
    """A new event id: time-ordered to the millisecond, 80 random bits."""
    return f"{int(time.time() * 1000):011x}{secrets.token_hex(10)}"


class Publisher:
    """Publishes for clients (``publish_as``) and for the hub's own services (``publish``)."""

    def __init__(self, settings: Settings, metrics: Metrics, kinds: TopicKinds, broker: Broker) -> None:
        self._settings = settings
        self._metrics = metrics
        self._kinds = kinds
        self._broker = broker

    async def publish_as(self, principal: Principal, event: NewEvent, way: str) -> Published:
        """Publishes one event of a client. Raises ``HubError``."""
        (outcome,) = await self.publish_all_as(principal, [event], way)
        if isinstance(outcome, HubError):
            raise outcome
        return outcome

    async def publish_all_as(
        self, principal: Principal, events: Sequence[NewEvent], way: str
    ) -> list[Published | HubError]:
        """Publishes a list, in order per topic; one outcome each. A refused event does not stop the others."""
        prepared: list[Draft | HubError] = []
        for event in events:
            try:
                topic = await self._kinds.for_publisher(principal, event.topic)
                prepared.append(self._draft(topic, event, principal.user))
            except HubError as error:
                prepared.append(error)
        return await self._send(prepared, way)

    async def publish(self, topic: Topic, event: NewEvent, by: str | None = None) -> Published:
        """Publishes one event of a service. Raises ``HubError``."""
        (outcome,) = await self._send([self._draft(topic, event, by)], "service")
        if isinstance(outcome, HubError):
            raise outcome
        return outcome

    async def _send(self, prepared: Sequence[Draft | HubError], way: str) -> list[Published | HubError]:
        drafts = [item for item in prepared if isinstance(item, Draft)]
        outcomes = iter(await self._broker.publish_many(drafts) if drafts else [])
        results: list[Published | HubError] = []
        for item in prepared:
            outcome = next(outcomes) if isinstance(item, Draft) else item
            assert not isinstance(outcome, ServerChanged)  # noqa: S101 - only drafts with if_server get it
            if isinstance(item, Draft) and isinstance(outcome, Published):
                self._metrics.published(item.topic.kind, way)
            results.append(outcome)
        return results

    def _draft(self, topic: Topic, event: NewEvent, by: str | None) -> Draft:
        kind: TopicKind = self._kinds.resolve_internal(topic)
        check_data(event.data)
        _check_tags(event.tags)
        encoded = msgspec.json.encode(event.data)
        if len(encoded) > self._settings.max_event_bytes:
            text = f"'data' has {len(encoded)} bytes; at most {self._settings.max_event_bytes} are allowed"
            raise HubError(ErrorCode.TOO_LARGE, text)
        body = encode_body(event_id(), event.name, msgspec.Raw(encoded), event.tags, by)
        ephemeral = event.ephemeral or kind.history is None
        return Draft(topic, kind.history, body, event.key, ephemeral)


def _check_tags(tags: Tags | None) -> None:
    if tags is None:
        return
    if len(tags) > _MAX_TAGS:
        raise bad_request(f"'tags' has {len(tags)} entries; at most {_MAX_TAGS} are allowed")
    check_data(tags, "tags")
    for name, value in tags.items():
        if len(name) > _MAX_TAG_TEXT or (isinstance(value, str) and len(value) > _MAX_TAG_TEXT):
            raise bad_request(f"a tag's name and value may have {_MAX_TAG_TEXT} characters at most")
