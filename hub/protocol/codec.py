"""Bytes <-> frames, for JSON and msgpack, and ready-made WebSocket frame bytes. Pure; no I/O.

An event is encoded once per encoding and shared by all subscribers as a ``Packet``: the payloads of one or more frames,
and the same as bytes that can be written to a socket as they are (server frames are unmasked, RFC 6455 section 5.1).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, cast, get_args

import msgspec
from msgspec import Raw, Struct

from hub.errors import ErrorCode, HubError, bad_request
from hub.protocol.frames import Chunk, ClientFrame, FrameId, MapFrame, ServerFrame, SubscribeItem


class Encoding(Enum):
    """How frames are written: one member per subprotocol. The value is the subprotocol's name."""

    JSON = "hub.v1.json"
    MSGPACK = "hub.v1.msgpack"

    # Members key the dispatcher's inner dictionaries; Enum.__hash__ would hash the name anew each time.
    __hash__ = object.__hash__


OPCODE_TEXT = 0x1
OPCODE_BINARY = 0x2
OPCODE_CLOSE = 0x8
OPCODE_PING = 0x9
OPCODE_PONG = 0xA

_OPCODES = {Encoding.JSON: OPCODE_TEXT, Encoding.MSGPACK: OPCODE_BINARY}
_MAX_NESTING = 64
_LEAST_INTEGER, _MOST_INTEGER = -(2**63), 2**64 - 1


def websocket_frame(payload: bytes, opcode: int, *, deflated: bool = False) -> bytes:
    """One final, unmasked WebSocket frame (RFC 6455 section 5.2); ``deflated`` sets RSV1 (RFC 7692 section 6)."""
    first = (0xC0 if deflated else 0x80) | opcode
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2) + payload
    return bytes((first, 127)) + size.to_bytes(8) + payload


def websocket_frames(encoding: Encoding, payloads: Sequence[bytes]) -> list[bytes]:
    """Each payload as a message."""
    opcode = _OPCODES[encoding]
    return [websocket_frame(payload, opcode) for payload in payloads]


# Below this it saves too little to be worth the client's work: 200 bytes of JSON a quarter, 450 half, 3 KB five sixths.
DEFLATE_FROM_BYTES = 256
DEFLATE_WINDOW_BITS = 12
_DEFLATE_LEVEL = 1  # the event loop waits for it; an event of 64 KB takes 0.1 ms
_SYNC_TAIL = b"\x00\x00\xff\xff"
_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


def deflate(payload: bytes) -> bytes:
    """A message compressed by itself (RFC 7692 section 7.2.1), so that whoever inflates it needs no past."""
    compressor = zlib.compressobj(_DEFLATE_LEVEL, zlib.DEFLATED, -DEFLATE_WINDOW_BITS, 5)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_SYNC_TAIL)


class Packet:
    """One or more encoded frames that go out together; shared by every subscriber with the same encoding."""

    __slots__ = ("_deflated", "_sse", "encoding", "payloads", "wire")

    def __init__(self, encoding: Encoding, payloads: Sequence[bytes], frames: Sequence[bytes] | None = None) -> None:
        """``frames``: those of the payloads, when they are there already (``websocket_frames``)."""
        self.encoding = encoding
        self.payloads = payloads
        self.wire = b"".join(websocket_frames(encoding, payloads) if frames is None else frames)
        self._deflated: bytes | None = None
        self._sse: bytes | None = None

    @property
    def deflated(self) -> bytes:
        """``wire`` for those who negotiated permessage-deflate: compressed once, however many they are."""
        if self._deflated is None:
            opcode = _OPCODES[self.encoding]
            self._deflated = b"".join(
                [
                    websocket_frame(payload, opcode)
                    if len(payload) < DEFLATE_FROM_BYTES
                    else websocket_frame(deflate(payload), opcode, deflated=True)
                    for payload in self.payloads
                ]
            )
        return self._deflated

    @property
    def sse(self) -> bytes:
        """The frames as blocks of server-sent events, made once for all who get them so. JSON only."""
        if self._sse is None:
            # Between the tokens of JSON a line may end, inside of them never: a blank says the same.
            self._sse = b"".join([b"data: %b\n\n" % payload.translate(_LINE_ENDS) for payload in self.payloads])
        return self._sse


