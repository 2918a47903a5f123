"""The OpenAPI document of the HTTP routes: security, problems, bodies and examples that signatures cannot say.

Served as JSON alone. There is no page: the framework's load their scripts from somebody else's server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from litestar import Response, Router
from litestar.enums import MediaType
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    Example,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
    SecurityScheme,
)

from hub.edge.problems import PROBLEM_JSON, Problem, problem
from hub.errors import ERROR_SPECS, ErrorCode, HubError, not_found

PATH: Final = "/openapi.json"

_EXAMPLES: Final[dict[int, HubError]] = {
    400: HubError(ErrorCode.BAD_REQUEST, "Object missing required field `name`"),
    401: HubError(ErrorCode.TOKEN_EXPIRED, "the token has expired (claim 'exp'); get a fresh one"),
    403: HubError(ErrorCode.FORBIDDEN, "the token's scope does not allow publish:events:finance"),
    404: HubError(ErrorCode.NOT_FOUND, "no such topic"),
    409: HubError(ErrorCode.CONFLICT, "it is no longer in the state for this", details={"state": "checking"}),
    410: HubError(ErrorCode.CONFLICT, "it is gone", details={"state": "expired"}),
    412: HubError(ErrorCode.BAD_REQUEST, "the protocol's version is not spoken here"),
    413: HubError(ErrorCode.TOO_LARGE, "'data' has 70000 bytes; at most 65536 are allowed"),
    415: HubError(ErrorCode.CONTENT_TYPE, "content type 'application/xml' is not accepted here"),
    416: HubError(ErrorCode.BAD_REQUEST, "the range begins behind the end"),
    429: HubError(ErrorCode.RATE_LIMITED, "at most 20 requests a minute", retry_after_ms=3000),
    460: HubError(ErrorCode.CHECKSUM_MISMATCH, "the body does not have the checksum that was given"),
    503: HubError(ErrorCode.UNAVAILABLE, "Redis is not reachable; try again", retry_after_ms=1000),
}


def problem_responses(*statuses: int) -> dict[int, ResponseSpec]:
    """The error answers of a route."""
    return {
        status: ResponseSpec(
            data_container=Problem,
            generate_examples=False,
            description=ERROR_SPECS[_EXAMPLES[status].code].meaning,
            media_type=PROBLEM_JSON,
            examples=[Example(value=_plain(problem(_EXAMPLES[status], status)))],
        )
        for status in statuses
    }


def _plain(value: Problem) -> dict[str, Any]:
    given = {name: getattr(value, name) for name in value.__struct_fields__}
    return {name: str(item) if name == "code" else item for name, item in given.items() if item is not None}


def _string(text: str, **more: Any) -> Schema:
    return Schema(type=OpenAPIType.STRING, description=text, **more)


def _object(text: str, required: list[str], properties: dict[str, Schema]) -> Schema:
    return Schema(type=OpenAPIType.OBJECT, description=text, required=required, properties={**properties})


_TAG: Final = Schema(type=[OpenAPIType.STRING, OpenAPIType.NUMBER, OpenAPIType.BOOLEAN])
_PLAIN_EVENT: Final = _object(
    "An event in the hub's own form.",
    ["name", "data"],
    {
        "topic": _string("kind:key; may be left out when the path names it."),
        "name": _string("What happened.", pattern=r"^[A-Za-z0-9._:-]{1,128}$"),
        "data": Schema(description="Any JSON, up to HUB_MAX_EVENT_BYTES."),
        "key": _string("Idempotency key: within a day an event of this topic with this key happens once."),
        "tags": Schema(type=OpenAPIType.OBJECT, additional_properties=_TAG, description="What filters look at."),
        "ephemeral": Schema(type=OpenAPIType.BOOLEAN, description="Not kept, never replayed."),
    },
)
_CLOUD_EVENT: Final = _object(
    "A CloudEvent 1.0. `type` is the event's name, `subject` its topic, `source` and `id` its idempotency key; "
    "extension attributes become tags.",
    ["specversion", "id", "source", "type"],
    {
        "specversion": Schema(const="1.0"),
        "id": _string("Together with source: the idempotency key."),
        "source": _string("Where it comes from."),
        "type": _string("The event's name.", pattern=r"^[A-Za-z0-9._:-]{1,128}$"),
        "subject": _string("The topic; may be left out when the path names it."),
        "time": _string("Accepted and not used: the hub stamps events itself."),
        "datacontenttype": _string("JSON or text."),
        "data": Schema(description="Any JSON, or a string when datacontenttype is text."),
    },
)
_PLAIN_EXAMPLE: Final = {
    "topic": "events:finance",
    "name": "invoice.paid",
    "data": {"invoice": 17},
    "key": "invoice-17-paid",
    "tags": {"property_id": 456},
}
_CLOUD_EXAMPLE: Final = {
    "specversion": "1.0",
    "id": "17",
    "source": "/billing",
    "type": "com.example.invoice.paid",
    "subject": "events:finance",
    "data": {"invoice": 17},
}


def _list_of(schema: Schema) -> Schema:
    return Schema(type=OpenAPIType.ARRAY, items=schema)


def _content(schema: Schema, **examples: Any) -> OpenAPIMediaType:
    return OpenAPIMediaType(schema=schema, examples={name: Example(value=value) for name, value in examples.items()})


@dataclass
class PublishOperation(Operation):
    """Its body comes in four content types."""

    def __post_init__(self) -> None:
        self.request_body = RequestBody(
            required=True,
            description="One event or a list. In the binary mode of CloudEvents the attributes are ce- headers.",
            content={
                "application/json": _content(
                    Schema(one_of=[_PLAIN_EVENT, _list_of(_PLAIN_EVENT)]), one=_PLAIN_EXAMPLE, many=[_PLAIN_EXAMPLE]
                ),
                "application/cloudevents+json": _content(_CLOUD_EVENT, one=_CLOUD_EXAMPLE),
                "application/cloudevents-batch+json": _content(_list_of(_CLOUD_EVENT), many=[_CLOUD_EXAMPLE]),
            },
        )


@dataclass
class KickOperation(Operation):
    """Its body is read by hand, so that every fault in it is told in the hub's words."""

    def __post_init__(self) -> None:
        schema = _object("Whom to throw out.", ["user"], {"user": _string("The sub of their tokens.")})
        self.request_body = RequestBody(
            required=True, content={"application/json": _content(schema, one={"user": "u1"})}
        )


