"""One client's connection: runs one ``Session`` over one ``Socket``.

Frames are performed one after the other by a task that lives only while some are waiting; events are written straight
from the dispatcher. What the frames do is in ``requests`` and ``opening``; deadlines are kept by ``keeper``.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog
from msgspec import UNSET

from hub.auth.principal import Principal
from hub.edge import requests
from hub.edge.arrival import Arrival
from hub.edge.frame_budget import FrameBudget
from hub.edge.gateway import Gateway
from hub.edge.handles import Handles
from hub.edge.socket import Socket
from hub.errors import ErrorCode, HubError, bad_request
from hub.fanout.sessions import SessionOwner
from hub.flags import PRESENCE
from hub.nodes.presence.attendance import Attendant
from hub.protocol.codec import BadFrame, Packet, decode_message, packet
from hub.protocol.codes import CLOSE_SPECS, CloseCode
from hub.protocol.frames import Chunk, FrameId, Position, ServerFrame, Unsubscribed
from hub.protocol.session import Offences, Session, error_frame
from hub.topics.subscriptions import Subscription, SubState

log = structlog.get_logger(__name__)

# Work is counted in bytes, a frame as so many more than it has: sixteen small frames take a quarter of a millisecond.
_FRAME_BYTES = 1024
_TURN_BYTES = 16 * _FRAME_BYTES
_NO_FLAGS: Final[Mapping[str, bool]] = {}


class Connection:
    """Implements ``Subscriber`` for the fan-out and ``SocketUser`` for the socket."""

    __slots__ = (
        "_gateway",
        "_inbox",
        "_limited",
        "_writable",
        "acked",
        "applicant",
        "arrival",
        "attendance",
        "budget",
        "calls",
        "close_code",
        "congested",
        "drain_at",
        "encoding",
        "expiring_told",
        "flags",
        "gone",
        "handles",
        "heard_at",
        "id",
        "opened_at",
        "pinged_at",
        "principal",
        "progress",
        "reading_paused",
        "sent_at",
        "session",
        "session_claim",
        "session_id",
        "slot",
        "socket",
        "spoke_at",
        "subscriptions",
        "worker",
    )

    def __init__(self, gateway: Gateway, socket: Socket, arrival: Arrival) -> None:
        settings = gateway.settings
        self._gateway, self.socket = gateway, socket
        self.arrival: Arrival | None = arrival
        """Let go of when the hello has been answered."""
        self.encoding = arrival.encoding
        self.id = secrets.token_urlsafe(12)
        self.applicant: Principal | None = None
        """Whose token the hello bore, also while it is still being let in: a kick must find it."""
        self.principal: Principal | None = None
        """Set when the hello was accepted."""
        self.flags: Mapping[str, bool] = _NO_FLAGS
        """What is on for its user, kept by ``flag_watch``. One mapping for all who have the same."""
        self.session_id = ""
        self.session_claim = self.close_code = 0
        self.budget: FrameBudget | None = None
        self.subscriptions: dict[str, Subscription] = {}
        """By topic as the client writes it; bounded by max_topics_per_connection."""
        self.session = Session(
            arrival.encoding,
            self.subscriptions,
            max_topics=settings.max_topics_per_connection,
            max_bad_frames=settings.max_bad_frames,
        )
        self.acked: dict[str, Position] | None = None
        """Acknowledged and not yet stored."""
        self.calls: set[asyncio.Task[None]] | None = None
        self.handles: Handles | None = None
        self.attendance: Attendant | None = None
        """Set when it is first present in a topic, or says how it is."""
        self.congested = self.gone = self.expiring_told = self.reading_paused = False
        self.opened_at = self.heard_at = self.spoke_at = self.sent_at = time.monotonic()
        self.pinged_at = self.drain_at = 0.0
        """When the ping went out that has not been answered; when a draining connection is closed. 0: neither."""
        self.progress = (0, 0.0)
        """While congested: the fewest unsent bytes seen, and when."""
        self.slot: list[Connection] | None = None
        """The keeper's: those with whom it is looked at next."""
        # Bounded by max_pending_frames; a list, because an empty deque takes ten times its memory.
        self._inbox: list[str | bytes] = []
        self.worker: asyncio.Task[None] | None = None
        # Performs what has come. None: nothing waits.
        self._writable: asyncio.Event | None = None
        self._limited: Offences | None = None
        gateway.connections.add(self)
        gateway.keeper.watch(self)
        if arrival.refused is not None:
            self.close(*arrival.refused)

    # --- Subscriber

    @property
    def user(self) -> str:
        """Whose connection it is; "" before the hello."""
        return "" if self.principal is None else self.principal.user

    def deliver(self, packet: Packet) -> None:
        """Writes ready frames."""
        self.sent_at = time.monotonic()
        self.socket.write(packet)

    def send(self, frame: ServerFrame) -> None:
        """Writes one frame of this connection's own."""
        if not self.gone:
            self.deliver(packet(frame, self.encoding))

    async def writable(self) -> None:
        """Returns when the connection is not congested any more, or is gone."""
        if self.congested and not self.gone:
            if self._writable is None:
                self._writable = asyncio.Event()
            self._writable.clear()
            await self._writable.wait()

    # --- SocketUser

    def receive(self, message: str | bytes) -> None:
        """Takes one message. When ``reading_paused`` is set afterwards, no further ones before ``resume_reading``."""
        self.heard()
        self.spoke_at = self.heard_at
        if self.gone:
            return
        self._inbox.append(message)
        if len(self._inbox) >= self._gateway.settings.max_pending_frames and not self.reading_paused:
            self.reading_paused = True
            self.socket.pause_reading()
        if self.worker is None:
            self.worker = asyncio.create_task(self._work(), name="connection")

    def heard(self) -> None:
        """The client lives."""
        self.heard_at = time.monotonic()
        self.pinged_at = 0.0

    def pause_writing(self) -> None:
        """Too much is unsent: all its subscriptions leave the live sets."""
        self.congested = True
        self.progress = (self.socket.unsent, time.monotonic())
        self._gateway.keeper.watch(self)
        self._gateway.dispatcher.when_settled(self._pause)

    def resume_writing(self) -> None:
        """The subscriptions go on by the slow policies of their kinds."""
        self.congested = False
        if self._writable is not None:
            self._writable.set()
        self._gateway.dispatcher.when_settled(self._resume)

    def lost(self, code: int) -> None:
        """The socket is closed."""
        if self.gone:
            return
        self.gone = True
        self.session.closed()
        self._gateway.metrics.closed(self.close_code or code)
        self._gateway.connections.remove(self)
        if self.attendance is not None:
            self._gateway.presence.lost(self.attendance)
        for sub in self.subscriptions.values():
            self._forget(sub)
        self.subscriptions.clear()
        self._inbox.clear()
        if self._writable is not None:
            self._writable.set()
        if self.worker is not None:
            self.worker.cancel()
        for call in self.calls or ():
            call.cancel()
        if self.handles is not None:
            self.handles.lost()
        self._gateway.admission.release(self.id)
        self._gateway.saver.leave(self)
        if self.principal is not None:
            self._gateway.board.metrics.cohort(self.flags, None)
        # Clients come and go by the thousand; what the hub itself ended is worth a line.
        write = log.info if self.close_code else log.debug
        write("closed", connection=self.id, code=self.close_code or code, **self._who())

    # --- frames

    async def _work(self) -> None:
        """Performs what waits, in order; ends when nothing does. Others have their turns in between."""
        work = 0
        try:
            while self._inbox and not self.gone:
                message = self._inbox.pop(0)
                if self.reading_paused and len(self._inbox) <= self._gateway.settings.max_pending_frames // 2:
                    self.reading_paused = False
                    self.socket.resume_reading()
                # Who does not read the answers gets no further ones.
                await self.writable()
                await self._take(message)
                work += _FRAME_BYTES + len(message)
                if work >= _TURN_BYTES and self._inbox:
                    work = 0
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("connection failed", connection=self.id, **self._who())
            self.close(CloseCode.INTERNAL)
        finally:
            self.worker = None

    async def _take(self, message: str | bytes) -> None:
        try:
            frame = decode_message(message, self.encoding)
        except BadFrame as error:
            self.offend(error)
            return
        if self.budget is not None and type(frame) is Chunk:
            # Refused, it would take along all that follow it; so they wait.
            await self.budget.wait(int(len(frame.data) < self._gateway.settings.chunk_free_bytes))
        elif self.budget is not None and not self.budget.take():
            wait_ms = await self.budget.refill()
            if wait_ms:
                self._limit(getattr(frame, "id", None), wait_ms)
                return
            self.budget.take()
        action = self.session.receive(frame, time.monotonic())
        await requests.perform(self._gateway, self, action)

    def offend(self, error: BadFrame) -> None:
        """A frame that no client should send. Too many of them close the connection (4400)."""
        self._gateway.metrics.error(error.code)
        requests.perform_now(self, self.session.bad_frame(error, time.monotonic()))

    def _limit(self, frame_id: FrameId | None, wait_ms: int) -> None:
        """The frame is not performed."""
        rate = self._gateway.settings.messages_per_second
        error = HubError(ErrorCode.RATE_LIMITED, f"at most {rate} frames a second", retry_after_ms=wait_ms)
        self.refuse(error, frame_id)
        self.overdid()

    def overdid(self) -> None:
        """It was told to slow down. A client that does not listen is closed (4429)."""
        if self._limited is None:
            self._limited = Offences(self._gateway.settings.max_bad_frames)
        if self._limited.too_many(time.monotonic()):
            self.close(CloseCode.TOO_MANY)

    def refuse(self, error: HubError, frame_id: FrameId | None = None, topic: str | None = None) -> None:
        """Answers with an ``error`` frame."""
        self._gateway.metrics.error(error.code)
        self.send(error_frame(error, frame_id=frame_id, topic=topic))

    # --- subscriptions

    def take_subscription(self, sub: Subscription) -> None:
        """A join was answered with ok."""
        # Its topic's own text, which is what the client wrote: one string for all subscribers of the topic.
        self.subscriptions[sub.topic.topic.wire] = sub
        self._gateway.metrics.subscriptions.labels(sub.topic.kind.name).inc()
        if sub.topic.kind.presence and self.flags.get(PRESENCE, True):
            self._gateway.presence.enter(self.attending(), sub)

    def acknowledged(self, text: str, position: Position) -> None:
        """The client has everything of a topic up to there; to be stored soon."""
        if self.acked is None:
            self.acked = {}
        self.acked[text] = position
        self._gateway.saver.changed(self)

    def drop_subscription(self, text: str) -> None:
        """Ends a subscription; nothing of it comes any more. Not subscribed is the same as unsubscribed."""
        sub = self.subscriptions.pop(text, None)
        if sub is not None:
            if self.attendance is not None:
                self._gateway.presence.leave(self.attendance, sub)
            self._forget(sub)
            if not self.subscriptions:
                self._gateway.keeper.watch(self)  # from now on it may be idle

    def end_subscription(self, text: str, error: HubError) -> None:
        """The hub ends a subscription and says why."""
        self.drop_subscription(text)
        fallback = UNSET if error.details is None else error.details.get("fallback", UNSET)
        self.send(Unsubscribed(text, error.code, error.message, error.retry, fallback))

    def _forget(self, sub: Subscription) -> None:
        self._gateway.membership.leave(sub)
        self._gateway.metrics.subscriptions.labels(sub.topic.kind.name).dec()
        if sub.topic.kind.presence:
            self._gateway.presence.forget(sub)

    # --- presence

    def attending(self, kept: str = "") -> Attendant:
        """This connection as others may see that it is there. ``kept``: what its session knows of that."""
        if self.attendance is None:
            self.attendance = self._gateway.presence.attendant(self.verified, kept)
        return self.attendance

    @property
    def kept_presence(self) -> str | None:
        """What the session shall know; None: it was not present anywhere."""
        return None if self.attendance is None else self.attendance.kept

    def acted(self) -> None:
        """Its client did something of its own accord."""
        if self.attendance is not None and self.attendance.acted():
            self._gateway.keeper.watch(self)  # from now on it may become idle again
            self._gateway.saver.changed(self)

    def look_away(self, now: float) -> float:
        """Away, if its client has done nothing for long. When to look again; only if it has an attendance."""
        attendant = self.attending()
        before = attendant.idle
        due = attendant.look(now)
        if attendant.idle is not before:
            self._gateway.saver.changed(self)
        return due

    def _pause(self) -> None:
        if self.congested:
            for sub in self.subscriptions.values():
                self._gateway.delivery.pause(sub)

    def _resume(self) -> None:
        if not self.congested and not self.gone:
            self._gateway.catch_up.resume([s for s in self.subscriptions.values() if s.state is SubState.PAUSED])

    # --- leaving

    def close(self, code: CloseCode, error: HubError | None = None) -> None:
        """Closes, after an ``error`` frame if there is one to send."""
        if self.gone or self.close_code:
            return
        if error is not None:
            self.refuse(error)
        self.close_code = int(code)
        self.session.closed()
        if self.handles is not None:
            self.handles.lost()
        self.socket.close(code, CLOSE_SPECS[code].reason)

    @property
    def verified(self) -> Principal:
        """Who it is. Only after the hello."""
        if self.principal is None:
            raise bad_request("no hello yet")
        return self.principal

    @property
    def owner(self) -> SessionOwner:
        """Who may write this connection's session. Only after the hello."""
        who = self.verified
        return SessionOwner(who.org, who.user, self._gateway.node, self.id, self.session_claim)

    def _who(self) -> dict[str, Any]:
        if self.principal is None:
            return {}
        return {"org": self.principal.org, "user": self.principal.user}
