"""Cursors: what goes in comes out; whatever else somebody sends is refused in words that help."""

from __future__ import annotations

import base64
import zlib

import msgspec
import pytest

from hub.errors import ErrorCode, HubError
from hub.protocol.cursor import Cursor, Standing, decode_cursor, digest_of, digest_of_topics, encode_cursor

MOST_BYTES = 1 << 20
WHO = digest_of("acme", "u1")
SMALL = (Standing("room:a", "k3f9", 41), Standing("typing:x", "", 0))
LARGE = tuple(
    Standing(f"room:{number}", "k3f9", number, True, {"status": ["open", "late"]}, ("e1", 7)) for number in range(1000)
)


def cursor(topics: tuple[Standing, ...] = SMALL) -> Cursor:
    return Cursor(WHO, "s_" + "N" * 24, "connection", 7, digest_of_topics(["room:a"]), 12, topics)


@pytest.mark.parametrize("topics", [(), SMALL, LARGE], ids=["none", "small", "large"])
def test_what_goes_in_comes_out(topics: tuple[Standing, ...]) -> None:
    text = encode_cursor(cursor(topics)).decode()
    assert decode_cursor(text, WHO, 1000, MOST_BYTES) == cursor(topics)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_cursor_of_a_thousand_topics_fits_into_a_url() -> None:
    assert len(encode_cursor(cursor(LARGE))) < 65_536 // 2


def packed(kind: bytes, inside: bytes) -> str:
    return base64.urlsafe_b64encode(kind + inside).rstrip(b"=").decode()


BOMB = zlib.compress(b"\0" * (64 << 20))
GOOD = encode_cursor(cursor()).decode()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "another version"),
        ("!", "cannot be read"),
        ("ü", "cannot be read"),
        ("AAAA\n", "cannot be read"),
        (GOOD[:-3], "cannot be read"),
        (GOOD + GOOD, "cannot be read"),
        (packed(b"\x01", b""), "cannot be read"),
        (packed(b"\x01", msgspec.msgpack.encode([1, 2, 3])), "cannot be read"),
        (packed(b"\x01", b"\x91" * 5000), "cannot be read"),
        (packed(b"\x02", b"no zlib"), "cannot be read"),
        (packed(b"\x02", BOMB), "cannot be read"),
        (packed(b"\x02", zlib.compress(b"\0" * (MOST_BYTES + 1))), "cannot be read"),
        (encode_cursor(cursor((*LARGE, *SMALL))).decode(), "more than 1000 topics"),
        (packed(b"\x02", zlib.compress(b"x") + b"more"), "cannot be read"),
        (packed(b"\x03", b"of tomorrow"), "another version"),
        (encode_cursor(msgspec.structs.replace(cursor(), who=digest_of("globex", "u1"))).decode(), "another user"),
        (encode_cursor(msgspec.structs.replace(cursor(), who=digest_of("acme", "u2"))).decode(), "another user"),
        (encode_cursor(cursor((Standing("room:a", "k3f9", -1),))).decode(), "cannot be read"),
        (encode_cursor(cursor((Standing("room:a", "e" * 65, 1),))).decode(), "cannot be read"),
        (encode_cursor(msgspec.structs.replace(cursor(), number=-1)).decode(), "cannot be read"),
    ],
)
def test_anything_else_is_refused(text: str, says: str) -> None:
    with pytest.raises(HubError, match="leave it out") as refused:
        decode_cursor(text, WHO, 1000, MOST_BYTES)
    assert refused.value.code is ErrorCode.BAD_REQUEST
    assert says in refused.value.message


def test_whose_a_cursor_is_cannot_be_mistaken() -> None:
    assert len({digest_of("a", "bc"), digest_of("ab", "c"), digest_of("abc", "")}) == 3


def test_topics_are_the_same_in_any_order() -> None:
    assert digest_of_topics(["a:1", "b:2"]) == digest_of_topics(["b:2", "a:1", "a:1"]) != digest_of_topics(["a:1"])
    assert digest_of_topics([]) == 0
