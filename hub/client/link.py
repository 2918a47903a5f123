"""Keeps one connection to the hub alive: reconnects with full jitter, moves at a drain slot, renews the token.

Knows nothing of subscriptions: what a ``hello`` asks for and what frames mean is the ``LinkOwner``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit, urlunsplit

from hub.client.backoff import Backoff
from hub.client.connection import Connection
from hub.client.errors import ClientError, ConnectionLost, HubClosed, RequestRefused
from hub.client.options import ClientOptions
from hub.client.transport import ABNORMAL, CannotConnect, Ended
from hub.client.websocket import WebSocketTransport
from hub.client.wire import Drain, Expiring, HubFrame, Welcome, Wire
from hub.protocol.codes import CLOSE_SPECS, CloseCode, Reconnect
from hub.protocol.frames import Auth, Hello, ResumeItem, SubscribeItem

logger = logging.getLogger("hub.client")

TokenSource = Callable[[], "str | Awaitable[str]"]

# A second refusal in a row means that a fresh token did not help either.
_MAX_TOKEN_REFUSALS = 2
# HTTP statuses of the handshake that pass by themselves, beside all of 5xx.
_PASSING_STATUS = frozenset((408, 425, 429))


class LinkOwner(Protocol):
    """What the link needs from above. Called on the event loop; must not block."""

    def hello_items(self) -> list[SubscribeItem]:
        """The subscriptions that the next ``hello`` asks for."""

    def on_welcome(self, connection: Connection, welcome: Welcome) -> None:
        """``connection`` is the current one from here on."""

    def on_frame(self, frame: HubFrame) -> None:
        """A frame of the current connection that is neither an answer nor the link's own business."""

    def on_down(self, reason: str, retry_in_s: float) -> None:
        """There is no connection; the next attempt comes after ``retry_in_s``."""


