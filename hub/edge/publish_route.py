"""POST /v1/publish: one event or a list, in the hub's own form or as CloudEvents 1.0.

A list is answered with 200 and one outcome for each event in order, when the request itself can be read: an event that
is refused does not stop the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.params import FromPath, SkipValidation
from msgspec import Struct

from hub.auth.principal import Principal
from hub.edge import cloud_events
from hub.edge.authenticate import HubRequest
from hub.edge.gateway import Gateway
from hub.edge.http_bodies import decode_json, is_json, media_type, read_body, refused_type
from hub.edge.openapi import PublishOperation, problem_responses
from hub.errors import ErrorCode, HubError
from hub.fanout.broker import Published
from hub.fanout.publisher import NewEvent
from hub.protocol.frames import ErrorBody, EventName, IdempotencyKey, Tags
from hub.protocol.session import error_body

_WAY: Final = "http"
_WHAT_TO_SEND: Final = "send application/json, or CloudEvents as application/cloudevents+json or with ce- headers"


class Accepted(Struct):
    """Where a published event stands. ``duplicate``: an event with this key was there already, at this position."""

    epoch: str
    seq: int
    duplicate: bool


class Refused(Struct):
    """One event of a list was not published."""

    error: ErrorBody


Outcome = Accepted | Refused

_Text = TypeVar("_Text", bytes, msgspec.Raw)
_Read = Callable[[msgspec.Raw, str | None], NewEvent]
"""(JSON text, the path's topic) -> the event. Raises ``HubError``."""


class PlainEvent(Struct):
    """An event in the hub's own form. ``topic`` may be left out when the path names it."""

    name: EventName
    data: Any
    topic: str | None = None
    key: IdempotencyKey | None = None
    tags: Tags | None = None
    ephemeral: bool = False


_plain: Final = msgspec.json.Decoder(PlainEvent)
_list: Final = msgspec.json.Decoder(list[msgspec.Raw])


@post(
    ["/v1/publish", "/v1/publish/{topic:str}"],
    status_code=200,
    summary="Publish events",
    operation_class=PublishOperation,
    responses=problem_responses(400, 401, 403, 404, 413, 415, 503),
)
async def publish(
    request: HubRequest, gateway: NamedDependency[SkipValidation[Gateway]], topic: FromPath[str | None] = None
) -> Accepted | list[Outcome]:
    """Publishes the event or the list of events in the body.

    A list is answered with 200 and an outcome for each event in order: its position, or `error`. One that is refused
    does not stop the others; repeat those whose `retry` is not `never`, with the same `key`.
    """
    body = await read_body(request)
    content_type = media_type(request)
    headers = request.scope["headers"]
    if content_type == cloud_events.BATCH:
        return await _many(gateway, request.user, _cut(gateway, body), cloud_events.from_json, topic)
    if content_type == cloud_events.STRUCTURED:
        return await _one(gateway, request.user, cloud_events.from_json(_bounded(gateway, body), topic))
    if content_type.startswith(cloud_events.FAMILY):
        raise refused_type(content_type, _WHAT_TO_SEND)
    if cloud_events.is_binary(headers):
        data = _bounded(gateway, body)
        return await _one(gateway, request.user, cloud_events.from_headers(headers, content_type, data, topic))
    if content_type and not is_json(content_type):
        raise refused_type(content_type, _WHAT_TO_SEND)
    if body.lstrip()[:1] == b"[":
        return await _many(gateway, request.user, _cut(gateway, body), _plain_event, topic)
    return await _one(gateway, request.user, _plain_event(_bounded(gateway, body), topic))


async def _one(gateway: Gateway, principal: Principal, event: NewEvent) -> Accepted:
    await gateway.admission.publications.spend(principal, 1)
    return _accepted(await gateway.publisher.publish_as(principal, event, _WAY))


async def _many(
    gateway: Gateway, principal: Principal, items: Sequence[msgspec.Raw], read: _Read, topic: str | None
) -> list[Outcome]:
    if items:
        await gateway.admission.publications.spend(principal, len(items))

    def read_one(item: msgspec.Raw) -> NewEvent:
        return read(_bounded(gateway, item), topic)

    # Read while they are published: nobody waits for the decoding of a whole list.
    outcomes = await gateway.publisher.publish_all_as(principal, items, read_one, _WAY)
    return [_accepted(item) if isinstance(item, Published) else _refused(gateway, item) for item in outcomes]


def _cut(gateway: Gateway, body: bytes) -> list[msgspec.Raw]:
    items = decode_json(body, _list, in_pieces=True)
    limit = gateway.settings.max_publish_batch
    if len(items) > limit:
        raise HubError(ErrorCode.TOO_LARGE, f"the list has {len(items)} events; at most {limit} are allowed")
    return items


def _bounded(gateway: Gateway, text: _Text) -> _Text:
    """One event is not longer than a frame may be: everybody waits while it is decoded. Raises ``too_large``."""
    limit = gateway.settings.max_message_bytes
    if len(text) > limit:
        raise HubError(ErrorCode.TOO_LARGE, f"the event has {len(text)} bytes; at most {limit} are looked at")
    return text


def _plain_event(text: bytes | msgspec.Raw, topic: str | None) -> NewEvent:
    event = decode_json(text, _plain)
    chosen = cloud_events.chosen_topic(topic, event.topic, "topic")
    return NewEvent(chosen, event.name, event.data, event.key, event.tags, event.ephemeral)


def _accepted(outcome: Published) -> Accepted:
    return Accepted(outcome.epoch, outcome.seq, outcome.duplicate)


def _refused(gateway: Gateway, error: HubError) -> Refused:
    gateway.metrics.error(error.code)
    return Refused(error_body(error))
