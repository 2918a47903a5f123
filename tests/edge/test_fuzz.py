"""Random and mutated messages: whatever comes, the connection's task survives, and nothing is logged as a fault."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.protocol.codec import Encoding
from hub.protocol.frames import Pong
from tests.support.peers import Peers
from tests.support.raw_client import ClosedByHub, RawClient

# The hub's thread uses the module `random` while an example is drawn here.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

ITEM = {"topic": "room:a", "since": {"epoch": "x", "seq": 1}, "filter": {"a": [1, "x"]}, "ack": True}
VALID: list[dict[str, Any]] = [
    {
        "type": "hello",
        "id": 1,
        "token": "x",
        "resume": {"session": "s_x"},
        "services": ["finance"],
        "subscribe": [ITEM],
    },
    {"type": "subscribe", "id": 2, "topics": [ITEM, {"topic": "small:a", "last": 3}, {"topic": "user:me"}]},
    {"type": "unsubscribe", "id": 3, "topics": ["room:a", "small:a"]},
    {"type": "publish", "id": 4, "topic": "room:a", "name": "n", "data": {"x": [1.5]}, "key": "k", "tags": {"a": 1}},
    {"type": "publish", "id": 5, "topic": "typing:a", "name": "n", "data": None, "ephemeral": True},
    {"type": "call", "id": 6, "method": "test.echo", "params": {"x": 1}},
    {"type": "ack", "positions": {"room:a": {"epoch": "x", "seq": 1}}},
    {"type": "auth", "id": 7, "token": "a.b.c"},
    {"type": "ping", "id": 8},
]
# What both encodings can write; what only one of them can is put in by cutting bytes.
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["room:a", "small:a", "user:me", "start", "now", "test.echo", "x" * 500]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
EXPECTED_CLOSES = {4400, 4401}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a frame where another value can be put."""
    found = [path] if path else []
    if isinstance(value, dict):
        return found + [p for key, child in value.items() for p in places(child, (*path, key))]
    if isinstance(value, list):
        return found + [p for index, child in enumerate(value) for p in places(child, (*path, index))]
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


@st.composite
def frames(draw: st.DrawFn) -> dict[str, Any]:
    """A valid frame with up to three of its values exchanged."""
    frame = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(0, 3))):
        frame = replaced(frame, draw(st.sampled_from(places(frame))), draw(VALUES))
    return frame


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, Any]:
    """(how, what): noise, a mutated frame, or a mutated frame whose bytes were damaged."""
    how = draw(st.sampled_from(["noise", "frame", "frame", "damaged"]))
    if how == "noise":
        return how, draw(st.binary(max_size=200))
    if how == "frame":
        return how, draw(frames())
    return how, (draw(frames()), draw(st.integers(0, 2**32)))


def as_message(encoding: Encoding, how: str, what: Any) -> str | bytes:
    if how == "noise":
        data = what
    else:
        frame = what if how == "frame" else what[0]
        data = msgspec.json.encode(frame) if encoding is Encoding.JSON else msgspec.msgpack.encode(frame)
        if how == "damaged":
            data = damaged(data, random.Random(what[1]))
    return data.decode("utf-8", "replace") if encoding is Encoding.JSON else data


def damaged(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        data = data[:at] + chance.randbytes(chance.randint(0, 3)) + data[at + chance.randint(0, 3) :]
    return data


async def survives(client: RawClient, sent: list[tuple[str, Any]]) -> None:
    try:
        for how, what in sent:
            await client.send_raw_if_open(as_message(client.encoding, how, what))
        await client.send_if_open({"type": "ping", "id": "the end"})
        while True:
            frame = await client.receive()
            if isinstance(frame, Pong) and frame.id == "the end":
                return
    except ClosedByHub as closed:
        if closed.code not in EXPECTED_CLOSES:
            raise


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@FUZZ
@given(sent=st.lists(messages(), min_size=1, max_size=8))
async def test_messages_after_the_hello(peers: Peers, sent: list[tuple[str, Any]]) -> None:
    client = await peers.join("fuzz", subscribe=[{"topic": "room:a"}])
    await survives(client, sent)
    await client.socket.close()


@FUZZ
@given(sent=st.lists(messages(), min_size=1, max_size=4))
async def test_messages_before_the_hello(peers: Peers, sent: list[tuple[str, Any]]) -> None:
    client = await peers.open(peers.token("fuzz"))
    await survives(client, sent)
    await client.socket.close()
