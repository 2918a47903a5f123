"""Texts, names and reactions: what is kept, what is brought into one form, what is refused and why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api import ErrorCode, HubError, markup
from services.chat.text import emoji, message_text, room_id, room_name

LIMIT = 8192
INVISIBLE = ["", " ", "\n \t", "\u200b", "\u200d\ufe0f", "\u3164", "\u2800", "\xad\ufeff\u2060", "\U000e0041", "\u202e"]
HTML = markup.Markup()


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("hello", "hello"),
        ("  a\tb\r\nc\rd\n", "  a\tb\nc\nd\n"),
        ("👨‍👩‍👧 می‌خواهم é שלום\u200f.", "👨‍👩‍👧 می‌خواهم é שלום\u200f."),
        ("file\u202egpj.exe \u2066a\u2069", "filegpj.exe a"),
        ("a\u2028b \ue000 \uffff", "a\u2028b \ue000 \uffff"),
    ],
)
def test_texts_that_are_kept(written: str, kept: str) -> None:
    assert message_text(written, LIMIT) == kept


@pytest.mark.parametrize("written", INVISIBLE)
def test_nothing_to_be_seen(written: str) -> None:
    with pytest.raises(HubError) as refused:
        message_text(written, LIMIT)
    assert refused.value.code is ErrorCode.EMPTY_CONTENT
    for check in (room_name, emoji):
        with pytest.raises(HubError) as refused:
            check(written)
        assert refused.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x0b", "\x0c", "\x1b", "\x7f", "\x85", "\ud83d"])
def test_control_characters_are_refused_by_name(character: str) -> None:
    for check in (lambda text: message_text(text, LIMIT), room_name, emoji):
        with pytest.raises(HubError, match=f"U\\+{ord(character):04X}") as refused:
            check(f"a{character}b")
        assert refused.value.code is ErrorCode.BAD_REQUEST


def test_the_limit_is_of_bytes_that_are_kept() -> None:
    assert message_text("ä" * 8, 16) == "ä" * 8
    assert message_text("\r\n".join("abcd"), 7) == "a\nb\nc\nd"
    for text in ("ä" * 9, "x" * 1_048_576, " " * 17):
        with pytest.raises(HubError, match="at most 16") as refused:
            message_text(text, 16)
        assert refused.value.code is ErrorCode.TOO_LARGE
        assert refused.value.details == {"bytes": len(text.encode()), "limit": 16}


@given(st.text(max_size=40))
def test_what_is_kept_is_kept_again_and_shows_something(written: str) -> None:
    try:
        text = message_text(written, LIMIT)
    except HubError:
        return
    assert message_text(text, LIMIT) == text
    assert HTML.html(text, False) != ""
    assert HTML.html(text, True) != ""


@pytest.mark.parametrize(
    ("written", "kept"),
    [(" Lobby ", "Lobby"), ("a b", "a b"), ("e\u0301", "é"), ("x" * 120, "x" * 120), ("e\u0301" * 120, "é" * 120)],
)
def test_room_names_that_are_kept(written: str, kept: str) -> None:
    assert room_name(written) == kept


@pytest.mark.parametrize("written", ["x" * 121, "a\nb", "a\tb", "a\u2028b", "a\u202eb", "a\u200fb", "a\u2066b"])
def test_room_names_that_are_refused(written: str) -> None:
    with pytest.raises(HubError, match="'name'") as refused:
        room_name(written)
    assert refused.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("written", ["👍", "👩🏽‍💻", "❤️", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "+1", "é", "x" * 64])
def test_reactions_that_are_kept(written: str) -> None:
    assert emoji(written) == written
    assert emoji("e\u0301") == "é"


@pytest.mark.parametrize("written", ["x" * 65, "👍" * 17, "a b", " 👍", "👍\n", "a\u3000b", "\u202e👍", "\u200f👍"])
def test_reactions_that_are_refused(written: str) -> None:
    with pytest.raises(HubError, match="'emoji'") as refused:
        emoji(written)
    assert refused.value.code is ErrorCode.BAD_REQUEST


def test_room_ids() -> None:
    assert room_id("A.b_c~d-9") == "A.b_c~d-9"
    for written in ("", "a b", "ä", "a/b", "a:b", "x" * 129, "a\n"):
        with pytest.raises(HubError, match="'room'") as refused:
            room_id(written)
        assert refused.value.code is ErrorCode.BAD_REQUEST
