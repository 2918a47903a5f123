"""RFC 6455 without sockets: whatever another implementation writes is read the same, in pieces of any size."""

from __future__ import annotations

import base64
import contextlib
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from hub.protocol.codec import OPCODE_BINARY, OPCODE_PING, OPCODE_PONG, OPCODE_TEXT
from hub.protocol.codes import CloseCode
from hub.protocol.websocket import (
    Fault,
    Item,
    MessageReader,
    accept_key,
    close_code_of,
    close_frame,
    parse_upgrade,
)

MAX_BYTES = 100_000


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, fin).serialize(mask=mask)


def read(*pieces: bytes, max_bytes: int = MAX_BYTES) -> list[Item]:
    reader = MessageReader(max_bytes)
    return [item for piece in pieces for item in reader.feed(piece)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


messages = st.tuples(
    st.sampled_from([OPCODE_TEXT, OPCODE_BINARY]), st.binary(max_size=300) | st.binary(min_size=65_530, max_size=65_545)
)
controls = st.tuples(st.sampled_from([OPCODE_PING, OPCODE_PONG]), st.binary(max_size=125))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Item], bytes]:
    """Messages, some in fragments with control frames between them: what is to be read, and its bytes."""
    items: list[Item] = []
    wire = b""
    for opcode, payload in draw(st.lists(messages | controls, max_size=6)):
        pieces = [payload]
        if opcode in (OPCODE_TEXT, OPCODE_BINARY):
            pieces = cut(payload, draw(st.lists(st.integers(0, 70_000), max_size=3)))
        for index, piece in enumerate(pieces):
            wire += frame(0 if index else opcode, piece, fin=index == len(pieces) - 1)
            if index < len(pieces) - 1 and draw(st.booleans()):
                between = draw(controls)
                items.append(between)
                wire += frame(*between)
        items.append((opcode, payload))
    return items, wire


@given(conversations(), st.lists(st.integers(0, 300_000), max_size=12))
def test_what_another_implementation_writes_is_read(conversation: tuple[list[Item], bytes], places: list[int]) -> None:
    items, wire = conversation
    assert read(*cut(wire, places)) == items


def test_byte_by_byte() -> None:
    wire = frame(OPCODE_TEXT, b"x" * 200) + frame(OPCODE_PING, b"p") + frame(OPCODE_BINARY, b"y" * 66_000)
    assert read(*(wire[index : index + 1] for index in range(len(wire)))) == [
        (OPCODE_TEXT, b"x" * 200),
        (OPCODE_PING, b"p"),
        (OPCODE_BINARY, b"y" * 66_000),
    ]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_garbage_is_read_or_is_a_fault(garbage: bytes, places: list[int]) -> None:
    with contextlib.suppress(Fault):
        read(*cut(garbage, places), max_bytes=64)


def test_what_stands_before_a_fault_is_read() -> None:
    items = MessageReader(MAX_BYTES).feed(frame(OPCODE_TEXT, b"a") + frame(OPCODE_TEXT, b"b", mask=False))
    assert next(items) == (OPCODE_TEXT, b"a")
    with pytest.raises(Fault):
        next(items)


@pytest.mark.parametrize(
    "wire",
    [
        frame(OPCODE_TEXT, b"x", mask=False),
        b"\xc1\x80\0\0\0\0",
        b"\x83\x80\0\0\0\0",
        b"\x8b\x80\0\0\0\0",
        b"\x09\x80\0\0\0\0",
        b"\x89\xfe\x00\x7e",
        frame(0, b"x"),
        frame(OPCODE_TEXT, b"x", fin=False) + frame(OPCODE_TEXT, b"y"),
        b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
    ids=[
        "unmasked",
        "rsv",
        "opcode",
        "control opcode",
        "fragmented ping",
        "long ping",
        "continuation",
        "text",
        "length",
    ],
)
def test_faults(wire: bytes) -> None:
    with pytest.raises(Fault) as caught:
        # The length alone is enough: nobody waits for bytes that would be refused.
        read(wire + b"\0\0\0\0")
    assert caught.value.code is CloseCode.PROTOCOL_ERROR


def test_the_size_counts_over_fragments_and_is_known_from_the_head() -> None:
    assert read(frame(OPCODE_BINARY, b"x" * 10), max_bytes=10) == [(OPCODE_BINARY, b"x" * 10)]
    for wire in (
        frame(OPCODE_BINARY, b"x" * 11)[:6],
        frame(OPCODE_BINARY, b"x" * 6, fin=False) + frame(0, b"x" * 5),
    ):
        with pytest.raises(Fault) as caught:
            read(wire, max_bytes=10)
        assert caught.value.code is CloseCode.TOO_LARGE


def test_close_codes() -> None:
    assert close_code_of(b"") == 1005
    assert close_code_of(struct.pack("!H", 4001) + b"bye") == 4001
    for bad in (b"x", struct.pack("!H", 999), struct.pack("!H", 1005), struct.pack("!H", 2999)):
        with pytest.raises(Fault) as caught:
            close_code_of(bad)
        assert caught.value.code is CloseCode.PROTOCOL_ERROR
    with pytest.raises(Fault) as caught:
        close_code_of(struct.pack("!H", 1000) + b"\xff")
    assert caught.value.code is CloseCode.INVALID_UTF8
    assert close_frame(4408, "x" * 200)[:4] == b"\x88\x7d" + struct.pack("!H", 4408)


def request(**changes: str) -> bytes:
    headers = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version": "13", "Host": "h"} | changes
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(["GET /ws?ticket=a?b HTTP/1.1", *lines, "", ""]).encode()


def test_the_example_of_the_rfc() -> None:
    parsed = parse_upgrade(request())
    assert (parsed.path, parsed.query) == (b"/ws", b"ticket=a?b")
    assert accept_key(parsed) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "changes",
    [
        {"sec-websocket-version": "8"},
        {"Sec-WebSocket-Key": "!"},
        {"Sec-WebSocket-Key": base64.b64encode(b"x" * 15).decode()},
        {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="},
    ],
    ids=["version", "alphabet", "length", "twice"],
)
def test_handshakes_that_are_none(changes: dict[str, str]) -> None:
    assert accept_key(parse_upgrade(request(**changes))) is None
