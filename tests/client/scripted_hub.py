"""A small scripted hub over real sockets: enough of the protocol to test the client, and every way to hurt it."""

from __future__ import annotations

import asyncio
import http
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Frame = dict[str, Any]
DEADLINE_S = 30.0


async def eventually(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Waits until ``condition()`` is true; fails after the deadline."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"{what} did not come about") from None


@dataclass
class Log:
    """One topic: its epoch, all events ever, and the oldest that is still kept."""

    epoch: str = "e1"
    events: list[Frame] = field(default_factory=list)
    first: int = 1

    @property
    def top(self) -> int:
        return len(self.events)


class Peer:
    """One connection as the hub sees it."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.path = socket.request.path if socket.request else ""
        self.authorization = socket.request.headers.get("Authorization") if socket.request else None
        self.packed = socket.subprotocol == "hub.v1.msgpack"
        self.frames: list[Frame] = []
        self.live: dict[str, Frame] = {}
        self.gone = asyncio.Event()

    def got(self, kind: str) -> list[Frame]:
        return [frame for frame in self.frames if frame["type"] == kind]

    async def send(self, frame: Frame) -> None:
        try:
            if self.packed:
                await self.socket.send(msgspec.msgpack.encode(frame))
            else:
                await self.socket.send(msgspec.json.encode(frame), text=True)
        except ConnectionClosed:
            pass

    async def close(self, code: int, reason: str = "") -> None:
        await self.socket.close(code, reason)

    def drop(self) -> None:
        """The network is gone: no closing handshake."""
        self.socket.transport.abort()


class ScriptedHub:
    """Topics in memory; ``script`` may take any frame over by returning True."""

    def __init__(self) -> None:
        self.topics: dict[str, Log] = {}
        self.peers: list[Peer] = []
        self.script: Callable[[Peer, Frame], Awaitable[bool]] | None = None
        self.reject: Callable[[Request], int | None] = lambda _: None
        self.heartbeat_ms = 25_000
        self.flags: dict[str, bool] = {}
        self.published: dict[str, Frame] = {}
        self.windows = 0
        self._server: Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"ws://127.0.0.1:{port}/ws"

    def log(self, topic: str) -> Log:
        return self.topics.setdefault(topic, Log())

    async def peer(self, number: int) -> Peer:
        """The connection of this number, once its hello has come."""
        await eventually(lambda: len(self.peers) > number and self.peers[number].got("hello"), f"connection {number}")
        return self.peers[number]

    async def publish(
        self, topic: str, data: Any, *, name: str = "n", tags: Frame | None = None, seq: int | None = None
    ) -> int:
        """Appends an event and sends it to who is live. ``seq``: sends it under a wrong number, for faults."""
        log = self.log(topic)
        frame = {
            "type": "event",
            "topic": topic,
            "seq": log.top + 1,
            "id": f"i{log.top + 1}",
            "name": name,
            "ts": 1,
            "data": data,
        }
        if tags:
            frame["tags"] = tags
        log.events.append(frame)
        for peer in self.peers:
            if topic in peer.live and not peer.gone.is_set() and _matches(peer.live[topic], frame):
                await peer.send({**frame, "seq": seq or log.top})
        return log.top

    # --- the protocol

    async def _serve(self, socket: ServerConnection) -> None:
        peer = Peer(socket)
        self.peers.append(peer)
        try:
            async for message in socket:
                frame = _frame(peer, message)
                peer.frames.append(frame)
                if self.script is None or not await self.script(peer, frame):
                    await self.answer(peer, frame)
        except ConnectionClosed:
            pass
        finally:
            peer.gone.set()

    async def answer(self, peer: Peer, frame: Frame) -> None:
        """What a hub does with a frame."""
        match frame["type"]:
            case "hello":
                await self.welcome(peer, frame)
            case "subscribe":
                verdicts, after = self._join(peer, frame["topics"])
                await peer.send({"type": "reply", "id": frame["id"], "result": {"topics": verdicts}})
                await self._send_all(peer, after)
            case "unsubscribe":
                for topic in frame["topics"]:
                    peer.live.pop(topic, None)
                result = {"topics": [{"topic": topic, "ok": True} for topic in frame["topics"]]}
                await peer.send({"type": "reply", "id": frame["id"], "result": result})
            case "publish":
                await peer.send({"type": "reply", "id": frame["id"], "result": await self._published(frame)})
            case "call":
                await peer.send({"type": "reply", "id": frame["id"], "result": frame["params"]})
            case "auth":
                await peer.send({"type": "reply", "id": frame["id"], "result": {"expires_in_ms": 60_000}})

    async def welcome(self, peer: Peer, frame: Frame) -> None:
        verdicts, after = self._join(peer, frame.get("subscribe", []))
        resumed = frame.get("resume") is not None
        session = frame["resume"]["session"] if resumed else "s_1"
        welcome = {
            "type": "welcome", "id": frame["id"], "session": session, "resumed": resumed,
            "user": "u1", "org": "acme", "expires_in_ms": 60_000, "heartbeat_ms": self.heartbeat_ms,
            "max_message_bytes": 1_048_576, "flags": self.flags, "topics": verdicts, "invented_later": 1,
        }  # fmt: skip
        await peer.send(welcome)
        await self._send_all(peer, after)

    async def _send_all(self, peer: Peer, frames: list[Frame]) -> None:
        for frame in frames:
            await peer.send(frame)

    async def _published(self, frame: Frame) -> Frame:
        if frame["ephemeral"]:
            return {"epoch": "", "seq": 0, "duplicate": False}
        known = self.published.get(frame["key"])
        if known is not None:
            return {**known, "duplicate": True}
        seq = await self.publish(frame["topic"], frame["data"])
        self.published[frame["key"]] = {"epoch": self.log(frame["topic"]).epoch, "seq": seq, "duplicate": False}
        return self.published[frame["key"]]

    def _join(self, peer: Peer, items: list[Frame]) -> tuple[list[Frame], list[Frame]]:
        verdicts: list[Frame] = []
        after: list[Frame] = []
        for item in items:
            topic, log = item["topic"], self.log(item["topic"])
            if topic in peer.live:
                error = {"code": "already_subscribed", "message": "twice", "retry": "never"}
                verdicts.append({"topic": topic, "ok": False, "error": error})
                continue
            self.windows += bool(item.get("ack"))
            peer.live[topic] = item
            start, gap = _replay(log, item, topic)
            verdicts.append({"topic": topic, "ok": True, "epoch": log.epoch, "seq": log.top, "recovered": gap is None})
            after += [] if gap is None else [gap]
            after += [event for event in log.events[start - 1 :] if _matches(item, event)]
        return verdicts, after


def _frame(peer: Peer, message: str | bytes) -> Frame:
    if peer.packed:
        return dict(msgspec.msgpack.decode(message))
    if isinstance(message, str):
        return dict(msgspec.json.decode(message))
    handle, offset = struct.unpack_from(">IQ", message)
    return {"type": "chunk", "handle": handle, "offset": offset, "data": message[12:]}


def _replay(log: Log, item: Frame, topic: str) -> tuple[int, Frame | None]:
    """The first number to replay, and the gap before it."""
    since, last = item.get("since"), item.get("last")
    if since == "start":
        return log.first, None
    if last is not None:
        return max(log.first, log.top - last + 1), None
    if not isinstance(since, dict):
        return log.top + 1, None
    if since["epoch"] != log.epoch or since["seq"] > log.top:
        return log.first, {"type": "gap", "topic": topic, "epoch": log.epoch, "reason": "epoch_changed"}
    if since["seq"] + 1 < log.first:
        gap = {"type": "gap", "topic": topic, "epoch": log.epoch, "reason": "expired", "from": since["seq"] + 1}
        return log.first, {**gap, "to": log.first - 1}
    return since["seq"] + 1, None


def _matches(item: Frame, event: Frame) -> bool:
    return all(event.get("tags", {}).get(name) == value for name, value in (item.get("filter") or {}).items())


@asynccontextmanager
async def scripted_hub() -> AsyncIterator[ScriptedHub]:
    """A running hub on a free port."""
    hub = ScriptedHub()

    def gate(connection: ServerConnection, request: Request) -> Response | None:
        status = hub.reject(request)
        if status is None:
            return None
        response = connection.respond(http.HTTPStatus(status), "no\n")
        if status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    server = await serve(
        hub._serve, "127.0.0.1", 0, subprotocols=["hub.v1.json", "hub.v1.msgpack"], process_request=gate,  # type: ignore[list-item]
        ping_interval=None, compression=None, close_timeout=0.5,
    )  # fmt: skip
    hub._server = server
    try:
        yield hub
    finally:
        for peer in hub.peers:
            peer.drop()
        server.close()
        await server.wait_closed()
