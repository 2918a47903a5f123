"""What the sockets of server-sent events and of polling have in common: until the ``welcome`` nothing is answered.

A hello that is refused becomes the request's own answer: a status and problem+json.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Final

import msgspec

from hub.auth.credentials import Place
from hub.edge.connection import Connection
from hub.edge.gateway import Gateway
from hub.edge.http_line import Answer, Line, problem_answer
from hub.errors import ErrorCode, HubError
from hub.protocol.codec import Encoding, Packet, encode_frame
from hub.protocol.codes import CloseCode
from hub.protocol.frames import CloseFrame, Error
from hub.protocol.session import State

CLOSING_S: Final = 10.0  # for the client to take the last bytes, or to ask for them
CLIENT_GONE: Final = 1006

_error: Final = msgspec.json.Decoder(Error)


class HttpSocket(ABC):
    """The half of ``Socket`` that both share. ``run`` begins."""

    __slots__ = ("_closing", "_connection", "_gateway", "_line", "_opened", "_refusal")

    def __init__(self, gateway: Gateway, line: Line) -> None:
        self._gateway = gateway
        self._line: Line | None = line
        self._connection: Connection
        self._opened = self._closing = False
        self._refusal: bytes | None = None
        """The last frame before the welcome: why there is none."""
        line.user = self

    def run(self, connection: Connection, hello: str) -> None:
        """Hands over the hello."""
        self._connection = connection
        if not connection.close_code:
            connection.receive(hello)

    # --- Socket

    def write(self, packet: Packet) -> None:
        """The first frame of an open connection is its welcome."""
        if self._closing:
            return
        if self._opened:
            self._send(packet)
        elif self._connection.session.state is State.OPEN:
            self._opened = True
            self._open(packet)
        else:
            self._refusal = packet.payloads[-1]

    def ping(self) -> bool:
        """There is nothing that a client would answer."""
        return False

    def close(self, code: int, reason: str) -> None:
        """A ``close`` frame, after which nothing comes; before the welcome a problem instead."""
        if self._closing:
            return
        if self._opened:
            self._end(encode_frame(CloseFrame(int(code), reason), Encoding.JSON))
        else:
            self._refuse(code)
        self._closing = True

    def pause_reading(self) -> None:  # noqa: B027 - nothing is read here
        """Frames come by requests of their own, which are refused while too many wait."""

    def resume_reading(self) -> None:  # noqa: B027 - nothing is read here
        """See ``pause_reading``."""

    # --- of each transport

    @abstractmethod
    def _open(self, welcome: Packet) -> None:
        """The first frame of all."""

    @abstractmethod
    def _send(self, packet: Packet) -> None:
        """What follows."""

    @abstractmethod
    def _end(self, close_frame: bytes) -> None:
        """The last frame of all."""

    # --- LineUser

    def pause_writing(self) -> None:
        """The connection leaves the live sets."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """It comes back to them."""
        self._connection.resume_writing()

    def server_stops(self) -> None:
        """The client goes elsewhere."""
        self._connection.close(CloseCode.DRAINING)

    @abstractmethod
    def line_lost(self, line: Line) -> None:
        """The request's way back is gone."""

    # --- the end

    def _refuse(self, code: int) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.answer(self._problem(code))
        self._lose(code)

    def _problem(self, code: int) -> Answer:
        if self._refusal is not None:
            told = _error.decode(self._refusal)
            error = HubError(
                ErrorCode(told.code),
                told.message,
                retry=told.retry,
                retry_after_ms=told.retry_after_ms,
                details=told.details,
            )
        elif code == CloseCode.DRAINING:
            error = HubError(ErrorCode.UNAVAILABLE, "this node is leaving; connect again", retry_after_ms=1000)
        elif code == CloseCode.TAKEN_OVER:
            error = HubError(ErrorCode.CONFLICT, "a newer connection has taken this session over meanwhile")
        else:
            error = HubError(ErrorCode.INTERNAL, "a fault of the hub; it is in its log, try again later")
        arrival = self._connection.arrival
        brought = arrival is not None and arrival.credentials.place is Place.HEADER
        return problem_answer(error, brought=brought)

    def _lose(self, code: int) -> None:
        # Not now: whoever closes a connection goes on with it.
        asyncio.get_running_loop().call_soon(self._connection.lost, code)
