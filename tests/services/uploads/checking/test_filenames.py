"""Names as they are sent: real ones pass as they are, paths and disguises do not."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api import ErrorCode, HubError
from services.uploads.checking import check_filename


@pytest.mark.parametrize(
    "name",
    [
        "passport.pdf",
        "Scan 2024-05-01 at 10.30 (2).jpeg",
        "пас порт.pdf",
        "旅券.png",
        "می\u200cخواهم.pdf",  # zero-width non-joiner between letters
        "family👨\u200d👩\u200d👧.jpg",
        "a..b.csv",
        "console.txt",
        "x" * 251 + ".pdf",
    ],
)
def test_names_that_are_taken(name: str) -> None:
    assert check_filename(name) == name


def test_a_name_is_composed() -> None:
    assert check_filename("Fu\u0308hrerschein.pdf") == "Führerschein.pdf"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("a/b.pdf", "path"),
        ("..\\b.pdf", "path"),
        ("C:b.pdf", "path"),
        (".", "dot"),
        ("..", "dot"),
        (".htaccess", "dot"),
        ("b.pdf.", "dot"),
        (" b.pdf", "space"),
        ("b.pdf\u00a0", "space"),
        ("b\0.pdf", "control"),
        ("b\n.pdf", "control"),
        ("b\u2028.pdf", "control"),
        ("b\ufeff.pdf", "control"),
        ("b\u200d.pdf", "control"),
        ("\u200cb.pdf", "control"),
        ("ann\u202efdp.exe", "direction"),
        ("\u2067b.pdf", "direction"),
        ("b\ud800.pdf", "Unicode"),
        ("CON", "Windows"),
        ("nul.pdf", "Windows"),
        ("Com1.tar.gz", "Windows"),
        ("é" * 126 + ".pdf", "bytes"),
    ],
)
def test_names_that_are_refused(name: str, why: str) -> None:
    with pytest.raises(HubError, match=why) as refused:
        check_filename(name)
    assert refused.value.code is ErrorCode.BAD_REQUEST
    assert refused.value.message.startswith("'filename'")


@given(st.text(max_size=300))
def test_whatever_passes_is_one_visible_name(name: str) -> None:
    try:
        checked = check_filename(name)
    except HubError:
        return
    assert checked == unicodedata.normalize("NFC", name)
    assert check_filename(checked) == checked
    assert 0 < len(checked.encode()) <= 255
    assert not set(checked) & set("/\\\0\n\u202e")
