"""What the transports over HTTP have in common: frames go by POST, events come some way, and either can be the end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection

from hub.client.door import Door
from hub.client.options import ClientOptions, TransportName
from hub.client.posting import WRAPPING_BYTES, Poster
from hub.client.transport import ABNORMAL, LOST, Deliver, Ended, Lost, MakeHello
from hub.client.wire import Wire


class HttpTransport(ABC):
    """Implements ``Transport`` but for how events come. ``ticket`` stands for the token where there is none."""

    name: TransportName
    acknowledges = False
    wrapping_bytes = WRAPPING_BYTES

    def __init__(self, door: Door, token: str | None, ticket: str | None, options: ClientOptions) -> None:
        self._door = door
        self._ticket = ticket if token is None else None
        self._options = options
        self.differs = asyncio.Event()
        self._poster = Poster(door, options, lambda: self.token, self.differs.set)
        self.token = token
        self.wire = Wire("json")

    @abstractmethod
    async def open(self, hello: MakeHello, timeout_s: float) -> None:
        """Opens it with the ``hello``. Raises ``CannotConnect``."""

    @abstractmethod
    async def _receive(self, deliver: Deliver) -> Ended:
        """Hands over what comes until the end."""

    def welcomed(self, session: str, max_message_bytes: int) -> None:
        """Frames can be posted from now on."""
        self._poster.session = session
        self._poster.most_bytes = max_message_bytes

    async def run(self, deliver: Deliver, lost: Lost) -> Ended:
        """Until either way has ended."""
        self._poster.attach(deliver, lost)
        receiving = asyncio.create_task(self._receive(deliver), name="hub-client-events")
        posting = asyncio.create_task(self._poster.run(), name="hub-client-posts")
        try:
            await asyncio.wait({receiving, posting}, return_when=asyncio.FIRST_COMPLETED)
            return (receiving if receiving.done() else posting).result()
        finally:
            receiving.cancel()
            posting.cancel()
            await asyncio.gather(receiving, posting, return_exceptions=True)

    async def send(self, message: bytes | memoryview, *, chunk: bool = False) -> None:
        """Waits while too much waits. Raises ``TransportLost``."""
        if chunk:
            raise TypeError(f"bytes of uploads cannot go over {self.name}")
        await self._poster.put(bytes(message))

    def under_way(self) -> Collection[int | str | None]:
        """Calls: each has a request of its own."""
        return self._poster.under_way()

    def give_up(self, number: int) -> None:
        """Ends the request of a call."""
        self._poster.give_up(number)

    async def settle(self) -> None:
        """Waits for what is under way."""
        await self._poster.settle()

    def resume(self) -> None:
        """Goes on posting."""
        self._poster.resume()

    async def close(self) -> None:
        """What waits is posted; there is nobody to say goodbye to."""
        await self._poster.flushed()

    def abort(self) -> None:
        """Takes nothing any more."""
        self._poster.stop(Ended(ABNORMAL, LOST))
