"""The server's requests: which behaviour applies, what is written, and who went away in the middle.

An ASGI application; that ``scope["state"]["transport"]`` is the connection's transport is ``server``'s doing.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from hub.fake_llm.behaviour import Behaviour, End, of_model
from hub.fake_llm.dialects import DIALECTS, Dialect
from hub.fake_llm.text import fake_text, halves, tokens

BEHAVIOUR_PATH = "/fake/behaviour"
STATS_PATH = "/fake/stats"
SIGN_OF_LIFE_S = 0.05
HUGE_CHARACTERS = 1_000_000
_MAX_BODY_BYTES = 16_777_216
_MAX_MODELS = 1000  # whose requests are counted for `times`
_KEPT_REQUESTS = 100
_JSON = "application/json"
_EVENTS = "text/event-stream; charset=utf-8"

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Seen(NamedTuple):
    """A request as it came. ``peer`` is the client's end of the connection."""

    dialect: str
    body: dict[str, Any]
    headers: dict[str, str]
    peer: tuple[str, int]


class FakeLlm:
    """One fake. ``stats`` counts requests, refused, finished, broken and gone; ``requests`` are the last of them.

    ``broken``: the fake ended an answer as it should not; ``gone``: the client went before the end. ``open`` counts the
    answers that are being written now.
    """

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.open = 0
        self.stats: Counter[str] = Counter()
        self.requests: deque[Seen] = deque(maxlen=_KEPT_REQUESTS)
        self._usual = behaviour or Behaviour()
        self._used: Counter[str] = Counter()

    def behave(self, behaviour: Behaviour) -> None:
        """From now on, for models whose name asks for nothing; counts for ``times`` begin anew."""
        self._usual = behaviour
        self._used.clear()

    def forget(self) -> None:
        """Begins anew: no requests, no counts, and answers in order."""
        self.stats.clear()
        self.requests.clear()
        self.behave(Behaviour())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        body = await _body(receive)
        method, path = scope["method"], scope["path"]
        if method == "POST" and path in DIALECTS:
            await self._answer(DIALECTS[path], body, _Exchange(scope, receive, send))
        elif method == "GET" and path == STATS_PATH:
            await _reply(send, 200, _JSON, msgspec.json.encode(self.stats))
        elif method == "PUT" and path == BEHAVIOUR_PATH:
            await self._take_behaviour(body, send)
        else:
            await _reply(send, 404, _JSON, b'{"error":{"type":"not_found_error","message":"no such path"}}')

    async def _take_behaviour(self, body: bytes, send: Send) -> None:
        try:
            self.behave(msgspec.json.decode(body, type=Behaviour))
        except (msgspec.DecodeError, ValueError) as error:
            await _reply(send, 400, _JSON, msgspec.json.encode({"error": {"message": str(error)}}))
        else:
            await _reply(send, 204, _JSON, b"")

    async def _answer(self, dialect: Dialect, body: bytes, exchange: _Exchange) -> None:
        self.stats["requests"] += 1
        try:
            # Not msgspec: a test may send anything that the libraries can.
            request = json.loads(body)
            model = str(request["model"])
            behaviour = self._behaviour(model)
        except (ValueError, KeyError, TypeError) as error:
            self.stats["refused"] += 1
            await _reply(exchange.send, 400, _JSON, msgspec.json.encode({"error": {"message": str(error)}}))
            return
        self.requests.append(Seen(dialect.name, request, exchange.headers, exchange.peer))
        self.open += 1
        try:
            await self._write_or_leave(dialect, request, behaviour, exchange)
        finally:
            self.open -= 1

    async def _write_or_leave(
        self, dialect: Dialect, request: dict[str, Any], behaviour: Behaviour, exchange: _Exchange
    ) -> None:
        writing = asyncio.ensure_future(self._write(dialect, request, behaviour, exchange))
        leaving = asyncio.ensure_future(exchange.left())
        await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not writing.done() and not exchange.dropped:
            self.stats["gone"] += 1
        for task in (writing, leaving):
            task.cancel()
        results = await asyncio.gather(writing, leaving, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def _behaviour(self, model: str) -> Behaviour:
        asked = of_model(model)
        behaviour, counted = (self._usual, "") if asked is None else (asked, model)
        if behaviour.times == 0:
            return behaviour
        if len(self._used) >= _MAX_MODELS:
            self._used.clear()
        self._used[counted] += 1
        if self._used[counted] <= behaviour.times:
            return behaviour
        return Behaviour(tokens=behaviour.tokens, tokens_per_s=behaviour.tokens_per_s)

    async def _write(self, dialect: Dialect, request: dict[str, Any], how: Behaviour, exchange: _Exchange) -> None:
        await asyncio.sleep(how.first_token_s)
        model = str(request["model"])
        if how.status != 200:
            self.stats["refused"] += 1
            headers = {
                "retry-after": how.retry_after,
                "retry-after-ms": how.retry_after_ms,
                "location": how.location,
            }
            await _reply(exchange.send, how.status, _JSON, dialect.error(how.status, how.error), headers)
        elif how.end == "bad_type":
            self.stats["broken"] += 1
            await _reply(exchange.send, 200, "text/html", b"<!doctype html><title>Sign in</title>data: {}\n\n")
        elif not request.get("stream"):
            self.stats["finished"] += 1
            text = fake_text(how.tokens)
            await _reply(exchange.send, 200, _JSON, dialect.whole(model, text, how.end, how.tokens))
        else:
            await exchange.begin(_EVENTS)
            async for part in _parts(dialect, model, how):
                await exchange.more(part)
            if how.end in ("cut", "reset"):
                self.stats["broken"] += 1
                await exchange.drop(reset=how.end == "reset")
            else:
                self.stats["finished" if how.end in ("finish", "length", "withheld", "huge") else "broken"] += 1
                await exchange.end()


async def _parts(dialect: Dialect, model: str, how: Behaviour) -> AsyncIterator[bytes]:
    """The bytes of one stream, at its pace; without those of an end that only the transport can make."""
    if how.end == "no_stream":
        yield b"I am sorry, Dave.\n\nI am afraid I cannot do that.\n"
        return
    yield dialect.opening(model)
    written = how.tokens if how.end == "finish" else min(how.tokens, how.after)
    for token in tokens(written):
        if how.tokens_per_s:
            await asyncio.sleep(1 / how.tokens_per_s)
        for piece in halves(token) if how.halves else (token,):
            yield dialect.token(model, piece)
    if how.end == "endless_line":
        yield b"data: "
    yield _last(dialect, model, how.end, written)
    while how.end in ("stall", "linger"):
        await asyncio.sleep(SIGN_OF_LIFE_S)
        yield dialect.sign_of_life()
    while how.end == "endless_line":
        await asyncio.sleep(0)
        yield b"x" * 65_536
    while how.end == "endless_event":
        await asyncio.sleep(0)
        yield (b"data: " + b"x" * 1000 + b"\r\n") * 64


def _last(dialect: Dialect, model: str, end: End, written: int) -> bytes:
    """What comes after the last token."""
    whole = dialect.token(model, "broken")
    match end:
        case "finish" | "length" | "withheld":
            return dialect.closing(model, end, written)
        case "linger":
            *most, _, _ = dialect.closing(model, end, written).split(b"\n\n")
            return b"\n\n".join((*most, b""))
        case "huge":
            return dialect.token(model, "é" * HUGE_CHARACTERS) + dialect.closing(model, "finish", written)
        case "error":
            return dialect.error_event()
        case "bad_json":
            return whole.rstrip()[:-9] + b"\n\n"
        case "bad_event":
            return (
                whole.partition(b"data: ")[0] + b'data: {"type":"content_block_delta","choices":[{"delta":null}]}\n\n'
            )
        case "bad_text":
            return whole.replace(b"broken", b"\xff\xfe\xc3(")
        case _:  # whose end is that no more comes, or the connection's
            return b""


class _Exchange:
    """One request and its answer, as far as an application can see them, and the transport beneath."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.send = send
        self._receive = receive
        self._transport: asyncio.Transport = scope["state"]["transport"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.peer: tuple[str, int] = scope["client"]
        self.dropped = False

    async def begin(self, kind: str) -> None:
        await self.send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind.encode())]})

    async def more(self, part: bytes) -> None:
        await self.send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self) -> None:
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def left(self) -> None:
        """Returns when the client has gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def drop(self, *, reset: bool) -> None:
        """Ends the connection without ending the answer; what was written before may be lost when it is reset."""
        self.dropped = True
        if reset:
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()
        await self.left()


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    more = True
    while more and len(body) <= _MAX_BODY_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


async def _reply(send: Send, status: int, kind: str, body: bytes, more: dict[str, str] | None = None) -> None:
    headers = {"content-type": kind, "content-length": str(len(body)), **(more or {})}
    raw = [(name.encode(), value.encode()) for name, value in headers.items() if value]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})
