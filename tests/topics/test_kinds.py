"""The gate: who may join and publish, and that nobody can tell missing from hidden."""

from __future__ import annotations

from typing import Any

import pytest

from hub.auth.principal import Principal
from hub.errors import ErrorCode, HubError
from hub.orgs import CONTROL_ORG, OrgId
from hub.topics.kinds import History, SlowPolicy, TopicKind, TopicKinds
from hub.topics.topic import Topic, user_key

ACME = OrgId.from_claim("acme")


def who(scope: str, user: str = "u1", org: OrgId = ACME) -> Principal:
    """A verified client."""
    return Principal(user, org, tuple(scope.split()), 2e9)


async def _members(principal: Principal, key: str) -> bool:
    return principal.user == "u1" and key == "open"


async def _nobody(_: Principal, __: str) -> bool:
    return False


async def _since_five(_: Principal, __: str) -> int:
    return 5


@pytest.fixture
def kinds() -> TopicKinds:
    return TopicKinds(
        [
            TopicKind(name="events", exists=lambda key: key in ("finance", "guest")),
            TopicKind(name="chat", may_subscribe=_members, may_publish=_nobody, history_from=_since_five),
        ]
    )


async def refusal(awaitable: Any) -> tuple[str, str, str]:
    """All that a client learns of a refusal."""
    with pytest.raises(HubError) as caught:
        await awaitable
    assert caught.value.details is None
    return caught.value.code, caught.value.message, caught.value.retry


NOT_FOUND = (ErrorCode.NOT_FOUND, "no such topic", "never")


@pytest.mark.parametrize(
    ("scope", "text"),
    [
        ("subscribe:*", "nothing:x"),  # no such kind
        ("subscribe:*", "events:missing"),  # no such topic
        ("subscribe:*", "chat:closed"),  # hidden by the kind's rule
        ("subscribe:*", "not a topic"),
        ("subscribe:*", "events:finance\n"),
        ("subscribe:*", "control:all"),  # the hub's own
        ("subscribe:chat:*", "events:finance"),  # the scope does not reach
        ("subscribe:events:fin", "events:finance"),
        ("publish:* call:* admin", "events:finance"),
        ("subscribe", "events:finance"),
        ("", "events:finance"),
        ("subscribe:*", "user:u1"),  # one's own inbox has one name only
        ("subscribe:*", "user:u2"),
        ("subscribe:events:*", "user:me"),
    ],
)
async def test_missing_foreign_and_hidden_give_one_answer(kinds: TopicKinds, scope: str, text: str) -> None:
    assert await refusal(kinds.for_subscriber(who(scope), text)) == NOT_FOUND


@pytest.mark.parametrize(
    "scope", ["subscribe:*", "subscribe:events:*", "subscribe:events:finance", "subscribe:ev*", "x *", "sub* y"]
)
async def test_scopes_that_reach(kinds: TopicKinds, scope: str) -> None:
    topic = await kinds.for_subscriber(who(scope), "events:finance")
    assert topic == Topic(ACME, "events", "finance")


async def test_the_organisation_is_the_token_s(kinds: TopicKinds) -> None:
    other = OrgId.from_claim("other")
    assert (await kinds.for_subscriber(who("subscribe:*", org=other), "events:finance")).org == other
    assert (await kinds.for_publisher(who("publish:*", org=other), "events:finance")).org == other


async def test_the_kind_s_rule_is_asked_after_the_scope(kinds: TopicKinds) -> None:
    assert (await kinds.for_subscriber(who("subscribe:*"), "chat:open")).key == "open"
    assert await refusal(kinds.for_subscriber(who("subscribe:*", user="u2"), "chat:open")) == NOT_FOUND
    assert await refusal(kinds.for_subscriber(who("subscribe:events:*"), "chat:open")) == NOT_FOUND


# --- inboxes


@pytest.mark.parametrize("user", ["u1", "a@b.c", "~x", "me2"])
async def test_my_inbox_is_mine(kinds: TopicKinds, user: str) -> None:
    topic = await kinds.for_subscriber(who("subscribe:user:me", user=user), "user:me")
    assert (topic.kind, topic.key, topic.wire) == ("user", user_key(user), "user:me")


async def test_writing_to_inboxes(kinds: TopicKinds) -> None:
    assert (await kinds.for_publisher(who("publish:user:*"), "user:u2")).key == "u2"
    assert (await kinds.for_publisher(who("publish:user:*"), "user:me")).key == "u1"
    assert await refusal(kinds.for_publisher(who("subscribe:*"), "user:u2")) == NOT_FOUND
    code, _, _ = await refusal(kinds.for_publisher(who("subscribe:*"), "user:me"))
    assert code == ErrorCode.FORBIDDEN


# --- publishing


async def test_publishing_is_forbidden_where_it_may_be_seen_and_not_found_elsewhere(kinds: TopicKinds) -> None:
    assert (await kinds.for_publisher(who("publish:events:finance"), "events:finance")).key == "finance"
    code, message, _ = await refusal(kinds.for_publisher(who("subscribe:*"), "events:finance"))
    assert (code, "publish:events:finance" in message) == (ErrorCode.FORBIDDEN, True)
    assert (await refusal(kinds.for_publisher(who("subscribe:* publish:*"), "chat:open")))[0] == ErrorCode.FORBIDDEN
    assert await refusal(kinds.for_publisher(who("subscribe:* publish:*"), "chat:closed")) == NOT_FOUND
    assert await refusal(kinds.for_publisher(who("subscribe:chat:*"), "events:finance")) == NOT_FOUND
    assert await refusal(kinds.for_publisher(who("publish:*"), "events:missing")) == NOT_FOUND
    assert await refusal(kinds.for_publisher(who("publish:*"), "control:all")) == NOT_FOUND


# --- the registry


async def test_what_may_be_replayed(kinds: TopicKinds) -> None:
    assert await kinds.first_permitted(who(""), Topic(ACME, "chat", "open")) == 5
    assert await kinds.first_permitted(who(""), Topic(ACME, "events", "finance")) == 1


def test_a_name_is_taken_once(kinds: TopicKinds) -> None:
    for name in ("user", "events"):
        with pytest.raises(ValueError, match="twice"):
            kinds.register(TopicKind(name=name))
    assert [kind.name for kind in kinds] == ["user", "events", "chat"]


@pytest.mark.parametrize(
    "rules",
    [
        {"history": None},
        {"history": None, "slow": SlowPolicy.LATEST, "latest_tag": "g"},
        {"slow": SlowPolicy.LATEST},
    ],
)
def test_policies_that_cannot_work_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="policy"):
        TopicKind(name="x", **rules)


def test_policies_that_can(kinds: TopicKinds) -> None:
    TopicKind(name="x", history=None, slow=SlowPolicy.GAP)
    TopicKind(name="x", history=History(count=1), slow=SlowPolicy.LATEST, latest_tag="g")
    with pytest.raises(HubError):
        kinds.resolve_internal(Topic(CONTROL_ORG, "control", "all"))
    with pytest.raises(HubError):
        kinds.resolve_internal(Topic(ACME, "events", "missing"))
