"""A fresh token for a connection that is open, when the hub says that the old one ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from hub.client.backoff import Backoff
from hub.client.chores import first_of
from hub.client.connection import Connection
from hub.client.errors import RequestRefused
from hub.client.options import ClientOptions
from hub.client.tokens import Tokens
from hub.client.transport import CannotConnect
from hub.protocol.frames import Auth

logger = logging.getLogger("hub.client")


async def renew(connection: Connection, tokens: Tokens, options: ClientOptions, within_s: float) -> None:
    """Brings a fresh token; tried again until the old one has ended, then the hub closes with 4401."""
    backoff = Backoff(options)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await first_of(connection.ended, timeout_s=tokens.renewal_pause_s(within_s))
            while not connection.ended.done():
                try:
                    await _authenticate(connection, tokens)
                    break
                except (CannotConnect, RequestRefused) as problem:
                    logger.warning("the token could not be renewed: %s", problem)
                await asyncio.sleep(backoff.next_s())


async def _authenticate(connection: Connection, tokens: Tokens) -> None:
    token = await tokens.fresh()
    if token is not None:
        connection.transport.token = token
        await connection.request(lambda number: Auth(id=number, token=token))
