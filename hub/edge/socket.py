"""What a connection needs of its WebSocket. Two implementations: ``asgi_socket`` (any server) and ``direct_socket``.

Two more are no WebSockets: ``sse_socket`` and ``poll_socket``.

The socket owns the transport and RFC 6455; the connection owns the protocol of PROTOCOL.md. What comes from the socket
goes up through the methods of ``SocketUser``.
"""

from __future__ import annotations

from typing import Literal, Protocol

from hub.protocol.codec import Packet

Transport = Literal["websocket", "sse", "poll"]


class Socket(Protocol):
    """The writing half of an open WebSocket. No method blocks or raises; on a closed socket all do nothing."""

    @property
    def transport(self) -> Transport:
        """What it is; the same for all of a class."""

    @property
    def unsent(self) -> int:
        """Bytes accepted by ``write`` and not yet taken by the kernel, as far as the implementation can see."""

    def write(self, packet: Packet) -> None:
        """Sends ready frames, in order."""

    def look(self, now: float) -> float:
        """Does what is due by a monotonic clock and says when to look again; asked by the keeper."""

    def ping(self) -> bool:
        """Sends a WebSocket ping; False where the server does not let us (then there is no pong to wait for)."""

    def close(self, code: int, reason: str) -> None:
        """Sends a close frame after what is unsent, and ends the connection."""

    def abort(self) -> None:
        """Ends the connection at once; what is unsent is lost."""

    def pause_reading(self) -> None:
        """Hands over no more messages of the client until ``resume_reading``, also of those that were read already."""

    def resume_reading(self) -> None:
        """Goes on; the first messages may come before this returns."""


class SocketUser(Protocol):
    """What a socket tells its connection. Called on the event loop."""

    def receive(self, message: str | bytes) -> None:
        """One whole message: text as ``str``, binary as ``bytes``."""

    def heard(self) -> None:
        """A pong or other sign of life came."""

    def pause_writing(self) -> None:
        """More is unsent than the high mark."""

    def resume_writing(self) -> None:
        """Less is unsent than the low mark."""

    def lost(self, code: int) -> None:
        """The socket is closed, by whomever; called exactly once."""
