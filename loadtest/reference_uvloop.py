"""The floor: a bare uvloop loop that takes messages from Redis and writes ready frame bytes to every subscriber.

No tokens, no organisations, no numbers, no history, no flow control: what Python can do at most. Messages that came
in one turn are joined to one write. ``python -m loadtest.reference_uvloop PORT REDIS_SOCKET``
"""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import json
import sys

import hiredis
import uvloop

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MASK_BYTES = 4


def text_frame(payload: bytes) -> bytes:
    """An unmasked WebSocket frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    return bytes((0x81, 126)) + size.to_bytes(2, "big") + payload


WELCOME = text_frame(b'{"type":"welcome"}')


def unmasked(frame: bytes) -> bytes:
    """The payload of a client's frame of less than 64 KB."""
    start = 4 if frame[1] & 127 == 126 else 2
    mask, payload = frame[start : start + _MASK_BYTES], frame[start + _MASK_BYTES :]
    wide = int.from_bytes((mask * (len(payload) // _MASK_BYTES + 1))[: len(payload)], "big")
    return (int.from_bytes(payload, "big") ^ wide).to_bytes(len(payload), "big")


class Topics:
    """Who gets what; the link to Redis."""

    def __init__(self) -> None:
        self.subscribers: dict[bytes, set[asyncio.Transport]] = {}
        self.redis: asyncio.Transport

    def subscribe(self, topic: bytes, transport: asyncio.Transport) -> None:
        if topic not in self.subscribers:
            self.subscribers[topic] = set()
            self.redis.write(hiredis.pack_command((b"SUBSCRIBE", topic)))  # type: ignore[arg-type]
        self.subscribers[topic].add(transport)

    def deliver(self, topic: bytes, frames: bytes) -> None:
        for transport in self.subscribers.get(topic, ()):
            transport.write(frames)


class RedisLink(asyncio.Protocol):
    """Reads messages; one write per topic and turn."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        turn: dict[bytes, list[bytes]] = {}
        while (reply := self._reader.gets()) is not False:
            if reply[0] == b"message":
                turn.setdefault(reply[1], []).append(text_frame(reply[2]))
        for topic, frames in turn.items():
            self._topics.deliver(topic, b"".join(frames))


class Client(asyncio.Protocol):
    """A subscriber: an upgrade request, one hello, then nothing but its transport."""

    __slots__ = ("_open", "_topics", "_transport")

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._open = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._open:
            if data[0] & 15 == 1:
                self._hello(data)
            return
        key = data.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self._transport.write(head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        self._open = True

    def _hello(self, data: bytes) -> None:
        for item in json.loads(unmasked(data))["subscribe"]:
            self._topics.subscribe(item["topic"].encode(), self._transport)
        self._transport.write(WELCOME)

    def connection_lost(self, exc: Exception | None) -> None:
        for subscribers in self._topics.subscribers.values():
            subscribers.discard(self._transport)


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
