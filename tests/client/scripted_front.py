"""A door in front of the scripted hub: WebSockets pass, are refused or vanish; beside them streams and polls."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from tests.client.scripted_hub import Frame, ScriptedHub, eventually, scripted_hub

Request = tuple[str, str, dict[str, str], bytes]
"""Method, target, headers, body."""

# What the connection of the session answers, wherever the frame came in.
OF_THE_CONNECTION = ("subscribe", "unsubscribe", "ack", "auth")


class HttpPeer:
    """A connection without a socket, with the face of ``Peer``."""

    def __init__(self, front: Front, kind: str, request: Request, hello: Frame) -> None:
        self.front = front
        self.kind = kind
        self.path = request[1]
        self.authorization = request[2].get("authorization")
        self.session = ""
        self.frames: list[Frame] = [hello]
        self.live: dict[str, Frame] = {}
        self.gone = asyncio.Event()
        self.outbox: list[Frame] = []
        self.news = asyncio.Event()
        self.polls = 0
        self.kept = b""
        self.writers: set[asyncio.StreamWriter] = set()

    def got(self, kind: str) -> list[Frame]:
        return [frame for frame in self.frames if frame["type"] == kind]

    async def send(self, frame: Frame) -> None:
        if frame["type"] == "welcome":
            self.session = frame["session"]
        if not self.gone.is_set():
            self.outbox.append(frame)
            self.news.set()

    async def close(self, code: int, reason: str = "") -> None:
        await self.send({"type": "close", "code": code, "reason": reason})
        self.gone.set()
        self.news.set()

    def drop(self) -> None:
        self.gone.set()
        self.news.set()
        for writer in self.writers:
            writer.transport.abort()


class Front:
    """``websockets``: pass, refuse (HTTP 403), swallow (no answer, ever) or mute (upgraded, then silence)."""

    def __init__(self, hub: ScriptedHub) -> None:
        self.hub = hub
        self.websockets: Literal["pass", "refuse", "swallow", "mute"] = "pass"
        self.refuse: Callable[[str], tuple[int, Frame | None] | None] = lambda _: None
        """By path: a status, and a problem of the hub's own or none."""
        self.refusals = 0
        """So many upgrades are refused, whatever ``websockets`` says."""
        self.upgrades = 0
        self.posts: list[list[Frame]] = []
        self.tokens: list[str | None] = []
        self.answered: Callable[[Frame], Awaitable[None]] | None = None
        self.lose_answers = 0
        self.most_wait_s = 60.0
        """What a poll that would wait longer gets then: 504."""
        self.waits: list[float] = []
        self._cursors = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self.server: asyncio.Server

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/in/front/ws"

    def peers(self, kind: str) -> list[Any]:
        """Connections over HTTP of this kind; those by WebSocket are in ``hub.peers`` too."""
        return [peer for peer in self.hub.peers if isinstance(peer, HttpPeer) and peer.kind == kind]

    async def peer(self, kind: str, number: int = 0) -> Any:
        await eventually(lambda: len(self.peers(kind)) > number, f"{kind} {number}")
        return self.peers(kind)[number]

    def drop_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("upgrade") == "websocket":
            await self._upgrade(head, reader, writer)
            return False
        path = urlsplit(target).path
        assert path.startswith("/in/front/v1/"), path
        path = path.removeprefix("/in/front")
        refused = self.refuse(path)
        if refused is not None:
            status, problem = refused
            kind = "application/problem+json" if problem is not None else "text/html"
            _respond(writer, status, kind, msgspec.json.encode(problem) if problem is not None else b"<p>no</p>")
            return True
        self.tokens.append(headers.get("authorization"))
        if path == "/v1/sse":
            return await self._sse((method, target, headers, body), reader, writer)
        serve = {"/v1/poll": self._poll, "/v1/frames": self._frames}[path]
        return await serve((method, target, headers, body), writer)

    async def _upgrade(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.upgrades += 1
        if self.websockets == "refuse" or self.refusals:
            self.refusals = max(0, self.refusals - 1)
            _respond(writer, 403, "text/html", b"<p>no such thing here</p>")
            await writer.drain()
            return
        if self.websockets == "swallow":
            await reader.read()
            return
        port = int(urlsplit(self.hub.url).port or 0)
        inner_reader, inner = await asyncio.open_connection("127.0.0.1", port)
        inner.write(head.replace(b"/in/front/ws", b"/ws"))
        try:
            if self.websockets == "mute":
                writer.write(await inner_reader.readuntil(b"\r\n\r\n"))
                await reader.read()
                return
            await asyncio.gather(_pump(reader, inner), _pump(inner_reader, writer))
        finally:
            inner.transport.abort()

    # --- what the hub does by HTTP

    async def _open(self, kind: str, request: Request) -> HttpPeer:
        hello = dict(msgspec.json.decode(request[3]))
        peer = HttpPeer(self, kind, request, hello)
        session = (hello.get("resume") or {}).get("session")
        for other in self.hub.peers:
            if session and not other.gone.is_set():
                await other.close(4409, "taken over")
        self.hub.peers.append(peer)  # type: ignore[arg-type]
        await self._take(peer, hello)
        return peer

    async def _take(self, peer: HttpPeer, frame: Frame) -> None:
        if self.hub.script is None or not await self.hub.script(peer, frame):  # type: ignore[arg-type]
            await self.hub.answer(peer, frame)  # type: ignore[arg-type]

    async def _sse(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        peer = await self._open("sse", request)
        leaving = asyncio.ensure_future(reader.read())
        leaving.add_done_callback(lambda _: peer.drop())
        peer.writers.add(writer)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n")
        writer.write(b": hello\n\nretry: 1000\n\n")
        try:
            while peer.outbox or not peer.gone.is_set():
                for frame in peer.outbox:
                    writer.write(b"data: " + msgspec.json.encode(frame) + b"\n\nid: abc\n\n")
                peer.outbox.clear()
                await writer.drain()
                await self._news(peer)
        finally:
            leaving.cancel()
            peer.gone.set()
        return False

    async def _poll(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        asked = msgspec.json.decode(request[3])
        if "cursor" not in asked:
            peer = await self._open("poll", request)
        else:
            at = int(asked["cursor"].partition("/")[0])
            peer = self.peers("poll")[at]
            if asked["cursor"] == f"{at}/{peer.polls - 1}":
                _respond(writer, 200, "application/json", peer.kept)
                return True
            self.waits.append(asked["wait"])
            if not peer.outbox and asked["wait"] > self.most_wait_s:
                await asyncio.sleep(self.most_wait_s)
                _respond(writer, 504, "text/html", b"<p>no</p>")
                return True
            if not peer.outbox and not peer.gone.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(asked["wait"]):
                        await self._news(peer)
        if peer.gone.is_set() and not peer.outbox:
            _respond(writer, 400, "application/problem+json", b'{"code":"bad_request","detail":"ask without it"}')
            return True
        peer.polls += 1
        answer = {"cursor": f"{self.peers('poll').index(peer)}/{peer.polls}", "frames": peer.outbox}
        peer.kept = msgspec.json.encode(answer)
        peer.outbox = []
        if self.lose_answers and "cursor" in asked:
            self.lose_answers -= 1
            return False
        _respond(writer, 200, "application/json", peer.kept)
        return True

    async def _news(self, peer: HttpPeer) -> None:
        peer.news.clear()
        if not peer.gone.is_set():
            await peer.news.wait()

    async def _frames(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        body = msgspec.json.decode(request[3])
        self.posts.append(body["frames"])
        answers: list[Frame] = []
        found = [p for p in self.hub.peers if isinstance(p, HttpPeer) and p.session == body["session"]]
        peer = next((one for one in found if not one.gone.is_set()), None)
        for frame in body["frames"]:
            if frame["type"] in OF_THE_CONNECTION:
                if peer is None:
                    error = {"type": "error", "code": "not_found", "message": "no connection", "retry": "never"}
                    answers.append(error | ({"id": frame["id"]} if "id" in frame else {}))
                else:
                    peer.frames.append(frame)
                    await self._take(peer, frame)
            else:
                here = HttpPeer(self, "frames", request, frame)
                await self._take(here, frame)
                answers += here.outbox
        _respond(writer, 200, "application/json", msgspec.json.encode({"frames": answers}))
        return True


def _respond(writer: asyncio.StreamWriter, status: int, kind: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status} So\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    writer.transport.abort()


@asynccontextmanager
async def scripted_front() -> AsyncIterator[Front]:
    """A running front before a running hub."""
    async with scripted_hub() as hub:
        front = Front(hub)
        front.server = await asyncio.start_server(front.serve, "127.0.0.1", 0)
        try:
            yield front
        finally:
            front.server.close()
            front.drop_all()
            for peer in hub.peers:
                peer.drop()
            await front.server.wait_closed()
