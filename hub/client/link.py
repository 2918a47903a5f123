"""Keeps one connection to the hub alive: reconnects with full jitter, moves at a drain slot or to another transport,
renews the token. Which transport comes next says the ``Ladder``.

Knows nothing of subscriptions: what a ``hello`` asks for and what frames mean is the ``LinkOwner``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from hub.client.advice import advice_after
from hub.client.backoff import Backoff
from hub.client.chores import Chores, first_of
from hub.client.connection import Connection
from hub.client.errors import ClientError
from hub.client.ladder import Ladder
from hub.client.options import ClientOptions, TransportName
from hub.client.renewal import renew
from hub.client.tokens import Tokens, TokenSource
from hub.client.transport import ABNORMAL, CannotConnect, Ended
from hub.client.upload_tus import TusWay
from hub.client.ways import Ways
from hub.client.wire import Drain, Expiring, Flags, HubFrame, Welcome, Wire
from hub.protocol.codes import CloseCode
from hub.protocol.frames import Hello, ResumeItem, SubscribeItem

logger = logging.getLogger("hub.client")

# So that what is asked for at about the same time is asked for together.
_GATHER_S = 0.01
# The hub's flag for having the socket at all.
_SOCKET_FLAG = "realtime_v2"


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

    def elsewhere(self, transport: str) -> Sequence[str]:
        """Transports over which something is to be had that is missing on this one. Empty: nothing is."""

    def kept_from(self, transport: str) -> bool:
        """Whether flags are known to keep something that is wanted from this transport."""

    def on_stuck(self, transport: str) -> None:
        """What is missing on this one is not to be had elsewhere now either."""


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
        self._tokens = Tokens(get_token, options)
        self._options = options
        self._owner = owner
        self._ways = Ways(url, wire, options)
        self._ladder = Ladder(options)
        self._backoff = Backoff(options)
        self._pause = Backoff(options)
        self._numbers = itertools.count(1)
        self._sinks = False
        self._sink_at = 0.0
        self._held: asyncio.TimerHandle | None = None
        self._left_for: frozenset[str] = frozenset()
        self._nudge = asyncio.Event()
        self._polled = False
        self._chores = Chores()
        self._changed = asyncio.Event()
        self._failure: ClientError | None = None
        self.session = session
        self.current: Connection | None = None
        self.flags: dict[str, bool] = {}
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
                lived_s, self._sinks = None, False
                connection = await self._connect(self._ladder.current, ticket=None)
                opened_at = connection.opened_at
                connection, ended = await self._stay(connection)
                now = asyncio.get_running_loop().time()
                lived_s = now - connection.opened_at
                if now - opened_at >= self._options.stable_after_s:
                    self._backoff.reset()
            except CannotConnect as problem:
                ended = problem.ended
            self.current = None
            delay_s = self._delay_s(ended, lived_s)
            self.last_problem = f"{ended.code} {ended.reason}" if ended.code != ABNORMAL else ended.reason
            self._owner.on_down(self.last_problem, delay_s)
            await asyncio.sleep(delay_s)

    def fall_back(self, names: Sequence[str]) -> bool:
        """The hub has something over these transports only. False: this client uses one of them, has none, or has just
        found that none works.
        """
        current = self.current
        if current is None or current.transport.name in names or not set(names) & set(self._options.transports):
            return False
        if asyncio.get_running_loop().time() < self._sink_at:
            return False
        self._sinks = True
        self._nudge.set()
        return True

    def by_requests(self) -> TusWay | None:
        """How bytes of uploads go now, when it is not over the connection."""
        if self.current is None or self.current.transport.name == "websocket":
            return None
        return TusWay(self._ways.door(), self._tokens.latest, self._options)

    def fail(self, failure: ClientError) -> None:
        """Nothing will come any more; whoever waits in ``ready`` is told."""
        self._failure = failure
        self._changed.set()

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Runs something small beside the reader; its failure is logged, its end awaited by ``close``."""
        self._chores.spawn(work)

    async def close(self) -> None:
        """Closes the connection and stops what still runs."""
        if self.current is not None:
            await self.current.close()
        await self._chores.close()
        await self._ways.close()

    # --- connecting

    async def _connect(self, name: TransportName, ticket: str | None) -> Connection:
        """A connection that has been welcomed. Raises ``CannotConnect`` and ``HubClosed``."""
        # Posting takes a token each time; a ticket is for one request.
        use_token = ticket is None or (name != "websocket" and self._tokens.given)
        token = await self._tokens.fresh() if use_token else None
        options = self._options
        within_s = options.try_next_after_s if self._ladder.others else options.open_timeout_s
        transport = self._ways.transport(name, token, ticket)
        try:
            await transport.open(lambda: self._hello(transport.wire), min(within_s, options.open_timeout_s))
            connection = Connection(transport, options, self._on_frame, self._numbers)
            try:
                await connection.greeted(min(within_s, options.welcome_timeout_s))
            except BaseException:
                await connection.close()
                raise
        except BaseException as problem:
            self._release()
            if self.current is not None:
                self.current.transport.resume()
            if not isinstance(problem, CannotConnect):
                raise
            logger.info("could not connect by %s: %s", name, problem)
            raise
        now = asyncio.get_running_loop().time()
        self._ladder.welcomed(name, now)
        self._pause.reset()
        self._heed_return(now)
        if self._polled:
            # A poll that is still under way somewhere takes the session for the connection that it belonged to.
            connection.contested_at = now
        self._polled = name == "poll"
        return connection

    async def _hello(self, wire: Wire) -> Hello:
        if self.current is not None:
            loop, transport = asyncio.get_running_loop(), self.current.transport
            self.current.contested_at = loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.settle_s):
                    await transport.settle()
            # Whatever is tried may hang; what there is goes on until the welcome has come.
            self._held = loop.call_later(self._options.settle_s, transport.resume)
        return Hello(
            id=0,
            resume=ResumeItem(self.session) if self.session else None,
            subscribe=[wire.raw(item) for item in self._owner.hello_items()],
        )

    def _release(self) -> None:
        if self._held is not None:
            self._held.cancel()

    def _on_frame(self, connection: Connection, frame: HubFrame) -> None:
        if isinstance(frame, Welcome):
            self._release()
            self._tokens.accepted()
            self.session = frame.session
            self.current = connection
            self._note_what_is_off()
            self.flags = dict(frame.flags)
            self._owner.on_welcome(connection, frame)
            self._changed.set()
        elif connection is not self.current:
            # A connection that was left behind, or one that has not been welcomed yet.
            return
        elif isinstance(frame, Expiring):
            self.spawn(renew(connection, self._tokens, self._options, frame.expires_in_ms / 1000))
        else:
            if isinstance(frame, Flags):
                self._heed(connection, frame)
            self._owner.on_frame(frame)

    def _heed(self, connection: Connection, frame: Flags) -> None:
        """Flags have changed: this client may come up again, or stay where it was to leave."""
        self.flags.update(frame.flags)
        above = self._ladder.above
        if any(frame.flags.values()) and above and not self._barred(above[0]):
            self._ladder.climb_soon(asyncio.get_running_loop().time())
            self._nudge.set()
        if frame.flags.get(_SOCKET_FLAG) and connection.draining.done() and connection.draining.result().fallback:
            connection.stay()
            self._nudge.set()

    def _heed_return(self, now: float) -> None:
        """What this client has left for may have been switched on again while it was on its way."""
        left_for, self._left_for = self._left_for, frozenset()
        above = self._ladder.above
        if above and any(self.flags.get(flag) for flag in left_for) and not self._barred(above[0]):
            self._ladder.climb_soon(now)

    def _note_what_is_off(self) -> None:
        self._left_for |= {flag for flag, on in self.flags.items() if not on}

    def _barred(self, name: TransportName) -> bool:
        """Whether flags are known to make an attempt useless."""
        return (name == "websocket" and self.flags.get(_SOCKET_FLAG) is False) or self._owner.kept_from(name)

    # --- staying and moving

    async def _stay(self, connection: Connection) -> tuple[Connection, Ended]:
        """The last connection, and its end. Moves on to another one, with the old one still open if possible."""
        while True:
            successor = await self._successor(connection)
            if successor is not None:
                self._ladder.lasted(connection.transport.name, asyncio.get_running_loop().time() - connection.opened_at)
                self.spawn(self._retire(connection))
                connection = successor
            elif connection.ended.done():
                ended = connection.ended.result()
                # 4409 would be our own half-done move, and no reason to give up.
                ours = ended.code == CloseCode.TAKEN_OVER and self._is_contested(connection)
                return connection, Ended(CloseCode.DRAINING, "moving") if ours else ended

    def _is_contested(self, connection: Connection) -> bool:
        at = connection.contested_at
        return at is not None and asyncio.get_running_loop().time() - at < self._options.contested_s

    async def _successor(self, connection: Connection) -> Connection | None:
        """Waits for a reason to leave. None: it came to nothing, or the connection has ended."""
        loop = asyncio.get_running_loop()
        climb_at = self._ladder.climb_at
        until_s = None if climb_at is None else max(0.0, climb_at - loop.time())
        if not self._sinks:
            self._nudge.clear()
            reasons = (connection.ended, connection.draining, self._nudge, connection.transport.differs)
            await first_of(*reasons, timeout_s=until_s)
        if connection.ended.done():
            return None
        if connection.draining.done():
            return await self._move(connection, connection.draining.result())
        if self._sinks:
            return await self._sink(connection)
        if connection.transport.differs.is_set():
            return await self._begin_anew(connection)
        if self._ladder.climb_at is not None and self._ladder.climb_at <= loop.time():
            return await self._climb(connection)
        return None

    async def _move(self, connection: Connection, drain: Drain) -> Connection | None:
        """At its slot, because the hub says so; not if it says before then that this client may stay."""
        loop = asyncio.get_running_loop()
        slot = loop.time() + drain.after_ms / 1000
        while (left_s := slot - loop.time()) > 0 and not connection.ended.done() and connection.draining.done():
            self._nudge.clear()
            await first_of(connection.ended, self._nudge, timeout_s=left_s)
        await connection.finish()
        if not connection.draining.done():
            return None
        connection.contested_at = loop.time()
        if drain.fallback:
            self._note_what_is_off()
            self._ladder.fall_to(drain.fallback, loop.time())
        # The ticket outlives the old connection, so it is used even when that one has just been closed.
        names = self._usable(drain.fallback or ()) or [self._ladder.current]
        successor = await self._first_that_works(names, drain.ticket or None)
        while successor is None and connection.draining.done() and not connection.ended.done():
            self._nudge.clear()
            await first_of(connection.ended, self._nudge, timeout_s=None)
        if successor is None and not connection.ended.done():
            self._ladder.welcomed(connection.transport.name, loop.time())  # it may stay after all
        return successor

    async def _sink(self, connection: Connection) -> Connection | None:
        """To where the hub still has what it does not have here. Until that works, the rest goes on here."""
        await first_of(connection.ended, timeout_s=random.uniform(0, self._options.move_jitter_s))
        await connection.finish()
        self._sinks = False
        names = self._usable(self._owner.elsewhere(connection.transport.name))
        if not names:
            return None  # it is on again, or something else has moved this client
        self._note_what_is_off()
        successor = await self._first_that_works(names, None)
        if successor is None:
            self._sink_at = asyncio.get_running_loop().time() + self._pause.next_s()
            self._owner.on_stuck(connection.transport.name)
        return successor

    async def _begin_anew(self, connection: Connection) -> Connection | None:
        """Says by a ``hello`` what this client wants to have."""
        await asyncio.sleep(_GATHER_S)
        connection.transport.differs.clear()
        successor = await self._first_that_works([connection.transport.name], None)
        if successor is None:
            await first_of(connection.ended, connection.draining, timeout_s=self._pause.next_s())
            connection.transport.differs.set()
        else:
            successor.unsteady = connection.unsteady
        return successor

    async def _climb(self, connection: Connection) -> Connection | None:
        names = [name for name in self._ladder.above if not self._barred(name)]
        self._ladder.too_early = True  # unless the attempt comes to another end
        attempt = asyncio.ensure_future(self._first_that_works(names, None))
        try:
            await first_of(connection.ended, attempt, timeout_s=None)
            # That it has ended may be this attempt's own doing: then the welcome is near.
            await asyncio.wait({attempt}, timeout=self._options.settle_s)
        finally:
            attempt.cancel()
            await asyncio.wait({attempt})
        successor = None if attempt.cancelled() else attempt.result()
        if successor is None:
            self._ladder.not_climbed(asyncio.get_running_loop().time(), in_vain=not all(map(self._barred, names)))
        return successor

    def _usable(self, names: Sequence[str]) -> list[TransportName]:
        return [name for name in self._options.transports if name in names]

    async def _first_that_works(self, names: Sequence[TransportName], ticket: str | None) -> Connection | None:
        for name in names:
            try:
                return await self._connect(name, ticket)
            except CannotConnect as problem:
                self._ladder.too_early = problem.ended.disabled or problem.ended.code == CloseCode.TAKEN_OVER
                ticket = None  # it may have been used
        return None

    async def _retire(self, connection: Connection) -> None:
        """The hub closes what was taken over (4409); answers that are still under way may come until then."""
        try:
            await connection.answered(self._options.drain_linger_s)
            await connection.close()
        finally:
            connection.abort("moved to another connection")

    def _delay_s(self, ended: Ended, lived_s: float | None) -> float:
        """Until the next attempt, over whichever transport. Raises ``HubClosed`` when there is no use in one."""
        if ended.disabled:
            self._left_for = frozenset((_SOCKET_FLAG,))
        counts = self._ladder.failed(ended, asyncio.get_running_loop().time(), lived_s)
        if counts is None:
            return self._backoff.next_s("now")
        return max(self._backoff.next_s(advice_after(counts, self._tokens)), counts.retry_after_s)
