"""One exchange with a server: calls are written to a connection in one piece and their replies read back in order.

Which connection, and what to do about what came of it, is ``hub.redis.client``'s.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from hub.redis.calls import Command, ScriptCall, pack


class NotSent(Exception):
    """The server could not be reached, so nothing happened."""


class Try:
    """A call on its way: where it goes next and what came of it."""

    __slots__ = ("address", "asking", "call", "hops", "load", "outcome", "sent_to")

    def __init__(self, call: ScriptCall | Command) -> None:
        self.call = call
        self.address = ""
        """Where a redirection sent it, for one attempt; "": where the layout says."""
        self.asking = False
        self.load = False
        self.hops = 0
        self.sent_to = ""
        self.outcome: Any = None

    def packed(self) -> tuple[bytes, int]:
        """The bytes of this attempt and how many replies precede the one that counts."""
        before = b""
        if self.load and isinstance(self.call, ScriptCall):
            before += pack("SCRIPT", "LOAD", self.call.script.text)
        if self.asking:
            before += pack("ASKING")
        return before + self.call.packed(), self.load + self.asking


def not_sent(tries: Sequence[Try], cause: BaseException) -> None:
    """Notes that these were not sent, and why."""
    error = NotSent(str(cause))
    error.__cause__ = cause
    for item in tries:
        item.outcome = error


async def exchange(connection: AbstractConnection, tries: Sequence[Try], timeout_s: float) -> None:
    """Every try has its outcome after this: a reply, an error reply, or why there is none; then the connection is shut.

    Also when this is cancelled: nobody else may read replies that are still on their way.
    """
    packed = [item.packed() for item in tries]
    answered = 0
    try:
        async with asyncio.timeout(timeout_s):
            await connection.send_packed_command(b"".join(part for part, _ in packed), check_health=False)
            for item, (_, skip) in zip(tries, packed, strict=True):
                for _ in range(skip):
                    await _reply(connection)
                item.outcome = await _reply(connection)
                answered += 1
    except (RedisError, OSError, TimeoutError) as error:
        for item in tries[answered:]:
            item.outcome = error
    finally:
        if answered < len(tries):
            await connection.disconnect(nowait=True)


async def _reply(connection: AbstractConnection) -> Any:
    """The next reply; an error reply is a value. The time limit is the caller's."""
    try:
        return await connection.read_response(timeout=math.inf, disconnect_on_error=False)
    except ResponseError as error:
        return error