class Link:
    """One client's way to the hub. ``run`` is awaited by its owner and ends only by ``HubClosed`` or cancellation."""

    def __init__(
        self,
        url: str,
        get_token: TokenSource | None,
        wire: Wire,
        options: ClientOptions,
        owner: LinkOwner,
        session: str | None,
    ) -> None:
        self._url = url
        self._get_token = get_token
        self._wire = wire
        self._options = options
        self._owner = owner
        self._backoff = Backoff(options)
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._failure: ClientError | None = None
        self._token: str | None = None
        self._token_refusals = 0
        self.session = session
        self.current: Connection | None = None
        self.last_problem = ""

    async def ready(self) -> Connection:
        """The current connection, as soon as there is one. Raises ``HubClosed`` when there will be none any more."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self.current is not None and not self.current.ended.done():
                return self.current
            self._changed.clear()
            await self._changed.wait()

    async def run(self) -> None:
        """Connects and stays connected. Raises ``HubClosed`` when trying again is no use."""
        while True:
            try:
                connection = await self._connect(ticket=None)
                ended = await self._stay(connection)
                if asyncio.get_running_loop().time() - connection.opened_at >= self._options.stable_after_s:
                    self._backoff.reset()
            except CannotConnect as problem:
                ended = problem.ended
            self.current = None
            delay_s = max(self._backoff.next_s(self._advice(ended)), ended.retry_after_s)
            self.last_problem = f"{ended.code} {ended.reason}" if ended.code != ABNORMAL else ended.reason
            self._owner.on_down(self.last_problem, delay_s)
            await asyncio.sleep(delay_s)

    def fail(self, failure: ClientError) -> None:
        """Nothing will come any more; whoever waits in ``ready`` is told."""
        self._failure = failure
        self._changed.set()

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Runs something small beside the reader; its failure is logged, its end awaited by ``close``."""

        async def kept() -> None:
            try:
                await work
            except (ConnectionLost, RequestRefused) as problem:
                logger.info("a frame could not be sent: %s", problem)
            except Exception:
                logger.exception("a background task of the client failed")

        task = asyncio.create_task(kept())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Closes the connection and stops what still runs."""
        if self.current is not None:
            await self.current.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- connecting

    async def _connect(self, ticket: str | None) -> Connection:
        token = await self._fresh_token() if ticket is None else None
        url = self._url if ticket is None else _with_query(self._url, ticket)
        transport = WebSocketTransport(url, token, self._wire, self._options)
        await transport.open(lambda: self._hello(transport.wire), self._options.open_timeout_s)
        connection = Connection(transport, self._options, self._on_frame)
        try:
            await connection.greeted(self._options.welcome_timeout_s)
        except BaseException:
            await connection.close()
            raise
        return connection

    def _hello(self, wire: Wire) -> Hello:
        return Hello(
            id=0,
            resume=ResumeItem(self.session) if self.session else None,
            subscribe=[wire.raw(item) for item in self._owner.hello_items()],
        )

    async def _fresh_token(self) -> str | None:
        if self._get_token is None:
            return None
        refused, self._token = self._token if self._token_refusals else None, None
        try:
            async with asyncio.timeout(self._options.token_timeout_s):
                given = self._get_token()
                self._token = await given if inspect.isawaitable(given) else given
        except Exception as problem:
            raise CannotConnect(Ended(ABNORMAL, f"get_token failed: {type(problem).__name__}: {problem}")) from problem
        if refused is not None and self._token == refused:
            raise HubClosed(CloseCode.UNAUTHENTICATED, "the hub refused this token, and get_token has no other")
        return self._token

    def _on_frame(self, connection: Connection, frame: HubFrame) -> None:
        if isinstance(frame, Welcome):
            self._token_refusals = 0
            self.session = frame.session
            self.current = connection
            self._owner.on_welcome(connection, frame)
            self._changed.set()
        elif connection is not self.current:
            # A connection that was left behind, or one that has not been welcomed yet.
            return
        elif isinstance(frame, Expiring):
            self.spawn(self._renew(connection, frame.expires_in_ms / 1000))
        else:
            self._owner.on_frame(frame)

    async def _renew(self, connection: Connection, within_s: float) -> None:
        """Brings a fresh token; tried again until the old one has ended, then the hub closes with 4401."""
        backoff = Backoff(self._options)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not connection.ended.done():
                    try:
                        await self._authenticate(connection)
                        break
                    except (CannotConnect, RequestRefused) as problem:
                        logger.warning("the token could not be renewed: %s", problem)
                    await asyncio.sleep(backoff.next_s())

    async def _authenticate(self, connection: Connection) -> None:
        token = await self._fresh_token()
        if token is not None:
            await connection.request(lambda number: Auth(id=number, token=token))

    # --- staying and moving

    async def _stay(self, connection: Connection) -> Ended:
        """Until the connection has ended; a drain moves on to another one, with the old one still open if possible."""
        while True:
            either: list[asyncio.Future[Any]] = [connection.ended, connection.draining]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if connection.ended.done():
                return connection.ended.result()
            successor = await self._move(connection, connection.draining.result())
            if successor is None:
                ended = await connection.ended
                # 4409 would be our own half-done move, and no reason to give up.
                return ended if ended.code != CloseCode.TAKEN_OVER else Ended(CloseCode.DRAINING, "moving")
            self.spawn(self._retire(connection))
            connection = successor

    async def _move(self, connection: Connection, drain: Drain) -> Connection | None:
        await asyncio.wait({connection.ended}, timeout=drain.after_ms / 1000)
        # The ticket outlives the old connection, so it is used even when that one has just been closed.
        try:
            return await self._connect(ticket=drain.ticket)
        except CannotConnect as problem:
            logger.info("could not move to another connection: %s", problem)
            return None

    async def _retire(self, connection: Connection) -> None:
        """The hub closes what was taken over (4409); answers that are still under way may come until then."""
        try:
            if connection.waiting:
                await asyncio.wait({connection.ended}, timeout=self._options.drain_linger_s)
            await connection.close()
        finally:
            connection.abort("moved to another connection")

    def _advice(self, ended: Ended) -> Reconnect:
        """What the end of a connection means. Raises ``HubClosed`` when trying again unchanged is no use."""
        if ended.http_status is not None:
            return self._advice_http(ended.http_status, ended.reason)
        try:
            advice = CLOSE_SPECS[CloseCode(ended.code)].reconnect
        except ValueError:
            # Not the hub's own word: a proxy, a dying process, a lost network.
            return "later"
        if ended.code == CloseCode.UNAUTHENTICATED:
            return self._advice_token(ended)
        if advice == "never":
            raise HubClosed(ended.code, ended.reason)
        return advice

    def _advice_http(self, status: int, reason: str) -> Reconnect:
        if status == 401:
            return self._advice_token(Ended(CloseCode.UNAUTHENTICATED, reason))
        if status == 403:
            raise HubClosed(CloseCode.FORBIDDEN, reason)
        if status < 500 and status not in _PASSING_STATUS:
            raise HubClosed(status, reason)
        return "later"

    def _advice_token(self, ended: Ended) -> Reconnect:
        self._token_refusals += 1
        if self._get_token is None or self._token_refusals >= _MAX_TOKEN_REFUSALS:
            raise HubClosed(ended.code, ended.reason)
        return "now"


def _with_query(url: str, ticket: str) -> str:
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode({"ticket": ticket}))))
    return urlunsplit(parts._replace(query=query))
