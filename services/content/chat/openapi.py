"""What the OpenAPI document says of the chat route and its signature cannot: its bodies and its stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema

_EXAMPLE: Final = {"messages": [{"role": "user", "content": "What is a hub?"}]}
_UI_EXAMPLE: Final = {
    "id": "chat-1",
    "messages": [{"id": "m-1", "role": "user", "parts": [{"type": "text", "text": "What is a hub?"}]}],
    "trigger": "submit-message",
}

ANSWER: Final = ResponseSpec(
    data_container=str,
    generate_examples=False,
    description="`stream_start`, `chunk` …, and `stream_complete` or `stream_error`; or a UI message stream.",
    media_type="text/event-stream",
)


def _object(required: list[str], properties: dict[str, Schema]) -> Schema:
    return Schema(type=OpenAPIType.OBJECT, required=required, properties={**properties})


def _conversation(required: list[str], message: dict[str, Schema]) -> Schema:
    role = Schema(type=OpenAPIType.STRING, enum=["user", "assistant"])
    items = _object(["role", *required], {"role": role, **message})
    return _object(
        ["messages"],
        {
            "messages": Schema(
                type=OpenAPIType.ARRAY, items=items, description="The first and the last are the user's."
            ),
            "provider": Schema(
                type=OpenAPIType.STRING, description="Who writes; the others stand in. None: the hub's default."
            ),
        },
    )


_TEXT: Final = Schema(type=OpenAPIType.STRING)
_PARTS: Final = Schema(
    type=OpenAPIType.ARRAY,
    items=_object(["type"], {"type": Schema(type=OpenAPIType.STRING), "text": _TEXT}),
    description="Those of type text count.",
)


@dataclass
class ChatOperation(Operation):
    """Its body is read by hand, and has another form for another ``format``."""

    def __post_init__(self) -> None:
        self.request_body = RequestBody(
            required=True,
            content={
                "application/json": OpenAPIMediaType(
                    schema=Schema(
                        one_of=[
                            _conversation(["content"], {"content": _TEXT}),
                            _conversation(["parts"], {"parts": _PARTS}),
                        ]
                    ),
                    examples={"hub": Example(value=_EXAMPLE), "ai-sdk": Example(value=_UI_EXAMPLE)},
                )
            },
        )
