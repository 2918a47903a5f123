"""A client of the fault oracle: written from PROTOCOL.md alone, without ``hub.client``, so that it can judge the hub.

It connects to any of several nodes, resumes, acknowledges, obeys drain slots and close codes, and reports everything
that comes to a ``Witness`` per topic.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from tests.support.client_style import Style
from tests.support.http_link import LINKS, HttpLink
from tests.system.witness import Witness

HEARTBEAT_S = 5.0  # what the oracle's nodes are told
_ACK_EVERY_S = 1.0
_ACK_EVERY_EVENTS = 100
# Only then a client relies on what the hub has stored: see SAVE_S.
_STORED_AFTER_S = 2.0
SAVE_S = 0.5  # how often the oracle's nodes store acknowledged positions
_NOW_JITTER_S = 0.2
_LONGEST_PAUSE_S = 2.0
_ANSWER_S = 20.0
_POLLS_OF_A_NODE = 10
_NEVER = {1002, 1007, 4400, 4401, 4403, 4405, 4409, 4413}
_NOW = {4504, 4508, 4510}


class _ComeAgain(Exception):
    """This connection is of no use; another one will be."""


@dataclass(slots=True)
class _Link:
    """What lasts as long as one connection."""

    socket: ClientConnection | HttpLink
    heard_at: float
    by_ticket: bool
    unacked: int = 0
    acked_at: float = 0.0
    acked: dict[str, tuple[str, int]] = field(default_factory=dict)
    first_acked: dict[str, float] = field(default_factory=dict)
    answers: dict[int, Callable[[Any], None]] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class OracleClient:
    """One client with its witnesses. ``run`` it as a task; ``stop`` ends it."""

    def __init__(
        self,
        name: str,
        addresses: Callable[[], Sequence[str]],
        token: str,
        topics: Sequence[str],
        style: Style,
        seed: int,
    ) -> None:
        self.name = name
        self.style = style
        self.witnesses = {topic: Witness(name, topic) for topic in topics}
        self.complaints: list[str] = []
        self.closes: Counter[int] = Counter()
        self.connections = 0
        self.reading = asyncio.Event()
        """Cleared: it takes nothing from its socket."""
        self.reading.set()
        self.settled = False
        """Set when the faults are over: those that flap or toggle stay."""
        self._addresses = addresses
        self._token = token
        self._random = random.Random(seed)
        self._session = ""
        self._relied: set[str] = set()
        self._ticket = ""
        self._failures = 0
        self._link: _Link | None = None
        self._stopping = False
        self._ids = 1

    @property
    def joined(self) -> bool:
        """Every topic has been subscribed at least once."""
        return all(witness.known is not None for witness in self.witnesses.values())

    @property
    def rooted(self) -> bool:
        """The hub has stored what a client needs that relies on its session; others need nothing."""
        if not self.style.by_session or self.style.flaps:
            return True
        link = self._link
        due = time.monotonic() - _STORED_AFTER_S
        return link is not None and all(link.first_acked.get(topic, due + 1) <= due for topic in self.witnesses)

    @property
    def session(self) -> str:
        """The session of its last welcome."""
        return self._session

    @property
    def connected(self) -> bool:
        """It has a connection that was welcomed."""
        return self._link is not None

    async def run(self) -> None:
        """Connects, again and again, until ``stop``."""
        while not self._stopping:
            pause = await self._one_connection()
            if not self._stopping:
                await asyncio.sleep(pause)

    async def stop(self) -> None:
        """Leaves."""
        self._stopping = True
        self.reading.set()
        if self._link is not None:
            await self._link.socket.close()

    def cut(self) -> None:
        """Its connection is gone; it comes back by itself."""
        if self._link is not None:
            self._link.socket.transport.abort()

    async def tick(self) -> None:
        """Once in a while: acknowledges, and gives up a connection on which nothing is heard."""
        link = self._link
        if link is None:
            return
        with contextlib.suppress(ConnectionClosed):
            await self._acknowledge(link)
        # Nobody tells a client that polls that nothing has happened.
        listens = self.reading.is_set() and self.style.transport != "poll"
        if listens and time.monotonic() - link.heard_at > 2 * HEARTBEAT_S + 5:
            link.socket.transport.abort()

    # --- one connection

    async def _one_connection(self) -> float:
        """Returns how long to wait before the next one."""
        link: _Link | None = None
        try:
            async with asyncio.timeout(_ANSWER_S):
                link = await self._open()
                welcome = await self._hello(link)
            self._link = link
            self._welcome(link, welcome)
            self._failures = 0
            await self._listen(link)
        except ConnectionClosed:
            pass
        except InvalidStatus as error:
            self._failures += 1
            if error.response.status_code != 503:
                self.complaints.append(f"{self.name}: the upgrade was answered by {error.response.status_code}")
        except (_ComeAgain, OSError, TimeoutError, InvalidHandshake, EOFError):
            self._failures += 1
        finally:
            self._link = None
            if link is not None:
                await self._leave(link)
        return self._pause(link)

    async def _open(self) -> _Link:
        addresses = self._random.sample(self._addresses(), len(self._addresses()))
        address = addresses[0]
        ticket = self._ticket
        query = f"?ticket={ticket}" if ticket else ""
        headers = {} if query or self.style.token_in_hello else {"Authorization": f"Bearer {self._token}"}
        if self.style.transport != "websocket":
            return self._asking(addresses, query)
        opened = await connect(
            f"ws://{address}/ws{query}",
            sock=await self._socket(address),
            subprotocols=["hub.v1.msgpack" if self.style.msgpack else "hub.v1.json"],  # type: ignore[list-item]
            additional_headers=headers,
            compression="deflate" if self.style.deflates else None,
            ping_interval=None,
            close_timeout=1,
            max_queue=16,
        )
        self.connections += 1
        self._ticket = ""
        return _Link(opened, time.monotonic(), by_ticket=bool(ticket))

    def _asking(self, addresses: Sequence[str], query: str) -> _Link:
        """By requests, each of which bears the token; a ticket says whose session it is."""
        ports = [int(address.rpartition(":")[2]) for address in addresses]
        # Who polls goes to another node now and then: without sticky sessions that may happen at any time.
        ports = (
            [port for port in ports for _ in range(_POLLS_OF_A_NODE)] if self.style.transport == "poll" else ports[:1]
        )
        headers = {"Authorization": f"Bearer {self._token}"}
        self.connections += 1
        self._ticket = ""
        link = LINKS[self.style.transport](ports, headers, query)
        if query:
            link.opening_headers = {}
        return _Link(link, time.monotonic(), by_ticket=bool(query))

    async def _socket(self, address: str) -> socket.socket:
        plain = socket.socket()
        try:
            plain.setblocking(False)
            if self.style.receive_buffer is not None:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.style.receive_buffer)
            host, _, port = address.rpartition(":")
            await asyncio.get_running_loop().sock_connect(plain, (host, int(port)))
        except BaseException:
            plain.close()
            raise
        return plain

    async def _hello(self, link: _Link) -> dict[str, Any]:
        wanted = [] if self.style.toggles else [self._item(topic) for topic in self.witnesses]
        hello: dict[str, Any] = {"type": "hello", "id": 1, "subscribe": wanted}
        if self.style.token_in_hello:
            hello["token"] = self._token
        if self._session:
            hello["resume"] = {"session": self._session}
        await self._send(link, hello)
        frame = self._decode(await link.socket.recv())
        if frame["type"] == "error":
            if frame["retry"] == "never" and not link.by_ticket:
                self.complaints.append(f"{self.name}: the hello was refused: {frame['code']} {frame['message']}")
            await link.socket.wait_closed()
            raise _ComeAgain
        if frame["type"] != "welcome":
            self.complaints.append(f"{self.name}: {frame['type']} came before welcome")
            raise _ComeAgain
        return frame

    def _item(self, topic: str) -> dict[str, Any]:
        item: dict[str, Any] = {"topic": topic}
        known = self.witnesses[topic].known
        if known is not None and not self._relies(topic):
            item["since"] = {"epoch": known.epoch, "seq": known.seq}
        if self.style.window:
            item["ack"] = True
        return item

    def _relies(self, topic: str) -> bool:
        return self.style.by_session and bool(self._session) and topic in self._relied

    def _welcome(self, link: _Link, welcome: dict[str, Any]) -> None:
        verdicts = welcome["topics"]
        relied = {topic for topic in self.witnesses if self._relies(topic)}
        self._session = welcome["session"]
        if relied and not welcome["resumed"]:
            # The session is gone, so these were subscribed from now on: not what is wanted.
            self._relied.clear()
            raise _ComeAgain
        self._check_verdicts(verdicts)
        for verdict in verdicts:
            topic = verdict["topic"]
            by_session = topic in relied
            self.witnesses[topic].joined(verdict["epoch"], verdict["seq"], verdict["recovered"], by_session=by_session)
        if self.style.flaps and not self.settled:
            link.tasks.append(asyncio.create_task(self._flap(link)))
        if self.style.toggles:
            link.tasks.append(asyncio.create_task(self._toggle(link)))

    def _moved(self, link: _Link, welcome: dict[str, Any]) -> None:
        """Another node serves it from its cursor on, and has something to say about that: nothing that was not lost."""
        self._session = welcome["session"]
        if not welcome["resumed"]:
            # It is another session, of which nothing is stored yet.
            self._relied.clear()
            link.acked.clear()
            link.first_acked.clear()
        self._check_verdicts(welcome["topics"])
        for verdict in welcome["topics"]:
            witness = self.witnesses[verdict["topic"]]
            if not verdict["recovered"]:
                witness.joined(verdict["epoch"], verdict["seq"], False, by_session=False)
            elif verdict["epoch"] != witness.epoch:
                self.complaints.append(f"{self.name} {verdict['topic']}: recovered in another epoch than its cursor's")

    def _check_verdicts(self, verdicts: Sequence[dict[str, Any]]) -> None:
        for verdict in verdicts:
            if not verdict["ok"]:
                error = verdict["error"]
                if error["retry"] == "never":
                    self.complaints.append(f"{self.name} {verdict['topic']}: refused: {error['code']}")
                raise _ComeAgain

    async def _listen(self, link: _Link) -> None:
        async for message in link.socket:
            if not self.reading.is_set():
                await self.reading.wait()
            link.heard_at = time.monotonic()
            self._take(link, self._decode(message))
            if link.unacked >= _ACK_EVERY_EVENTS:
                await self._acknowledge(link)

    def _take(self, link: _Link, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "event":
            link.unacked += 1
            self.witnesses[frame["topic"]].event(frame["seq"], frame["data"]["number"])
        elif kind == "gap":
            first, last = frame.get("from", 0), frame.get("to", 0)
            self.witnesses[frame["topic"]].gap(frame["epoch"], frame["reason"], first, last)
        elif kind == "drain":
            self._ticket = frame["ticket"]
            link.tasks.append(asyncio.create_task(self._go_at_slot(link, frame["after_ms"] / 1000)))
        elif kind == "welcome" and self.style.transport == "poll":
            self._moved(link, frame)
        elif kind == "reply":
            link.answers.pop(frame["id"])(frame["result"])
        elif kind == "error" and frame["retry"] != "never":
            link.socket.transport.abort()
        elif kind not in ("heartbeat", "pong"):
            self.complaints.append(f"{self.name}: an unexpected {kind}: {frame}")

    async def _leave(self, link: _Link) -> None:
        for task in link.tasks:
            task.cancel()
        await asyncio.gather(*link.tasks, return_exceptions=True)
        with contextlib.suppress(OSError, TimeoutError):
            await link.socket.close()
        for witness in self.witnesses.values():
            witness.left()
        now = time.monotonic()
        self._relied |= {topic for topic, at in link.first_acked.items() if now - at >= _STORED_AFTER_S}

    def _pause(self, link: _Link | None) -> float:
        code = (link.socket.close_code if link is not None else None) or 0
        self.closes[code] += 1
        # A ticket does not outlive the server that keeps it; the token is good for the next attempt.
        if code in _NEVER and not (code == 4401 and link is not None and link.by_ticket):
            self.complaints.append(f"{self.name}: closed with {code}")
        if code in _NOW or (self.style.flaps and not self._failures):
            return self._random.uniform(0, _NOW_JITTER_S)
        return self._random.uniform(0, min(_LONGEST_PAUSE_S, 0.25 * 2 ** min(self._failures, 8)))

    # --- what it does by itself

    async def _acknowledge(self, link: _Link) -> None:
        """At most once a second, or every hundred events."""
        now = time.monotonic()
        if link.unacked < _ACK_EVERY_EVENTS and now - link.acked_at < _ACK_EVERY_S:
            return
        positions = {
            topic: witness.known
            for topic, witness in self.witnesses.items()
            if witness.known is not None and witness.subscribed and link.acked.get(topic) != witness.known
        }
        link.unacked, link.acked_at = 0, now
        if positions:
            link.acked |= {topic: (place.epoch, place.seq) for topic, place in positions.items()}
            for topic, place in positions.items():
                if place.seq:
                    link.first_acked.setdefault(topic, now)
            told = {topic: {"epoch": place.epoch, "seq": place.seq} for topic, place in positions.items()}
            await self._tell(link, {"type": "ack", "positions": told})

    async def _tell(self, link: _Link, ack: dict[str, Any]) -> None:
        if self.style.transport == "websocket":
            await self._send(link, ack)
        elif self.style.transport == "sse":  # its answer is nothing to wait for
            link.tasks.append(asyncio.create_task(self._send(link, ack)))
        # A poll acknowledges by itself, and a frame of its own may come to a node that it is just leaving.

    async def _go_at_slot(self, link: _Link, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await link.socket.close()

    async def _flap(self, link: _Link) -> None:
        await asyncio.sleep(self._random.expovariate(5))
        if self._random.random() < 0.5:
            link.socket.transport.abort()
        else:
            await link.socket.close()

    async def _toggle(self, link: _Link) -> None:
        with contextlib.suppress(ConnectionClosed):
            while not self.settled:
                await self._subscribe(link)
                await asyncio.sleep(self._random.choice((0, 0.001, 0.02, 0.4)))
                await self._unsubscribe(link)
            await self._subscribe(link)

    async def _subscribe(self, link: _Link) -> None:
        def take(result: Any) -> None:
            for verdict in result["topics"]:
                if verdict["ok"]:
                    witness = self.witnesses[verdict["topic"]]
                    witness.joined(verdict["epoch"], verdict["seq"], verdict["recovered"], by_session=False)
                else:
                    # It comes again. Until then events of the topics that were not refused may be in the buffer.
                    link.socket.transport.abort()

        topics = list(self.witnesses)
        self._random.shuffle(topics)
        await self._ask(link, {"type": "subscribe", "topics": [self._item(topic) for topic in topics]}, take)

    async def _unsubscribe(self, link: _Link) -> None:
        def take(_: Any) -> None:
            for witness in self.witnesses.values():
                witness.left()

        await self._ask(link, {"type": "unsubscribe", "topics": list(self.witnesses)}, take)

    async def _ask(self, link: _Link, frame: dict[str, Any], take: Callable[[Any], None]) -> None:
        """Sends a request; ``take`` gets the result in the very place where the reply stands among the frames."""
        self._ids += 1
        done = asyncio.get_running_loop().create_future()

        def taken(result: Any) -> None:
            take(result)
            if not done.done():
                done.set_result(None)

        link.answers[self._ids] = taken
        await self._send(link, {"id": self._ids, **frame})
        async with asyncio.timeout(_ANSWER_S):
            await done

    async def _send(self, link: _Link, frame: dict[str, Any]) -> None:
        if self.style.msgpack:
            await link.socket.send(msgspec.msgpack.encode(frame))
        else:
            await link.socket.send(msgspec.json.encode(frame).decode())

    def _decode(self, message: str | bytes) -> dict[str, Any]:
        if self.style.msgpack is not isinstance(message, bytes):
            self.complaints.append(f"{self.name}: a message of the wrong type")
        decoder = msgspec.json.decode if isinstance(message, str) else msgspec.msgpack.decode
        decoded: dict[str, Any] = decoder(message)
        return decoded
