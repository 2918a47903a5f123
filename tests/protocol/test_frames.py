"""Strict out, tolerant in: what the hub sends reads back the same in both encodings, what it gets may hold more."""

from __future__ import annotations

import struct
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.fanout.bodies import encode_body
from hub.protocol.codec import BadFrame, Encoding, decode_chunk, decode_frame, encode_event, encode_frame
from hub.protocol.frames import (
    Ack,
    Auth,
    Call,
    Chunk,
    ClientFrame,
    Credit,
    Drain,
    Error,
    ErrorBody,
    Event,
    Expiring,
    Flags,
    Gap,
    Heartbeat,
    Hello,
    Ping,
    Pong,
    Position,
    PositionFrame,
    Publish,
    Reply,
    ServerFrame,
    Subscribe,
    Unsubscribe,
    Unsubscribed,
    Verdict,
    Welcome,
)

ENCODINGS = list(Encoding)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
seqs = st.integers(1, 2**53)
ids = st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"]), max_size=128)
retries = st.sampled_from(["never", "later", "now"])
milliseconds = st.integers(0, 2**53)
error_bodies = st.builds(ErrorBody, texts, texts, retries, st.none() | milliseconds, st.none() | st.just({"a": 1}))
verdicts = st.builds(Verdict, texts, st.just(True), texts, seqs, st.booleans()) | st.builds(
    Verdict, texts, st.just(False), error=error_bodies
)
flags = st.dictionaries(texts, st.booleans(), max_size=3)
server_frames = st.one_of(
    st.builds(
        Welcome,
        texts,
        st.booleans(),
        texts,
        texts,
        milliseconds,
        milliseconds,
        milliseconds,
        flags,
        st.lists(verdicts, max_size=3),
        ids | st.just(msgspec.UNSET),
    ),
    st.builds(Reply, ids, json_values),
    st.builds(Error, texts, texts, retries, st.none() | ids, st.none() | texts, st.none() | milliseconds),
    st.builds(Gap, texts, texts, st.sampled_from(["expired", "overflow", "not_permitted"]), seqs, seqs),
    st.builds(Gap, texts, texts, st.just("epoch_changed")),
    st.builds(PositionFrame, texts, texts, seqs),
    st.builds(Unsubscribed, texts, texts, texts, retries),
    st.builds(Flags, flags),
    st.builds(Expiring, milliseconds),
    st.builds(Drain, milliseconds, texts),
    st.builds(Credit, st.integers(1, 2**32 - 1), st.integers(0, 2**63), st.integers(0, 2**63)),
    st.builds(Heartbeat, milliseconds),
    st.builds(Pong, milliseconds, st.none() | ids),
)


def decode(payload: bytes, encoding: Encoding, kind: Any = ServerFrame) -> Any:
    """As a client reads it."""
    return (msgspec.json if encoding is Encoding.JSON else msgspec.msgpack).decode(payload, type=kind)


@given(frame=server_frames)
def test_what_the_hub_sends_is_read_back_the_same(frame: ServerFrame) -> None:
    for encoding in ENCODINGS:
        payload = encode_frame(frame, encoding)
        assert decode(payload, encoding) == frame
        assert decode(payload, encoding, dict[str, Any])["type"] == type(frame).__struct_config__.tag


@given(
    seq=st.integers(0, 2**53),
    ts=milliseconds,
    name=texts,
    data=json_values,
    tags=st.none()
    | st.dictionaries(texts, texts | st.integers(-(2**63), 2**63) | st.booleans(), min_size=1, max_size=3),
    by=st.none() | texts,
)
def test_an_event_is_the_same_in_both_encodings(
    seq: int, ts: int, name: str, data: Any, tags: dict[str, Any] | None, by: str | None
) -> None:
    body = encode_body("id", name, data, tags, by)
    expected = Event("kind:key", "id", name, ts, data, seq or None, tags, by)
    maps = []
    for encoding in ENCODINGS:
        payload = encode_event("kind:key", seq, ts, body, encoding)
        assert decode(payload, encoding, Event) == expected
        maps.append(decode(payload, encoding, dict[str, Any]))
    assert maps[0] == maps[1]
    assert ("seq" in maps[0]) == bool(seq)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_optional_field_that_is_not_set_is_left_out(encoding: Encoding) -> None:
    verdict = Verdict("a:b", ok=True, epoch="e", seq=0, recovered=False)
    gap = Gap("a:b", "e", "epoch_changed")
    assert decode(encode_frame(Reply(1, [verdict]), encoding), encoding, dict[str, Any])["result"] == [
        {"topic": "a:b", "ok": True, "epoch": "e", "seq": 0, "recovered": False}
    ]
    assert decode(encode_frame(gap, encoding), encoding, dict[str, Any]) == {
        "type": "gap",
        "topic": "a:b",
        "epoch": "e",
        "reason": "epoch_changed",
    }
    with_range = decode(encode_frame(Gap("a:b", "e", "expired", 3, 4), encoding), encoding, dict[str, Any])
    assert (with_range["from"], with_range["to"]) == (3, 4)


