"""What nodes tell one another: to all or to one, over the hub's own topics, and nothing breaks on what is not known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from hub.errors import HubError, unavailable
from hub.fanout.control import Control, Kick, Signal, TakeOver
from hub.orgs import CONTROL_ORG, OrgId
from hub.topics.topic import Topic
from tests.support.fan_out import FanOut
from tests.support.waiting import until

KICK = Kick("acme", "u1", 5.0)
TAKE_OVER = TakeOver("s_1", "c_1")
SIGNAL = Signal("work", "acme", "name/ü", {"please": ["release", 1, None]})


@pytest.fixture
async def control(hub: FanOut) -> AsyncIterator[Control]:
    control = Control("me", hub.broker, hub.dispatcher)
    control.start()
    await until(lambda: len(hub.broker.wanted) == 2)
    yield control
    await control.close()


def listen(control: Control) -> list[Any]:
    """What arrives at a node."""
    got: list[Any] = []
    control.on(Kick, got.append)
    control.on(TakeOver, got.append)
    control.on(Signal, got.append)
    return got


async def test_to_all_and_to_one(hub: FanOut, control: Control) -> None:
    got = listen(control)
    await control.send(KICK)
    await control.send(TAKE_OVER, "me")
    await control.send(TAKE_OVER, "another")
    await control.send(SIGNAL)
    hub.broker.pump()
    assert got == [KICK, TAKE_OVER, SIGNAL]


async def test_control_messages_are_never_kept(hub: FanOut, control: Control) -> None:
    await control.send(KICK)
    assert all(draft.ephemeral and draft.history is None for draft in hub.broker.drafts)
    assert hub.broker.published == {}


async def test_no_organisation_of_a_token_reaches_a_control_topic(hub: FanOut, control: Control) -> None:
    got = listen(control)
    await control.send(KICK)
    hub.broker.wire.clear()
    with pytest.raises(HubError):
        OrgId.from_claim(str(CONTROL_ORG))
    foreign = Topic(OrgId.from_claim("acme"), "control", "all").names.channel.encode()
    hub.broker.wire.append((foreign, b'- 0 1\n{"control":{"type":"kick","org":"acme","user":"u1","issued_before":1}}'))
    hub.broker.pump()
    assert got == []


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"{}", b'{"control":{"type":"later"}}', b'{"control":{"type":"kick"}}']
)
async def test_messages_of_another_version_are_passed_over(hub: FanOut, control: Control, body: bytes) -> None:
    got = listen(control)
    channel = Topic(CONTROL_ORG, "control", "all").names.channel.encode()
    hub.broker.wire.append((channel, b"- 0 1\n" + body))
    with capture_logs() as logs:
        hub.broker.pump()
    assert [line["event"] for line in logs] == ["unknown control message"]
    await control.send(KICK)
    hub.broker.pump()
    assert got == [KICK]


async def test_nobody_need_listen(hub: FanOut, control: Control) -> None:
    await control.send(KICK)
    with capture_logs() as logs:
        hub.broker.pump()
    assert logs == []


async def test_a_broker_that_does_not_answer_is_told(hub: FanOut, control: Control) -> None:
    async def refuse(_: Any) -> Any:
        raise unavailable("redis")

    hub.broker.publish = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(HubError):
        await control.send(KICK)
