"""Frames that a client sends by requests of their own, on their way to its connection, which may be on another node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from hub.auth.principal import Principal
from hub.edge.gateway import Gateway
from hub.errors import ErrorCode, HubError, not_found
from hub.fanout.control import Relayed

if TYPE_CHECKING:
    from hub.edge.connection import Connection

MOST_RELAYED_BYTES: Final = 65_536
"""To another node, in one message: the nodes' own link must not be filled by one client."""


async def relay(gateway: Gateway, principal: Principal, session: str, frames: Sequence[msgspec.Raw]) -> None:
    """Hands frames, in order, to the connection of a session; what comes of them comes over that connection.

    Raises ``not_found`` when there is none of this user that is no WebSocket, ``rate_limited`` when too many wait,
    ``too_large``, ``unavailable``.
    """
    found = gateway.connections.of_session(session)
    if found is not None and _is_of(found, str(principal.org), principal.user):
        _receive(found, frames)
        return
    owner = await gateway.sessions.owner_of(session, principal)
    if owner is None or owner[0] == gateway.node:
        raise no_connection()
    size = sum(len(frame) for frame in frames)
    if size > MOST_RELAYED_BYTES:
        text = (
            f"the connection is on another node, and these frames are {size} bytes; send {MOST_RELAYED_BYTES} at once"
        )
        raise HubError(ErrorCode.TOO_LARGE, text)
    node, connection = owner
    await gateway.control.send(Relayed(str(principal.org), principal.user, connection, tuple(frames)), node)


def take_relayed(gateway: Gateway, message: Relayed) -> None:
    """What another node was sent. If the connection is gone its client notices by itself."""
    found = gateway.connections.of_id(message.connection)
    if found is not None and _is_of(found, message.org, message.user):
        try:
            _receive(found, message.frames)
        except HubError as error:
            found.refuse(error)


def no_connection() -> HubError:
    """For a session without a connection, and for anybody else's."""
    error = not_found("connection")
    return HubError(error.code, "this session has no connection; open one by /v1/sse or /v1/poll and name its session")


def _is_of(connection: Connection, org: str, user: str) -> bool:
    who = connection.principal
    return who is not None and (str(who.org), who.user) == (org, user)


def _receive(connection: Connection, frames: Sequence[msgspec.Raw]) -> None:
    if connection.reading_paused:
        text = "too many frames of this connection wait for their turn"
        raise HubError(ErrorCode.RATE_LIMITED, text, retry_after_ms=1000)
    for frame in frames:
        connection.receive(bytes(frame).decode())
