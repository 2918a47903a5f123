"""Publishing: who may, what is refused before it reaches the broker, and what the body looks like."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from hub.auth.principal import Principal
from hub.errors import ErrorCode, HubError, bad_request, unavailable
from hub.fanout.broker import Draft, Published
from hub.fanout.publisher import NewEvent, Publisher, event_id
from hub.orgs import OrgId
from hub.telemetry import Metrics
from hub.topics.kinds import TopicKind, TopicKinds
from hub.topics.topic import Topic
from tests.support.fake_broker import FakeBroker
from tests.support.fan_out import FLEETING, ORG, REPLAY, settings, topic

WHO = Principal("u1", ORG, ("publish:*", "subscribe:*"), 2e9)


class Desk:
    """A publisher over a broker in memory."""

    def __init__(self, **changes: Any) -> None:
        self.broker = FakeBroker()
        self.metrics = Metrics()
        self.asked = 0
        kinds = TopicKinds([REPLAY, FLEETING, TopicKind(name="ruled", may_publish=self._rule)])
        self.publisher = Publisher(settings(max_event_bytes=100, **changes), self.metrics, kinds, self.broker)

    async def _rule(self, _: Principal, key: str) -> bool:
        self.asked += 1
        return key == "open"

    async def publish(self, text: str = "replay:1", **fields: Any) -> Published:
        """As a client."""
        return await self.publisher.publish_as(WHO, NewEvent(text, **{"name": "n", "data": 1, **fields}), "frame")

    async def publish_all(self, events: Sequence[NewEvent]) -> list[Published | HubError]:
        """A list, as a client."""
        return await self.publisher.publish_all_as(WHO, events, lambda event: event, "http")

    def body(self) -> dict[str, Any]:
        """What the broker got last."""
        return msgspec.json.decode(self.broker.drafts[-1].body, type=dict[str, Any])


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_an_event_and_its_body(desk: Desk) -> None:
    done = await desk.publish(data={"a": [1, "é"]}, tags={"g": True}, name="made")
    assert (done.seq, done.duplicate) == (1, False)
    body = desk.body()
    assert len(body.pop("id")) == 31
    assert body == {"name": "made", "data": {"a": [1, "é"]}, "tags": {"g": True}, "by": "u1"}
    draft = desk.broker.drafts[-1]
    assert (draft.topic, draft.history, draft.ephemeral, draft.key) == (topic(REPLAY), REPLAY.history, False, None)
    assert b'hub_events_published_total{kind="replay",way="frame"} 1.0' in desk.metrics.prometheus()


async def test_a_service_publishes_without_a_user(desk: Desk) -> None:
    await desk.publisher.publish(topic(REPLAY), NewEvent("replay:1", "n", None))
    assert set(desk.body()) == {"id", "name", "data"}
    await desk.publisher.publish(topic(REPLAY), NewEvent("replay:1", "n", None), by="u7")
    assert desk.body()["by"] == "u7"


async def test_a_service_appends_to_what_it_knows_to_be_the_end(desk: Desk) -> None:
    subject = topic(REPLAY)
    assert await desk.publisher.append(subject, [("made", 1), ("made", {"a": "é"})], 0) == 2
    assert await desk.publisher.append(subject, [("done", None)], 2, by="u7") == 3
    assert desk.body() | {"id": ""} == {"id": "", "name": "done", "data": None, "by": "u7"}
    assert [(draft.if_top, len(draft.further)) for draft in desk.broker.drafts] == [(0, 1), (2, 0)]
    assert all(draft.history is REPLAY.history and not draft.ephemeral for draft in desk.broker.drafts)
    assert b'hub_events_published_total{kind="replay",way="service"} 3.0' in desk.metrics.prometheus()
    assert await desk.publisher.append(subject, [], 3) == 3


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_to_append_elsewhere_is_a_conflict_and_nothing_happens(desk: Desk, after: int) -> None:
    await desk.publisher.append(topic(REPLAY), [("n", 1), ("n", 2)], 0)
    with pytest.raises(HubError, match=f"number 2 and not {after}") as caught:
        await desk.publisher.append(topic(REPLAY), [("n", 3), ("n", 4)], after)
    assert (caught.value.code, caught.value.details) == (ErrorCode.CONFLICT, {"top": 2})
    assert desk.broker.state(topic(REPLAY)).top == 2
    assert b'hub_events_published_total{kind="replay",way="service"} 2.0' in desk.metrics.prometheus()


async def test_what_may_have_been_appended_is_no_conflict(desk: Desk) -> None:
    refused = unavailable("redis")
    desk.broker.publish_now = lambda draft: refused  # type: ignore[method-assign]
    with pytest.raises(HubError) as caught:
        await desk.publisher.append(topic(REPLAY), [("n", 1)], 0)
    assert caught.value is refused
    assert b'hub_events_published_total{kind="replay"' not in desk.metrics.prometheus()


@pytest.mark.parametrize(
    ("subject", "data", "code"),
    [
        (topic(REPLAY), "x" * 99, ErrorCode.TOO_LARGE),
        (topic(REPLAY), 2**64, ErrorCode.BAD_REQUEST),
        (topic(FLEETING), 1, ErrorCode.BAD_REQUEST),
        (Topic(ORG, "other", "1"), 1, ErrorCode.NOT_FOUND),
    ],
)
async def test_what_cannot_be_appended_never_reaches_the_broker(
    desk: Desk, subject: Topic, data: Any, code: ErrorCode
) -> None:
    with pytest.raises(HubError) as caught:
        await desk.publisher.append(subject, [("n", 1), ("n", data)], 0)
    assert caught.value.code == code
    assert desk.broker.drafts == []


async def test_the_same_key_is_the_same_event(desk: Desk) -> None:
    first = await desk.publish(key="k")
    again = await desk.publish(key="k", data=2)
    assert (again.epoch, again.seq, again.duplicate) == (first.epoch, first.seq, True)


@pytest.mark.parametrize(
    ("text", "asked", "ephemeral"), [("replay:1", True, True), ("replay:1", False, False), ("fleeting:1", False, True)]
)
async def test_what_is_kept(desk: Desk, text: str, asked: bool, ephemeral: bool) -> None:
    done = await desk.publish(text, ephemeral=asked)
    assert desk.broker.drafts[-1].ephemeral is ephemeral
    assert (done.seq == 0) is ephemeral


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"data": "x" * 99}, ErrorCode.TOO_LARGE),
        ({"data": "é" * 50}, ErrorCode.TOO_LARGE),
        ({"data": 2**64}, ErrorCode.BAD_REQUEST),
        ({"data": float("nan")}, ErrorCode.BAD_REQUEST),
        ({"data": b"bytes"}, ErrorCode.BAD_REQUEST),
        ({"data": {1: 2}}, ErrorCode.BAD_REQUEST),
        ({"tags": {f"t{n}": 1 for n in range(33)}}, ErrorCode.BAD_REQUEST),
        ({"tags": {"t": "x" * 257}}, ErrorCode.BAD_REQUEST),
        ({"tags": {"t" * 257: 1}}, ErrorCode.BAD_REQUEST),
        ({"tags": {"t": float("inf")}}, ErrorCode.BAD_REQUEST),
        ({"text": "replay:\n"}, ErrorCode.NOT_FOUND),
        ({"text": "other:1"}, ErrorCode.NOT_FOUND),
    ],
)
async def test_what_is_refused_never_reaches_the_broker(desk: Desk, fields: dict[str, Any], code: ErrorCode) -> None:
    with pytest.raises(HubError) as caught:
        await desk.publish(**fields)
    assert caught.value.code == code
    assert desk.broker.drafts == []


async def test_the_limits_themselves_pass(desk: Desk) -> None:
    await desk.publish(data="x" * 98, tags={f"{n:0256}": "x" * 256 for n in range(32)})


async def test_scope_is_asked(desk: Desk) -> None:
    for scope, code in ((("subscribe:*",), ErrorCode.FORBIDDEN), ((), ErrorCode.NOT_FOUND)):
        with pytest.raises(HubError) as caught:
            await desk.publisher.publish_as(Principal("u1", ORG, scope, 2e9), NewEvent("replay:1", "n", 1), "frame")
        assert caught.value.code == code


async def test_each_event_of_a_list_has_its_own_outcome(desk: Desk) -> None:
    events = [NewEvent(text, "n", 1) for text in ("replay:1", "other:1", "replay:1", "replay:2")]
    outcomes = await desk.publish_all(events)
    assert [item.code if isinstance(item, HubError) else item.seq for item in outcomes] == [1, "not_found", 2, 1]
    assert await desk.publish_all([]) == []


async def test_others_have_their_turn_while_a_long_list_is_published() -> None:
    desk = Desk(publish_turn_ms=0)
    events = [NewEvent(f"replay:{number % 3}", "n", number) for number in range(60)]
    long_list = asyncio.create_task(desk.publish_all(events))
    other = Principal("u9", OrgId.from_claim("globex"), ("publish:*",), 2e9)
    await asyncio.sleep(0)
    await desk.publisher.publish_as(other, NewEvent("replay:1", "n", "theirs"), "frame")
    assert not long_list.done()
    outcomes = await long_list
    mine = [draft for draft in desk.broker.drafts if draft.topic.org == ORG]
    where = [draft.topic.org for draft in desk.broker.drafts].index(other.org)
    assert where < 10, "not behind the list"
    assert [msgspec.json.decode(draft.body)["data"] for draft in mine] == list(range(60)), "the list's order is kept"
    assert [item.seq for item in outcomes if isinstance(item, Published)] == [1 + number // 3 for number in range(60)]


async def test_lists_take_turns_and_a_list_is_read_as_it_goes() -> None:
    desk = Desk(publish_turn_ms=0)
    read: list[str] = []

    def event(item: tuple[str, int]) -> NewEvent:
        name, number = item
        read.append(name)
        if number % 2:
            raise bad_request("unreadable")
        return NewEvent("replay:1", name, number)

    lists = [[(name, number) for number in range(20)] for name in "ab"]
    await asyncio.gather(*(desk.publisher.publish_all_as(WHO, items, event, "http") for items in lists))
    # Neither is more than a few events ahead of the other, though half of them never reach the broker.
    for at in range(2, 41, 2):
        assert abs(read[:at].count("a") - read[:at].count("b")) <= 4


async def test_a_turn_is_bounded_in_events() -> None:
    desk = Desk(publish_turn_ms=60_000, publish_turn_events=12)
    batches: list[int] = []
    publish_many = desk.broker.publish_many

    async def counted(drafts: Sequence[Draft]) -> Any:
        batches.append(len(drafts))
        return await publish_many(drafts)

    desk.broker.publish_many = counted  # type: ignore[method-assign]
    await desk.publish_all([NewEvent("replay:1", "n", 1)] * 30)
    assert batches == [12, 12, 6]


async def test_a_rule_is_asked_once_in_a_turn() -> None:
    desk = Desk(publish_turn_ms=60_000)
    events = [NewEvent(f"ruled:{key}", "n", 1) for key in ("open", "shut") * 10]
    outcomes = await desk.publish_all(events)
    assert desk.asked == 2
    assert [isinstance(item, Published) for item in outcomes] == [True, False] * 10


async def test_once_redis_does_not_answer_the_rest_of_a_list_is_not_tried() -> None:
    desk = Desk(publish_turn_ms=0)
    publish_now = desk.broker.publish_now
    tried = 0

    def fails_at_the_third(draft: Draft) -> Any:
        nonlocal tried
        tried += 1
        return unavailable("redis") if tried == 3 else publish_now(draft)

    desk.broker.publish_now = fails_at_the_third  # type: ignore[method-assign]
    outcomes = await desk.publish_all([NewEvent("replay:1", "n", 1)] * 10)
    assert tried == 3
    codes = [item.code if isinstance(item, HubError) else "published" for item in outcomes]
    assert codes == ["published"] * 2 + [ErrorCode.UNAVAILABLE] * 8


async def test_huge_data_is_refused_by_its_size_before_anybody_looks_into_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Any] = []
    monkeypatch.setattr("hub.fanout.bodies.check_data", looked_at.append)
    with pytest.raises(HubError, match="at most 100"):
        await desk.publish(data=[7] * 1000)
    assert looked_at == []
    await desk.publish(data=[7])
    assert looked_at == [[7]]


async def test_a_broker_that_does_not_answer_is_told(desk: Desk) -> None:
    refused = unavailable("redis")
    desk.broker.publish_now = lambda _: refused  # type: ignore[method-assign, assignment]
    with pytest.raises(HubError) as caught:
        await desk.publish()
    assert caught.value is refused
    assert b'hub_events_published_total{kind="replay"' not in desk.metrics.prometheus()


def test_event_ids_are_new_and_in_order_of_time() -> None:
    ids = [event_id() for _ in range(200)]
    assert len(set(ids)) == 200
    assert [one[:11] for one in ids] == sorted(one[:11] for one in ids)
