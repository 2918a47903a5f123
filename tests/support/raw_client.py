"""A strict client for tests: every frame that comes must be one that the protocol declares, and every wait ends.

It shows what is on the wire. ``hub.client`` hides reconnects and positions, and has tests of its own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from hub.protocol.codec import Encoding
from hub.protocol.frames import (
    Error,
    Event,
    FrameId,
    Gap,
    Heartbeat,
    Pong,
    Reply,
    ServerFrame,
    Verdict,
    Welcome,
)
from tests.support.http_link import LINKS, HttpLink

Transport = Literal["websocket", "sse", "poll"]
WAIT_S = 15.0
_json: msgspec.json.Decoder[ServerFrame] = msgspec.json.Decoder(ServerFrame)
_msgpack: msgspec.msgpack.Decoder[ServerFrame] = msgspec.msgpack.Decoder(ServerFrame)
_EVENT_FIELDS = frozenset(Event.__struct_fields__) | {"type"}
_F = TypeVar("_F")


class ClosedByHub(AssertionError):
    """The hub closed the connection while a frame was awaited."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code} {reason!r}")
        self.code = code


class RawClient:
    """One connection. Frames that came while an answer was awaited are kept, in order, for ``receive``."""

    def __init__(self, socket: ClientConnection | HttpLink, encoding: Encoding) -> None:
        self.socket = socket
        self.encoding = encoding
        self.token = ""
        self.came: list[ServerFrame] = []
        """Everything that ever came, in order."""
        self.raw: list[bytes] = []
        """The same as it was on the wire."""
        self._kept: deque[ServerFrame] = deque()
        self._ids = itertools.count(1)

    # --- sending

    def encode(self, frame: dict[str, Any]) -> str | bytes:
        """A frame as this connection writes it."""
        if self.encoding is Encoding.MSGPACK:
            return msgspec.msgpack.encode(frame)
        return msgspec.json.encode(frame).decode()

    async def send(self, frame: dict[str, Any]) -> None:
        """Sends a frame, well-formed or not."""
        await self.send_raw(self.encode(frame))

    async def send_if_open(self, frame: dict[str, Any]) -> None:
        """The same, for a client that goes on although the hub may have closed already."""
        await self.send_raw_if_open(self.encode(frame))

    async def send_raw_if_open(self, message: str | bytes) -> None:
        """A message as it is, in the same way."""
        with contextlib.suppress(ConnectionClosed):
            await self.send_raw(message)

    async def send_raw(self, message: str | bytes | Sequence[str] | Sequence[bytes]) -> None:
        """Sends a message as it is; a list is sent in fragments."""
        async with asyncio.timeout(WAIT_S):
            await self.socket.send(message)

    # --- receiving

    async def receive(self, timeout: float = WAIT_S) -> ServerFrame:
        """The next frame; heartbeats too. ``ClosedByHub`` when there is none any more."""
        if self._kept:
            return self._kept.popleft()
        return await self._read(timeout)

    async def expect(self, kind: type[_F], timeout: float = WAIT_S, **fields: Any) -> _F:
        """The next frame, which must be of this kind with these fields."""
        frame = await self.receive(timeout)
        assert isinstance(frame, kind), f"expected {kind.__name__}, got {frame}"
        found = {name: getattr(frame, name) for name in fields}
        assert found == fields, f"in {frame}"
        return frame

    async def await_kind(self, kind: type[_F], timeout: float = WAIT_S) -> _F:
        """The next frame of a kind; others that come before it are passed over."""
        async with asyncio.timeout(timeout):
            while True:
                frame = await self.receive(timeout)
                if isinstance(frame, kind):
                    return frame

    async def events(self, count: int, timeout: float = WAIT_S) -> list[Event]:
        """The next ``count`` frames, all of which must be events."""
        return [await self.expect(Event, timeout) for _ in range(count)]

    async def close_code(self, timeout: float = WAIT_S) -> int:
        """Waits until the hub closes; frames that come before are kept in ``came``."""
        async with asyncio.timeout(timeout):
            while True:
                try:
                    await self._read(timeout)
                except ClosedByHub as closed:
                    return closed.code

    async def nothing_came(self) -> None:
        """Everything sent so far was performed, and nothing came but what was received already."""
        frame_id = f"quiet-{next(self._ids)}"
        await self.send({"type": "ping", "id": frame_id})
        await self.expect(Pong, id=frame_id)

    # --- requests

    async def request(self, frame: dict[str, Any], timeout: float = WAIT_S) -> Reply | Error | Welcome:
        """Sends a frame with a new id (unless it has one) and returns its answer; what else comes is kept."""
        frame_id = frame.setdefault("id", next(self._ids))
        await self.send(frame)
        return await self.answer_to(frame_id, timeout)

    async def answer_to(self, frame_id: FrameId, timeout: float = WAIT_S) -> Reply | Error | Welcome:
        """The answer to a request that was sent before."""
        for index, frame in enumerate(self._kept):
            if isinstance(frame, Reply | Error | Welcome) and frame.id == frame_id:
                del self._kept[index]
                return frame
        async with asyncio.timeout(timeout):
            while True:
                frame = await self._read(timeout)
                if isinstance(frame, Reply | Error | Welcome) and frame.id == frame_id:
                    return frame
                self._kept.append(frame)

    async def hello(self, **fields: Any) -> Welcome:
        """Sends ``hello`` and returns the welcome; the first frame must be it."""
        await self.send({"type": "hello", "id": 0, **fields})
        return await self.expect(Welcome)

    async def result(self, frame: dict[str, Any], timeout: float = WAIT_S) -> Any:
        """The result of a request that must succeed."""
        answer = await self.request(frame, timeout)
        assert isinstance(answer, Reply), answer
        return answer.result

    async def refusal(self, frame: dict[str, Any], code: str) -> Error:
        """The error of a request that must fail with ``code``."""
        answer = await self.request(frame)
        assert isinstance(answer, Error), answer
        assert answer.code == code, answer
        return answer

    async def subscribe(self, *items: Any) -> list[Verdict]:
        """Subscribes to topics (names or items) and returns their verdicts."""
        topics = [{"topic": item} if isinstance(item, str) else item for item in items]
        result = await self.result({"type": "subscribe", "topics": topics})
        assert set(result) == {"topics"}, result
        return msgspec.convert(result["topics"], list[Verdict])

    async def joined(self, *items: Any) -> list[Verdict]:
        """The same; all verdicts must be ok."""
        verdicts = await self.subscribe(*items)
        assert all(verdict.ok for verdict in verdicts), verdicts
        return verdicts

    async def unsubscribe(self, *topics: str) -> list[Verdict]:
        """Unsubscribes."""
        result = await self.result({"type": "unsubscribe", "topics": list(topics)})
        return msgspec.convert(result["topics"], list[Verdict])

    async def publish(self, topic: str, data: Any = None, name: str = "thing.happened", **more: Any) -> dict[str, Any]:
        """Publishes one event; returns ``{epoch, seq, duplicate}``."""
        result = await self.result({"type": "publish", "topic": topic, "name": name, "data": data, **more})
        assert set(result) == {"epoch", "seq", "duplicate"}, result
        return dict(result)

    async def ack(self, topic: str, epoch: str, seq: int) -> None:
        """Acknowledges; nothing answers."""
        await self.send({"type": "ack", "positions": {topic: {"epoch": epoch, "seq": seq}}})

    async def _read(self, timeout: float) -> ServerFrame:
        try:
            async with asyncio.timeout(timeout):
                message = await self.socket.recv()
        except ConnectionClosed as closed:
            received = closed.rcvd
            raise ClosedByHub(received.code if received else 1006, received.reason if received else "") from None
        except TimeoutError:
            raise AssertionError(f"no frame came in {timeout:g} s; the last were {self.came[-3:]}") from None
        frame = self._decode(message)
        self.came.append(frame)
        return frame

    def _decode(self, message: str | bytes) -> ServerFrame:
        if self.encoding is Encoding.MSGPACK:
            assert isinstance(message, bytes), "with msgpack every message is binary"
            self.raw.append(message)
            frame, plain = _msgpack.decode(message), msgspec.msgpack.decode(message)
        else:
            assert isinstance(message, str), "with JSON every message is text"
            self.raw.append(message.encode())
            frame, plain = _json.decode(message), msgspec.json.decode(message)
        if isinstance(frame, Event):
            # Clients tolerate unknown fields of an event; the hub does not send any.
            assert set(plain) <= _EVENT_FIELDS, plain
        return frame


