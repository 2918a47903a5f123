"""How much may be unsent on a transport of the hub's own protocol classes."""

from __future__ import annotations

import asyncio
import socket

from hub.config import Settings


def hold_back(transport: asyncio.Transport, settings: Settings) -> None:
    """Sees to it that a client that does not read is noticed early."""
    transport.set_write_buffer_limits(high=settings.unsent_high_bytes, low=settings.unsent_high_bytes // 4)
    if settings.send_buffer_bytes:
        # Left alone the kernel takes megabytes for a client that does not read before anybody notices.
        link = transport.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.send_buffer_bytes)