_CHANGE: Final = {
    "state": _string("For everybody.", enum=["on", "off"]),
    "percent": Schema(
        type=OpenAPIType.NUMBER,
        minimum=0,
        maximum=100,
        description="In the place of the file's percentage, in steps of 0.001; allow list and rules stay.",
    ),
    "clear": Schema(type=OpenAPIType.BOOLEAN, description="The file decides again."),
    "if_version": Schema(
        type=OpenAPIType.INTEGER, minimum=0, description="Only if the flag's change has this version; 0: has none."
    ),
}
_WHY: Final = {"why": _string("For the record.", max_length=500)}
_FLAG: Final = {"flag": _string("Its name.")}


@dataclass
class ChangeFlagsOperation(Operation):
    """Its body is read by hand, as that of a kick."""

    def __post_init__(self) -> None:
        change = _object("One of state, percent and clear.", ["flag"], _FLAG | _CHANGE)
        schema = _object("All of it or nothing.", ["changes"], {"changes": _list_of(change), **_WHY})
        example = {"changes": [{"flag": "chat", "percent": 10}], "why": "the first ten percent"}
        self.request_body = RequestBody(required=True, content={"application/json": _content(schema, one=example)})


@dataclass
class ChangeFlagOperation(Operation):
    """The same for one flag."""

    def __post_init__(self) -> None:
        schema = _object("One of state, percent and clear.", [], _CHANGE | _WHY)
        example = {"state": "off", "why": "it hurts"}
        self.request_body = RequestBody(required=True, content={"application/json": _content(schema, one=example)})


@dataclass
class EvaluateOperation(Operation):
    """What the protocol says of bodies and answers, with the token's user instead of the context's."""

    def __post_init__(self) -> None:
        text = "What rules may look at: texts, numbers and booleans. User and organisation are the token's."
        context = Schema(type=OpenAPIType.OBJECT, description=text)
        schema = _object("May be left out.", [], {"context": context})
        example = {"context": {"targetingKey": "u1", "plan": "basic"}}
        self.request_body = RequestBody(required=False, content={"application/json": _content(schema, one=example)})


@dataclass
class FramesOperation(Operation):
    """Frames are those of the socket: /asyncapi.json has their schemas."""

    def __post_init__(self) -> None:
        frame = _object("A frame of the client, as in /asyncapi.json.", ["type"], {"type": _string("Its type.")})
        envelope = _object(
            "Frames in the order in which they take effect.",
            ["frames"],
            {"session": _string("Whose connection the frames belong to."), "frames": _list_of(frame)},
        )
        publish = {"type": "publish", "id": 1, **_PLAIN_EXAMPLE}
        ack = {"type": "ack", "positions": {"events:finance": {"epoch": "k3f9", "seq": 41}}}
        self.request_body = RequestBody(
            required=True,
            content={
                "application/json": _content(
                    Schema(one_of=[envelope, frame, _list_of(frame)]),
                    many={"session": "s_…", "frames": [publish, ack]},
                    one=publish,
                )
            },
        )


def openapi_config(version: str) -> OpenAPIConfig:
    """The document at ``/openapi.json``."""
    return OpenAPIConfig(
        title="hub",
        version=version,
        description="A multiplexed realtime event hub. The frames that go over its socket, over GET or POST /v1/sse "
        "(server-sent events) and GET or POST /v1/poll are in /asyncapi.json.",
        use_handler_docstrings=True,
        components=Components(
            security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")}
        ),
        render_plugins=[JsonRenderPlugin(path="/", media_type=MediaType.JSON)],
        openapi_router=Router(
            PATH, route_handlers=[], include_in_schema=False, dto=None, return_dto=None, after_request=_no_other_page
        ),
    )


async def _no_other_page(response: Response[Any]) -> Response[Any]:
    # For paths below its own the framework answers with a page of HTML.
    if response.status_code == 404:
        raise not_found("path")
    return response
