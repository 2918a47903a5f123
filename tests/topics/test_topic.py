"""Names: which texts are topics, whose inbox is whose."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.errors import ErrorCode, HubError
from hub.orgs import OrgId
from hub.topics.topic import Topic, parse_topic, user_key

ACME = OrgId.from_claim("acme")
OTHER = OrgId.from_claim("other")


@pytest.mark.parametrize("text", ["a:b", "events:finance", "a_1:A.b~c-d_9", "a" * 32 + ":" + "k" * 128])
def test_topics(text: str) -> None:
    topic = parse_topic(ACME, text)
    assert (topic.text, topic.wire, f"{topic.kind}:{topic.key}") == (text, text, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        ":",
        "a:",
        ":b",
        "A:b",
        "1:b",
        "a:b:c",
        "a:b c",
        "a:b/c",
        "a:{b}",
        "a:b\n",
        "\na:b",
        "a\n:b",
        "a:b\r",
        "a:b\x00",
        "a:é",
        "a:٣",
        "ａ:b",
        "a:*",
        "a" * 33 + ":b",
        "a:" + "k" * 129,
        "a:" + "k" * 1_000_000,
    ],
)
def test_no_topics(text: str) -> None:
    with pytest.raises(HubError) as caught:
        parse_topic(ACME, text)
    assert caught.value.code == ErrorCode.NOT_FOUND
    assert str(caught.value) == "no such topic"


@given(text=st.text(max_size=12))
def test_only_the_alphabet_passes(text: str) -> None:
    expected = re.fullmatch(r"[a-z][a-z0-9_]{0,31}:[A-Za-z0-9._~-]{1,128}", text, re.ASCII) is not None
    try:
        assert parse_topic(ACME, text).text == text
        assert expected
    except HubError:
        assert not expected


def test_the_same_text_in_two_organisations_is_two_topics() -> None:
    mine, theirs = Topic(ACME, "a", "b"), Topic(OTHER, "a", "b")
    assert mine != theirs
    assert not set(mine.names) & set(theirs.names)
    assert mine == Topic(ACME, "a", "b")
    assert hash(mine) == hash(Topic(ACME, "a", "b"))


def test_names_of_different_topics_never_meet() -> None:
    """Organisations may contain dots and dashes: no spelling of one topic may be another's name."""
    orgs = [OrgId.from_claim(name) for name in ("a", "a.b", "a-b", "a_b")]
    topics = [
        Topic(org, kind, key) for org in orgs for kind in ("a", "a_b") for key in ("b", "a", "b~", "key", "b.key")
    ]
    names = [name for topic in topics for name in topic.names]
    assert len(set(names)) == len(names)
    assert not [
        name for name in names if sum(other.startswith(name) for other in names if other != name) and ":key:" in name
    ]


def test_all_names_of_a_topic_share_one_hash_tag() -> None:
    topic = Topic(ACME, "a", "b")
    assert {name[name.index("{") : name.index("}") + 1] for name in topic.names} == {"{acme/a:b}"}


def test_a_topic_does_not_take_an_organisation_that_is_only_text() -> None:
    with pytest.raises(TypeError):
        Topic("acme", "a", "b")  # type: ignore[arg-type]


def test_the_channel_is_the_one_among_its_names() -> None:
    topic = Topic(ACME, "a", "b.c~d")
    assert topic.channel == topic.names.channel.encode() == b"hub:{acme/a:b.c~d}"
    assert (topic.kind, topic.key) == ("a", "b.c~d")


def test_an_organisation_is_one_object_for_all_its_connections() -> None:
    assert OrgId.from_claim("acme") is ACME
    assert OrgId.from_row("acme") is ACME


# --- inboxes


@pytest.mark.parametrize("sub", ["u1", "A.b~c-d_9", "k" * 128])
def test_a_plain_user_is_their_own_key(sub: str) -> None:
    assert user_key(sub) == sub


@pytest.mark.parametrize("sub", ["", "a@b.c", "a:b", "a\n", "é", "k" * 129, "a b", "*"])
def test_any_other_user_is_hashed(sub: str) -> None:
    key = user_key(sub)
    assert re.fullmatch(r"~[A-Za-z0-9_-]{43}", key)
    assert parse_topic(ACME, f"user:{key}").wire == "user:me"


def test_nobody_can_be_named_like_another_s_hash() -> None:
    assert user_key(user_key("a@b.c")) != user_key("a@b.c")


@given(
    subs=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), unique=True, min_size=2, max_size=6)
)
def test_no_two_users_share_an_inbox(subs: list[str]) -> None:
    hashed = [user_key(sub) for sub in subs]
    keys = [user_key(name) for name in dict.fromkeys([*subs, *hashed])]
    assert len(set(keys)) == len(keys)
