"""POST /v1/publish in the hub's own form: one event, lists, limits, and everything that can be wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hub.errors import ErrorCode, HubError
from tests.edge.http_hub import HttpHub, assert_problem

JSON = {"Content-Type": "application/json"}


async def test_one_event(http_hub: HttpHub) -> None:
    event = {"topic": "events:p1", "name": "invoice.paid", "data": {"a": [1, "ü"]}, "key": "k", "tags": {"x": 4}}
    first = await http_hub.post("/v1/publish", json=event)
    assert first.status_code == 200
    position = first.json()
    assert position["seq"] == 1
    assert position["duplicate"] is False
    again = (await http_hub.post("/v1/publish", json=event)).json()
    assert again == position | {"duplicate": True}
    (kept,) = (await http_hub.events("events:p1"))["events"]
    assert kept["name"] == "invoice.paid"
    assert kept["data"] == {"a": [1, "ü"]}
    assert kept["tags"] == {"x": 4}
    assert kept["by"] == "u1"
    assert "key" not in kept


async def test_the_path_may_name_the_topic(http_hub: HttpHub) -> None:
    body: dict[str, Any] = {"name": "n", "data": 1}
    assert (await http_hub.post("/v1/publish/events:p2", json=body)).json()["seq"] == 1
    assert (await http_hub.post("/v1/publish/events:p2", json=body | {"topic": "events:p2"})).json()["seq"] == 2
    different = await http_hub.post("/v1/publish/events:p2", json=body | {"topic": "events:other"})
    assert_problem(different, "bad_request", says="different topics")
    assert_problem(await http_hub.post("/v1/publish", json=body), "bad_request", says="no topic")


async def test_ephemeral_events_have_no_position(http_hub: HttpHub) -> None:
    assert await http_hub.publish("events:p3", ephemeral=True) == {"epoch": "", "seq": 0, "duplicate": False}
    assert await http_hub.publish("clicks:p3") == {"epoch": "", "seq": 0, "duplicate": False}


async def test_a_list_has_an_outcome_for_each_in_order(http_hub: HttpHub) -> None:
    events: list[Any] = [
        {"topic": "events:p4", "name": "a", "data": 1},
        {"topic": "events:p4", "name": "bad name", "data": 1},
        {"topic": "nosuch:p4", "name": "a", "data": 1},
        "not an object",
        {"topic": "events:p4", "name": "b", "data": "x" * 70_000},
        {"topic": "events:p4", "name": "b", "data": 2**70},
        {"topic": "events:p4", "name": "b", "data": 2},
    ]
    answer = await http_hub.post("/v1/publish", json=events)
    assert answer.status_code == 200
    outcomes = answer.json()
    codes = [item["error"]["code"] if "error" in item else item["seq"] for item in outcomes]
    assert codes == [1, "bad_request", "not_found", "bad_request", "too_large", "bad_request", 2]
    assert outcomes[1]["error"]["retry"] == "never"
    assert "name" in outcomes[1]["error"]["message"]
    names = [event["name"] for event in (await http_hub.events("events:p4"))["events"]]
    assert names == ["a", "b"]


async def test_one_unreadable_item_does_not_stop_the_others(http_hub: HttpHub) -> None:
    body = b'[{"name":"a","data":1},{"name":"\xff","data":1},{"name":"b","data":2}]'
    answer = await http_hub.post("/v1/publish/events:p5", content=body, headers=JSON)
    assert [item.get("seq", "refused") for item in answer.json()] == [1, "refused", 2]


async def test_an_empty_list_is_nothing_to_do(http_hub: HttpHub) -> None:
    assert (await http_hub.post("/v1/publish", json=[])).json() == []


async def test_lists_are_bounded(http_hub: HttpHub) -> None:
    events = [{"topic": "events:p6", "name": "a", "data": 1}] * 51
    assert_problem(await http_hub.post("/v1/publish", json=events), "too_large", says="at most 50")
    assert (await http_hub.events("events:p6"))["seq"] == 0, "nothing was published"


async def test_bodies_are_bounded(http_hub: HttpHub) -> None:
    huge = b'{"topic":"events:p7","name":"a","data":"' + b"x" * 400_000 + b'"}'
    assert_problem(await http_hub.post("/v1/publish", content=huge, headers=JSON), "too_large")

    async def pieces() -> Any:
        for _ in range(40):
            yield huge[:20_000]

    assert_problem(await http_hub.post("/v1/publish", content=pieces(), headers=JSON), "too_large")


async def test_one_event_is_not_longer_than_a_frame(http_hub: HttpHub) -> None:
    padded = b'{"name":"a","data":1' + b" " * 300_000 + b"}"
    for body, content_type in ((padded, "application/json"), (padded, "application/cloudevents+json")):
        answer = await http_hub.post("/v1/publish/events:p12", content=body, headers={"Content-Type": content_type})
        assert_problem(answer, "too_large", says="at most 300000")
    answer = await http_hub.post(
        "/v1/publish/events:p12", content=b"[" + padded + b',{"name":"b","data":2}]', headers=JSON
    )
    assert [item["error"]["code"] if "error" in item else item["seq"] for item in answer.json()] == ["too_large", 1]


async def test_a_list_is_charged_as_a_whole_before_any_of_it_is_published(http_hub: HttpHub) -> None:
    spent: list[int] = []

    async def refuse(_: Any, events: int) -> None:
        spent.append(events)
        raise HubError(ErrorCode.RATE_LIMITED, "enough")

    budget = http_hub.gateway.admission.publications
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "spend", refuse)
        events: list[Any] = [{"topic": "events:p13", "name": "a", "data": 1}, "unreadable"]
        assert_problem(await http_hub.post("/v1/publish", json=events), "rate_limited")
    assert spent == [2]
    assert (await http_hub.events("events:p13"))["seq"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"7",
        b'"text"',
        b"{}",
        b'{"topic":"events:x","name":"n"}',
        b'{"topic":7,"name":"n","data":1}',
        b'{"topic":"events:x","name":7,"data":1}',
        b'{"topic":"events:x","name":"","data":1}',
        b'{"topic":"events:x","name":"a b","data":1}',
        b'{"topic":"events:x","name":"a\\n","data":1}',
        b'{"topic":"events:x","name":"n","data":1,"key":""}',
        b'{"topic":"events:x","name":"n","data":1,"tags":[]}',
        b'{"topic":"events:x","name":"n","data":1,"tags":{"a":{}}}',
        b'{"topic":"events:x","name":"n","data":1,"ephemeral":"yes"}',
        b'{"topic":"events:x","name":"n","data":NaN}',
        b'{"topic":"events:x","name":"n","data":"\xff"}',
        b'{"topic":"events:x","name":"n","data":"\\ud800"}',
        b'{"topic":"events:x","name":"n","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"topic":"events:x","name":"n","data":' + b"[" * 70 + b"]" * 70 + b"}",
        b"[" * 100_000,
        b"[1,",
    ],
    ids=lambda body: str(body[:50]),
)
async def test_malformed_bodies(http_hub: HttpHub, body: bytes) -> None:
    assert_problem(await http_hub.post("/v1/publish", content=body, headers=JSON), "bad_request")
    assert (await http_hub.events("events:x"))["seq"] == 0


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "application/json; charset=utf-16", "nonsense"]
)
async def test_content_types(http_hub: HttpHub, content_type: str) -> None:
    body = json.dumps({"topic": "events:x", "name": "n", "data": 1}).encode()
    answer = await http_hub.post("/v1/publish", content=body, headers={"Content-Type": content_type})
    assert_problem(answer, "content_type")


async def test_no_content_type_is_json(http_hub: HttpHub) -> None:
    body = b'{"topic":"events:p8","name":"n","data":1}'
    assert (await http_hub.post("/v1/publish", content=body)).json()["seq"] == 1


@pytest.mark.parametrize("topic", ["nosuch:x", "events:", "events:a b", "", "events:" + "x" * 500, "user:me\n"])
async def test_topics_that_cannot_be(http_hub: HttpHub, topic: str) -> None:
    answer = await http_hub.post("/v1/publish", json={"topic": topic, "name": "n", "data": 1})
    assert_problem(answer, "not_found", says="no such topic")


async def test_hidden_and_missing_give_the_same_answer(http_hub: HttpHub) -> None:
    event = {"name": "n", "data": 1}
    hidden = await http_hub.post("/v1/publish/room:a-b", json=event)
    missing = await http_hub.post("/v1/publish/nosuch:a-b", json=event)
    assert hidden.status_code == missing.status_code == 404
    assert hidden.content == missing.content
    assert (await http_hub.post("/v1/publish/room:u1-b", json=event)).status_code == 200


async def test_scope(http_hub: HttpHub) -> None:
    async def attempt(scope: str) -> Any:
        headers = http_hub.headers(scope=scope)
        return await http_hub.client.post("/v1/publish/events:p9", json={"name": "n", "data": 1}, headers=headers)

    assert_problem(await attempt("subscribe:events:*"), "forbidden", says="publish:events:p9")
    assert_problem(await attempt("publish:events:other"), "not_found")
    assert (await attempt("publish:events:p9")).status_code == 200


async def test_organisations_do_not_meet(http_hub: HttpHub) -> None:
    await http_hub.publish("events:p10", data="secret of acme")
    answer = await http_hub.post("/v1/publish/events:p10", org="globex", json={"name": "n", "data": 1})
    assert answer.json()["seq"] == 1, "a topic of its own"
    page = await http_hub.get("/v1/topics/events:p10/events", org="globex")
    assert "secret" not in page.text


async def test_publications_are_counted(http_hub: HttpHub) -> None:
    await http_hub.publish("short:p11")
    text = (await http_hub.client.get("/metrics")).text
    assert 'hub_events_published_total{kind="short",way="http"}' in text
