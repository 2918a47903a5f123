"""The floor of long-polling: a bare uvloop loop that answers a waiting request with what came on its Redis channel.

No tokens, no positions, no history: what is published while a client asks anew is lost on it. A first request is
answered at once, with the topic as its cursor. ``python -m loadtest.reference_poll PORT REDIS_SOCKET``
"""

from __future__ import annotations

import asyncio
import gc
import sys

import hiredis
import uvloop


def answer(cursor: bytes, frames: bytes) -> bytes:
    """A poll's whole answer."""
    body = b'{"cursor":"%b","frames":[%b]}' % (cursor, frames)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Topics:
    """Who waits for what; the link to Redis."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, set[asyncio.Transport]] = {}
        self.redis: asyncio.Transport

    def wait(self, topic: bytes, transport: asyncio.Transport) -> None:
        """The transport asks for what comes next."""
        if topic not in self.waiting:
            self.waiting[topic] = set()
            self.redis.write(hiredis.pack_command((b"SUBSCRIBE", topic)))  # type: ignore[arg-type]
        self.waiting[topic].add(transport)

    def deliver(self, topic: bytes, message: bytes) -> None:
        """Answers all who wait."""
        waiting = self.waiting.get(topic)
        if waiting:
            whole = answer(topic, message)
            for transport in waiting:
                transport.write(whole)
            waiting.clear()


class RedisLink(asyncio.Protocol):
    """Reads messages."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if reply[0] == b"message":
                self._topics.deliver(reply[1], reply[2])


class Client(asyncio.Protocol):
    """A client that polls: its requests come whole, one after the other."""

    __slots__ = ("_topics", "_transport")

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        name, _, value = data.split(b" ", 2)[1].partition(b"?")[2].partition(b"&")[0].partition(b"=")
        if name == b"cursor":
            self._topics.wait(value, self._transport)
        else:
            self._transport.write(answer(value, b""))

    def connection_lost(self, exc: Exception | None) -> None:
        for waiting in self._topics.waiting.values():
            waiting.discard(self._transport)


async def serve(port: int, redis_socket: str) -> None:
    """Serves until it is killed."""
    loop = asyncio.get_running_loop()
    topics = Topics()
    topics.redis, _ = await loop.create_unix_connection(lambda: RedisLink(topics), redis_socket)
    server = await loop.create_server(lambda: Client(topics), "127.0.0.1", port, backlog=4096)
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
