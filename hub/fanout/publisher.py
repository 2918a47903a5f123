"""Publishing: the one way from an event to the broker. Permission, kind, limits and the body are settled here."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from hub.auth.principal import Principal
from hub.config import Settings
from hub.errors import ErrorCode, HubError, bad_request, unavailable
from hub.fanout.bodies import encode_body, encode_data
from hub.fanout.broker import Broker, ConditionFailed, Draft, Published, TopMoved
from hub.protocol.codec import check_data
from hub.protocol.frames import EventName, IdempotencyKey, Tags
from hub.telemetry import Metrics
from hub.topics.kinds import TopicKinds
from hub.topics.topic import Topic

Item = TypeVar("Item")

PRESENCE_EVENT: Final = "presence"
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
    return f"{int(time.time() * 1000):011x}{os.urandom(10).hex()}"


def _did_not_answer(prepared: Draft | HubError, outcome: Published | HubError) -> bool:
    """Redis was asked and is not there."""
    return isinstance(prepared, Draft) and isinstance(outcome, HubError) and outcome.code is ErrorCode.UNAVAILABLE


class Publisher:
    """Publishes for clients (``publish_as``) and for the hub's own services (``publish``)."""

    def __init__(self, settings: Settings, metrics: Metrics, kinds: TopicKinds, broker: Broker) -> None:
        self._settings = settings
        self._metrics = metrics
        self._kinds = kinds
        self._broker = broker

    async def publish_as(self, principal: Principal, event: NewEvent, way: str) -> Published:
        """Publishes one event of a client. Raises ``HubError``."""
        topic = await self._kinds.for_publisher(principal, event.topic)
        return await self._publish(self._draft(topic, event, principal.user), way)

    async def publish(self, topic: Topic, event: NewEvent, by: str | None = None, *, echo: bool = True) -> Published:
        """Publishes one event of a service. ``echo=False``, of ephemeral ones: not to ``by``. Raises ``HubError``."""
        self._kinds.resolve_internal(topic)
        return await self._publish(self._draft(topic, event, by, echo=echo), "service")

    async def append(self, topic: Topic, events: Sequence[tuple[str, Any]], after: int, by: str | None = None) -> int:
        """Publishes events (name, data) of a service in one step, if the topic's newest number is ``after``.

        Returns the new one. Raises ``HubError``; ``conflict`` when the newest is another, with it in ``details``.
        """
        kind = self._kinds.resolve_internal(topic)
        if kind.history is None:
            raise bad_request(f"{topic.wire} keeps no events, so there is no end to append to")
        bodies = [self._body(NewEvent(topic.text, name, data), by) for name, data in events]
        if not bodies:
            return after
        try:
            done = await self._broker.publish(
                Draft(topic, kind.history, bodies[0], if_top=after, further=tuple(bodies[1:]))
            )
        except TopMoved as moved:
            text = f"the topic's newest event is number {moved.top} and not {after}"
            raise HubError(ErrorCode.CONFLICT, text, details={"top": moved.top}) from moved
        self._metrics.published(kind.name, "service", len(bodies))
        return done.seq

    async def publish_all_as(
        self, principal: Principal, items: Sequence[Item], read: Callable[[Item], NewEvent], way: str
    ) -> list[Published | HubError]:
        """Publishes a list, in order per topic; one outcome each. A refused event does not stop the others.

        Reads and publishes a turn's worth (``publish_turn_events``, ``publish_turn_ms``) and lets others have their
        turn before it goes on: neither the event loop nor Redis works on a whole list at once. ``read`` raises
        ``HubError``, which is then the outcome. Once Redis has not answered, the rest is not tried.
        """
        outcomes: list[Published | HubError] = []
        while len(outcomes) < len(items):
            turn = items[len(outcomes) : len(outcomes) + self._settings.publish_turn_events]
            prepared = await self._prepare(principal, turn, read)
            sent = await self._send(prepared, way)
            outcomes += sent
            if any(map(_did_not_answer, prepared, sent)):
                outcomes += [unavailable("Redis")] * (len(items) - len(outcomes))
            # Redis was not asked when all of them were refused.
            await asyncio.sleep(0)
        return outcomes

    async def _prepare(
        self, principal: Principal, items: Sequence[Item], read: Callable[[Item], NewEvent]
    ) -> list[Draft | HubError]:
        """The first of ``items``, as many as there is time for."""
        prepared: list[Draft | HubError] = []
        # Asked once in a turn: a kind's rule may have to look into the database.
        topics: dict[str, Topic | HubError] = {}
        until = time.perf_counter() + self._settings.publish_turn_ms / 1000
        for item in items:
            try:
                event = read(item)
                if event.topic not in topics:
                    topics[event.topic] = await self._topic(principal, event.topic)
                topic = topics[event.topic]
                prepared.append(topic if isinstance(topic, HubError) else self._draft(topic, event, principal.user))
            except HubError as error:
                prepared.append(error)
            if time.perf_counter() >= until:
                break
        return prepared

    async def _topic(self, principal: Principal, text: str) -> Topic | HubError:
        try:
            return await self._kinds.for_publisher(principal, text)
        except HubError as error:
            return error

    async def _publish(self, draft: Draft, way: str) -> Published:
        (outcome,) = await self._send([draft], way)
        if isinstance(outcome, HubError):
            raise outcome
        return outcome

    async def _send(self, prepared: Sequence[Draft | HubError], way: str) -> list[Published | HubError]:
        drafts = [item for item in prepared if isinstance(item, Draft)]
        outcomes = iter(await self._broker.publish_many(drafts) if drafts else [])
        results: list[Published | HubError] = []
        published: Counter[str] = Counter()
        for item in prepared:
            outcome = next(outcomes) if isinstance(item, Draft) else item
            assert not isinstance(outcome, ConditionFailed)  # noqa: S101 - these drafts have no conditions
            if isinstance(item, Draft) and isinstance(outcome, Published):
                published[item.topic.kind] += 1
            results.append(outcome)
        for kind, count in published.items():
            self._metrics.published(kind, way, count)
        return results

    def _draft(self, topic: Topic, event: NewEvent, by: str | None, *, echo: bool = True) -> Draft:
        kind = self._kinds.kind_of(topic)
        if kind.presence and event.name == PRESENCE_EVENT:
            raise bad_request(f"events named {PRESENCE_EVENT!r} are the hub's own in topics of this kind")
        ephemeral = event.ephemeral or kind.history is None
        return Draft(topic, kind.history, self._body(event, by), event.key, ephemeral, echo)

    def _body(self, event: NewEvent, by: str | None) -> bytes:
        encoded = encode_data(event.data, self._settings.max_event_bytes)
        _check_tags(event.tags)
        return encode_body(event_id(), event.name, msgspec.Raw(encoded), event.tags, by)


def _check_tags(tags: Tags | None) -> None:
    if tags is None:
        return
    if len(tags) > _MAX_TAGS:
        raise bad_request(f"'tags' has {len(tags)} entries; at most {_MAX_TAGS} are allowed")
    check_data(tags, "tags")
    for name, value in tags.items():
        if len(name) > _MAX_TAG_TEXT or (isinstance(value, str) and len(value) > _MAX_TAG_TEXT):
            raise bad_request(f"a tag's name and value may have {_MAX_TAG_TEXT} characters at most")
