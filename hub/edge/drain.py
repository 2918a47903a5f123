"""Leaving politely: every client gets a slot and a ticket, goes elsewhere at its slot, and loses nothing.

PROTOCOL section 4, ``drain``. Delivery goes on until a client has left; who is still here ``drain_grace_s`` after its
slot is closed with 4504. Tickets skip the login and live until a minute after the slot.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog
from msgspec import UNSET, UnsetType

from hub.auth.tickets import TicketRequest
from hub.edge.gateway import Gateway
from hub.errors import HubError
from hub.protocol.codes import CloseCode
from hub.protocol.frames import Drain
from hub.protocol.session import State

if TYPE_CHECKING:
    from hub.edge.connection import Connection

log = structlog.get_logger(__name__)

TICKET_AFTER_SLOT_S = 60.0
CONNECTIONS_PER_BATCH = 500
CLOSING_S = 1.0  # for the last close frames to go out


async def drain(gateway: Gateway) -> None:
    """Takes nobody in any more, tells everybody to go, ends what is streamed over HTTP; returns when all have gone."""
    settings = gateway.settings
    gateway.connections.draining = True
    gateway.presence.hold()
    gateway.answers.drain()
    leaving: list[Connection] = []
    for connection in gateway.connections:
        if connection.session.state is State.OPEN:
            leaving.append(connection)
        else:
            # A hello that is being performed is not answered by `drain`: the client expects `welcome`, or the end.
            connection.close(CloseCode.DRAINING)
    if not leaving:
        return
    log.info("draining", connections=len(leaving), window_s=settings.drain_window_s)
    # Evenly spread, in random order: whoever takes them in sees no stampede.
    random.shuffle(leaving)
    step = settings.drain_window_s / len(leaving)
    for start in range(0, len(leaving), CONNECTIONS_PER_BATCH):
        batch = leaving[start : start + CONNECTIONS_PER_BATCH]
        await _tell(gateway, [((start + index) * step, connection) for index, connection in enumerate(batch)])
    await gateway.connections.wait_until_empty(settings.drain_window_s + settings.drain_grace_s)
    left = list(gateway.connections)
    for connection in left:
        connection.close(CloseCode.DRAINING)
    await gateway.connections.wait_until_empty(CLOSING_S)
    for connection in gateway.connections:
        connection.socket.abort()
    log.info("drained", late=len(left))


async def move(
    gateway: Gateway, leaving: list[Connection], fallback: Sequence[str], must: Callable[[Connection], bool]
) -> None:
    """Tells these to go on over one of the transports ``fallback``, spread over ``flags_drain_window_s``.

    Asks ``must`` of each right before it is told: the reason may be gone by then.
    """
    random.shuffle(leaving)
    step = gateway.settings.flags_drain_window_s / max(1, len(leaving))
    for start in range(0, len(leaving), CONNECTIONS_PER_BATCH):
        batch = leaving[start : start + CONNECTIONS_PER_BATCH]
        slots = [((start + index) * step, connection) for index, connection in enumerate(batch)]
        await _tell(gateway, slots, list(fallback), must)


async def _tell(
    gateway: Gateway,
    slots: list[tuple[float, Connection]],
    fallback: list[str] | UnsetType = UNSET,
    must: Callable[[Connection], bool] = lambda _: True,
) -> None:
    requests = [
        TicketRequest(connection.principal, connection.session_id, after_s + TICKET_AFTER_SLOT_S)
        for after_s, connection in slots
        if connection.principal is not None
    ]
    # The tickets bear the sessions; their positions must be there before the clients are.
    await gateway.saver.save()
    tickets = await gateway.tickets.issue_many(requests)
    for (after_s, connection), ticket in zip(slots, tickets, strict=True):
        if not must(connection):
            continue
        # Without a ticket the client logs in again with its token.
        text = "" if isinstance(ticket, HubError) else ticket
        connection.drain_at = time.monotonic() + after_s + gateway.settings.drain_grace_s
        connection.send(Drain(int(after_s * 1000), text, fallback))
        gateway.keeper.watch(connection)
