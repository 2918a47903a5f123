"""The hub's HTTP door: addresses, requests with the token of the moment, refusals. Shared by a client's transports."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Coroutine, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
from msgspec import Struct

from hub.client.options import ClientOptions
from hub.client.refusals import refused_with
from hub.client.transport import ABNORMAL, CannotConnect, Ended

_SCHEMES = {"ws": "http", "wss": "https", "http": "http", "https": "https"}
_MOST_OF_A_REFUSAL = 65_536
_TICKET = "ticket"


class Answer(Struct, frozen=True):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """Empty when it is not there."""
        return self.headers.get(name, "")


class Door:
    """``url`` is the WebSocket's: what stands before its ``/ws`` stays. Nothing is opened before it is used."""

    def __init__(self, url: str, options: ClientOptions) -> None:
        self._url = url
        self._options = options
        self._client: httpx.AsyncClient | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._kept: set[asyncio.Task[None]] = set()
        self.calls = asyncio.Semaphore(max(1, options.max_posts - 1))
        """One for each call whose request is under way, of whichever connection."""

    def address(self, path: str, ticket: str | None = None) -> str:
        """Of ``path``, which begins with ``/v1/``."""
        parts = urlsplit(self._url)
        query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != _TICKET]
        if ticket is not None:
            query.append((_TICKET, ticket))
        prefix = parts.path.rpartition("/")[0]
        return urlunsplit((_SCHEMES.get(parts.scheme, parts.scheme), parts.netloc, prefix + path, urlencode(query), ""))

    async def send(self, address: str, body: bytes, token: str | None, accept: str) -> httpx.Response:
        """The answer's head; its body is still to be read, and the answer to be closed (``discard``).

        Raises ``CannotConnect``. No timeout but for connecting: the caller has one.
        """
        return await self._send("POST", address, {"Content-Type": "application/json", "Accept": accept}, body, token)

    async def _send(
        self, method: str, address: str, headers: Mapping[str, str], body: bytes, token: str | None
    ) -> httpx.Response:
        client = self._client = self._client or self._open()
        if token is not None:
            headers = {**headers, "Authorization": f"Bearer {token}"}
        try:
            return await client.send(client.build_request(method, address, content=body, headers=headers), stream=True)
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as problem:
            raise CannotConnect(_unreached(problem)) from problem

    async def post(self, address: str, body: bytes, token: str | None) -> bytes:
        """The body of a JSON answer. Raises ``CannotConnect``, whatever went wrong."""
        response = await self.send(address, body, token, "application/json")
        try:
            if response.status_code != 200 or not is_of(response, "application/json"):
                raise CannotConnect(await self.refusal(response))
            return await self.read(response, self._options.max_frame_bytes)
        finally:
            await response.aclose()

    async def ask(
        self, method: str, address: str, headers: Mapping[str, str], body: bytes, token: str | None
    ) -> Answer:
        """An answer, whatever it says. Raises ``CannotConnect`` when there is none."""
        response = await self._send(method, address, headers, body, token)
        try:
            return Answer(response.status_code, response.headers, await self.read(response, _MOST_OF_A_REFUSAL))
        finally:
            await response.aclose()

    async def read(self, response: httpx.Response, most: int) -> bytes:
        """The whole body. Raises ``CannotConnect`` when it breaks off, or is larger than ``most`` bytes."""
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > most:
                    raise CannotConnect(Ended(ABNORMAL, f"an answer of more than {most} bytes", in_the_way=True))
        except httpx.HTTPError as problem:
            raise CannotConnect(_unreached(problem)) from problem
        return bytes(body)

    async def refusal(self, response: httpx.Response) -> Ended:
        """What an answer means that is not what was asked for."""
        headers = response.headers
        content_type, retry_after = headers.get("Content-Type", ""), headers.get("Retry-After", "")
        body = await self.read(response, _MOST_OF_A_REFUSAL)
        return refused_with(response.status_code, content_type, retry_after, body, headers.get("WWW-Authenticate", ""))

    def discard(self, response: httpx.Response) -> None:
        """Closes an answer that nobody reads any more."""
        task = asyncio.ensure_future(response.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs what outlives a connection, until ``close``."""
        task = asyncio.create_task(work, name="hub-client-call")
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)
        return task

    async def close(self) -> None:
        """Nothing is asked any more."""
        for task in self._kept:
            task.cancel()
        await asyncio.gather(*self._kept, return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _open(self) -> httpx.AsyncClient:
        options = self._options
        # During a move there are two connections.
        most = 2 * (options.max_posts + 1) + options.max_uploads
        return httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=options.open_timeout_s),
            limits=httpx.Limits(max_connections=most, keepalive_expiry=options.http_idle_s),
            trust_env=options.use_system_proxy,
            verify=_trusted(options.use_system_proxy),
            follow_redirects=False,
            headers={"Accept-Encoding": "identity", "Cache-Control": "no-store"},
        )


@functools.cache
def _trusted(trust_env: bool) -> ssl.SSLContext:
    """Reading all certificates takes longer than all of the rest: a thousand clients that fall back together share."""
    return httpx.create_ssl_context(trust_env=trust_env)


def is_of(response: httpx.Response, media_type: str) -> bool:
    return str(response.headers.get("Content-Type", "")).partition(";")[0].strip() == media_type


def _unreached(problem: Exception) -> Ended:
    """Where nobody can be reached no transport helps; who has spoken and broken off is in the way."""
    silent = isinstance(problem, httpx.ConnectError)
    return Ended(ABNORMAL, f"cannot connect: {problem or type(problem).__name__}", in_the_way=not silent)
