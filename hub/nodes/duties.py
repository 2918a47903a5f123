"""Duties: work for one organisation that one node does at a time, and another adopts when that node dies.

Owns what this node has and the tasks that keep it. The leases are ``hub.nodes.duty_table``'s, the work and where it
stands are the service's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from hub.config import Settings
from hub.errors import HubError, unavailable
from hub.fanout.control import Signal
from hub.nodes.duty_table import DUTIES_PER_BATCH, DutyTable, End, cut
from hub.orgs import OrgId, duty_text, parse_duty
from hub.redis import Redis
from hub.telemetry import DutyMetrics

_TURNS_PER_LEASE: Final = 4
_RETRIES_PER_TURN: Final = 4
# When a sweep came back full, the next one follows so soon; the pause is the other nodes' chance to take some.
_SWEEPS_PER_TURN: Final = 20

OnDuty = Callable[[OrgId, str], None]
OnSignal = Callable[[OrgId, str, dict[str, Any]], None]
Send = Callable[[Signal], Awaitable[None]]

_log = structlog.get_logger(__name__)


class Duties:
    """The duties of one purpose on this node.

    A duty is done at least once: each is some living node's, and that node learns of it. It is one node's at a time as
    far as a lease can say: a node whose event loop hangs for longer than the lease, or that alone cannot reach Redis,
    learns too late that it has lost its duty. What a duty writes should therefore be refused by itself when
    somebody else went on (``append`` with ``after``). A duty that was just done may be adopted all the same, when its
    node dies before the release went out: who adopts looks whether there is anything left to do.

    While Redis is away nobody loses a duty; see ``duty_clock.lua``. Callbacks are synchronous and run on the event
    loop; what they raise is logged.
    """

    def __init__(
        self,
        purpose: str,
        settings: Settings,
        metrics: DutyMetrics,
        table: DutyTable,
        send: Send,
        *,
        hands_over: bool = True,
    ) -> None:
        self._purpose = purpose
        self._hands_over = hands_over
        self._settings = settings
        self._metrics = metrics
        self._table = table
        self._send = send
        self._adopt: OnDuty | None = None
        self._lost: OnDuty | None = None
        self._receive: OnSignal | None = None
        # Each bounded by max_duties. A duty is in one of them at most.
        self._held: dict[str, None] = {}
        self._leaving: dict[str, End] = {}
        self._under_way: dict[str, asyncio.Future[None]] = {}
        """Being taken or left just now; done when Redis has answered."""
        self._wake = asyncio.Event()
        self._retiring = False
        self._closed = False
        self._keeper: asyncio.Task[None] | None = None
        self._away = False

    def on_adopt(self, adopt: OnDuty) -> None:
        """This node has just taken over a duty that another has lost or handed over. Set it before the node starts.

        When ``adopt`` raises, the duty is nobody's until its lease has ended, then some node's again. Nodes that name
        nobody here adopt nothing.
        """
        self._adopt = adopt

    def on_lost(self, lost: OnDuty) -> None:
        """Another node has the duty now; stop working on it. Not called for what this node handed over itself."""
        self._lost = lost

    def on_signal(self, receive: OnSignal) -> None:
        """Somebody has a message for whoever has the duty, and this node has."""
        self._receive = receive

    def holds(self, org: OrgId, name: str) -> bool:
        """Whether this node has the duty, as far as it knows."""
        return duty_text(org, name) in self._held

    async def take(self, org: OrgId, name: str) -> bool:
        """True: this node has the duty now, or had it already. False: another, living node has it.

        Raises ``unavailable`` when Redis does not answer (then it is left to whoever adopts it, if it was taken), when
        this node has ``max_duties``, or is leaving.
        """
        duty = duty_text(org, name)
        while (before := self._under_way.get(duty)) is not None:
            await asyncio.wait([before])
        if duty in self._held:
            return True
        if self._retiring or self._room() <= 0:
            raise unavailable(f"a node for this {self._purpose}")
        self._leaving.pop(duty, None)
        answered = self._under_way[duty] = asyncio.get_running_loop().create_future()
        taken = True  # perhaps, as long as no answer has come
        try:
            taken = await self._table.take(duty)
            if taken and self._retiring:
                raise unavailable(f"a node for this {self._purpose}")
            if taken:
                self._hold(duty)
            return taken
        finally:
            del self._under_way[duty]
            answered.set_result(None)
            if taken and duty not in self._held:
                self._leave(duty, "open")

    def release(self, org: OrgId, name: str) -> None:
        """The duty is done; nobody will adopt it. What this node does not have is ignored.

        Goes out at once, together with others; while Redis is away, when it is back.
        """
        duty = duty_text(org, name)
        if duty in self._held:
            self._drop(duty)
            self._leave(duty, "done")

    def give_back(self, org: OrgId, name: str) -> None:
        """Whoever sweeps next adopts the duty; goes out like ``release``. What this node does not have is ignored."""
        duty = duty_text(org, name)
        if duty in self._held:
            self._drop(duty)
            self._leave(duty, "open")

    async def signal(self, org: OrgId, name: str, message: dict[str, Any]) -> None:
        """Tells whichever node has the duty, at most once. Nobody learns whether it has arrived.

        ``message`` is in the JSON model, and small: every node gets it. Raises ``unavailable``.
        """
        duty = duty_text(org, name)
        if duty in self._held:
            self._call(self._receive, duty, message)
        else:
            await self._send(Signal(self._purpose, str(org), name, message))

    async def hand_over(self) -> None:
        """Retires, and gives back what this node still has; another adopts it within a moment.

        Duties that are not handed over are another's when their leases have run out. Call it when the work has stopped.
        The hub does it by itself after the services have been stopped.
        """
        self.retire()
        self._closed = True
        self._wake.set()
        if self._keeper is not None:
            # Not cancelled: what it is giving back at the moment would be lost. Its waits end by the timeout of Redis.
            await asyncio.wait([self._keeper])
        while self._under_way:
            await asyncio.wait(self._under_way.values())
        if not self._hands_over:
            with contextlib.suppress(HubError):
                await self._renew()  # a whole lease, from now on
        for duty in list(self._held):
            self._drop(duty)
            if self._hands_over:
                self._leave(duty, "open")
        await self._flush()

    def start(self) -> None:
        """Begins to keep what was taken, and to adopt. The hub does it; ``hand_over`` must follow."""
        self._keeper = asyncio.create_task(self._keep(), name=f"duties-{self._purpose}")

    def retire(self) -> None:
        """From now on nothing is taken or adopted; what this node has it keeps."""
        self._retiring = True

    def receive(self, duty: str, message: dict[str, Any]) -> None:
        """A message has come for whoever has ``duty``."""
        if duty in self._held:
            self._call(self._receive, duty, message)

    async def _keep(self) -> None:
        """Renews, gives back, adopts. One task does all three, so that no renewal overtakes a release."""
        renew_at = sweep_at = 0.0
        turn = self._table.lease_s / _TURNS_PER_LEASE
        while not self._closed:
            await self._rest(min(renew_at, sweep_at))
            try:
                await self._flush()
                now = time.monotonic()
                # Never more than a turn, or the duty clock would fall behind; less, so that nodes drift apart.
                pause = turn * random.uniform(0.8, 1.0)
                if now >= renew_at:
                    await self._renew()
                    renew_at = now + pause
                if now >= sweep_at:
                    full = await self._sweep()
                    sweep_at = now + (turn / _SWEEPS_PER_TURN if full else pause)
                    self._away = False
            except HubError as error:
                if not self._away:
                    self._away = True
                    _log.warning("duties_not_renewed", purpose=self._purpose, held=len(self._held), reason=str(error))
                renew_at = sweep_at = time.monotonic() + turn / _RETRIES_PER_TURN
            except Exception:
                # Without its keeper a node would lose every duty; whatever it was, the next turn may do better.
                _log.exception("duties_not_kept", purpose=self._purpose)
                renew_at = sweep_at = time.monotonic() + turn / _RETRIES_PER_TURN

    async def _rest(self, until: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _renew(self) -> None:
        for some in cut(list(self._held), DUTIES_PER_BATCH):
            # Looked at again: some may have been released while earlier batches were under way.
            for duty in await self._table.renew([duty for duty in some if duty in self._held]):
                if duty in self._held:
                    self._drop(duty)
                    self._metrics.lost(self._purpose)
                    self._call(self._lost, duty)

    async def _sweep(self) -> bool:
        """Adopts; returns whether there may be more. The duty clock needs it also when nothing can be adopted."""
        can = self._adopt is not None and not self._retiring
        most = max(0, min(self._settings.duty_sweep_batch, self._room())) if can else 0
        duties = await self._table.sweep(most)
        for duty in duties:
            # Its own it has back; what is being taken or left just now is in other hands.
            if duty in self._held or duty in self._leaving or duty in self._under_way:
                continue
            if self._retiring:
                self._leave(duty, "open")
                continue
            self._hold(duty)
            self._metrics.adopted(self._purpose)
            if not self._call(self._adopt, duty):
                self._drop(duty)
        return 0 < most == len(duties)

    async def _flush(self) -> None:
        going, self._leaving = self._leaving, {}
        if not going:
            return
        answered = asyncio.get_running_loop().create_future()
        self._under_way |= dict.fromkeys(going, answered)
        try:
            for end in ("done", "open"):
                for some in cut((duty for duty, how in going.items() if how == end), DUTIES_PER_BATCH):
                    await self._table.leave(some, end)
        except HubError:
            # Once more, next time; to leave twice does no harm.
            self._leaving = going | self._leaving
        finally:
            for duty in going:
                del self._under_way[duty]
            answered.set_result(None)

    def _room(self) -> int:
        return self._settings.max_duties - len(self._held) - len(self._under_way)

    def _hold(self, duty: str) -> None:
        self._held[duty] = None
        self._metrics.held(self._purpose, len(self._held))

    def _drop(self, duty: str) -> None:
        del self._held[duty]
        self._metrics.held(self._purpose, len(self._held))

    def _leave(self, duty: str, end: End) -> None:
        # While Redis is away, what does not fit runs out by itself.
        if len(self._leaving) < self._settings.max_duties:
            self._leaving[duty] = end
            self._wake.set()

    def _call(self, callback: Callable[..., None] | None, duty: str, *more: Any) -> bool:
        """Whether the service has taken it."""
        try:
            if callback is not None:
                callback(*parse_duty(duty), *more)
        except Exception:
            _log.exception("duty_callback_failed", purpose=self._purpose)
            return False
        return True


class DutyBook:
    """The duties of all purposes on this node. ``send`` brings a signal to all nodes."""

    def __init__(self, node: str, settings: Settings, metrics: DutyMetrics, redis: Redis, send: Send) -> None:
        # A node that is started anew under its old name has none of its old duties in hand.
        self._me = f"{node}/{secrets.token_hex(8)}"
        self._settings = settings
        self._metrics = metrics
        self._redis = redis
        self._send = send
        self._purposes: dict[str, Duties] = {}
        self._started = False

    def of(self, purpose: str, lease_s: float | None = None, hands_over: bool = True) -> Duties:
        """The duties of a purpose, always the same object. A service asks for them when it is made.

        Who asks first says how long a lease is (None: ``duty_lease_s``; the same on all nodes), and whether the node
        gives its duties back when it stops, or lets their leases run out. ``purpose`` is a word, the same on all nodes.
        Raises ``ValueError`` for one that may not stand in a Redis key, and ``RuntimeError`` for a new one when the
        node runs: nobody would keep what is taken.
        """
        duties = self._purposes.get(purpose)
        if duties is None:
            if self._started:
                raise RuntimeError(f"ask for the duties of {purpose!r} when the service is made or started")
            table = DutyTable(self._redis, self._settings, purpose, self._me, lease_s=lease_s)
            duties = Duties(purpose, self._settings, self._metrics, table, self._send, hands_over=hands_over)
            self._purposes[purpose] = duties
        return duties

    def start(self) -> None:
        """Begins to adopt: the services must be ready for it. ``close`` must follow."""
        self._started = True
        for duties in self._purposes.values():
            duties.start()

    def retire(self) -> None:
        """From now on nothing is taken or adopted: the services are about to stop their work."""
        for duties in self._purposes.values():
            duties.retire()

    async def close(self) -> None:
        """Hands everything over; the services have stopped their work."""
        await asyncio.gather(*(duties.hand_over() for duties in self._purposes.values()))

    def receive(self, signal: Signal) -> None:
        """A signal has come, for this node if it has the duty."""
        duties = self._purposes.get(signal.purpose)
        if duties is not None:
            duties.receive(f"{signal.org}/{signal.name}", signal.message)