INBOUND = [
    ({"type": "hello", "id": 1, "token": "t", "resume": {"session": "s"}, "services": ["a"]}, Hello),
    ({"type": "subscribe", "id": 1, "topics": [{"topic": "a:b"}]}, Subscribe),
    ({"type": "unsubscribe", "id": "x", "topics": ["a:b"]}, Unsubscribe),
    ({"type": "publish", "id": 1, "topic": "a:b", "name": "n", "data": None}, Publish),
    ({"type": "call", "id": 1, "method": "a.b"}, Call),
    ({"type": "ack", "positions": {"a:b": {"epoch": "e", "seq": 1}}}, Ack),
    ({"type": "auth", "id": 1, "token": "t"}, Auth),
    ({"type": "ping"}, Ping),
]


BINARY = [({"type": "chunk", "handle": 1, "offset": 2**63, "data": b"abc"}, Chunk)]
"""What only msgpack writes as a map."""


def test_a_chunk_is_the_same_in_both_encodings() -> None:
    message = msgspec.msgpack.encode(BINARY[0][0])
    chunk = decode_frame(message, Encoding.MSGPACK)
    assert chunk == decode_chunk(struct.pack("!IQ", 1, 2**63) + b"abc") == Chunk(1, 2**63, memoryview(b"abc"))
    assert isinstance(chunk, Chunk)
    assert chunk.data.obj is message


@pytest.mark.parametrize("size", [0, 4, 11, 12])
def test_a_chunk_that_is_too_short(size: int) -> None:
    with pytest.raises(BadFrame, match="4 bytes handle") as raised:
        decode_chunk(b"\x00" * size)
    assert (raised.value.code, raised.value.frame_type) == ("bad_request", "chunk")


@pytest.mark.parametrize(
    "wrong", [{"handle": -1}, {"offset": -1}, {"offset": 1.5}, {"handle": "1"}, {"data": b""}, {"data": "text"}]
)
def test_a_chunk_that_is_malformed(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadFrame) as raised:
        decode_frame(msgspec.msgpack.encode({**BINARY[0][0], **wrong}), Encoding.MSGPACK)
    assert (raised.value.code, raised.value.frame_type) == ("bad_request", "chunk")


def test_with_json_a_chunk_is_no_map() -> None:
    with pytest.raises(BadFrame, match="binary message") as raised:
        decode_frame('{"type":"chunk","handle":1,"offset":0,"data":"YWJj"}', Encoding.JSON)
    assert raised.value.code == "bad_request"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("fields", "kind"), INBOUND, ids=lambda value: getattr(value, "__name__", ""))
def test_unknown_fields_of_the_client_are_ignored(fields: dict[str, Any], kind: type[Any], encoding: Encoding) -> None:
    encode = msgspec.json.encode if encoding is Encoding.JSON else msgspec.msgpack.encode
    plain = decode_frame(encode(fields), encoding)
    assert type(plain) is kind
    more = {**fields, "later": {"x": [1]}, "zzz": None}
    if kind is Ack:
        more["positions"] = {"a:b": {"epoch": "e", "seq": 1, "later": 1}}
    assert decode_frame(encode(more), encoding) == plain


def test_every_frame_of_the_client_is_covered_here() -> None:
    assert {kind for _, kind in [*INBOUND, *BINARY]} == set(get_args(ClientFrame))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_hub_does_not_send_what_is_not_in_the_contract(encoding: Encoding) -> None:
    encode = msgspec.json.encode if encoding is Encoding.JSON else msgspec.msgpack.encode
    with pytest.raises(msgspec.ValidationError):
        decode(encode({"type": "heartbeat", "ts": 1, "more": 1}), encoding)


def test_positions_hold_what_javascript_can_count() -> None:
    assert msgspec.convert({"epoch": "e", "seq": 2**53}, Position).seq == 2**53
    for wrong in ({"epoch": "e", "seq": 2**53 + 1}, {"epoch": "e", "seq": -1}, {"epoch": "x" * 65, "seq": 1}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Position)
