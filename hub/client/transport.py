"""What a connection travels over: the interface of a transport, and the words for how one ended. No I/O of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from msgspec import Struct

from hub.client.options import TransportName
from hub.client.wire import Wire
from hub.protocol.frames import Hello

MakeHello = Callable[[], Awaitable[Hello]]
"""Makes the ``hello``, as late as possible: it says what was received last."""

ABNORMAL = 1006
"""What RFC 6455 calls an end without a closing handshake; also used for silence and protocol violations."""

LOST = "the connection was lost"

Deliver = Callable[["str | bytes | None"], None]
"""Takes one message, in order. None: a sign of life without one."""


Lost = Callable[["int | str | None", str], None]
"""Told of a request that will have no answer, and why; nothing happens when it has had one."""


class Ended(Struct, frozen=True):
    """How a connection ended, or why it could not be opened."""

    code: int
    reason: str
    http_status: int | None = None
    retry_after_s: float = 0.0
    in_the_way: bool = False
    """Something that is not the hub did this, or nothing came through: another transport may get there."""
    disabled: bool = False
    """The hub has switched this transport off for now, whatever the code says."""
    fallback: tuple[str, ...] = ()
    """Transports that the hub names instead."""


class CannotConnect(Exception):
    """The connection could not be opened; ``ended`` says why."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.reason)
        self.ended = ended


class TransportLost(Exception):
    """What was to be sent was not: the transport has ended."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.reason)
        self.ended = ended


class Transport(Protocol):
    """One way to carry frames, opened once. Made and owned by a ``Connection`` and the ``Link`` above it."""

    name: TransportName
    wire: Wire
    acknowledges: bool
    """Whether the hub hears what was received without being told by frames."""
    differs: asyncio.Event
    """Set when the hub may have other subscriptions on this connection than this side: it is to be begun anew."""
    wrapping_bytes: int
    """What it puts around a frame, of the bytes that the hub takes at once."""
    token: str | None
    """For whatever is asked of the hub from now on; replaced when it is renewed."""

    async def open(self, hello: MakeHello, timeout_s: float) -> None:
        """Opens it and sends the ``hello``. Raises ``CannotConnect``."""

    def welcomed(self, session: str, max_message_bytes: int) -> None:
        """The ``welcome`` has come."""

    async def run(self, deliver: Deliver, lost: Lost) -> Ended:
        """Hands over what comes until the end, and says which. What ``deliver`` raises comes through."""

    def under_way(self) -> Collection[int | str | None]:
        """Ids of requests that the end does not concern: ``deliver`` or ``lost`` is called for each, also after it."""

    def give_up(self, number: int) -> None:
        """Nobody waits for the answer to this request any more."""

    async def send(self, message: bytes | memoryview, *, chunk: bool = False) -> None:
        """Sends one message after those before; waits while too much is unsent. Raises ``TransportLost``."""

    async def settle(self) -> None:
        """Nothing that was sent is under way any more, and nothing leaves until ``resume``.

        For a transport whose frames find the connection by its session: late ones would reach its successor.
        """

    def resume(self) -> None:
        """There is no successor: what waits may leave."""

    async def close(self) -> None:
        """Sends what waits and says goodbye. May take for ever: the caller has a deadline, and calls ``abort``."""

    def abort(self) -> None:
        """Drops everything now; nothing is delivered any more. May be called twice."""
