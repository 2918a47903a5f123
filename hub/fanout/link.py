"""One pub/sub connection to one Redis master, from greeting to loss: bytes in, messages and states out.

It matches what Redis says with what was asked, in order, and gives up at the first thing that does not fit. Opening it
again, and knowing what should be subscribed, is the supervisor's part.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import hiredis
from msgspec import Struct

from hub.config import Settings
from hub.fanout.broker import TopicState
from hub.fanout.scripts import IDENTITY, READ, state_call, state_of
from hub.redis import Login
from hub.redis.calls import pack
from hub.topics.topic import Topic

# Redis refuses so what will work in a moment, here or elsewhere.
_TRANSIENT = ("ASK", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MOVED", "NOSCRIPT", "READONLY", "TRYAGAIN")
# RESP3 has a false of its own, so "not enough data" needs a value that no server can send.
_NOTHING = object()


class LinkLost(Exception):
    """The connection is gone or can no longer be trusted; the text says why."""


class Refused(Exception):
    """Redis answered with an error. The text is its own and begins with its code."""

    @property
    def code(self) -> str:
        """``MOVED``, ``READONLY`` …"""
        return str(self).partition(" ")[0]

    @property
    def transient(self) -> bool:
        """Whether it is worth waiting for another attempt."""
        return self.code in _TRANSIENT


class LinkHandler(Protocol):
    """Whoever holds the link. Called in the order in which Redis sent things."""

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """(channel, envelope) pairs."""

    def on_probe(self, envelope: bytes) -> None:
        """A message on the probe channel."""

    def on_watched(self, watch: Watch, topic: Topic, outcome: TopicState | Refused) -> None:
        """A topic is subscribed and this is its state, read afterwards; or it is not."""

    def on_dropped(self, channel: bytes) -> None:
        """The server ended a subscription: its slot has moved."""


class Watch(Struct, eq=False):
    """One request to subscribe topics and to read their states."""

    topics: Sequence[Topic]
    number: int
    anew: bool
    """Whether a lost link or a moved slot was the reason."""
    refused: Refused | None = None
    """Why the last SUBSCRIBE of this request failed."""


class _Confirmation(Struct, eq=False):
    """Awaited pushes for one (un)subscribe command, or one error in their stead."""

    kind: bytes
    left: int
    watch: Watch | None = None
    channel: bytes | None = None
    """Only for this one: the server also ends subscriptions by itself, with the same push."""


class _Answer(Struct, eq=False):
    """One awaited reply."""

    take: Callable[[Any], None]


class Link(asyncio.Protocol):
    """The connection. Usable after ``greet``; ``lost`` is done when it is over, its result says why."""

    def __init__(self, handler: LinkHandler, settings: Settings, *, sharded: bool, probe_channel: bytes) -> None:
        self._handler = handler
        self._settings = settings
        self._sharded = sharded
        self._probe_channel = probe_channel
        self._subscribe, self._unsubscribe = ("SSUBSCRIBE", "SUNSUBSCRIBE") if sharded else ("SUBSCRIBE", "UNSUBSCRIBE")
        self._expected: deque[_Confirmation | _Answer] = deque()
        self._messages: list[tuple[bytes, bytes]] = []
        self._parser = hiredis.Reader(protocolError=LinkLost, replyError=Refused, notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.heard_at = self._loop.time()
        """When bytes last came, by the loop's clock."""
        self.server = ""
        """``run_id`` of the server at the other end; known after ``greet``."""

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = transport  # type: ignore[assignment]  # it is one that can write

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: takes in all that one read gave, then hands the messages up together."""
        self.heard_at = self._loop.time()
        try:
            self._parser.feed(data)
            while (item := self._parser.gets()) is not _NOTHING:
                self._take(item)
            self._hand_up()
        except LinkLost as error:
            self.drop(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self.drop(str(exc) if exc else "closed by Redis")

    # --- the holder's side

    def drop(self, reason: str) -> None:
        """Ends the connection. What was asked and is not answered never will be."""
        self._expected.clear()
        if not self.lost.done():
            self.lost.set_result(reason)
        if self._transport is not None:
            self._transport.abort()

    async def pause(self, seconds: float) -> None:
        """Sleeps, unless the link is lost before or meanwhile: then raises ``LinkLost``."""
        await asyncio.wait((self.lost,), timeout=seconds)
        if self.lost.done():
            raise LinkLost(self.lost.result())

    async def finish(self, future: asyncio.Future[Any], seconds: float, what: str) -> Any:
        """The result of ``future``. Raises ``LinkLost`` when the link is lost meanwhile, or after ``seconds``."""
        await asyncio.wait((self.lost, future), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if self.lost.done():
            raise LinkLost(self.lost.result())
        if not future.done():
            raise LinkLost(f"no {what} within {seconds:g} s")
        return future.result()

    async def greet(self, login: Login) -> None:
        """Logs in, loads read.lua and subscribes the probe channel. Raises ``LinkLost``."""
        hello = ["HELLO", "3"]
        if login.password:
            hello += ["AUTH", login.username or "default", login.password]
        commands = [
            pack(*hello, "SETNAME", "hub-link"),
            pack("EVAL", IDENTITY.text, 0),
            pack("SCRIPT", "LOAD", READ.text),
        ]
        if login.db:
            commands.append(pack("SELECT", login.db))
        answers = [self._loop.create_future() for _ in commands]
        self._expected.extend(_Answer(answer.set_result) for answer in answers)
        self._expected.append(_Confirmation(self._subscribe.lower().encode(), 1))
        self._write([*commands, pack(self._subscribe, self._probe_channel)])
        replies = [await self.finish(answer, self._settings.redis_timeout_s, "greeting") for answer in answers]
        for reply in replies:
            if isinstance(reply, Refused):
                raise LinkLost(str(reply))
        self.server = replies[1].decode()

    def watch(self, watch: Watch) -> asyncio.Future[None]:
        """Subscribes topics and reads the state of each after that, in one write. The result: all have answered."""
        parts: list[bytes] = []
        done = self._loop.create_future()
        confirms = self._subscribe.lower().encode()
        if not self._sharded:
            parts.append(pack(self._subscribe, *(topic.channel for topic in watch.topics)))
            self._expected.append(_Confirmation(confirms, len(watch.topics), watch))
        for topic in watch.topics:
            if self._sharded:
                # One command each: a command may not name channels of two slots.
                parts.append(pack(self._subscribe, topic.channel))
                self._expected.append(_Confirmation(confirms, 1, watch))
            parts.append(state_call(topic, self._settings).packed())
            last = done if topic is watch.topics[-1] else None
            self._expected.append(_Answer(self._state_taker(watch, topic, last)))
        self._write(parts)
        return done

    def unwatch(self, channels: Sequence[bytes]) -> None:
        """Ends subscriptions."""
        confirms = self._unsubscribe.lower().encode()
        if self._sharded:
            self._expected.extend(_Confirmation(confirms, 1, channel=channel) for channel in channels)
            self._write([pack(self._unsubscribe, channel) for channel in channels])
        else:
            self._expected.append(_Confirmation(confirms, len(channels)))
            self._write([pack(self._unsubscribe, *channels)])

    # --- inside

    def _write(self, parts: list[bytes]) -> None:
        if self._transport is not None and not self.lost.done():
            self._transport.write(b"".join(parts))

    def _state_taker(self, watch: Watch, topic: Topic, last: asyncio.Future[None] | None) -> Callable[[Any], None]:
        def take(reply: Any) -> None:
            outcome = reply if isinstance(reply, Refused) else state_of(reply)
            refused, watch.refused = watch.refused, watch.refused if not self._sharded else None
            # What arrived before this state must be seen before it.
            self._hand_up()
            self._handler.on_watched(watch, topic, refused or outcome)
            if last is not None and not last.done():
                last.set_result(None)

        return take

    def _hand_up(self) -> None:
        if self._messages:
            messages, self._messages = self._messages, []
            self._handler.on_messages(messages)

    def _take(self, item: Any) -> None:
        if isinstance(item, hiredis.PushNotification):
            self._take_push(item)
            return
        expected = self._expected.popleft() if self._expected else None
        if isinstance(expected, _Answer):
            expected.take(item)
        elif isinstance(expected, _Confirmation) and isinstance(item, Refused):
            if expected.watch is not None:
                expected.watch.refused = item
            elif expected.kind.endswith(b"unsubscribe"):
                # Its slot has moved, which ended the subscription as well.
                return
            else:
                raise LinkLost(str(item))
        else:
            raise LinkLost("a reply to nothing")

    def _take_push(self, push: list[Any]) -> None:
        kind, channel = push[0], push[1]
        if kind in (b"message", b"smessage"):
            if channel == self._probe_channel:
                self._handler.on_probe(push[2])
            else:
                self._messages.append((channel, push[2]))
            return
        expected = self._expected[0] if self._expected else None
        fits = isinstance(expected, _Confirmation) and expected.kind == kind and expected.channel in (None, channel)
        if isinstance(expected, _Confirmation) and fits:
            expected.left -= 1
            if not expected.left:
                self._expected.popleft()
        elif kind == b"sunsubscribe":
            self._handler.on_dropped(channel)
        else:
            raise LinkLost(f"an unexpected push: {kind[:32]!r}")
