"""Server-sent events and polling for clients that were written for a WebSocket: what ``RawClient`` takes for a socket.

``send`` says a frame by HTTP, ``recv`` gives the next frame that came, by whichever answer. What a socket says by its
own means is translated: a refusal before the welcome becomes an ``error`` and a close code, a ``close`` frame the code.
Nothing is read, and no poll is asked, unless somebody waits for a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import Close

from tests.support.raw_http import Head, HttpLine

POLL_S = 20
_CLOSE_CODES = {
    "unauthenticated": 4401,
    "token_expired": 4401,
    "forbidden": 4403,
    "bad_request": 4400,
    "too_large": 4413,
    "rate_limited": 4429,
    "unavailable": 4503,
}
_HELLO = '{"type":"hello","id":0}'


class _Frame(msgspec.Struct):
    """What is looked at on the way."""

    type: str
    id: Any = None
    token: str = ""
    session: str = ""
    code: int | str = 0
    reason: str = ""


class _Frames(msgspec.Struct, forbid_unknown_fields=True):
    """The answer of ``POST /v1/frames``."""

    frames: list[msgspec.Raw]


class _Polled(msgspec.Struct, forbid_unknown_fields=True):
    """The answer of a poll."""

    cursor: str
    frames: list[msgspec.Raw]


class HttpLink(ABC):
    """A connection by other means. ``path`` is where it is opened."""

    path = ""

    def __init__(
        self, ports: Sequence[int], headers: Mapping[str, str], query: str = "", link: socket.socket | None = None
    ) -> None:
        """``ports``: where the hub is; with several each request asks another node, as a load balancer would do it."""
        self.cursor = ""
        self._ports = itertools.cycle(ports)
        self._headers = dict(headers)
        self.opening_headers: Mapping[str, str] = self._headers
        """Of the first request, where a ticket may stand for the token."""
        self._query = query
        self._socket = link
        self._session = ""
        self._came: deque[bytes] = deque()
        self._end: Close | None = None
        """Why it ended; raised when everything that came has been taken."""
        self._opened = False
        self._reading: asyncio.Task[None] | None = None
        self._said: HttpLine | None = None
        """The line on which frames are said, one after the other."""
        self._saying = asyncio.Lock()
        self._calls: set[asyncio.Task[None]] = set()
        self._quiet: dict[str, bytes] = {}
        """The answers of pings, by what asks for their place among the frames."""
        self._fresh: dict[Any, str] = {}
        """Tokens that the hub has not accepted yet, by the frame that bore them."""
        self._numbers = itertools.count(1)

    # --- what RawClient asks

    async def send(self, message: Any) -> None:
        """Says a frame. Returns when the hub has taken it; a call's answer is not waited for."""
        assert isinstance(message, str), "these transports know JSON only, in one piece"
        if not self._opened:
            await self._open(message)
            return
        if self._end is not None:
            raise ConnectionClosedError(self._end, None)
        frame = _looked_at(message)
        if frame.type == "call":
            self._call(message)
        elif frame.type == "ping":
            await self._ping(message)
        else:
            if frame.type == "auth":
                self._fresh[frame.id] = frame.token
            async with self._saying:
                self._take(await self._say(message))

    async def recv(self) -> str:
        """The next frame. Raises ``ConnectionClosed`` with the code that a socket would have been closed with."""
        if not self._opened:
            await self._open(_HELLO)
        while not self._came:
            if self._end is not None:
                raise ConnectionClosedError(self._end, None)
            if self._reading is None:
                self._reading = asyncio.create_task(self._read(), name=f"reading {self.path}")
            done, _ = await asyncio.wait({self._reading, *self._calls}, return_when=asyncio.FIRST_COMPLETED)
            self._calls -= done
            if self._reading in done:
                self._reading = None
            for task in done:
                if not task.cancelled():
                    task.result()
        return self._came.popleft().decode()

    async def __aiter__(self) -> AsyncIterator[str]:
        while True:
            yield await self.recv()

    async def close(self) -> None:
        """Leaves without a word, as clients of HTTP do."""
        self.abort()
        tasks = [task for task in (self._reading, *self._calls) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        for line in self._lines():
            await line.closed()

    @property
    def transport(self) -> HttpLink:
        """What can be aborted."""
        return self

    def abort(self) -> None:
        """Leaves at once."""
        self._ended("left")
        for task in (self._reading, *self._calls):
            if task is not None:
                task.cancel()
        for line in self._lines():
            line.close()

    @property
    def close_code(self) -> int | None:
        """Why it ended."""
        return None if self._end is None else self._end.code

    async def wait_closed(self) -> None:
        """Waits for the end; what comes until then is dropped."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.recv()

    # --- what the transports do

    @abstractmethod
    async def _begin(self, hello: bytes) -> Head:
        """Opens; what came is taken when the status says that it worked. Returns the head of the answer."""

    @abstractmethod
    async def _read(self) -> None:
        """Waits until something came, and takes it."""

    @abstractmethod
    def _lines(self) -> list[HttpLine]:
        """All that are open."""

    @abstractmethod
    async def _refusal(self) -> bytes:
        """The body of the answer that refused."""

    async def _came_back(self) -> bool:
        """The hub knows no connection of the session: opens it anew, if that is how this transport works."""
        return False

    def _take(self, frames: list[bytes]) -> None:
        for raw in frames:
            frame = _looked_at(raw)
            if frame.type == "close":
                self._end = Close(int(frame.code), frame.reason)
                continue
            if frame.type == "welcome":
                self._session = frame.session
            fresh = self._fresh.pop(frame.id, "")
            if fresh and frame.type == "reply":
                self._headers["Authorization"] = f"Bearer {fresh}"
            # Whoever sent a ping waits for its answer in the place where a socket would have brought it.
            self._came.append(self._quiet.pop(frame.id, raw) if isinstance(frame.id, str) else raw)

    def _ended(self, why: str = "the answer ended without a close frame") -> None:
        if self._end is None:
            self._end = Close(1006, why)

    # --- saying

    async def _open(self, hello: str) -> None:
        self._opened = True
        head = await self._begin(hello.encode())
        if head.status != 200:
            self._refused(head, await self._refusal(), _looked_at(hello).id)

    def _refused(self, head: Head, body: bytes, frame_id: Any) -> None:
        assert head.headers["content-type"] == "application/problem+json", (head, body[:200])
        problem = msgspec.json.decode(body)
        assert problem["status"] == head.status, problem
        self._came.append(_error(problem, frame_id))
        self._end = Close(_CLOSE_CODES.get(problem["code"], 4500), problem["detail"])

    async def _ping(self, message: str) -> None:
        """The pong comes when everything else said so far was performed, and what that brought has been read."""
        mark = f"quiet mark {next(self._numbers)}"
        async with self._saying:
            (pong,) = await self._say(message)
            self._quiet[mark] = pong
            self._take(await self._say(f'{{"type":"unsubscribe","id":"{mark}","topics":[]}}'))

    def _call(self, message: str) -> None:
        async def call() -> None:
            line = await HttpLine.opened(next(self._ports))
            try:
                self._take(await self._say(message, line))
            finally:
                line.close()
                await line.closed()

        self._calls.add(asyncio.create_task(call(), name="call"))

    async def _say(self, message: str, line: HttpLine | None = None) -> list[bytes]:
        """Says one frame; what the answer holds."""
        answer = await self._post(message, line)
        if len(answer) == 1 and _is_gone(answer[0]) and await self._came_back():
            answer = await self._post(message, line)
        return answer

    async def _post(self, message: str, line: HttpLine | None) -> list[bytes]:
        body = f'{{"session":"{self._session}","frames":[{message}]}}'.encode()
        try:
            head, answer = await self._posted(body, line)
        except (OSError, EOFError) as error:
            self._ended(f"saying failed: {error!r}")
            raise ConnectionClosedError(self._end, None) from error
        if head.status == 200:
            return [bytes(raw) for raw in msgspec.json.decode(answer, type=_Frames).frames]
        assert head.headers["content-type"] == "application/problem+json", (head, answer[:200])
        return [_error(msgspec.json.decode(answer), _looked_at(message).id)]

    async def _posted(self, body: bytes, line: HttpLine | None) -> tuple[Head, bytes]:
        if line is None:
            if self._said is not None and self._said.idle:
                await _left(self._said)
                self._said = None
            if self._said is None:
                self._said = await HttpLine.opened(next(self._ports))
            line = self._said
        head = await line.ask("POST", "/v1/frames", self._headers, body)
        answer = await line.body()
        if head.headers.get("connection") == "close" and line is self._said:
            line.close()
            await line.closed()
            self._said = None
        return head, answer


class SseLink(HttpLink):
    """Server-sent events."""

    path = "/v1/sse"

    def __init__(self, *how: Any) -> None:
        super().__init__(*how)
        self._line: HttpLine | None = None
        self._kept = b""

    async def _begin(self, hello: bytes) -> Head:
        line = self._line = await HttpLine.opened(next(self._ports), self._socket)
        head = await line.ask("POST", self.path + self._query, self.opening_headers, hello)
        if head.status == 200:
            assert head.headers["content-type"].startswith("text/event-stream"), head
        return head

    async def _refusal(self) -> bytes:
        assert self._line is not None
        return await self._line.body()

    async def _read(self) -> None:
        assert self._line is not None
        try:
            piece = await self._line.piece()
        except (EOFError, OSError):
            piece = b""
        if not piece:
            self._ended()
            return
        *blocks, self._kept = (self._kept + piece).split(b"\n\n")
        for block in blocks:
            self._block(block)

    def _block(self, block: bytes) -> None:
        data: list[bytes] = []
        for line in block.split(b"\n"):
            name, _, value = line.partition(b": ")
            if name == b"data":
                data.append(value)
            elif name == b"id":
                self.cursor = value.decode()
            elif name == b"retry":
                assert value.isdigit(), block
            else:
                assert line.startswith(b":"), block
        if data:
            self._take([b"\n".join(data)])

    def _lines(self) -> list[HttpLine]:
        return [line for line in (self._line, self._said) if line is not None]


class PollLink(HttpLink):
    """Polling. A poll that waits is not given up when nobody waits for frames any more: its answer is kept."""

    path = "/v1/poll"

    def __init__(self, *how: Any) -> None:
        super().__init__(*how)
        self._asked: dict[int, HttpLine] = {}
        """By port."""
        self._body = b""
        self._polling = asyncio.Lock()

    async def _begin(self, hello: bytes) -> Head:
        return await self._ask("POST", self.path + self._query, self.opening_headers, hello)

    async def _refusal(self) -> bytes:
        return self._body

    async def _read(self) -> None:
        await self._poll(POLL_S)

    async def _came_back(self) -> bool:
        if self._reading is not None:
            return False
        await self._poll(0)
        return True

    async def _poll(self, wait_s: float) -> None:
        async with self._polling:
            target = f"{self.path}?cursor={quote(self.cursor)}&wait={wait_s:g}"
            try:
                head = await self._ask_by_newest_token(target)
            except (EOFError, OSError) as error:
                self._ended(f"polling failed: {error!r}")
                return
        if head.status != 200:
            self._refused(head, self._body, None)

    async def _ask_by_newest_token(self, target: str) -> Head:
        """A fresh token counts as soon as it is sent, if it is any good: a connection goes by its user's newest."""
        for token in [*self._fresh.values()]:
            head = await self._ask("GET", target, {**self._headers, "Authorization": f"Bearer {token}"})
            if head.status == 200:
                return head
        return await self._ask("GET", target, self._headers)

    async def _ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None) -> Head:
        port = next(self._ports)
        if port in self._asked and self._asked[port].idle:
            await _left(self._asked.pop(port))
        if port not in self._asked:
            self._asked[port] = await HttpLine.opened(port, self._socket)
            self._socket = None
        line = self._asked[port]
        head = await line.ask(method, target, headers, body)
        self._body = await line.body()
        if head.headers.get("connection") == "close":
            line.close()
            del self._asked[port]
        if head.status == 200:
            polled = msgspec.json.decode(self._body, type=_Polled)
            self.cursor = polled.cursor
            self._take([bytes(raw) for raw in polled.frames])
        return head

    def _lines(self) -> list[HttpLine]:
        return [line for line in (*self._asked.values(), self._said) if line is not None]


async def _left(line: HttpLine) -> None:
    line.close()
    await line.closed()


def _looked_at(message: str | bytes) -> _Frame:
    """What can be seen of a frame, however bad it is."""
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(message, type=_Frame)
    with contextlib.suppress(msgspec.DecodeError):
        plain = msgspec.json.decode(message)
        if isinstance(plain, dict):
            return _Frame(str(plain.get("type")), plain.get("id"))
    return _Frame("")


def _error(problem: dict[str, Any], frame_id: Any) -> bytes:
    """The ``error`` frame that says what a problem says."""
    frame = {name: problem[name] for name in ("code", "retry", "retry_after_ms", "details") if name in problem}
    return msgspec.json.encode({"type": "error", "id": frame_id, "message": problem["detail"], **frame})


def _is_gone(raw: bytes) -> bool:
    """Whether an answer says that the session has no connection."""
    frame = _looked_at(raw)
    return frame.type == "error" and frame.code == "not_found" and b"/v1/poll" in raw


LINKS: dict[str, type[HttpLink]] = {"sse": SseLink, "poll": PollLink}
