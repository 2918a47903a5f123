"""The hello: authenticate, take a place, resume, subscribe, welcome. One exchange."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import structlog
from msgspec import UNSET

from hub.auth.credentials import Place
from hub.auth.principal import Principal
from hub.edge.flag_gate import check_transport, subject_of, switched_off, transport_disabled
from hub.edge.gateway import Gateway
from hub.edge.joining import activate, join
from hub.edge.takeover import Unfetched, inherit, take_over
from hub.errors import ErrorCode, HubError
from hub.fanout.sessions import PreviousOwner, Resumed
from hub.fanout.turnstile import Step
from hub.flags import SOCKET
from hub.protocol.codec import Packet
from hub.protocol.codes import CloseCode
from hub.protocol.cursor import Cursor
from hub.protocol.frames import Hello, Position, Welcome
from hub.protocol.session import Open

if TYPE_CHECKING:
    from hub.edge.connection import Connection

log = structlog.get_logger(__name__)

# What a refused hello ends with; anything else that goes wrong is the hub's fault.
_CLOSES = {
    ErrorCode.UNAUTHENTICATED: CloseCode.UNAUTHENTICATED,
    ErrorCode.TOKEN_EXPIRED: CloseCode.UNAUTHENTICATED,
    ErrorCode.FORBIDDEN: CloseCode.FORBIDDEN,
    ErrorCode.FEATURE_DISABLED: CloseCode.FORBIDDEN,
    ErrorCode.QUOTA_EXCEEDED: CloseCode.TOO_MANY,
    ErrorCode.RATE_LIMITED: CloseCode.TOO_MANY,
    ErrorCode.UNAVAILABLE: CloseCode.OVER_CAPACITY,
}


async def open_connection(gateway: Gateway, connection: Connection, action: Open) -> None:
    """Performs a hello. A refusal is an ``error`` with the hello's id, then the close code that goes with it."""
    hello = action.hello
    await gateway.turnstile.turn(Step.HELLO)
    try:
        principal = await _authenticate(gateway, connection, hello)
        connection.applicant = principal
        check_transport(gateway, connection.socket.transport, principal)
        await gateway.admission.admit(principal, connection.id)
    except HubError as error:
        connection.refuse(error, hello.id)
        connection.close(_CLOSES.get(error.code, CloseCode.INTERNAL))
        return
    if connection.gone:
        gateway.admission.release(connection.id)
        return
    connection.principal = principal
    connection.flags = gateway.flags.values(subject_of(principal))
    gateway.board.metrics.cohort(None, connection.flags)
    connection.budget = gateway.admission.frame_budget(principal)
    positions, unfetched = await _resume(gateway, connection, hello, principal)
    topics = action.topics
    frames: list[tuple[str | None, bytes]] = []
    if connection.arrival is not None and connection.arrival.cursor is not None:
        topics, frames = inherit(unfetched, connection.arrival.cursor, topics)
    verdicts, joined = await join(gateway, connection, topics, positions or {})
    if switched_off(connection):
        # While it was let in. Nobody moves whoever has not been welcomed.
        connection.refuse(transport_disabled(), hello.id)
        connection.close(CloseCode.FORBIDDEN)
        return
    connection.session.opened()
    connection.send(
        Welcome(
            session=connection.session_id,
            resumed=positions is not None,
            user=principal.user,
            org=str(principal.org),  # msgspec does not encode subclasses of str
            expires_in_ms=max(0, int((principal.expires_at - time.time()) * 1000)),
            heartbeat_ms=int(gateway.settings.heartbeat_s * 1000),
            max_message_bytes=gateway.settings.max_message_bytes,
            flags=connection.flags,
            topics=verdicts,
            id=UNSET if hello.id is None else hello.id,
        )
    )
    cursor = None if connection.arrival is None else connection.arrival.cursor
    connection.arrival = None
    for topic, frame in frames:
        if topic is None or topic in connection.subscriptions:
            connection.deliver(Packet(connection.encoding, (frame,)))
    activate(gateway, connection, joined)
    if cursor is not None:
        _acknowledge(gateway, connection, cursor)
    log.debug("opened", connection=connection.id, org=principal.org, user=principal.user, topics=len(joined))


def _acknowledge(gateway: Gateway, connection: Connection, cursor: Cursor) -> None:
    """Who shows a cursor has everything up to there. The connection that it came from may not have heard of it."""
    for one in cursor.topics:
        sub = connection.subscriptions.get(one.topic)
        position = Position(one.epoch, one.seq)
        with contextlib.suppress(HubError):  # beyond what there is: its verdict said so
            if sub is not None and one.epoch and gateway.delivery.acknowledge(sub, position):
                connection.acknowledged(one.topic, position)
    gateway.saver.hurry(connection)


async def _authenticate(gateway: Gateway, connection: Connection, hello: Hello) -> Principal:
    arrival = connection.arrival
    assert arrival is not None  # noqa: S101 - a hello comes once
    if arrival.principal is not None:
        return arrival.principal
    if arrival.credentials.place is not Place.HELLO or hello.token is None:
        raise HubError(
            ErrorCode.UNAUTHENTICATED, "put a token into 'hello', or see PROTOCOL section 2 for other places"
        )
    return await gateway.verifier.verify(hello.token)


async def _resume(
    gateway: Gateway, connection: Connection, hello: Hello, principal: Principal
) -> tuple[dict[str, Position] | None, Unfetched]:
    """The session's acknowledged positions; None: a new session. The newest connection of a session wins, and gets
    what the older one leaves."""
    of_ticket = connection.arrival.ticket_session if connection.arrival is not None else None
    wanted = hello.resume.session if hello.resume is not None else of_ticket
    if wanted:
        claim = asyncio.ensure_future(gateway.sessions.resume(wanted, principal, gateway.node, connection.id))
        try:
            resumed = await asyncio.shield(claim)
            if resumed is not None:
                return resumed.positions, await _go_on(gateway, connection, wanted, resumed)
        except HubError as error:
            # Without Redis nothing can be resumed; explicit positions still work once it is back.
            log.warning("session not resumed", error=error.code)
        except asyncio.CancelledError:
            gateway.saver.give_back(wanted, principal, claim)
            raise
    connection.session_id = gateway.sessions.create()
    if connection.socket.transport == SOCKET:
        gateway.saver.changed(connection)
    else:
        gateway.connections.opened(connection)
        await gateway.saver.save_at_once(connection)  # what its client sends may come to another node
    return None, Unfetched()


async def _go_on(gateway: Gateway, connection: Connection, session: str, resumed: Resumed) -> Unfetched:
    connection.session_id, connection.session_claim = session, resumed.claim
    if connection.socket.transport != SOCKET:
        gateway.connections.opened(connection)
    unfetched = Unfetched()
    if resumed.previous is not None:
        unfetched = await _tell_previous(gateway, connection, session, resumed.previous)
    if resumed.presence:
        connection.attending(resumed.presence)
    return unfetched


async def _tell_previous(gateway: Gateway, connection: Connection, session: str, previous: PreviousOwner) -> Unfetched:
    cursor = connection.arrival.cursor if connection.arrival is not None else None
    try:
        return await take_over(gateway, cursor, session, previous)
    except HubError as error:
        # The older connection loses the session anyway: its saves do not take effect any more.
        log.warning("older connection not told", error=error.code)
        return Unfetched()
