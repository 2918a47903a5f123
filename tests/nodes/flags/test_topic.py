"""Who may see changes of flags: operators, by organisation and scope. To everybody else there is no such topic."""

from __future__ import annotations

import pytest

from hub.auth.principal import Principal
from hub.errors import ErrorCode, HubError
from hub.nodes.flags.topic import changes_kind
from hub.orgs import OrgId
from hub.topics.kinds import TopicKinds
from tests.support.redis_world import redis_settings

TOPIC = "flags:changes"


def somebody(org: str, *scope: str) -> Principal:
    return Principal("olga", OrgId.from_claim(org), scope, 2_000_000_000.0)


def kinds(flags_org: str) -> TopicKinds:
    return TopicKinds([changes_kind(redis_settings("redis://unused", flags_org=flags_org))])


async def test_an_operator_sees_them_and_cannot_make_them_up() -> None:
    olga = somebody("ops", "subscribe:*", "publish:*", "flags:write")
    assert (await kinds("ops").for_subscriber(olga, TOPIC)).wire == TOPIC
    with pytest.raises(HubError) as refused:
        await kinds("ops").for_publisher(olga, TOPIC)
    assert refused.value.code is ErrorCode.FORBIDDEN


@pytest.mark.parametrize(
    ("flags_org", "who", "topic"),
    [
        ("ops", somebody("ops", "subscribe:*", "call:*"), TOPIC),
        ("ops", somebody("ops", "subscribe:chat:*", "flags:write"), TOPIC),
        ("ops", somebody("acme", "subscribe:*", "flags:write", "admin"), TOPIC),
        ("ops", somebody("ops", "subscribe:*", "flags:write"), "flags:others"),
        ("", somebody("ops", "subscribe:*", "flags:write"), TOPIC),
    ],
)
async def test_nobody_else_does(flags_org: str, who: Principal, topic: str) -> None:
    with pytest.raises(HubError) as refused:
        await kinds(flags_org).for_subscriber(who, topic)
    assert refused.value.code is ErrorCode.NOT_FOUND
