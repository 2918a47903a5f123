"""CloudEvents 1.0 over HTTP: structured, batch and binary, and what of them becomes what of an event."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hub.edge import cloud_events
from hub.errors import HubError
from tests.edge.http_hub import HttpHub, assert_problem

STRUCTURED = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


def cloud_event(**changes: Any) -> dict[str, Any]:
    event = {
        "specversion": "1.0",
        "id": "17",
        "source": "/billing",
        "type": "com.example.invoice.paid",
        "subject": "events:ce",
        "data": {"invoice": 17},
    }
    return {name: value for name, value in (event | changes).items() if value is not ...}


def binary_headers(**changes: str) -> dict[str, str]:
    attributes = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"} | changes
    return {f"ce-{name}": value for name, value in attributes.items() if value}


def read(**changes: Any) -> Any:
    return cloud_events.from_json(json.dumps(cloud_event(**changes)).encode(), None)


async def test_structured(http_hub: HttpHub) -> None:
    event = cloud_event(
        subject="events:ce1",
        time="2026-01-31T12:00:00.123456789Z",
        propertyid=456,
        late=True,
        traceparent="00-ab-cd-01",
    )
    answer = await http_hub.post("/v1/publish", content=json.dumps(event), headers=STRUCTURED)
    assert answer.json()["seq"] == 1
    assert (await http_hub.post("/v1/publish", content=json.dumps(event), headers=STRUCTURED)).json()["duplicate"]
    (kept,) = (await http_hub.events("events:ce1"))["events"]
    assert kept["name"] == "com.example.invoice.paid"
    assert kept["data"] == {"invoice": 17}
    assert kept["tags"] == {"propertyid": 456, "late": True}


async def test_batch(http_hub: HttpHub) -> None:
    batch = [
        cloud_event(subject="events:ce2", id="1"),
        cloud_event(subject="events:ce2", id="2", type=...),
        cloud_event(subject="events:ce2", id="1"),
        7,
        cloud_event(subject="events:ce2", id="3"),
    ]
    answer = await http_hub.post("/v1/publish", content=json.dumps(batch), headers=BATCH)
    assert answer.status_code == 200
    first, bad, duplicate, worse, last = answer.json()
    assert (first["seq"], last["seq"]) == (1, 2)
    assert duplicate == first | {"duplicate": True}
    assert bad["error"]["code"] == worse["error"]["code"] == "bad_request"
    assert "'type'" in bad["error"]["message"]


async def test_batches_are_bounded(http_hub: HttpHub) -> None:
    batch = json.dumps([cloud_event()] * 51)
    assert_problem(await http_hub.post("/v1/publish", content=batch, headers=BATCH), "too_large")
    assert_problem(await http_hub.post("/v1/publish", content=b"{}", headers=BATCH), "bad_request")


async def test_binary(http_hub: HttpHub) -> None:
    headers = binary_headers(id="1", subject="events:ce3", place="Z%C3%BCrich%20%25", old='"a \\"b\\""')
    answer = await http_hub.post("/v1/publish", json={"a": 1}, headers=headers)
    assert answer.json()["seq"] == 1
    text = await http_hub.post(
        "/v1/publish/events:ce3",
        content="grüezi".encode(),
        headers=binary_headers(id="2") | {"Content-Type": "text/plain"},
    )
    assert text.json()["seq"] == 2
    nothing = await http_hub.post("/v1/publish/events:ce3", headers=binary_headers(id="3"))
    assert nothing.json()["seq"] == 3
    first, second, third = (await http_hub.events("events:ce3"))["events"]
    assert first["data"] == {"a": 1}
    assert first["tags"] == {"place": "Zürich %", "old": 'a "b"'}
    assert (second["data"], third["data"]) == ("grüezi", None)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        (binary_headers(specversion=""), "'specversion'"),
        (binary_headers(specversion="0.3"), "'specversion'"),
        (binary_headers(id=""), "'id'"),
        (binary_headers(source=""), "'source'"),
        (binary_headers(type=""), "'type'"),
        (binary_headers(type="a b"), "A-Z a-z 0-9"),
        (binary_headers(type="t%0A"), "A-Z a-z 0-9"),
        (binary_headers(x="%C0%A0"), "ce-x"),
        (binary_headers(x="%FF"), "ce-x"),
        (binary_headers(data="x"), "the data is the body"),
        (binary_headers(time="yesterday"), "'time'"),
        (binary_headers(subject="events:other"), "different topics"),
        ({**binary_headers(), "ce-a_b": "x"}, "lower-case"),
    ],
    ids=str,
)
async def test_bad_headers(http_hub: HttpHub, headers: dict[str, str], says: str) -> None:
    answer = await http_hub.post("/v1/publish/events:ce4", json=1, headers=headers)
    assert_problem(answer, "bad_request", says=says)


async def test_repeated_and_raw_headers(http_hub: HttpHub) -> None:
    given = [*http_hub.headers().items(), *binary_headers().items()]
    twice = await http_hub.client.post("/v1/publish/events:ce4", headers=[*given, ("CE-Id", "2")], json=1)
    assert_problem(twice, "bad_request", says="ce-id")
    raw = [(name.encode(), value.encode()) for name, value in given] + [(b"ce-place", "Zürich".encode())]
    assert_problem(await http_hub.client.post("/v1/publish/events:ce4", headers=raw, json=1), "bad_request")


async def test_binary_bodies(http_hub: HttpHub) -> None:
    for content_type in ("application/xml", "image/png", "application/json; charset=latin-1"):
        headers = binary_headers() | {"Content-Type": content_type}
        assert_problem(await http_hub.post("/v1/publish/events:ce4", content=b"x", headers=headers), "content_type")
    for content_type in ("application/json", "text/plain"):
        headers = binary_headers() | {"Content-Type": content_type}
        assert_problem(await http_hub.post("/v1/publish/events:ce4", content=b"\xff", headers=headers), "bad_request")


async def test_other_formats_are_refused(http_hub: HttpHub) -> None:
    for name in ("application/cloudevents+xml", "application/cloudevents", "application/cloudevents-batch+avro"):
        answer = await http_hub.post("/v1/publish", content=b"x", headers={"Content-Type": name})
        assert_problem(answer, "content_type", says="cloudevents+json")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"specversion": ...}, "'specversion'"),
        ({"specversion": 1.0}, "'specversion'"),
        ({"id": 17}, "'id'"),
        ({"id": None}, "'id'"),
        ({"source": ""}, "'source'"),
        ({"type": ["t"]}, "'type'"),
        ({"type": "x" * 129}, "1 to 128"),
        ({"subject": ...}, "no topic"),
        ({"subject": ""}, "'subject'"),
        ({"subject": 7}, "'subject'"),
        ({"time": 1700000000}, "'time'"),
        ({"dataschema": 7}, "'dataschema'"),
        ({"data_base64": "AAAA"}, "data_base64"),
        ({"ext": 1.5}, "'ext'"),
        ({"ext": {}}, "'ext'"),
        ({"Ext": "x"}, "lower-case"),
        ({"datacontenttype": "text/plain", "data": {}}, "must be a string"),
    ],
    ids=str,
)
def test_bad_members(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(HubError) as caught:
        read(**changes)
    assert caught.value.code == "bad_request"
    assert says in caught.value.message


def test_data_content_types() -> None:
    assert read(datacontenttype="application/vnd.x+json", data=[1]).data == [1]
    assert read(datacontenttype="text/csv; charset=utf-8", data="a,b").data == "a,b"
    assert read(data=...).data is None
    with pytest.raises(HubError) as caught:
        read(datacontenttype="application/xml", data="<a/>")
    assert caught.value.code == "content_type"


def test_a_member_that_is_null_is_not_there() -> None:
    event = read(time=None, ext=None, data_base64=None, datacontenttype=None)
    assert event.tags is None


def test_keys_never_meet() -> None:
    long = "x" * 300
    pairs = [
        ("a", "b c"),
        ("a b", "c"),
        ('a","b', "c"),
        ("a", 'b","c'),
        (long, "1"),
        (long, "2"),
        (long + "1", "2"),
        ("/", long),
        ("ü" * 200, "ü"),
    ]
    keys = [read(source=source, id=id_).key for source, id_ in pairs]
    assert len(set(keys)) == len(pairs)
    assert all(key is not None and len(key) <= 256 for key in keys)
    assert keys == [read(source=source, id=id_).key for source, id_ in pairs], "the same each time"
