"""How a client of the fault oracle behaves: encoding, positions, windows, and its bad manners."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.raw_client import Transport


@dataclass(slots=True)
class Style:
    """How a client behaves."""

    msgpack: bool = False
    by_session: bool = False
    """Relies on the acknowledged positions of its session; else it gives ``since`` of what it has really seen."""
    window: bool = False
    """Subscribes with ``ack:true``."""
    token_in_hello: bool = False
    deflates: bool = False
    """Offers permessage-deflate."""
    flaps: bool = False
    """Leaves after a moment, again and again."""
    toggles: bool = False
    """Subscribes and unsubscribes in a tight loop."""
    transport: Transport = "websocket"
    """Others speak JSON. One that polls asks another node each time."""
    receive_buffer: int | None = None
    """Bytes of the socket's buffer, for clients that stop reading."""
