"""The two ways to bring bytes, by hand: a socket whose chunks this module packs itself, and tus by plain requests.

Both check what they are told as it comes: an acknowledged offset never goes back, and nobody is told a fault.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgspec
from websockets.exceptions import WebSocketException

from hub.protocol.codec import Encoding
from hub.protocol.frames import Credit, Error, Reply
from tests.support.raw_client import RawClient, raw_client

ANSWER_S = 8.0
"""Longer than a node waits for anything; whoever hears nothing for so long goes elsewhere."""

_LATER = {"unavailable", "timeout"}
_BUSY = {429, 502, 503, 504}


class Lost(Exception):
    """The way is gone, or leads nowhere now: go on by another."""


class Refused(Exception):
    """An answer that says no."""

    def __init__(self, code: str, details: dict[str, Any] | None, text: str = "") -> None:
        super().__init__(f"{code} {details} {text}")
        self.code = code
        self.details = details or {}


def packed(encoding: Encoding, handle: int, offset: int, data: bytes) -> bytes:
    """A chunk as it goes over the wire."""
    if encoding is Encoding.MSGPACK:
        return msgspec.msgpack.encode({"type": "chunk", "handle": handle, "offset": offset, "data": data})
    return struct.pack("!IQ", handle, offset) + data


class Grip:
    """What one connection was told of one handle."""

    def __init__(self) -> None:
        self.number = 0
        self.offset = 0
        """Everything below is acknowledged."""
        self.window = 0
        self.chunk_bytes = 1
        self.credits = 0
        self.trouble: Error | None = None
        """The last error, until somebody has dealt with it."""
        self.changed = asyncio.Event()

    @property
    def limit(self) -> int:
        """Bytes from here on may not be sent yet."""
        return self.offset + self.window

    def begin(self, answer: dict[str, Any]) -> None:
        """What create or resume said; a credit may have come already."""
        self.number = answer["handle"]
        self.chunk_bytes = answer["chunk_bytes"]
        self.hear(answer["offset"], answer["window"])

    def hear(self, offset: int, window: int) -> None:
        """A credit."""
        if offset >= self.offset:
            self.offset, self.window = offset, window
        self.changed.set()

    async def change(self) -> None:
        """Waits for the next credit or error. Raises ``Lost`` when none comes."""
        self.changed.clear()
        try:
            async with asyncio.timeout(ANSWER_S):
                await self.changed.wait()
        except TimeoutError:
            raise Lost("no credit") from None


class SocketLine:
    """A connection that said hello; what comes is sorted by a task until the connection is lost."""

    def __init__(self, client: RawClient, complain: Callable[[str], None]) -> None:
        self.client = client
        self._complain = complain
        self._ids = itertools.count(1)
        self._grips: dict[int, Grip] = {}
        self._waiting: dict[Any, asyncio.Future[Reply | Error]] = {}
        self._gone = False

    async def listen(self) -> None:
        """Until it is lost."""
        try:
            while True:
                self._sort(await self.client.receive(ANSWER_S))
        except (AssertionError, WebSocketException, OSError):
            pass  # closed, or silent although heartbeats are due
        finally:
            self._gone = True
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(Lost("while an answer was awaited"))
                    waiting.exception()
            for grip in self._grips.values():
                grip.changed.set()

    def _sort(self, frame: Any) -> None:
        self.client.came.clear()
        self.client.raw.clear()
        if isinstance(frame, Credit):
            grip = self._grip(frame.handle)
            if frame.offset < grip.offset:
                self._complain(f"credit went back from {grip.offset} to {frame.offset}")
            grip.credits += 1
            grip.hear(frame.offset, frame.window)
        elif isinstance(frame, Error) and frame.id is None:
            if frame.details is None or "handle" not in frame.details:
                self._complain(f"an error about nothing: {frame}")
                return
            grip = self._grip(frame.details["handle"])
            grip.trouble = frame
            grip.changed.set()
        elif isinstance(frame, Reply | Error) and (waiting := self._waiting.get(frame.id)) and not waiting.done():
            waiting.set_result(frame)

    def _grip(self, number: int) -> Grip:
        return self._grips.setdefault(number, Grip())

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result. Raises ``Refused``; ``Lost`` when there is no answer, or the answer is "later"."""
        number = next(self._ids)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send(self.client.encode({"type": "call", "id": number, "method": method, "params": params}))
            async with asyncio.timeout(ANSWER_S):
                answer = await waiting
        except TimeoutError:
            raise Lost(f"{method} was not answered") from None
        finally:
            del self._waiting[number]
        if isinstance(answer, Error):
            if answer.code in _LATER:
                raise Lost(f"{method}: {answer.code}")
            raise Refused(answer.code, answer.details, answer.message)
        return dict(answer.result)

    async def begin(self, method: str, **params: Any) -> tuple[Grip, dict[str, Any]]:
        """``upload.create`` or ``upload.resume``: a handle, and the answer."""
        answer = await self.call(method, **params)
        grip = self._grip(answer["handle"])
        grip.begin(answer)
        return grip, answer

    async def chunk(self, grip: Grip, offset: int, data: bytes) -> None:
        """Sends one, whatever the hub thinks of it. Raises ``Lost``."""
        await self._send(packed(self.client.encoding, grip.number, offset, data))

    async def _send(self, message: str | bytes) -> None:
        if self._gone:
            raise Lost("the connection")
        try:
            async with asyncio.timeout(ANSWER_S):
                await self.client.socket.send(message)
        except (WebSocketException, OSError, TimeoutError):
            raise Lost("while sending") from None

    async def change(self, grip: Grip) -> None:
        """As ``Grip.change``, and ``Lost`` when the connection is."""
        if not self._gone:
            await grip.change()
        if self._gone:
            raise Lost("while waiting for credit")


