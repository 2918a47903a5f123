"""Bytes and frames: whatever comes in, the answer is a frame or ``BadFrame``; ready-made WebSocket frames are right."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions import Extension
from websockets.frames import Frame
from websockets.streams import StreamReader

from hub.errors import ErrorCode, HubError
from hub.protocol.codec import (
    OPCODE_BINARY,
    OPCODE_TEXT,
    BadFrame,
    Encoding,
    Packet,
    check_data,
    decode_frame,
    decode_item,
    encode_frame,
    packet,
    websocket_frame,
)
from hub.protocol.frames import MAX_TOPICS_PER_FRAME, Heartbeat, Ping, Position, Subscribe, SubscribeItem

ENCODINGS = list(Encoding)


def encode(value: Any, encoding: Encoding) -> bytes:
    """As a client writes it."""
    return msgspec.json.encode(value) if encoding is Encoding.JSON else msgspec.msgpack.encode(value)


def refused(message: bytes | str, encoding: Encoding = Encoding.JSON) -> BadFrame:
    """The error about a message that is no frame."""
    with pytest.raises(BadFrame) as caught:
        decode_frame(message, encoding)
    return caught.value


# --- from the client


@given(message=st.binary() | st.text(st.characters(exclude_categories=["Cs"])), encoding=st.sampled_from(ENCODINGS))
def test_any_message_is_a_frame_or_a_bad_frame(message: bytes | str, encoding: Encoding) -> None:
    error: BadFrame | None = None
    try:
        decode_frame(message, encoding)
    except BadFrame as caught:
        error = caught
    assert error is None or (error.message and error.code in (ErrorCode.BAD_REQUEST, ErrorCode.UNKNOWN_TYPE))


@pytest.mark.parametrize(
    "message", ["", "{", "nonsense", "[]", "1", '"hello"', "null", '{"type":"ping"} x', '{"id":1}', '{"type":7}']
)
def test_what_is_no_frame_at_all(message: str) -> None:
    assert refused(message).code == ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_unknown_type_is_answered_with_its_id_and_the_known_ones(encoding: Encoding) -> None:
    error = refused(encode({"type": "chant", "id": 7}, encoding), encoding)
    assert (error.code, error.frame_id, error.frame_type) == (ErrorCode.UNKNOWN_TYPE, 7, "chant")
    assert "subscribe" in error.message


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_wrong_field_is_named(encoding: Encoding) -> None:
    error = refused(encode({"type": "subscribe", "id": "r1", "topics": 7}, encoding), encoding)
    assert (error.code, error.frame_id, error.frame_type) == (ErrorCode.BAD_REQUEST, "r1", "subscribe")
    assert "$.topics" in error.message


@pytest.mark.parametrize("wrong", [True, 1.5, None, {"a": 1}, "x" * 129, 2**53 + 1])
def test_an_id_that_cannot_be_one_is_not_repeated(wrong: Any) -> None:
    assert refused(msgspec.json.encode({"type": "subscribe", "id": wrong, "topics": []})).frame_id is None


def test_nesting_without_end_is_refused() -> None:
    text = '{"type":"publish","id":1,"topic":"a:b","name":"n","data":' + "[" * 50_000 + "]" * 50_000 + "}"
    assert refused(text).code == ErrorCode.BAD_REQUEST
    deep = b"\x91" * 50_000 + b"\xc0"
    assert refused(deep, Encoding.MSGPACK).code == ErrorCode.BAD_REQUEST


def test_invalid_unicode_is_refused() -> None:
    assert refused(b'{"type":"ping","id":"\xff"}').code == ErrorCode.BAD_REQUEST
    assert refused('{"type":"auth","id":1,"token":"\\ud800"}').code == ErrorCode.BAD_REQUEST
    assert refused(b"\x82\xa4type\xa4ping\xa2id\xa1\xff", Encoding.MSGPACK).code == ErrorCode.BAD_REQUEST


def test_a_repeated_type_cannot_confuse() -> None:
    frame = decode_frame('{"type":"ping","id":1}', Encoding.JSON)
    assert frame == Ping(1)
    assert refused('{"id":1,"type":"ping","type":"chant"}').code in (ErrorCode.BAD_REQUEST, ErrorCode.UNKNOWN_TYPE)


@pytest.mark.parametrize("name", ["hello", "subscribe", "unsubscribe"])
def test_the_topics_of_one_frame_are_bounded(name: str) -> None:
    """Each would get a verdict, and that of a hello before anybody is authenticated."""
    field = "subscribe" if name == "hello" else "topics"
    assert decode_frame(
        msgspec.json.encode({"type": name, "id": 1, field: ["x"] * MAX_TOPICS_PER_FRAME}), Encoding.JSON
    )
    message = msgspec.json.encode({"type": name, "id": 1, field: ["x"] * (MAX_TOPICS_PER_FRAME + 1)})
    assert refused(message).code == ErrorCode.BAD_REQUEST


# --- one topic of a subscribe


def raw_items(items: list[Any], encoding: Encoding) -> list[msgspec.Raw]:
    """Items as they lie in a decoded frame."""
    frame = decode_frame(encode({"type": "subscribe", "id": 1, "topics": items}, encoding), encoding)
    assert isinstance(frame, Subscribe)
    return frame.topics


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_items_are_read_one_by_one(encoding: Encoding) -> None:
    good = {"topic": "a:b", "since": {"epoch": "e", "seq": 3}, "filter": {"x": ["1", 2]}, "ack": True, "later": 1}
    bad = [{"topic": "a:c", "since": "yesterday"}, {"topic": "a:d", "last": -1}, {"topic": "a:e", "since": {"seq": 1}}]
    unreadable = [7, None, {"last": 1}, {"topic": 7}, "text"]
    items = raw_items([good, *bad, *unreadable], encoding)
    assert decode_item(items[0], encoding) == SubscribeItem("a:b", Position("e", 3), None, {"x": ["1", 2]}, True)
    outcomes = [decode_item(item, encoding) for item in items[1:]]
    assert [outcome[0] for outcome in outcomes if isinstance(outcome, tuple)] == ["a:c", "a:d", "a:e", *[""] * 5]
    assert all(isinstance(o, tuple) and o[1].code == ErrorCode.BAD_REQUEST and o[1].message for o in outcomes)


@given(item=st.binary(max_size=30))
def test_a_raw_item_never_raises(item: bytes) -> None:
    for encoding in ENCODINGS:
        decode_item(msgspec.Raw(item), encoding)


# --- data


class _Foreign:
    pass


@pytest.mark.parametrize(
    "wrong",
    [
        2**64,
        -(2**63) - 1,
        math.nan,
        math.inf,
        b"bytes",
        {1: "key"},
        {"a": [{"b": math.nan}]},
        msgspec.msgpack.Ext(1, b""),
        _Foreign(),
    ],
    ids=lambda wrong: repr(wrong).partition(" object at ")[0],
)
def test_data_outside_the_json_model_is_refused(wrong: Any) -> None:
    for value in (wrong, [wrong], {"x": wrong}):
        with pytest.raises(HubError) as caught:
            check_data(value)
        assert caught.value.code == ErrorCode.BAD_REQUEST


def test_data_within_the_json_model_passes() -> None:
    check_data({"a": [1, -(2**63), 2**64 - 1, 1.5, True, None, "x", {"": []}]})


def test_the_depth_of_data_is_bounded() -> None:
    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return value

    check_data(nested(64))
    with pytest.raises(HubError, match="64"):
        check_data(nested(65))


# --- ready-made bytes


def read_frames(wire: bytes) -> list[tuple[int, bytes]]:
    """As the websockets library, in the client's role, reads them."""
    reader = StreamReader()
    reader.feed_data(wire)
    reader.feed_eof()
    frames = []
    while reader.buffer:
        parsing = Frame.parse(reader.read_exact, mask=False, max_size=None, extensions=list[Extension]())
        with pytest.raises(StopIteration) as stop:
            next(parsing)
        frame = stop.value.value
        assert frame.fin
        frames.append((int(frame.opcode), bytes(frame.data)))
    return frames


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70_000])
@pytest.mark.parametrize("opcode", [OPCODE_TEXT, OPCODE_BINARY])
def test_another_library_reads_the_frame(size: int, opcode: int) -> None:
    payload = b"x" * size
    assert read_frames(websocket_frame(payload, opcode)) == [(opcode, payload)]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_packet_is_its_frames_one_after_the_other(encoding: Encoding) -> None:
    payloads = [encode_frame(Heartbeat(ts), encoding) for ts in (1, 2**40)]
    opcode = OPCODE_TEXT if encoding is Encoding.JSON else OPCODE_BINARY
    assert read_frames(Packet(encoding, payloads).wire) == [(opcode, payload) for payload in payloads]
    assert packet(Heartbeat(1), encoding).payloads == (payloads[0],)
