"""Envelopes: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.fanout.broker import Publication
from hub.fanout.envelope import make_envelope, parse_envelope

EPOCHS = st.text("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.~", min_size=1, max_size=64)
SEQS = st.integers(1, 2**53)
TIMES = st.integers(0, 2**45)


@given(epoch=EPOCHS, seq=SEQS, ts=TIMES, body=st.binary(max_size=200))
def test_a_publication_survives(epoch: str, seq: int, ts: int, body: bytes) -> None:
    publication = Publication(epoch, seq, ts, body)
    assert parse_envelope(make_envelope(publication)) == publication


@given(ts=TIMES, body=st.binary(max_size=200))
def test_an_ephemeral_one_too(ts: int, body: bytes) -> None:
    publication = Publication("", 0, ts, body)
    assert make_envelope(publication).startswith(b"- 0 ")
    assert parse_envelope(make_envelope(publication)) == publication


def test_one_that_its_author_does_not_get_says_so() -> None:
    publication = Publication("", 0, 7, b"{}", echo=False)
    assert make_envelope(publication) == b"! 0 7\n{}"
    assert parse_envelope(make_envelope(publication)) == publication
    assert parse_envelope(b"- 0 7\n{}").echo
    assert parse_envelope(b"e 1 7\n{}").echo


@pytest.mark.parametrize("data", [b"", b"no header", b"\nbody", b"e 1\nbody", b"e 1 2 3\nbody", b"e one 2\nbody"])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever part of it is wrong
        parse_envelope(data)
