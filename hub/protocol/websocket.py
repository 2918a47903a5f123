"""RFC 6455 from the server's side: bytes of a client -> messages and control frames; the opening handshake. No I/O.

With permessage-deflate (RFC 7692) as its one extension. One ``MessageReader`` per connection; between messages it holds
next to nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiled wheel for this platform
    from websockets.utils import apply_mask

from hub.protocol.codec import (
    DEFLATE_WINDOW_BITS,
    OPCODE_BINARY,
    OPCODE_CLOSE,
    OPCODE_PING,
    OPCODE_PONG,
    OPCODE_TEXT,
    websocket_frame,
)
from hub.protocol.codes import CloseCode

OPCODE_CONTINUATION: Final = 0x0
_CONTROL: Final = frozenset((OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG))
_DATA: Final = frozenset((OPCODE_CONTINUATION, OPCODE_TEXT, OPCODE_BINARY))
_MAX_CONTROL_BYTES: Final = 125
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_VERSION: Final = b"13"
_VIEWED_FROM_BYTES: Final = 8192  # below this a copy is cheaper than a view

Item = tuple[int, bytes]
"""(opcode, payload): a whole text or binary message, or a control frame."""


class Fault(Exception):
    """The client broke a rule; the connection must be closed with ``code``. Nothing after it can be understood."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class MessageReader:
    """Puts messages together from the bytes of a client, in pieces of any size."""

    __slots__ = ("_deflated", "_fragments", "_have", "_inflates", "_max_bytes", "_need", "_opcode", "_pieces", "_size")

    def __init__(self, max_bytes: int, *, inflates: bool = False) -> None:
        self._max_bytes = max_bytes
        self._inflates = inflates
        self._deflated = False
        """The message under way is compressed (RFC 7692 section 6)."""
        # Bytes that are not enough for the next step, and how many it needs. Bounded by max_bytes and a header.
        self._pieces: list[bytes] | None = None
        self._have = 0
        self._need = 2
        # A fragmented message under way.
        self._fragments: list[bytes] | None = None
        self._opcode = 0
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Item]:
        """What is complete now, one after the other. Raises ``Fault`` where it stands; then the reader is spent."""
        if self._pieces is not None:
            self._pieces.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._pieces)
            self._pieces = None
        items: list[Item] = []
        position = 0
        while (end := self._frame(data, position, items)) >= 0:
            position = end
            if items:
                yield items.pop()
        if position < len(data):
            self._pieces = [data[position:] if position else data]
            self._have = len(data) - position

    def _frame(self, data: bytes, start: int, items: list[Item]) -> int:
        """Takes the frame at ``start``; returns where it ends, or -1 when it is not complete: see ``_need``."""
        available = len(data) - start
        if available < 2:
            self._need = 2
            return -1
        first, second = data[start], data[start + 1]
        opcode, final = first & 0x0F, bool(first & 0x80)
        self._check_head(first, second, opcode)
        size, header = second & 0x7F, 6
        if size >= 126:
            width = 2 if size == 126 else 8
            header += width
            if available < header:
                self._need = header
                return -1
            size = int.from_bytes(data[start + 2 : start + 2 + width])
        self._check_size(size, opcode, final)
        if available < header + size:
            self._need = header + size
            return -1
        end = start + header + size
        payload = b""
        if size:
            masked = data[end - size : end] if size < _VIEWED_FROM_BYTES else memoryview(data)[end - size : end]
            payload = apply_mask(masked, data[end - size - 4 : end - size])
        if opcode in (OPCODE_TEXT, OPCODE_BINARY):
            self._deflated = bool(first & 0x40)
        self._take(opcode, final, payload, items)
        return end

    def _check_head(self, first: int, second: int, opcode: int) -> None:
        # RSV1 says of a message's first frame that the message is compressed.
        allowed = 0x40 if self._inflates and opcode in (OPCODE_TEXT, OPCODE_BINARY) else 0
        if first & 0x70 & ~allowed:
            raise Fault(CloseCode.PROTOCOL_ERROR, "a reserved bit is set")
        if opcode not in _DATA and opcode not in _CONTROL:
            raise Fault(CloseCode.PROTOCOL_ERROR, "a reserved opcode")
        if not second & 0x80:
            raise Fault(CloseCode.PROTOCOL_ERROR, "frames from a client must be masked")
        if opcode in _DATA and (opcode == OPCODE_CONTINUATION) is (self._fragments is None):
            raise Fault(CloseCode.PROTOCOL_ERROR, "fragments out of order")

    def _check_size(self, size: int, opcode: int, final: bool) -> None:
        if opcode in _CONTROL:
            if size > _MAX_CONTROL_BYTES or not final:
                raise Fault(CloseCode.PROTOCOL_ERROR, "a control frame is fragmented or too large")
        elif size >> 63:
            raise Fault(CloseCode.PROTOCOL_ERROR, "a length with the highest bit set")
        elif self._size + size > self._max_bytes:
            raise Fault(CloseCode.TOO_LARGE, f"a message may have {self._max_bytes} bytes")

    def _take(self, opcode: int, final: bool, payload: bytes, items: list[Item]) -> None:
        if opcode in _CONTROL:
            items.append((opcode, payload))
        elif final and self._fragments is None:
            items.append((opcode, self._whole(payload)))
        elif final:
            fragments, self._fragments = self._fragments or [], None
            self._size = 0
            items.append((self._opcode, self._whole(b"".join((*fragments, payload)))))
        elif self._fragments is None:
            self._fragments, self._opcode, self._size = [payload], opcode, len(payload)
        elif payload:
            self._fragments.append(payload)
            self._size += len(payload)

    def _whole(self, message: bytes) -> bytes:
        return inflate(message, self._max_bytes) if self._deflated else message