def encode_frame(frame: ServerFrame, encoding: Encoding) -> bytes:
    """The payload of one frame."""
    if encoding is Encoding.JSON:
        return msgspec.json.encode(frame)
    return msgspec.msgpack.encode(frame)


def packet(frame: ServerFrame, encoding: Encoding) -> Packet:
    """One frame as a packet."""
    return Packet(encoding, (encode_frame(frame, encoding),))


def encode_event(wire_topic: str, seq: int, ts: int, body: bytes, encoding: Encoding) -> bytes:
    """The ``event`` frame of a publication; ``body`` is an event body as ``hub.fanout.broker`` describes it.

    JSON needs no decoding: the head is put before the body. ``seq`` 0 means ephemeral and is left out.
    """
    if encoding is Encoding.JSON:
        number = b'"seq":%d,' % seq if seq else b""
        return b'{"type":"event","topic":"%s",%s"ts":%d,' % (wire_topic.encode(), number, ts) + body[1:]
    frame: dict[str, Any] = {"type": "event", "topic": wire_topic}
    if seq:
        frame["seq"] = seq
    frame["ts"] = ts
    frame |= msgspec.json.decode(body)
    return msgspec.msgpack.encode(frame)


class _Head(Struct):
    """What can still be told of a frame that is otherwise malformed."""

    type: Any = None
    id: Any = None


class _ItemHead(Struct):
    """The same of a topic in a ``subscribe``; its other fields are not looked at."""

    topic: Any = None


class BadFrame(HubError):
    """A frame that cannot be understood. ``frame_id`` and ``frame_type`` are its own, when they could be read."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        frame_id: FrameId | None,
        frame_type: str | None = None,
        *,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(code, message, details=details)
        self.frame_id = frame_id
        self.frame_type = frame_type


_TYPES = frozenset(member.__struct_config__.tag for member in get_args(ClientFrame))
_CHUNK_HEAD = struct.Struct("!IQ")  # PROTOCOL section 9: handle and offset
_json_frame: msgspec.json.Decoder[MapFrame] = msgspec.json.Decoder(MapFrame)
_msgpack_frame: msgspec.msgpack.Decoder[ClientFrame] = msgspec.msgpack.Decoder(ClientFrame)
_json_head = msgspec.json.Decoder(_Head)
_msgpack_head = msgspec.msgpack.Decoder(_Head)
_json_item = msgspec.json.Decoder(SubscribeItem)
_msgpack_item = msgspec.msgpack.Decoder(SubscribeItem)
_json_topic = msgspec.json.Decoder(_ItemHead)
_msgpack_topic = msgspec.msgpack.Decoder(_ItemHead)
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_frame(data: bytes | str, encoding: Encoding) -> ClientFrame:
    """The frame in one message. Raises ``BadFrame`` with ``bad_request`` or ``unknown_type``."""
    try:
        return _json_frame.decode(data) if encoding is Encoding.JSON else _msgpack_frame.decode(_binary(data))
    except _MALFORMED as error:
        raise _explain(data, encoding, error) from None


def decode_message(message: str | bytes, encoding: Encoding) -> ClientFrame:
    """The frame in a client's text (``str``) or binary message. Raises ``BadFrame``."""
    if encoding is Encoding.JSON and isinstance(message, bytes):
        return decode_chunk(message)
    if encoding is Encoding.MSGPACK and isinstance(message, str):
        raise BadFrame(ErrorCode.BAD_REQUEST, "with hub.v1.msgpack frames are binary messages", None)
    return decode_frame(message, encoding)


