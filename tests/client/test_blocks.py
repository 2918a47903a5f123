"""The parser of server-sent events, fed whole and piecewise."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.client.blocks import Blocks
from hub.client.errors import ProtocolViolation

STREAM = (
    b"\xef\xbb\xbf: keep-alive\n\nretry: 10\n\ndata: one\r\n\r\nid: 7\n\ndata:two\rdata:  more\r\r\n"
    b"event: x\ndata\ndata: \n\ndata\n\ndata: cut"
)
MESSAGES = [b"one", b"two\n more", b"\n", b""]


def fed(stream: bytes, *cuts: int) -> list[bytes]:
    blocks = Blocks(100)
    edges = [0, *sorted(cuts), len(stream)]
    return [message for start, end in itertools.pairwise(edges) for message in blocks.feed(stream[start:end])]


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_any_pieces_give_the_same(cuts: list[int]) -> None:
    assert fed(STREAM, *cuts) == MESSAGES


def test_byte_by_byte() -> None:
    assert fed(STREAM, *range(len(STREAM))) == MESSAGES


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 200, b"data: 60 bytes\n" * 20, b"x" * 200, b"data\n" * 200])
def test_what_is_too_large_is_a_violation(stream: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="more than 100 bytes"):
        fed(stream, *range(len(stream)))


def test_many_small_ones_are_none() -> None:
    blocks = Blocks(100)
    assert len(blocks.feed(b"data: 0123456789\n\n" * 1000)) == 1000
