"""Performs what a session decided: subscribe, unsubscribe, publish, call, acknowledge, refresh the token.

The hello is in ``opening``. Every outcome is a frame; a ``HubError`` becomes ``error`` and the connection lives on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from msgspec import UNSET

from hub.auth.principal import Principal
from hub.edge.flag_gate import check_method, check_publish
from hub.edge.gateway import Gateway
from hub.edge.handles import Calling, take
from hub.edge.joining import activate, join
from hub.edge.keeper import expiring_notice_s
from hub.edge.opening import open_connection
from hub.edge.presence_methods import PRESENCE_METHODS
from hub.errors import ErrorCode, HubError
from hub.fanout.publisher import NewEvent
from hub.nodes.flags.cohorts import Asked
from hub.protocol.codec import check_data
from hub.protocol.codes import CloseCode
from hub.protocol.frames import Ack, Auth, Call, Position, Publish, Reply, Verdict
from hub.protocol.frames import Pong as PongFrame
from hub.protocol.session import Action, Close, Ignore, Join, Leave, Open, Perform, Pong, Send, Take

if TYPE_CHECKING:
    from hub.edge.connection import Connection

log = structlog.get_logger(__name__)


async def perform(gateway: Gateway, connection: Connection, action: Action) -> None:
    """Performs one action; returns when the next frame may be looked at."""
    if isinstance(action, Open):
        await open_connection(gateway, connection, action)
    elif isinstance(action, Join):
        await _join(gateway, connection, action)
    elif isinstance(action, Leave):
        _leave(connection, action)
    elif isinstance(action, Perform):
        await _perform_frame(gateway, connection, action.frame)
    else:
        perform_now(connection, action)


def perform_now(connection: Connection, action: Action) -> None:
    """The actions that wait for nothing."""
    if isinstance(action, Send):
        connection.send(action.frame)
    elif isinstance(action, Take):
        take(connection, action.chunk)
    elif isinstance(action, Pong):
        connection.send(PongFrame(int(time.time() * 1000), action.id))
    elif isinstance(action, Close):
        if action.frame is not None:
            connection.send(action.frame)
        connection.close(action.code)
    elif not isinstance(action, Ignore):
        raise TypeError(f"{type(action).__name__} has to wait")


def _asked(gateway: Gateway, connection: Connection) -> Asked | None:
    """It counts as a request, whatever comes of it."""
    return gateway.cohorts.asked((connection.verified.org, connection.user), connection.flags)


async def _join(gateway: Gateway, connection: Connection, action: Join) -> None:
    asked = _asked(gateway, connection)
    verdicts, joined = await join(gateway, connection, action.topics, {})
    if joined:
        connection.acted()
    connection.send(Reply(action.id, {"topics": verdicts}))
    gateway.cohorts.joined(asked, [verdict.error.code for verdict in verdicts if verdict.error is not UNSET])
    activate(gateway, connection, joined)


def _leave(connection: Connection, action: Leave) -> None:
    connection.acted()
    for text in action.topics:
        connection.drop_subscription(text)
    connection.send(Reply(action.id, {"topics": [Verdict(text[:200], ok=True) for text in action.topics]}))


async def _perform_frame(gateway: Gateway, connection: Connection, frame: Publish | Call | Ack | Auth) -> None:
    try:
        await _PERFORMERS[type(frame)](gateway, connection, frame)
    except HubError as error:
        connection.refuse(error, getattr(frame, "id", None))


async def _publish(gateway: Gateway, connection: Connection, frame: Publish) -> None:
    asked = _asked(gateway, connection)
    try:
        check_publish(gateway, connection.flags, frame.topic)
        event = NewEvent(frame.topic, frame.name, frame.data, frame.key, frame.tags, frame.ephemeral)
        done = await gateway.publisher.publish_as(connection.verified, event, "frame")
    except HubError as error:
        gateway.cohorts.failed(asked, error.code)
        raise
    connection.acted()
    connection.send(Reply(frame.id, {"epoch": done.epoch, "seq": done.seq, "duplicate": done.duplicate}))
    gateway.cohorts.answered(asked)


async def _call(gateway: Gateway, connection: Connection, frame: Call) -> None:
    """Starts the method; its reply may overtake others."""
    asked = _asked(gateway, connection)
    method = _method(gateway, connection, frame.method)
    if not connection.verified.allows("call", frame.method):
        raise HubError(ErrorCode.FORBIDDEN, f"the token's scope does not allow call:{frame.method}")
    check_method(gateway, connection.flags, frame.method)
    check_data(frame.params, "params")
    if connection.calls is None:
        connection.calls = set()
    if len(connection.calls) >= gateway.settings.max_calls_in_flight:
        text = f"{gateway.settings.max_calls_in_flight} calls are under way on this connection; wait for one to end"
        raise HubError(ErrorCode.RATE_LIMITED, text, retry_after_ms=1000)
    task = asyncio.create_task(_answer(gateway, connection, frame, method, asked), name="call")
    connection.calls.add(task)
    task.add_done_callback(connection.calls.discard)


def _method(gateway: Gateway, connection: Connection, name: str) -> Callable[[dict[str, Any]], Awaitable[Any]]:
    """The method of that name, called by this connection. Raises ``unknown_method``."""
    own = PRESENCE_METHODS.get(name)
    if own is not None:
        return partial(own, gateway, connection)  # to look who is there is no activity
    if (method := gateway.methods.get(name)) is not None:
        return partial(_performed, connection, partial(method, connection.verified))
    if (caller_method := gateway.caller_methods.get(name)) is not None:
        caller = Calling(connection, name, gateway.settings.max_handles)
        return partial(_performed, connection, partial(caller_method, caller))
    raise HubError(ErrorCode.UNKNOWN_METHOD, "no such method")


async def _performed(
    connection: Connection, method: Callable[[dict[str, Any]], Awaitable[Any]], params: dict[str, Any]
) -> Any:
    result = await method(params)
    connection.acted()
    return result


async def _answer(
    gateway: Gateway,
    connection: Connection,
    frame: Call,
    method: Callable[[dict[str, Any]], Awaitable[Any]],
    asked: Asked | None,
) -> None:
    try:
        connection.send(Reply(frame.id, await method(frame.params)))
        gateway.cohorts.answered(asked)
    except HubError as error:
        gateway.cohorts.failed(asked, error.code)
        connection.refuse(error, frame.id)
    except Exception:
        log.exception("method failed", method=frame.method)
        gateway.cohorts.failed(asked, ErrorCode.INTERNAL)
        connection.refuse(HubError(ErrorCode.INTERNAL, "the method failed; it is in the hub's log"), frame.id)


async def _acknowledge(gateway: Gateway, connection: Connection, frame: Ack) -> None:
    acknowledge(gateway, connection, frame.positions)


def acknowledge(
    gateway: Gateway, connection: Connection, positions: Mapping[str, Position], *, strict: bool = True
) -> None:
    """The client has everything up to these positions, by topic as it writes them. ``strict``: it is told of those
    that cannot be; else they are of a subscription that has ended since."""
    for text, position in positions.items():
        sub = connection.subscriptions.get(text)
        if sub is None:
            continue
        try:
            news = gateway.delivery.acknowledge(sub, position)
        except HubError as error:
            if strict:
                connection.refuse(error, topic=text)
            continue
        if news:
            connection.acknowledged(text, position)
            if position.seq == sub.topic.top:
                took_ms = time.time() * 1000 - sub.topic.last_ts
                gateway.metrics.acknowledged(sub.topic.kind.name, took_ms)
                gateway.cohorts.acknowledged((connection.verified.org, connection.user), connection.flags, took_ms)


async def _refresh(gateway: Gateway, connection: Connection, frame: Auth) -> None:
    """A fresh token of the same user; topics it does not allow any more end."""
    before = connection.verified
    fresh = await gateway.verifier.verify(frame.token)
    if (fresh.user, fresh.org) != (before.user, before.org):
        error = HubError(ErrorCode.UNAUTHENTICATED, "the fresh token must be of the same user and organisation")
        connection.refuse(error, frame.id)
        connection.close(CloseCode.UNAUTHENTICATED)
        return
    await adopt(gateway, connection, fresh)
    connection.send(Reply(frame.id, {"expires_in_ms": expires_in_ms(fresh)}))


async def adopt(gateway: Gateway, connection: Connection, fresh: Principal) -> None:
    """A connection goes on with a fresh token of its user. Raises ``unauthenticated`` when he was thrown out."""
    await gateway.admission.check_revoked(fresh)
    connection.principal = connection.applicant = fresh
    # Whoever brings one that is about to end would be asked for another at once, and again.
    left_ms = expires_in_ms(fresh)
    connection.expiring_told = left_ms <= expiring_notice_s(gateway.settings, fresh) * 1000
    if connection.attendance is not None:
        gateway.presence.refreshed(connection.attendance, fresh)
    gateway.keeper.watch(connection)
    if connection.handles is not None:
        connection.handles.refreshed(fresh)
    for text in tuple(connection.subscriptions):
        try:
            await gateway.kinds.for_subscriber(fresh, text)
        except HubError:
            connection.end_subscription(
                text, HubError(ErrorCode.FORBIDDEN, "the fresh token does not allow this topic")
            )


def expires_in_ms(principal: Principal) -> int:
    """What is left of the token, at least 0."""
    return max(0, int((principal.expires_at - time.time()) * 1000))


_PERFORMERS: dict[type[Any], Callable[[Gateway, Connection, Any], Awaitable[None]]] = {
    Publish: _publish,
    Call: _call,
    Ack: _acknowledge,
    Auth: _refresh,
}
