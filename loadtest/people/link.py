"""One WebSocket to the hub, in gevent's manner: a greenlet reads, everybody else sends and waits for answers.

It knows frames and ids, not what they mean; times are milliseconds. websocket-client, because asyncio does not run in
locust's greenlets.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import gevent
import msgspec
import websocket
from gevent.event import AsyncResult

ANSWER_S = 10.0
CONNECT_S = 10.0
_SUBPROTOCOL = "hub.v1.json"
_CHUNK_HEAD = struct.Struct(">IQ")

Frame = dict[str, Any]


class LinkLost(Exception):
    """The connection is gone; ``code`` as in a close frame, 1006 without one."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"closed with {code} {reason}".rstrip())
        self.code = code


class Refused(Exception):
    """The hub answered a request with an error."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(f"{frame['code']}: {frame['message']}")
        self.code = frame["code"]


class Link:
    """Opens in ``__init__``. ``on_frame`` gets every frame that is no answer, in the reader's greenlet."""

    def __init__(self, url: str, token: str, on_frame: Callable[[Frame], None], *, ticket: str = "") -> None:
        self._on_frame = on_frame
        self._answers: dict[int, AsyncResult] = {}
        self._ids = itertools.count(1)
        self._lost: LinkLost | None = None
        header = [] if ticket else [f"Authorization: Bearer {token}"]
        self._socket = websocket.create_connection(
            f"{url}?ticket={ticket}" if ticket else url,
            header=header,
            subprotocols=[_SUBPROTOCOL],
            timeout=CONNECT_S,
            suppress_origin=True,
            enable_multithread=True,
            http_no_proxy=["*"],
        )
        self._socket.settimeout(None)
        self._reader = gevent.spawn(self._read)

    @property
    def lost(self) -> LinkLost | None:
        """Why the connection is gone; None while it is there."""
        return self._lost

    def send(self, frame: Frame) -> None:
        """Sends a frame. Raises ``LinkLost``."""
        if self._lost is not None:
            raise self._lost
        try:
            self._socket.send(msgspec.json.encode(frame).decode())
        except (OSError, websocket.WebSocketException) as error:
            raise self._end(LinkLost(1006, str(error))) from error

    def send_chunk(self, handle: int, offset: int, data: bytes) -> None:
        """Sends bytes of an upload. Raises ``LinkLost``."""
        if self._lost is not None:
            raise self._lost
        try:
            self._socket.send(_CHUNK_HEAD.pack(handle, offset) + data, opcode=websocket.ABNF.OPCODE_BINARY)
        except (OSError, websocket.WebSocketException) as error:
            raise self._end(LinkLost(1006, str(error))) from error

    def ask(self, frame: Frame) -> Frame:
        """Sends a request and returns its answer. Raises ``Refused``, ``LinkLost`` or ``TimeoutError``."""
        frame_id = next(self._ids)
        answer = self._answers[frame_id] = AsyncResult()
        try:
            self.send({**frame, "id": frame_id})
            reply: Frame | LinkLost = answer.get(timeout=ANSWER_S)
        except gevent.Timeout:
            raise TimeoutError(f"no answer to {frame['type']} in {ANSWER_S:g} s") from None
        finally:
            self._answers.pop(frame_id, None)
        if isinstance(reply, LinkLost):
            raise reply
        if reply["type"] == "error":
            raise Refused(reply)
        return reply

    # --- ways to leave

    def close(self) -> None:
        """As a page that is closed: with a close frame."""
        self.forsake()
        try:
            self._socket.close(timeout=1)
        except (OSError, websocket.WebSocketException):
            self._socket.shutdown()

    def drop(self) -> None:
        """As a phone that is switched off: TCP is reset, no close frame."""
        self.forsake()
        if self._socket.sock is not None:
            self._socket.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.shutdown()

    def forsake(self) -> None:
        """As a phone without network: nothing is read or sent any more, and the hub is not told. ``drop`` later."""
        self._reader.kill()
        self._end(LinkLost(1006, "left"))

    # --- reading

    def _read(self) -> None:
        try:
            while True:
                opcode, payload = self._socket.recv_data(control_frame=True)
                if opcode == websocket.ABNF.OPCODE_TEXT:
                    self._take(msgspec.json.decode(payload))
                elif opcode == websocket.ABNF.OPCODE_CLOSE:
                    code = int.from_bytes(payload[:2]) if payload else 1005
                    self._end(LinkLost(code, payload[2:].decode(errors="replace")))
                    return
        except (OSError, websocket.WebSocketException) as error:
            self._end(LinkLost(1006, str(error)))

    def _take(self, frame: Frame) -> None:
        answer = (
            self._answers.get(frame.get("id", 0)) if frame["type"] in ("reply", "welcome", "error", "pong") else None
        )
        if answer is None:
            self._on_frame(frame)
            return
        if frame["type"] == "welcome":
            # Events follow at once; whoever asked would learn of his topics only after them.
            self._on_frame(frame)
        answer.set(frame)

    def _end(self, lost: LinkLost) -> LinkLost:
        if self._lost is None:
            self._lost = lost
            for answer in self._answers.values():
                answer.set(lost)
        return self._lost


def now_ms() -> float:
    """For durations."""
    return time.perf_counter() * 1000
