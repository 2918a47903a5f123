"""The AsyncAPI 3.0 document of the socket, made from the frame structs. ``python -m hub.edge.asyncapi`` prints it."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from typing import Any, Final, get_args

import msgspec

from hub.auth.credentials import BEARER_SUBPROTOCOL, SUBPROTOCOLS
from hub.errors import ERROR_SPECS
from hub.protocol.codes import CLOSE_SPECS
from hub.protocol.frames import ClientFrame, ServerFrame, SubscribeItem, Verdict

_SCHEMAS: Final = "#/components/schemas/"
_CHANNEL: Final = "hub"
# What answers a request frame; `error` may answer every one.
_ANSWERS: Final[dict[str, str]] = {
    "hello": "welcome",
    "subscribe": "reply",
    "unsubscribe": "reply",
    "publish": "reply",
    "call": "reply",
    "auth": "reply",
    "ping": "pong",
}


def asyncapi_document(version: str) -> dict[str, Any]:
    """The document, as plain JSON values."""
    client, server = _frames(ClientFrame), _frames(ServerFrame)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "hub",
            "version": version,
            "description": (
                "One authenticated WebSocket that carries many topics. Each message is one frame, a JSON object with "
                "`type`; with the subprotocol hub.v1.msgpack the same maps as msgpack. The first frame is `hello`. "
                "The HTTP routes are in /openapi.json."
            ),
        },
        "defaultContentType": "application/json",
        "servers": {
            "hub": {
                "host": "{host}",
                "protocol": "ws",
                "variables": {"host": {"default": "127.0.0.1:8000", "description": "Host and port of the hub."}},
                "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in _SECURITY],
            }
        },
        "channels": {
            _CHANNEL: {
                "address": "/ws",
                "title": "The socket",
                "servers": [{"$ref": "#/servers/hub"}],
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in (*client, *server)},
                "bindings": {"ws": {"method": "GET", "query": _QUERY, "bindingVersion": "0.1.0"}},
                "x-subprotocols": sorted(SUBPROTOCOLS),
            }
        },
        "operations": _operations(client, server),
        "components": {
            "schemas": _schemas(),
            "messages": {name: _message(name, frame) for name, frame in (client | server).items()},
            "securitySchemes": _SECURITY,
        },
        "x-error-codes": [
            {"code": code.value, "retry": spec.retry, "http_status": spec.http_status, "meaning": spec.meaning}
            for code, spec in ERROR_SPECS.items()
        ],
        "x-close-codes": [
            {"code": code.value, "reason": spec.reason, "reconnect": spec.reconnect}
            for code, spec in CLOSE_SPECS.items()
        ],
    }


_QUERY: Final = {
    "type": "object",
    "properties": {"ticket": {"type": "string", "description": "A one-use ticket from POST /v1/tickets."}},
}
_SECURITY: Final[dict[str, dict[str, str]]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": (
            f"Or, from a browser, a second subprotocol `{BEARER_SUBPROTOCOL}<base64url(token) without padding>`; or "
            "`token` in the `hello` frame."
        ),
    },
    "ticket": {"type": "httpApiKey", "name": "ticket", "in": "query", "description": "From POST /v1/tickets."},
}


def _frames(union: Any) -> dict[str, Any]:
    """Struct by the value of ``type``."""
    return {frame.__struct_config__.tag: frame for frame in get_args(union)}


def _schemas() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(
        [ClientFrame, ServerFrame, SubscribeItem, Verdict], ref_template=_SCHEMAS + "{name}"
    )
    # Raw in the structs, so that one malformed item does not spoil the others.
    for frame, field in (("Hello", "subscribe"), ("Subscribe", "topics")):
        schemas[frame]["properties"][field]["items"] = {"$ref": _SCHEMAS + "SubscribeItem"}
    return schemas


def _message(name: str, frame: Any) -> dict[str, Any]:
    return {
        "name": name,
        "title": name,
        "summary": (frame.__doc__ or "").partition("\n")[0],
        "payload": {"$ref": _SCHEMAS + frame.__name__},
    }


def _operations(client: dict[str, Any], server: dict[str, Any]) -> dict[str, Any]:
    """One per frame, seen from the hub: it receives the client's frames and sends its own."""
    operations: dict[str, Any] = {}
    for name in client:
        operation = _operation("receive", name)
        if name in _ANSWERS:
            answers = [_channel_message(_ANSWERS[name]), _channel_message("error")]
            operation["reply"] = {"channel": _channel(), "messages": answers}
        operations[_operation_id("receive", name)] = operation
    for name in server:
        operations[_operation_id("send", name)] = _operation("send", name)
    return operations


def _operation(action: str, name: str) -> dict[str, Any]:
    return {"action": action, "channel": _channel(), "messages": [_channel_message(name)]}


def _operation_id(action: str, name: str) -> str:
    return action + re.sub(r"(?:^|_)(\w)", lambda match: match[1].upper(), name)


def _channel() -> dict[str, str]:
    return {"$ref": f"#/channels/{_CHANNEL}"}


def _channel_message(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{_CHANNEL}/messages/{name}"}


if __name__ == "__main__":
    document = asyncapi_document(importlib.metadata.version("hub"))
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