def bearer_subprotocol(token: str) -> str:
    """A token as browsers send it."""
    return "base64url.bearer.hub." + base64.urlsafe_b64encode(token.encode()).rstrip(b"=").decode()


@contextlib.asynccontextmanager
async def raw_client(
    url: str,
    token: str = "",
    *,
    encoding: Encoding = Encoding.JSON,
    headers: dict[str, str] | None = None,
    subprotocols: Sequence[str] | None = None,
    query: str = "",
    transport: Transport = "websocket",
    **options: Any,
) -> AsyncIterator[RawClient]:
    """An open connection, with ``token`` in the Authorization header. No ``hello`` was sent yet.

    ``options`` are those of ``websockets``; other transports go by ``sock`` alone. Who speaks msgpack has a WebSocket.
    """
    extra = dict(headers or {})
    if token:
        extra["Authorization"] = f"Bearer {token}"
    if transport != "websocket" and encoding is Encoding.JSON:
        link = LINKS[transport]([urlsplit(url).port or 80], extra, query, options.get("sock"))
        client = RawClient(link, encoding)
        client.token = token
        try:
            yield client
        finally:
            await link.close()
        return
    offered = [encoding.value] if subprotocols is None else list(subprotocols)
    connecting = connect(
        url + query,
        additional_headers=extra,
        subprotocols=offered or None,  # type: ignore[arg-type]
        compression=None,
        ping_interval=None,
        close_timeout=1,
        open_timeout=WAIT_S,
        max_size=None,
        proxy=None,
        **options,
    )
    async with connecting as socket:
        client = RawClient(socket, encoding)
        client.token = token
        yield client


__all__ = ("WAIT_S", "ClosedByHub", "Gap", "Heartbeat", "RawClient", "bearer_subprotocol", "raw_client")