@contextlib.asynccontextmanager
async def socket_line(
    port: int, token: str, encoding: Encoding, complain: Callable[[str], None]
) -> AsyncIterator[SocketLine]:
    """Raises ``Lost`` when there is no way in."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(ANSWER_S):
                client = await stack.enter_async_context(
                    raw_client(f"ws://127.0.0.1:{port}/ws", token, encoding=encoding)
                )
                await client.hello()
        except (AssertionError, WebSocketException, OSError, TimeoutError) as error:
            raise Lost(f"no way in: {error!r}") from None
        line = SocketLine(client, complain)
        listening = asyncio.create_task(line.listen())
        try:
            yield line
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


class TusLine:
    """tus 1.0.0 by plain requests. Raises ``Lost`` when there is no answer, or the answer is "later"."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        """Any answer that is not "later"."""
        headers = {"Tus-Resumable": "1.0.0", **how.pop("headers", {})}
        try:
            answer = await self._http.request(method, path, headers=headers, **how)
        except (httpx.TransportError, OSError) as error:
            raise Lost(f"{method}: {error!r}") from None
        if answer.status_code in _BUSY:
            raise Lost(f"{method}: {answer.status_code}")
        return answer

    async def create(self, size: int, metadata: dict[str, str], first: bytes | None = None, **more: str) -> str:
        """The new upload's name. ``first``: bytes that come along."""
        headers = {"Upload-Length": str(size), "Upload-Metadata": encoded(metadata), **more}
        if first is not None:
            headers["Content-Type"] = "application/offset+octet-stream"
        answer = await self.ask("POST", "/v1/uploads", headers=headers, content=first or b"")
        self.require(answer, 201)
        return answer.headers["Location"].rpartition("/")[2]

    async def offset(self, upload: str) -> int | None:
        """What is acknowledged; None: the upload is no more."""
        answer = await self.ask("HEAD", f"/v1/uploads/{upload}")
        if answer.status_code in (404, 410):
            return None
        self.require(answer, 200)
        return int(answer.headers["Upload-Offset"])

    async def patch(self, upload: str, offset: int, body: Any, *, checksum: str = "") -> httpx.Response:
        """Brings bytes: whole, or an async iterator of pieces."""
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        if checksum:
            headers["Upload-Checksum"] = checksum
        return await self.ask("PATCH", f"/v1/uploads/{upload}", headers=headers, content=body)

    @staticmethod
    def require(answer: httpx.Response, status: int) -> None:
        """Raises ``Refused`` when the answer is another."""
        if answer.status_code != status:
            raise Refused(str(answer.status_code), None, f"{answer.request.method} {answer.text[:300]}")


def encoded(metadata: dict[str, str]) -> str:
    """``Upload-Metadata``."""
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in metadata.items())


def checksum(data: bytes, algorithm: str = "sha256") -> str:
    """``Upload-Checksum``."""
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


@contextlib.asynccontextmanager
async def tus_line(port: int, token: str) -> AsyncIterator[TusLine]:
    """Connects when it is used."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=ANSWER_S) as http:
        yield TusLine(http)
