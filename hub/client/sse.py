"""Frames as server-sent events: one answer that goes on and on (PROTOCOL section 7)."""

from __future__ import annotations

import asyncio

import httpx

from hub.client.blocks import Blocks
from hub.client.door import Door, is_of
from hub.client.http_transport import HttpTransport
from hub.client.options import ClientOptions, TransportName
from hub.client.transport import ABNORMAL, LOST, CannotConnect, Deliver, Ended, MakeHello

PATH = "/v1/sse"
MEDIA_TYPE = "text/event-stream"


class SseTransport(HttpTransport):
    """Implements ``Transport``."""

    name: TransportName = "sse"

    def __init__(self, door: Door, token: str | None, ticket: str | None, options: ClientOptions) -> None:
        super().__init__(door, token, ticket, options)
        self._stream: httpx.Response | None = None

    async def open(self, hello: MakeHello, timeout_s: float) -> None:
        """Returns when the head of the stream has come. Raises ``CannotConnect``."""
        body = self.wire.encode(await hello())
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._door.send(self._door.address(PATH, self._ticket), body, self.token, MEDIA_TYPE)
                if response.status_code == 200 and is_of(response, MEDIA_TYPE):
                    self._stream = response
                    return
                try:
                    raise CannotConnect(await self._door.refusal(response))
                finally:
                    self._door.discard(response)
        except TimeoutError:
            raise CannotConnect(Ended(ABNORMAL, f"no stream within {timeout_s:g} s", in_the_way=True)) from None

    async def _receive(self, deliver: Deliver) -> Ended:
        blocks = Blocks(self._options.max_frame_bytes)
        if self._stream is None:
            return Ended(ABNORMAL, LOST)
        try:
            async for chunk in self._stream.aiter_bytes():
                deliver(None)
                for message in blocks.feed(chunk):
                    deliver(message)
        except httpx.HTTPError as problem:
            return Ended(ABNORMAL, f"the stream broke off: {problem or type(problem).__name__}")
        return Ended(ABNORMAL, "the stream has ended")

    def abort(self) -> None:
        """Drops the stream."""
        super().abort()
        stream, self._stream = self._stream, None
        if stream is not None:
            self._door.discard(stream)
