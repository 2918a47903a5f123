"""Where a connection without a WebSocket stands, as a cursor: exactly what was written to it, and no event more."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from hub.edge.gateway import Gateway
from hub.protocol.cursor import Cursor, Standing, digest_of, encode_cursor
from hub.topics.subscriptions import Subscription, SubState

if TYPE_CHECKING:
    from hub.edge.connection import Connection


Presences = Mapping[str, tuple[str, int]]
"""By topic: which version of who is present a client knows."""


def cursor_of(
    gateway: Gateway, connection: Connection, number: int = 0, asked: int = 0, presences: Presences | None = None
) -> bytes:
    """Everything up to its positions has been written to the connection's socket when this returns.

    ``presences``: what the client knew when it came, of topics of which this connection has told nothing yet.
    """
    who = connection.verified
    return encode_cursor(
        Cursor(
            digest_of(who.org, who.user),
            connection.session_id,
            connection.id,
            number,
            asked,
            digest_of_flags(connection.flags),
            standings_of(gateway, connection, presences),
        )
    )


def standings_of(gateway: Gateway, connection: Connection, presences: Presences | None = None) -> tuple[Standing, ...]:
    """As in ``cursor_of``."""
    return tuple(
        _standing(gateway, text, sub, presences or {})
        for text, sub in connection.subscriptions.items()
        # Its verdict has not been sent, so its client does not count on it yet.
        if sub.state is not SubState.JOINING
    )


def digest_of_flags(flags: Mapping[str, bool]) -> int:
    """Tells whether a client knows of all of them."""
    return zlib.crc32(msgspec.json.encode(flags, order="deterministic"))


def _standing(gateway: Gateway, text: str, sub: Subscription, presences: Presences) -> Standing:
    local, position, known = sub.topic, sub.settled(), None
    if local.kind.presence and sub.filter is None:
        known = (gateway.presence.told(local) if sub.state is SubState.LIVE else None) or presences.get(text)
    filter = None if sub.filter is None else sub.filter.spec
    return Standing(text, position.epoch, position.seq, sub.window > 0, filter, known)
