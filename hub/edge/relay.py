"""Frames that a client sends by requests of their own, on their way to its connection, which may be on another node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from hub.auth.principal import Principal
from hub.edge.gateway import Gateway
from hub.errors import ErrorCode, HubError, not_found
from hub.fanout.control import Relayed
from hub.flags import SOCKET
from hub.protocol.session import State

if TYPE_CHECKING:
    from hub.edge.connection import Connection

MOST_RELAYED_BYTES: Final = 65_536
"""To another node, in one message: the nodes' own link must not be filled by one client."""
SETTLE_S: Final = 1.0  # for handed frames to be performed, before what was sent after them is
_ASK_S: Final = SETTLE_S + 1.0  # of a node that may have died
_MOST_OWNERS: Final = 3  # that are asked one after the other
_MOST_WAITING: Final = 16  # requests of one session, for the one before them


class _Outcome(Struct):
    """What the node of the connection says to relayed frames. No code: it has taken them."""

    code: ErrorCode | None = None
    message: str = ""
    retry_after_ms: int | None = None


_outcome: Final = msgspec.json.Decoder(_Outcome)


class _Turn:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class Relay:
    """Of one node. Bounded by the requests that are under way."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._turns: dict[str, _Turn] = {}

    async def hand_over(
        self, principal: Principal, session: str, frames: Sequence[msgspec.Raw], *, settle: bool
    ) -> None:
        """Hands frames, in order, to the connection of a session; what comes of them comes over that connection.

        ``settle``: returns when they have been performed, or after a second; calls may go on. Raises, and has done
        nothing: ``not_found`` when there is no connection of this user that is no WebSocket, ``rate_limited``,
        ``too_large``, ``unavailable``. Not to be repeated: ``not_found`` also when a node has not answered.
        """
        found = self._gateway.connections.of_session(session)
        if found is not None and _is_of(found, str(principal.org), principal.user):
            _receive(found, frames)
            if settle or _is_moving(found):
                await settled(found, SETTLE_S)
            return
        async with self._turn(f"{principal.org}/{principal.user}/{session}"):
            await self._relay(principal, session, frames, settle)

    async def _relay(self, principal: Principal, session: str, frames: Sequence[msgspec.Raw], settle: bool) -> None:
        gateway = self._gateway
        await gateway.admission.frames.spend(principal, len(frames))
        size = sum(len(frame) for frame in frames)
        if size > MOST_RELAYED_BYTES:
            text = f"the connection is on another node, and these are {size} bytes; send {MOST_RELAYED_BYTES} at once"
            raise HubError(ErrorCode.TOO_LARGE, text)
        who = str(principal.org), principal.user
        tried: set[str] = set()
        # Another one may have taken the session over since its record was read.
        while (owner := await gateway.sessions.owner_of(session, principal)) is not None:
            node, connection = owner
            if connection in tried or len(tried) == _MOST_OWNERS:
                break
            tried.add(connection)
            message = partial(Relayed, *who, connection, tuple(frames), settle)
            answer = await gateway.inquiries.ask(node, message, _ASK_S)
            if answer is None:
                break
            outcome = _outcome.decode(answer)
            if outcome.code is None:
                return
            if outcome.code is not ErrorCode.NOT_FOUND:
                raise HubError(outcome.code, outcome.message, retry_after_ms=outcome.retry_after_ms)
        raise no_connection()

    @contextlib.asynccontextmanager
    async def _turn(self, session: str) -> AsyncIterator[None]:
        """One at a time: so they stay in order, and one client does not fill the link."""
        turn = self._turns.setdefault(session, _Turn())
        if turn.wanted >= _MOST_WAITING:
            text = f"{_MOST_WAITING} requests for the connection of this session wait; send the next after an answer"
            raise HubError(ErrorCode.RATE_LIMITED, text, retry_after_ms=1000)
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[session]


def take_relayed(gateway: Gateway, message: Relayed) -> None:
    """What another node was sent."""
    found = gateway.connections.of_id(message.connection)
    outcome = _Outcome()
    try:
        if found is None or not _is_of(found, message.org, message.user):
            raise no_connection()
        _receive(found, message.frames)
        if found.budget is not None:
            found.budget.paid(len(message.frames))
    except HubError as error:
        found, outcome = None, _Outcome(error.code, error.message, error.retry_after_ms)
    settling = found if found is not None and (message.settle or _is_moving(found)) else None
    gateway.inquiries.answer(message.inquiry, _told(outcome, settling))


def no_connection() -> HubError:
    """For a session without a connection, and for anybody else's."""
    error = not_found("connection")
    return HubError(error.code, "this session has no connection; open one by /v1/sse or /v1/poll and name its session")


async def settled(connection: Connection, within_s: float) -> None:
    """Returns when what it was handed has been performed, calls excepted, or then."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while connection.worker is not None:
                await asyncio.wait({connection.worker})


async def _told(outcome: _Outcome, settling: Connection | None) -> _Outcome:
    if settling is not None:
        await settled(settling, SETTLE_S)
    return outcome


def _is_of(connection: Connection, org: str, user: str) -> bool:
    who = connection.principal
    if connection.gone or connection.close_code or connection.socket.transport == SOCKET:
        return False
    return who is not None and (str(who.org), who.user) == (org, user)


def _is_moving(connection: Connection) -> bool:
    """The connection before it may not know that yet: what is sent next could come to that, and take effect first."""
    return connection.session.state is State.OPENING


def _receive(connection: Connection, frames: Sequence[msgspec.Raw]) -> None:
    if connection.reading_paused:
        text = "too many frames of this connection wait for their turn"
        raise HubError(ErrorCode.RATE_LIMITED, text, retry_after_ms=1000)
    for frame in frames:
        connection.receive(bytes(frame).decode())