def inflate(message: bytes, max_bytes: int) -> bytes:
    """A message compressed without context takeover. Raises ``Fault``: more than ``max_bytes``, or no deflated data."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(message + b"\x00\x00\xff\xff", max_bytes + 1)
    except zlib.error:
        raise Fault(CloseCode.PROTOCOL_ERROR, "a compressed message that cannot be inflated") from None
    if len(data) > max_bytes:
        raise Fault(CloseCode.TOO_LARGE, f"a message may have {max_bytes} bytes")
    return data


def accept_deflate(offers: Iterable[bytes]) -> bytes | None:
    """The answer to ``Sec-WebSocket-Extensions`` (RFC 7692 section 7.1); None: none of the offers fits.

    Without context takeover in both directions, so that nothing is kept between messages and all can share the same
    bytes; with a window of 12 bits, so that any window a client asks for will do unless it is smaller.
    """
    for offer in b",".join(offers).split(b","):
        name, *parameters = (part.strip().lower() for part in offer.split(b";"))
        answer = [name, b"server_no_context_takeover", b"client_no_context_takeover"]
        if name == b"permessage-deflate" and all(_fits(parameter, answer) for parameter in parameters):
            return b"; ".join(answer)
    return None


def _fits(parameter: bytes, answer: list[bytes]) -> bool:
    """Whether a parameter of an offer can be met; adds to ``answer`` what has to be said of it."""
    name, _, value = parameter.partition(b"=")
    value = value.strip(b'"')
    if name in (b"server_no_context_takeover", b"client_no_context_takeover"):
        return not value
    if name == b"client_max_window_bits":
        return not value or (value.isdigit() and 8 <= int(value) <= 15)
    if name == b"server_max_window_bits" and value.isdigit() and DEFLATE_WINDOW_BITS <= int(value) <= 15:
        answer.append(b"server_max_window_bits=%d" % DEFLATE_WINDOW_BITS)
        return True
    return False


def close_code_of(payload: bytes) -> int:
    """The code in a client's close frame (RFC 6455 section 7.4); 1005 when there is none. Raises ``Fault``."""
    if not payload:
        return 1005
    if len(payload) < 2:
        raise Fault(CloseCode.PROTOCOL_ERROR, "a close frame of one byte")
    (code,) = struct.unpack_from("!H", payload)
    if not (code in range(1000, 1004) or code in range(1007, 1015) or code in range(3000, 5000)):
        raise Fault(CloseCode.PROTOCOL_ERROR, "a close code that is none")
    try:
        str(payload[2:], "utf-8")
    except UnicodeDecodeError:
        raise Fault(CloseCode.INVALID_UTF8, "a close reason that is not UTF-8") from None
    return int(code)


def close_frame(code: int, reason: str) -> bytes:
    """A close frame (RFC 6455 section 5.5.1); the reason is cut to fit a control frame."""
    return websocket_frame(struct.pack("!H", code) + reason.encode()[:123], OPCODE_CLOSE)


class UpgradeRequest(Struct, frozen=True):
    """An HTTP/1.1 request that asks for a WebSocket; header names are in lower case."""

    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header."""
        return [value for key, value in self.headers if key == name]


def parse_upgrade(head: bytes) -> UpgradeRequest:
    """The request in ``head``, which an HTTP server has parsed and found well-formed before."""
    request_line, *lines = head.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
    target = request_line.split(b" ")[1]
    path, _, query = target.partition(b"?")
    headers = []
    for line in lines:
        name, _, value = line.partition(b":")
        headers.append((name.lower(), value.strip()))
    return UpgradeRequest(path, query, headers)


def accept_key(request: UpgradeRequest) -> bytes | None:
    """``Sec-WebSocket-Accept`` for a request that follows RFC 6455 section 4.2.1; None: it does not."""
    keys = request.values(b"sec-websocket-key")
    if len(keys) != 1 or request.values(b"sec-websocket-version") != [_VERSION]:
        return None
    try:
        if len(base64.b64decode(keys[0], validate=True)) != 16:
            return None
    except binascii.Error:
        return None
    return base64.b64encode(hashlib.sha1(keys[0] + _ACCEPT_GUID, usedforsecurity=False).digest())
