"""The load test's uploader is judged: what the contract allows passes, each way to break it is seen."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.people.record import Violation
from loadtest.people.sending import Piece, Sending


def begun(size: int = 100, *, handle: int = 1, offset: int = 0, window: int = 50) -> Sending:
    sending = Sending(size)
    sending.begun({"handle": handle, "offset": offset, "window": window, "chunk_bytes": 20})
    return sending


def credit(offset: int, window: int = 50, handle: int = 1) -> dict[str, Any]:
    return {"type": "credit", "handle": handle, "offset": offset, "window": window}


def error(code: str, handle: int = 1) -> dict[str, Any]:
    return {"type": "error", "code": code, "message": "no", "retry": "later", "details": {"handle": handle}}


def test_chunks_within_the_credit() -> None:
    sending = begun()
    assert [sending.piece() for _ in range(4)] == [Piece(1, 0, 20), Piece(1, 20, 20), Piece(1, 40, 10), None]
    sending.credit(credit(40))
    sending.credit(credit(1000, handle=7))  # of a connection before
    assert [sending.piece() for _ in range(3)] == [Piece(1, 50, 20), Piece(1, 70, 20), None]
    sending.credit(credit(90, 10))
    assert sending.piece() == Piece(1, 90, 10)
    assert not sending.whole
    sending.credit(credit(100, 0))
    assert sending.whole


def test_it_goes_on_where_it_was_safe() -> None:
    sending = begun()
    for _ in range(3):
        sending.piece()
    sending.credit(credit(20))
    sending.lost()
    assert (sending.open, sending.piece()) == (False, None)
    sending.begun({"handle": 2, "offset": 40, "window": 50, "chunk_bytes": 20})
    assert sending.piece() == Piece(2, 40, 20)


def test_a_handle_ends_for_a_reason() -> None:
    sending = begun()
    sending.refused(error("offset_mismatch", handle=7))  # of a connection before
    assert sending.open
    sending.refused(error("unavailable"))
    assert not sending.open
    for code in ("offset_mismatch", "rate_limited", "conflict"):
        with pytest.raises(Violation):
            begun().refused(error(code))


def test_what_was_safe_stays_so_and_nothing_is_that_was_not_sent() -> None:
    sending = begun()
    sending.piece()
    sending.credit(credit(20))
    with pytest.raises(Violation, match="were safe"):
        sending.credit(credit(10))
    with pytest.raises(Violation, match="were sent"):
        sending.credit(credit(21))
    with pytest.raises(Violation, match="were safe"):
        sending.begun({"handle": 2, "offset": 0, "window": 50, "chunk_bytes": 20})
