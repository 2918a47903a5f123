"""The hub's own WebSocket for uvicorn: ready-made frames go straight to the transport.

A uvicorn WebSocket protocol class (``ws=`` takes one). The handshake and the parsing of RFC 6455 are the library's; for
the hub's path the ASGI application is not involved, for every other path it is uvicorn's class unchanged.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import structlog
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import Frame
from websockets.http11 import Request, Response

from hub.edge.connection import Connection
from hub.edge.gateway import Gateway
from hub.edge.handshake import WEBSOCKET_PATH, Accepted, Refused, shake_hands
from hub.protocol.codec import OPCODE_CLOSE, OPCODE_PING, Packet, websocket_frame
from hub.protocol.codes import CloseCode

log = structlog.get_logger(__name__)

CLOSING_S = 10.0  # for the client to answer the close frame
_TOO_BIG = 1009  # what the library closes with; PROTOCOL section 11 has a code of its own
_REASONS = {401: "Unauthorized", 403: "Forbidden", 426: "Upgrade Required", 503: "Service Unavailable"}


class DirectSocket(WebSocketsSansIOProtocol):
    """Implements ``Socket``. ``gateway`` is set on the subclass that ``direct_protocol`` makes."""

    gateway: Gateway

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connection: Connection | None = None
        self._shaking: asyncio.Task[None] | None = None
        self._deaf = False
        """A fault was found; what comes after it cannot be understood."""

    # --- Socket

    @property
    def unsent(self) -> int:
        """Bytes in the transport's buffer."""
        return self.transport.get_write_buffer_size()

    def write(self, packet: Packet) -> None:
        """The frames as they are."""
        if not self.close_sent:
            self.transport.write(packet.wire)

    def ping(self) -> bool:
        """A ping without payload."""
        if not self.close_sent:
            self.transport.write(websocket_frame(b"", OPCODE_PING))
        return True

    def close(self, code: int, reason: str) -> None:
        """A close frame after what is unsent; the transport is closed when the client has answered, or in a while."""
        if self.close_sent:
            return
        self.close_sent = True
        self.transport.write(close_frame(code, reason))
        # A client that does not read never takes the close frame either.
        self.close_timer = self.loop.call_later(CLOSING_S, self.transport.abort)

    def abort(self) -> None:
        """At once."""
        self.transport.abort()

    def pause_reading(self) -> None:
        """The kernel's buffer and then the client have to wait."""
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Goes on."""
        self.transport.resume_reading()

    # --- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if not self._deaf:
            super().data_received(data)

    def pause_writing(self) -> None:
        """More than the high mark is unsent."""
        super().pause_writing()
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Less than the low mark is unsent."""
        super().resume_writing()
        if self._connection is not None:
            self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        super().connection_lost(exc)
        if self._shaking is not None:
            self._shaking.cancel()
        if self._connection is not None:
            received = self.conn.close_rcvd
            self._connection.lost(1006 if received is None else received.code)
            self._connection = None

    def shutdown(self) -> None:
        """uvicorn stops. Connections were drained before; whoever is still here is told to come again."""
        if self._connection is not None:
            self._connection.close(CloseCode.DRAINING)
        else:
            super().shutdown()

    # --- handshake

    def handle_connect(self, event: Request) -> None:
        """The hub's path is the hub's; the rest is the application's."""
        path, _, query = event.path.partition("?")
        if path != WEBSOCKET_PATH:
            super().handle_connect(event)
            return
        self.request = event
        self.response = self.conn.accept(event)
        self.handshake_initiated = True
        if self.response.status_code != 101:
            self._respond(self.response)
            return
        self._shaking = self.loop.create_task(self._shake_hands(query.encode("latin-1")), name="handshake")

    async def _shake_hands(self, query: bytes) -> None:
        headers = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in self.request.headers.raw_items()
        ]
        try:
            outcome = await shake_hands(self.gateway, headers, query)
        except Exception:
            log.exception("handshake failed")
            self._respond(
                Response(500, "Internal Server Error", Headers({"Content-Length": "0", "Connection": "close"}))
            )
            return
        finally:
            self._shaking = None
        if self.transport.is_closing():
            return
        if isinstance(outcome, Refused):
            self._refuse(outcome)
        else:
            self._accept(outcome)

    def _accept(self, accepted: Accepted) -> None:
        if accepted.subprotocol is not None:
            self.response.headers["Sec-WebSocket-Protocol"] = accepted.subprotocol
        self.handshake_complete = True
        self.conn.send_response(self.response)
        self.transport.write(b"".join(self.conn.data_to_send()))
        high = self.gateway.settings.unsent_high_bytes
        self.transport.set_write_buffer_limits(high=high, low=high // 4)
        self._connection = Connection(self.gateway, self, accepted.arrival)

    def _refuse(self, refused: Refused) -> None:
        headers = Headers(refused.headers)
        headers["Content-Length"] = str(len(refused.body))
        headers["Connection"] = "close"
        self._respond(Response(refused.status, _REASONS.get(refused.status, "Refused"), headers, refused.body))

    def _respond(self, response: Response) -> None:
        """An HTTP answer instead of an upgrade."""
        self.handshake_complete = self.close_sent = True
        self.conn.send_response(response)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    # --- messages

    def send_receive_event_to_app(self) -> None:
        """One whole message has come."""
        if self._connection is None:
            super().send_receive_event_to_app()
            return
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self._connection.receive(bytes(data))
            return
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError:
            self._fail(self._connection, CloseCode.INVALID_UTF8)
            return
        self._connection.receive(text)

    def handle_ping(self) -> None:
        """The library has prepared the pong."""
        super().handle_ping()
        if self._connection is not None:
            self._connection.heard()

    def handle_pong(self, event: Frame) -> None:
        """Any pong is a sign of life (RFC 6455 section 5.5.3)."""
        if self._connection is not None:
            self._connection.heard()
        else:
            super().handle_pong(event)

    def handle_parser_exception(self) -> None:
        """A fault against RFC 6455, or a message that is too large."""
        if self._connection is None:
            super().handle_parser_exception()
            return
        self.conn.data_to_send()  # the library's close frame; its code may not be ours
        code = self.conn.close_sent.code if self.conn.close_sent is not None else CloseCode.PROTOCOL_ERROR
        known = {_TOO_BIG: CloseCode.TOO_LARGE, 1007: CloseCode.INVALID_UTF8}
        self._fail(self._connection, known.get(code, CloseCode.PROTOCOL_ERROR))

    def _fail(self, connection: Connection, code: CloseCode) -> None:
        connection.close(code)
        self._deaf = True
        # Closed at once, with bytes unread, TCP would reset the connection, and the client might never see the close
        # frame. So only our half is closed; the client's end, or the close timer, closes the other.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()


def direct_protocol(gateway: Gateway) -> type[DirectSocket]:
    """The class to give to uvicorn as ``ws=``."""
    return type("HubWebSocketProtocol", (DirectSocket,), {"gateway": gateway})


def close_frame(code: int, reason: str) -> bytes:
    """A close frame (RFC 6455 section 5.5.1); the reason is cut to fit a control frame."""
    return websocket_frame(struct.pack("!H", code) + reason.encode()[:123], OPCODE_CLOSE)