def decode_chunk(message: bytes) -> Chunk:
    """The chunk in a binary message of a connection that speaks JSON. Raises ``BadFrame`` with ``bad_request``."""
    if len(message) <= _CHUNK_HEAD.size:
        text = "a binary message is a chunk: 4 bytes handle, 8 bytes offset, both big-endian, then at least a byte"
        raise BadFrame(ErrorCode.BAD_REQUEST, text, None, "chunk")
    handle, offset = _CHUNK_HEAD.unpack_from(message)
    return Chunk(handle, offset, memoryview(message)[_CHUNK_HEAD.size :])


def _explain(data: bytes | str, encoding: Encoding, error: Exception) -> BadFrame:
    """Which code and, if it can be read, which request the error belongs to."""
    try:
        head = _json_head.decode(data) if encoding is Encoding.JSON else _msgpack_head.decode(_binary(data))
    except _MALFORMED:
        what = "JSON" if encoding is Encoding.JSON else "msgpack"
        return BadFrame(ErrorCode.BAD_REQUEST, f"a frame must be one {what} map with a 'type'", None)
    frame_id = _usable_id(head.id)
    frame_type = head.type if isinstance(head.type, str) else None
    if frame_type is not None and frame_type not in _TYPES:
        text = f"unknown frame type; known are {', '.join(sorted(_TYPES))}"
        return BadFrame(ErrorCode.UNKNOWN_TYPE, text, frame_id, frame_type)
    text = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    if frame_type == "chunk" and encoding is Encoding.JSON:
        text = "with hub.v1.json a chunk is a binary message"
    return BadFrame(ErrorCode.BAD_REQUEST, text, frame_id, frame_type)


def _usable_id(value: Any) -> FrameId | None:
    try:
        return cast(FrameId, msgspec.convert(value, FrameId))
    except msgspec.ValidationError:
        return None


def _binary(data: bytes | str) -> bytes:
    return data if isinstance(data, bytes) else data.encode()


def decode_item(raw: Raw, encoding: Encoding) -> SubscribeItem | tuple[str, HubError]:
    """One topic of a ``subscribe``. A malformed one gives its topic (as far as it can be read) and the error."""
    try:
        return _json_item.decode(raw) if encoding is Encoding.JSON else _msgpack_item.decode(raw)
    except _MALFORMED as error:
        return _readable_topic(raw, encoding), bad_request(str(error))


def _readable_topic(raw: Raw, encoding: Encoding) -> str:
    try:
        item = _json_topic.decode(raw) if encoding is Encoding.JSON else _msgpack_topic.decode(raw)
    except _MALFORMED:
        return ""
    return item.topic if isinstance(item.topic, str) else ""


def check_data(data: Any, what: str = "data") -> None:
    """Raises ``bad_request`` unless ``data``, the field ``what``, follows the JSON model.

    That is: string keys, 64-bit integers, finite floats.

    Needed because JSON knows larger integers and msgpack knows binary, extensions, NaN and other keys; an event that
    one encoding can carry and another cannot would be lost for some of its subscribers.
    """
    if not isinstance(data, dict | list):
        _check_scalar(data, what)
        return
    stack: list[tuple[dict[Any, Any] | list[Any], int]] = [(data, 0)]
    while stack:
        value, depth = stack.pop()
        if depth == _MAX_NESTING and value:
            raise bad_request(f"'{what}' is nested more than {_MAX_NESTING} deep")
        children: Iterable[Any] = value
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise bad_request(f"'{what}' has a key that is not a string")
            children = value.values()
        for child in children:
            # Most are one of these, and every event goes through here.
            if (
                type(child) is str
                or (type(child) is int and _LEAST_INTEGER <= child <= _MOST_INTEGER)
                or (type(child) is float and math.isfinite(child))
            ):
                continue
            if isinstance(child, dict | list):
                stack.append((child, depth + 1))
            else:
                _check_scalar(child, what)


def _check_scalar(value: Any, what: str) -> None:
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if not _LEAST_INTEGER <= value <= _MOST_INTEGER:
            raise bad_request(f"'{what}' has an integer of more than 64 bits; send it as a string")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise bad_request(f"'{what}' has a number that is not finite")
    else:
        raise bad_request(f"'{what}' may hold only what JSON can: no binary, no extension types")
