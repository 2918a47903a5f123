"""Scope patterns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.auth.principal import Principal
from hub.orgs import OrgId

ACME = OrgId.from_claim("acme")
words = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters=":.-_"), min_size=1, max_size=20)


def allows(scope: str, action: str, target: str = "") -> bool:
    return Principal("u1", ACME, tuple(scope.split()), 0.0).allows(action, target)


@pytest.mark.parametrize(
    ("scope", "action", "target", "expected"),
    [
        ("subscribe:events:*", "subscribe", "events:finance", True),
        ("subscribe:events:*", "subscribe", "eventsx:finance", False),
        ("subscribe:events:*", "publish", "events:finance", False),
        ("subscribe:*", "subscribe", "chat:room", True),
        ("publish:events:finance", "publish", "events:finance", True),
        ("publish:events:finance", "publish", "events:finance2", False),
        ("publish:events:finance", "publish", "events:", False),
        ("call:chat.*", "call", "chat.send", True),
        ("call:chat.*", "call", "chatter.send", False),
        ("flags:write", "flags", "write", True),
        ("admin", "admin", "", True),
        ("administrator", "admin", "", False),
        ("subscribe:*", "admin", "", False),
        ("sub*ibe:x", "subscribe", "x", False),
        ("", "subscribe", "x", False),
    ],
)
def test_patterns(scope: str, action: str, target: str, expected: bool) -> None:
    assert allows(scope, action, target) is expected


@given(words, words)
def test_a_word_without_star_allows_itself_and_nothing_else(granted: str, asked: str) -> None:
    assert allows(f"call:{granted}", "call", granted)
    assert allows(f"call:{granted}", "call", asked) is (granted == asked)


@given(words, words, words)
def test_a_word_with_star_allows_what_begins_with_it(prefix: str, rest: str, other: str) -> None:
    assert allows(f"call:{prefix}*", "call", prefix + rest)
    assert allows(f"call:{prefix}*", "call", other) is other.startswith(prefix)
    assert not allows(f"call:{prefix}*", "subscribe", prefix + rest)


@given(st.lists(words), words)
def test_more_words_never_allow_less(scope: list[str], asked: str) -> None:
    before = Principal("u1", ACME, tuple(scope), 0.0).allows("call", asked)
    after = Principal("u1", ACME, (*scope, "subscribe:x*"), 0.0).allows("call", asked)
    assert after or not before
