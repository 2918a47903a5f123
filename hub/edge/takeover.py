"""What a polling connection leaves to the one that goes on from its cursor: answers that its client has not got, and
the topics that were subscribed or left since. Events of the others are not among it; history has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from msgspec import Raw, Struct

from hub.edge.gateway import Gateway
from hub.edge.relay import settled
from hub.fanout.control import GoingOn, Inquiry, TakeOver
from hub.fanout.sessions import PreviousOwner
from hub.protocol.codes import CloseCode
from hub.protocol.cursor import Cursor, Standing
from hub.protocol.frames import Position, Verdict
from hub.protocol.session import State, Wanted

if TYPE_CHECKING:
    from hub.edge.connection import Connection
    from hub.edge.poll_socket import PollSocket

SETTLE_S: Final = 1.0  # for what it was given to be performed, before it is closed
ASK_S: Final = SETTLE_S + 1.0  # of a node that may have died
_OWN: Final = frozenset(("reply", "error", "pong", "unsubscribed"))


class Unfetched(Struct, frozen=True):
    """``topics``: all there were at the end; None: those of the cursor. Bounded as a polling socket is."""

    frames: Sequence[Raw] = ()
    topics: Sequence[Standing] | None = None


class _Head(Struct):
    type: str
    topic: str | None = None


class _Verdict(Struct):
    topic: str


class _Result(Struct):
    topics: list[_Verdict] = []


class _Reply(Struct, tag="reply", tag_field="type"):
    result: _Result


_head: Final = msgspec.json.Decoder(_Head)
_reply: Final = msgspec.json.Decoder(_Reply)
_unfetched: Final = msgspec.json.Decoder(Unfetched)


# --- of the newer connection


async def take_over(gateway: Gateway, cursor: Cursor | None, session: str, previous: PreviousOwner) -> Unfetched:
    """Closes the older connection of a session. What it leaves, if its client goes on from the cursor of a poll.

    Raises ``unavailable``: it was not told.
    """
    going_on = None if cursor is None else GoingOn(cursor.connection, cursor.number, _digest(map(_spec, cursor.topics)))

    def message(inquiry: Inquiry | None = None) -> TakeOver:
        return TakeOver(session, previous.connection, going_on, inquiry)

    if cursor is None or not cursor.number:
        await gateway.control.send(message(), previous.node)
        return Unfetched()
    if previous.node == gateway.node:
        return await _give_up(gateway, message())
    answer = await gateway.inquiries.ask(previous.node, message, ASK_S)
    return Unfetched() if answer is None else _unfetched.decode(answer)


def inherit(
    unfetched: Unfetched, cursor: Cursor, items: Sequence[Wanted | Verdict]
) -> tuple[Sequence[Wanted | Verdict], list[tuple[str | None, bytes]]]:
    """What the newer connection subscribes to instead of ``items``, which are the cursor's topics; and what its client
    is told before any event, if it may still have the topic that stands beside it."""
    frames = [(_head.decode(frame), bytes(frame)) for frame in unfetched.frames]
    if unfetched.topics is None:
        return items, [(None, frame) for head, frame in frames if head.type in _OWN]
    known = {one.topic: _spec(one) for one in cursor.topics}
    anew = _spoken_of(unfetched.frames)
    fresh = {one.topic: one for one in unfetched.topics if one.topic in anew or known.get(one.topic) != _spec(one)}
    stay = {one.topic for one in unfetched.topics} - fresh.keys()
    wanted = [item for item in items if item.topic in stay]
    for one in fresh.values():
        wanted.append(Wanted(one.topic, Position(one.epoch, one.seq) if one.epoch else None, one.filter, one.ack))
    told = [(None if head.type in _OWN else head.topic, frame) for head, frame in frames if _concerns(head, fresh)]
    return wanted, told


def _concerns(head: _Head, fresh: Collection[str]) -> bool:
    """What an older connection has said of itself (``flags``, ``welcome``, ``drain``) is not so of the newer one."""
    return head.type in _OWN or head.topic in fresh


# --- of the older one


def close_taken_over(gateway: Gateway, message: TakeOver) -> None:
    """Another node has the session of one of this one's connections now."""
    if message.inquiry is not None:
        gateway.inquiries.answer(message.inquiry, _give_up(gateway, message))
        return
    connection = _named(gateway, message)
    if connection is None:
        return
    socket = _polled(connection)
    if socket is not None and message.going_on is None:
        socket.insist()
    connection.close(CloseCode.TAKEN_OVER)


async def _give_up(gateway: Gateway, message: TakeOver) -> Unfetched:
    connection = _named(gateway, message)
    if connection is None:
        return Unfetched()
    left, socket = Unfetched(), _polled(connection)
    if socket is not None and message.going_on is not None:
        await _performed(connection)
        if connection.session_id != message.session:
            return left  # Redis gave it the session and could not say so; it has begun another one
        if not connection.gone and connection.session.state is State.OPEN:
            # Else it was only about to take over itself, and knows of no topics yet.
            left = _left_by(socket, message.going_on)
    connection.close(CloseCode.TAKEN_OVER)
    return left


async def _performed(connection: Connection) -> None:
    """Returns when all that it was handed has been answered, calls and what came meanwhile too, or after a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while connection.worker is not None or connection.calls:
                await settled(connection, SETTLE_S)
                if connection.calls:
                    await asyncio.wait(connection.calls)


def _named(gateway: Gateway, message: TakeOver) -> Connection | None:
    connection = gateway.connections.of_id(message.connection)
    # Without a session it has this one all the same: what Redis answered is on its way to it.
    return connection if connection is not None and connection.session_id in ("", message.session) else None


def _polled(connection: Connection) -> PollSocket | None:
    return cast("PollSocket", connection.socket) if connection.socket.transport == "poll" else None


def _left_by(socket: PollSocket, going_on: GoingOn) -> Unfetched:
    topics = socket.standings()
    same = _digest(map(_spec, topics)) == going_on.topics
    frames = list(map(Raw, socket.untold(going_on.connection, going_on.number)))
    if same and _spoken_of(frames).isdisjoint(one.topic for one in topics):
        return Unfetched([frame for frame in frames if _head.decode(frame).type in _OWN])
    return Unfetched(frames, topics)


def _spoken_of(frames: Iterable[Raw]) -> set[str]:
    """Topics that were subscribed or left: one that was both does not go on from where it was."""
    found: set[str] = set()
    for frame in frames:
        with contextlib.suppress(msgspec.ValidationError):  # no reply, or to something else
            found.update(one.topic for one in _reply.decode(frame).result.topics)
    return found


def _spec(one: Standing) -> tuple[str, bool, Any]:
    return one.topic, one.ack, one.filter


def _digest(specs: Iterable[tuple[str, bool, Any]]) -> int:
    """Tells whether two connections have the same subscriptions."""
    return zlib.crc32(msgspec.json.encode(sorted(specs, key=lambda one: one[0]), order="deterministic"))
