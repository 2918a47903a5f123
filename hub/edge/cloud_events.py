"""CloudEvents 1.0 into events of the hub: structured, batched and binary. Pure.

``type`` is the event's name, ``source`` and ``id`` together its idempotency key, ``subject`` (or the path) its topic;
extension attributes become tags. ``time`` is checked and dropped: the hub stamps events itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from hub.edge.http_bodies import decode_json, is_json, refused_type
from hub.errors import bad_request
from hub.fanout.publisher import NewEvent
from hub.protocol.frames import EventName, Tags

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
FAMILY: Final = "application/cloudevents"
HEADER_PREFIX: Final = b"ce-"

_REQUIRED: Final = ("id", "source", "type")
# `traceparent` and `tracestate` tell where an event came from on its way, not what it is about.
_NO_TAGS: Final = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"}
    | {"traceparent", "tracestate"}
)
_ATTRIBUTE: Final = re.compile(r"[a-z0-9]+")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?\s*([Zz]|[+-]\d\d:?\d\d)?")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_MAX_KEY_CHARS: Final = 256

_object: Final = msgspec.json.Decoder(dict[str, Any])
_value: Final = msgspec.json.Decoder(Any)


def is_binary(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the headers hold the attributes of an event."""
    return any(name.lower() in {b"ce-specversion", b"ce-id", b"ce-source", b"ce-type"} for name, _ in headers)


def from_json(text: bytes | msgspec.Raw, topic: str | None) -> NewEvent:
    """The event in a JSON object. ``topic`` is the path's. Raises ``bad_request`` or ``content_type``."""
    members = decode_json(text, _object)
    if members.get("data_base64") is not None:
        raise bad_request("'data_base64' is not accepted: event data follows the JSON model; send it as 'data'")
    members.pop("data_base64", None)
    data = members.pop("data", None)
    # An attribute that is null is an attribute that is not there.
    attributes = {name: value for name, value in members.items() if value is not None}
    content_type = _text(attributes, "datacontenttype") or "application/json"
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("text/") and not is_json(kind):
        if data is not None and not isinstance(data, str):
            raise bad_request(f"'data' must be a string, because 'datacontenttype' is {kind[:100]!r}")
    elif not is_json(kind):
        raise refused_type(kind, "'datacontenttype' must be JSON or text")
    return _event(attributes, data, topic)


def from_headers(headers: Iterable[tuple[bytes, bytes]], content_type: str, body: bytes, topic: str | None) -> NewEvent:
    """The event whose attributes stand in the ``ce-`` headers and whose data is the body.

    Raises ``bad_request`` or ``content_type``.
    """
    attributes: dict[str, Any] = {}
    for name, value in headers:
        lowered = name.lower()
        if not lowered.startswith(HEADER_PREFIX):
            continue
        attribute = lowered.removeprefix(HEADER_PREFIX).decode("latin-1")
        if attribute in attributes:
            raise bad_request(f"the header ce-{attribute[:50]} stands there twice")
        attributes[attribute] = _header_value(attribute, value)
    if "data" in attributes or "datacontenttype" in attributes:
        raise bad_request("in the binary mode the data is the body, and its type the header Content-Type")
    return _event(attributes, _binary_data(content_type, body), topic)


def _binary_data(content_type: str, body: bytes) -> Any:
    if not body:
        return None
    if not content_type or is_json(content_type):
        return decode_json(body, _value)
    if content_type.startswith("text/"):
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise bad_request("the body is not valid UTF-8") from None
    raise refused_type(content_type, "send JSON or text")


def _header_value(attribute: str, raw: bytes) -> str:
    """HTTP binding 3.1.3.2: double quotes are taken off, then one round of percent-decoding, which must give UTF-8."""
    try:
        text = raw.decode("ascii").strip()
        quoted = _QUOTED.fullmatch(text)
        if quoted is not None:
            text = re.sub(r"\\(.)", r"\1", quoted[1])
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise bad_request(f"the header ce-{attribute[:50]} is not percent-encoded UTF-8") from None


def _event(attributes: dict[str, Any], data: Any, topic: str | None) -> NewEvent:
    if attributes.get("specversion") != "1.0":
        raise bad_request("'specversion' must be \"1.0\"")
    for name in _REQUIRED:
        if not _text(attributes, name):
            raise bad_request(f"the attribute '{name}' is missing; a CloudEvent needs id, source, type and specversion")
    _check_optional(attributes)
    return NewEvent(
        topic=chosen_topic(topic, _text(attributes, "subject"), "subject"),
        name=_name(attributes["type"]),
        data=data,
        key=_key(attributes["source"], attributes["id"]),
        tags=_tags(attributes) or None,
    )


def chosen_topic(path: str | None, given: str | None, field: str) -> str:
    """The topic of the path or of ``field``. Raises ``bad_request`` when there is none, or when they differ."""
    if path is not None and given is not None and path != given:
        raise bad_request(f"the path and '{field}' name different topics; give one of them")
    topic = given if path is None else path
    if topic is None:
        raise bad_request(f"no topic: give it as '{field}' or in the path, /v1/publish/<topic>")
    return topic


def _text(attributes: dict[str, Any], name: str) -> str | None:
    value = attributes.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise bad_request(f"the attribute '{name}' must be a non-empty string")
    return value


def _check_optional(attributes: dict[str, Any]) -> None:
    _text(attributes, "dataschema")
    time = _text(attributes, "time")
    if time is not None and not _TIME.fullmatch(time):
        raise bad_request("the attribute 'time' must be a timestamp like 2026-01-31T12:00:00Z (RFC 3339)")


def _name(type_: str) -> str:
    try:
        return msgspec.convert(type_, EventName)
    except msgspec.ValidationError:
        raise bad_request("'type' becomes the event's name: 1 to 128 characters of A-Z a-z 0-9 . _ : -") from None


def _key(source: str, id_: str) -> str:
    # A JSON array, because no separator is safe: either of the two may contain anything.
    pair = msgspec.json.encode((source, id_)).decode()
    if len(pair) <= _MAX_KEY_CHARS:
        return pair
    return f"sha256:{hashlib.sha256(pair.encode()).hexdigest()}"


def _tags(attributes: dict[str, Any]) -> Tags:
    tags: Tags = {}
    for name, value in attributes.items():
        if name in _NO_TAGS:
            continue
        if not _ATTRIBUTE.fullmatch(name):
            raise bad_request("an attribute's name must be lower-case letters and digits")
        if not isinstance(value, str | int):
            raise bad_request(f"the extension attribute '{name[:50]}' must be a string, an integer or a boolean")
        tags[name] = value
    return tags
