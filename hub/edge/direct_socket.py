"""The hub's own WebSocket for uvicorn: ready-made frames go straight to the transport.

A uvicorn WebSocket protocol class (``ws=`` takes one). For the hub's path it does the handshake and then holds nothing
but the transport and the connection; every other path is handed to uvicorn's own class.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any, Final

import structlog
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from hub.edge.connection import Connection
from hub.edge.flag_gate import subject_of
from hub.edge.gateway import Gateway
from hub.edge.handshake import BAD_UPGRADE, WEBSOCKET_PATH, Accepted, Refused, shake_hands
from hub.edge.transports import hold_back
from hub.flags import COMPRESSION
from hub.protocol.codec import (
    OPCODE_BINARY,
    OPCODE_CLOSE,
    OPCODE_PING,
    OPCODE_PONG,
    OPCODE_TEXT,
    Packet,
    websocket_frame,
)
from hub.protocol.codes import CloseCode
from hub.protocol.websocket import (
    Fault,
    Item,
    MessageReader,
    UpgradeRequest,
    accept_deflate,
    accept_key,
    close_code_of,
    close_frame,
    parse_upgrade,
)

log = structlog.get_logger(__name__)

CLOSING_S = 10.0  # for the client to answer the close frame
NO_CLOSE_FRAME = 1006
_LARGE_READ_BYTES = 131_072
_ITEMS_PER_TURN = 256
NO_STATUS = 1005
_PING = websocket_frame(b"", OPCODE_PING)
_REASONS = {
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}


class DirectSocket(asyncio.Protocol):
    """Implements ``Socket``. ``gateway`` is set on the subclass that ``direct_protocol`` makes."""

    __slots__ = (
        "_arguments",
        "_client_code",
        "_closing",
        "_connection",
        "_deflates",
        "_other",
        "_reader",
        "_rest",
        "_shaking",
        "_transport",
    )

    gateway: Gateway
    transport: Final = "websocket"

    def __init__(self, config: Any, server_state: Any, app_state: Any) -> None:
        # What uvicorn's own class needs, until it is known that this connection is not for it.
        self._arguments: tuple[Any, Any, Any] | None = (config, server_state, app_state)
        self._other: WebSocketsSansIOProtocol | None = None
        self._shaking: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport
        self._connection: Connection | None = None
        self._reader: MessageReader | None = None
        """None before the upgrade, and after a fault: nothing further can be understood."""
        self._rest: Iterator[Item] | None = None
        """What was read and has to wait, as bytes; meanwhile nothing further is read."""
        self._closing = False
        """A close frame or a refusal was sent."""
        self._deflates = False
        """permessage-deflate was negotiated."""
        self._client_code = NO_CLOSE_FRAME

    # --- Socket

    @property
    def unsent(self) -> int:
        """Bytes in the transport's buffer."""
        return self._transport.get_write_buffer_size()

    def write(self, packet: Packet) -> None:
        """The frames as they are."""
        if not self._closing:
            self._transport.write(packet.deflated if self._deflates else packet.wire)

    def ping(self) -> bool:
        """A ping without payload."""
        if not self._closing:
            self._transport.write(_PING)
        return True

    def close(self, code: int, reason: str) -> None:
        """A close frame after what is unsent; the transport is closed when the client has answered, or in a while."""
        if self._closing:
            return
        self._closing = True
        self._transport.write(close_frame(code, reason))
        # A client that does not read never takes the close frame either.
        asyncio.get_running_loop().call_later(CLOSING_S, self._transport.abort)

    def abort(self) -> None:
        """At once."""
        self._transport.abort()

    def look(self, now: float) -> float:
        """It has no deadlines but the connection's."""
        return math.inf

    def pause_reading(self) -> None:
        """The kernel's buffer and then the client have to wait."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Goes on, with what was read already."""
        self._read_on()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """uvicorn hands over the transport on which it read the upgrade request."""
        self._transport = transport  # type: ignore[assignment]  # it is one that can write

    def data_received(self, data: bytes) -> None:
        """First the upgrade request, then frames."""
        if self._other is not None:
            self._other.data_received(data)
        elif self._arguments is not None:
            self._begin(data)
        elif self._reader is not None:
            self._rest = self._reader.feed(data)
            self._take_rest()
            if len(data) >= _LARGE_READ_BYTES:
                self._let_others()

    def eof_received(self) -> bool:
        """The client sends no more; the transport closes itself."""
        return False

    def pause_writing(self) -> None:
        """More than the high mark is unsent."""
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Less than the low mark is unsent."""
        if self._connection is not None:
            self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        if self._other is not None:
            self._other.connection_lost(exc)
        if self._shaking is not None:
            self._shaking.cancel()
        if self._connection is not None:
            self._connection.lost(self._client_code)
            self._connection = None
        self._reader = self._rest = None

    # --- handshake

    def _begin(self, head: bytes) -> None:
        """The hub's path is the hub's; the rest is uvicorn's and the application's."""
        request = parse_upgrade(head)
        arguments, self._arguments = self._arguments, None
        if request.path == WEBSOCKET_PATH.encode():
            loop = asyncio.get_running_loop()
            self._shaking = loop.create_task(self._shake_hands(request), name="handshake")
        elif arguments is not None:
            self._other = WebSocketsSansIOProtocol(*arguments)
            self._other.connection_made(self._transport)
            self._other.data_received(head)
            # uvicorn makes this object the transport's protocol when it gets back here; then it is the other's turn.
            asyncio.get_running_loop().call_soon(self._transport.set_protocol, self._other)

    async def _shake_hands(self, request: UpgradeRequest) -> None:
        try:
            accept = accept_key(request)
            outcome: Accepted | Refused = BAD_UPGRADE
            if accept is not None:
                outcome = await shake_hands(self.gateway, request.headers, request.query)
        except Exception:
            log.exception("handshake failed")
            outcome = Refused(500, [], b"")
        finally:
            self._shaking = None
        if self._transport.is_closing():
            return
        if isinstance(outcome, Refused):
            self._refuse(outcome)
        else:
            self._accept(request, outcome, accept or b"")

    def _accept(self, request: UpgradeRequest, accepted: Accepted, accept: bytes) -> None:
        settings = self.gateway.settings
        head = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
        head.append(b"Sec-WebSocket-Accept: " + accept)
        if accepted.subprotocol is not None:
            head.append(b"Sec-WebSocket-Protocol: " + accepted.subprotocol.encode())
        compresses = settings.compression and self.gateway.flags.on(COMPRESSION, subject_of(accepted.arrival.principal))
        offers = request.values(b"sec-websocket-extensions") if compresses else ()
        extension = accept_deflate(offers)
        if extension is not None:
            self._deflates = True
            head.append(b"Sec-WebSocket-Extensions: " + extension)
        self._transport.write(b"\r\n".join((*head, b"", b"")))
        hold_back(self._transport, settings)
        self._reader = MessageReader(settings.max_message_bytes, inflates=self._deflates)
        self._connection = Connection(self.gateway, self, accepted.arrival)

    def _refuse(self, refused: Refused) -> None:
        self._closing = True
        head = [b"HTTP/1.1 %d %s" % (refused.status, _REASONS.get(refused.status, b"Refused"))]
        head += [f"{name}: {value}".encode("latin-1") for name, value in refused.headers]
        head += [b"content-length: %d" % len(refused.body), b"connection: close", b"", refused.body]
        self._transport.write(b"\r\n".join(head))
        self._transport.close()

    # --- frames

    def _take_rest(self) -> None:
        """Takes what was read, until the connection has enough or others have waited long enough."""
        try:
            for count, item in enumerate(self._rest or (), 1):
                self._take(item)
                if self._reader is None:
                    break
                if self._connection is not None and self._connection.reading_paused:
                    return
                if count == _ITEMS_PER_TURN:
                    self._let_others()
                    return
        except Fault as fault:
            self._fail(fault.code)
        self._rest = None

    def _let_others(self) -> None:
        """Everybody else has a turn before this client's next bytes; libuv alone would read 32 times on end."""
        self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._connection is None or self._connection.reading_paused:
            return
        if self._rest is not None:
            self._take_rest()
        if self._rest is None:
            self._transport.resume_reading()

    def _take(self, item: Item) -> None:
        opcode, payload = item
        connection = self._connection
        if connection is None:
            return
        if opcode == OPCODE_CLOSE:
            self._close_received(close_code_of(payload))
        elif self._closing:
            return
        elif opcode == OPCODE_TEXT:
            try:
                connection.receive(str(payload, "utf-8"))
            except UnicodeDecodeError:
                raise Fault(CloseCode.INVALID_UTF8, "text that is not UTF-8") from None
        elif opcode == OPCODE_BINARY:
            connection.receive(payload)
        else:
            # Any pong is a sign of life (RFC 6455 section 5.5.3).
            connection.heard()
            if opcode == OPCODE_PING:
                self._transport.write(websocket_frame(payload, OPCODE_PONG))

    def _close_received(self, code: int) -> None:
        """The answer to ours, or the client leaves; then it is answered (RFC 6455 section 5.5.1)."""
        self._client_code = code
        self._reader = None
        if not self._closing:
            self._closing = True
            self._transport.write(close_frame(code, "") if code != NO_STATUS else websocket_frame(b"", OPCODE_CLOSE))
        self._transport.close()

    def _fail(self, code: CloseCode) -> None:
        self._reader = None
        if self._connection is not None:
            self._connection.close(code)
        # Closed at once, with bytes unread, TCP would reset the connection, and the client might never see the close
        # frame. So only our half is closed; the client's end, or the timer, closes the other.
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()


def direct_protocol(gateway: Gateway) -> type[DirectSocket]:
    """The class to give to uvicorn as ``ws=``."""
    return type("HubWebSocketProtocol", (DirectSocket,), {"gateway": gateway, "__slots__": ()})
