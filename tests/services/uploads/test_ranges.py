"""Which part of a document a request wants, and how its name is written."""

from __future__ import annotations

import pytest

from services.uploads.ranges import Conditions, Slice, attachment, has_it, wanted

ETAG = '"abc"'
WHOLE = (0, 100)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, WHOLE),
        ("bytes=0-9", (0, 10)),
        ("bytes=0-0", (0, 1)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", WHOLE),
        ("BYTES=5-6", (5, 7)),
        ("bytes=100-", None),
        ("bytes=100-200", None),
        ("bytes=-0", None),
        # What is not understood is as if it were not there, and so are several ranges.
        ("bytes=9-0", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=0-1,5-6", WHOLE),
        ("bytes=a-b", WHOLE),
        ("lines=0-1", WHOLE),
        ("bytes=0-9999999999999999999999", WHOLE),
        ("bytes=+1-2", WHOLE),
    ],
)
def test_one_range(text: str | None, part: tuple[int, int] | None) -> None:
    found = wanted(Conditions(range=text), ETAG, 100)
    assert found == (None if part is None else Slice(*part, 100))


@pytest.mark.parametrize(
    ("if_range", "part"),
    [(ETAG, (5, 7)), ('"other"', WHOLE), ('W/"abc"', WHOLE), ("Wed, 21 Oct 2026 07:28:00 GMT", WHOLE)],
)
def test_only_of_this_document(if_range: str, part: tuple[int, int]) -> None:
    assert wanted(Conditions("bytes=5-6", if_range), ETAG, 100) == Slice(*part, 100)


@pytest.mark.parametrize(
    ("text", "known"),
    [(None, False), ("*", True), (ETAG, True), ('W/"abc"', True), ('"x", "abc"', True), ('"x"', False), ("abc", False)],
)
def test_who_has_it_already(text: str | None, known: bool) -> None:
    assert has_it(Conditions(if_none_match=text), ETAG) is known


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("guests.csv", 'attachment; filename="guests.csv"'),
        ("gäste.csv", "attachment; filename=\"g_ste.csv\"; filename*=UTF-8''g%C3%A4ste.csv"),
        ('a"b\\c.csv', "attachment; filename=\"a_b_c.csv\"; filename*=UTF-8''a%22b%5Cc.csv"),
        ("50%20.csv", "attachment; filename=\"50_20.csv\"; filename*=UTF-8''50%2520.csv"),
        ("a b;c'd.csv", 'attachment; filename="a b;c\'d.csv"'),
        ("é'(1).csv", "attachment; filename=\"_'(1).csv\"; filename*=UTF-8''%C3%A9%27%281%29.csv"),
    ],
)
def test_names(name: str, header: str) -> None:
    assert attachment(name) == header
