"""The OpenAPI and AsyncAPI documents: complete, without dangling references, and the same as what is served."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from hub.edge.asyncapi import asyncapi_document
from hub.errors import ErrorCode
from hub.protocol.codes import CloseCode
from hub.protocol.frames import ClientFrame, ServerFrame
from tests.edge.http_hub import HttpHub


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name == "$ref":
                yield item
            elif name == "mapping":
                yield from item.values()
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def resolve(document: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/"), reference
    found: Any = document
    for part in reference[2:].split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def test_asyncapi_is_complete() -> None:
    document = json.loads(msgspec.json.encode(asyncapi_document("1.2.3")))
    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["version"] == "1.2.3"
    found = list(references(document))
    assert len(found) > 50
    for reference in found:
        assert isinstance(resolve(document, reference), dict), reference
    assert {row["code"] for row in document["x-error-codes"]} == {code.value for code in ErrorCode}
    assert {row["code"] for row in document["x-close-codes"]} == {code.value for code in CloseCode}
    assert all(row["meaning"] and row["retry"] for row in document["x-error-codes"])


def test_asyncapi_has_an_operation_for_every_frame_and_its_answers() -> None:
    document = asyncapi_document("1")
    operations = document["operations"]
    received = {frame.__struct_config__.tag for frame in get_args(ClientFrame)}
    sent = {frame.__struct_config__.tag for frame in get_args(ServerFrame)}
    for action, names in (("receive", received), ("send", sent)):
        found = [operation for operation in operations.values() if operation["action"] == action]
        assert {operation["messages"][0]["$ref"].rpartition("/")[2] for operation in found} == names
    hello = operations["receiveHello"]
    answers = [message["$ref"].rpartition("/")[2] for message in hello["reply"]["messages"]]
    assert answers == ["welcome", "error"]
    assert "reply" not in operations["receiveAck"]
    payload = resolve(document, document["components"]["messages"]["subscribe"]["payload"]["$ref"])
    assert payload["properties"]["type"] == {"enum": ["subscribe"]}
    assert payload["properties"]["topics"]["items"] == {"$ref": "#/components/schemas/SubscribeItem"}


def test_asyncapi_can_be_printed() -> None:
    done = subprocess.run([sys.executable, "-m", "hub.edge.asyncapi"], capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)["channels"]["hub"]["address"] == "/ws"
    assert done.stderr == b""


async def test_documents_are_served(http_hub: HttpHub) -> None:
    asyncapi = await http_hub.client.get("/asyncapi.json")
    assert asyncapi.headers["content-type"].startswith("application/json")
    assert asyncapi.json() == json.loads(msgspec.json.encode(asyncapi_document(http_hub.gateway.version)))
    openapi = await http_hub.client.get("/openapi.json")
    assert openapi.headers["content-type"].startswith("application/json")


async def test_openapi(http_hub: HttpHub) -> None:
    document = (await http_hub.client.get("/openapi.json")).json()
    assert (document["info"]["title"], document["info"]["version"]) == ("hub", http_hub.gateway.version)
    for reference in references(document):
        assert resolve(document, reference), reference
    assert document["components"]["securitySchemes"]["bearer"]["bearerFormat"] == "JWT"
    publish = document["paths"]["/v1/publish"]["post"]
    assert publish["security"] == [{"bearer": []}]
    body = publish["requestBody"]["content"]
    assert set(body) == {
        "application/json",
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
    }
    assert body["application/json"]["examples"]["one"]["value"]["topic"] == "events:finance"
    for path, item in document["paths"].items():
        # A protocol of its own.
        failed = "application/json" if path.startswith("/ofrep/") else "application/problem+json"
        for operation in item.values():
            assert operation["summary"]
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert set(answer["content"]) == {failed}, (operation["summary"], status)
    page = document["components"]["schemas"]["EventsPage"]
    assert {"topic", "epoch", "seq", "events", "recovered", "more", "next"} <= set(page["properties"])
    gap = document["components"]["schemas"]["Gap"]
    assert "from" in gap["properties"]


async def test_nothing_is_loaded_from_elsewhere(http_hub: HttpHub) -> None:
    for path in ("/", "/schema", "/docs", "/openapi.json", "/openapi.json/redoc", "/openapi.json/swagger"):
        text = (await http_hub.client.get(path)).text
        assert "<script" not in text
        assert "cdn" not in text.lower()
